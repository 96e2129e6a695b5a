"""Selectors: folds over score blocks (paper, section 3; PAPER.md section 3).

A selector has the blocks ranked as they come (`rdslib.selection.topk`), and walks the ranked lists once the
last block is through.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rdslib.selection.topk import Ranked, Ranker, Ranking

# Which of the next offers may be taken: `(picks, offers)`, positions (int64) in order, to bool [offers].
Allow = Callable[[np.ndarray, np.ndarray], np.ndarray]
# What is allowed, given the positions (int64) that are never offered (`rdslib.selection.quota`).
Limit = Callable[[np.ndarray], Allow]

# A walk that is longer than what was ranked goes through the blocks again, for so many times as many ranks:
# scoring a pool once more costs more than ranks that turn out not to be needed.
DEEPER = 8


@dataclass(frozen=True)
class Selection:
    """The picks, in the order of picking.

    Attributes:
        indices: Pool positions, int64 [k].
        scores: Their scores, float [k].
        picked_by: The position of the query, or task, that picked each, int64 [k].
        refused: How many samples no query offers, whatever `k` is.
    """

    indices: np.ndarray
    scores: np.ndarray
    picked_by: np.ndarray
    refused: int


def choose(rankers: Sequence[Ranker], k: int, skip: int = 0, limit: Limit | None = None) -> Selection:
    """Pick `k` samples as the study does.

    Round-robin over several tasks, a ranker each; of one task, a window where the method skips samples, else
    round-robin over its queries.

    Raises:
        ValueError: As those do.
    """
    if len(rankers) > 1:
        return round_robin_tasks(rankers, k, limit)
    return window(rankers[0], k, skip, limit) if skip else round_robin(rankers[0], k, limit)


def round_robin(ranker: Ranker, k: int, limit: Limit | None = None) -> Selection:
    """Pick `k` samples by going round the queries.

    At its turn a query offers its next best sample, once; a sample that was already taken is skipped and
    the turn is spent. So: walk the pairs (rank, query) in lexicographic order and keep first occurrences.
    A pick's score is that of the query that took it. A sample that `limit` does not allow is skipped as if
    it was taken.

    Raises ValueError if `k` < 1, if blocks disagree in shape, if a score is NaN, or if the queries have
    fewer than `k` different samples to offer.
    """
    return _go_round([ranker], k, maximum=False, limit=limit)


def round_robin_tasks(rankers: Sequence[Ranker], k: int, limit: Limit | None = None) -> Selection:
    """Pick `k` samples by going round the tasks, one ranker each.

    A task's score for a sample is the maximum over its queries; then the walk of `round_robin`, with tasks
    in place of queries. A sample that more than one task has offered keeps the smaller score.
    Raises ValueError as `round_robin` does.
    """
    return _go_round(rankers, k, maximum=True, limit=limit)


def _go_round(rankers: Sequence[Ranker], k: int, maximum: bool, limit: Limit | None) -> Selection:
    """Walk the lists of all rankers to the `k`-th pick."""
    _check_k(k)
    rankings = [ranker(k, maximum, None) for ranker in rankers]
    refused = functools.reduce(np.intersect1d, [ranking.refused for ranking in rankings])
    walk = Walk(k, smaller_score=maximum, allow=limit(refused) if limit else None)
    _go_on(walk, rankers, rankings, maximum)
    return walk.selection(len(refused))


def window(ranker: Ranker, k: int, skip: int, limit: Limit | None = None) -> Selection:
    """Pick `k` samples by score, best first, after passing over the best `skip`: a percentile window.

    Samples that `limit` does not allow are passed over too. Raises ValueError as `round_robin` does, or if
    there is more than one query.
    """
    _check_k(k)
    ranking = ranker(skip + k, False, None)
    lists = ranking.lists()
    if len(lists) > 1:
        raise ValueError(f"the blocks have {len(lists)} queries; a window needs one")
    outside = [ranking.refused, *(each.cut(0, skip).positions for each in lists)]
    walk = Walk(k, allow=limit(np.concatenate(outside)) if limit else None)
    _go_on(walk, [ranker], [ranking], False, skip)
    return walk.selection(len(ranking.refused))


def _go_on(
    walk: Walk, rankers: Sequence[Ranker], rankings: Sequence[Ranking], maximum: bool, skip: int = 0
) -> None:
    """Walk from the first ranks, less `skip`, to the last pick.

    Without a limit the walk can go as deep as rank k, and with one as deep as there is anything. Where a
    ranker does not hold as much, the walk goes as deep as it does, and the ranker then gives what comes next,
    for those of its queries that have more to give.
    """
    while True:
        depth = min(ranking.depth for ranking in rankings)
        lists = [[each.cut(0, depth) for each in ranking.lists()] for ranking in rankings]
        if walk.offer([each.cut(skip, None) for some in lists for each in some]):
            return
        skip = max(0, skip - depth)
        # A list that has ended goes no deeper.
        after = [[each if each.scores.size == depth else each.cut(0) for each in some] for some in lists]
        if not any(each.scores.size for some in after for each in some):
            raise ValueError(_too_few(walk.k, walk.found))
        rankings = [
            ranker(DEEPER * depth, maximum, some) for ranker, some in zip(rankers, after, strict=True)
        ]


class Walk:
    """Goes through (rank, list) pairs in lexicographic order to the `k`-th different sample."""

    def __init__(self, k: int, smaller_score: bool = False, allow: Allow | None = None) -> None:
        self.k = k
        self.smaller_score = smaller_score
        self.allow = allow
        self._positions = np.empty(0, dtype=np.int64)
        self._scores = np.empty(0, dtype=np.float32)
        self._picked_by = np.empty(0, dtype=np.int64)

    @property
    def found(self) -> int:
        """How many there are so far."""
        return len(self._positions)

    def offer(self, lists: Sequence[Ranked]) -> bool:
        """Walk the next ranks of every list; whether all `k` are found."""
        longest = max((each.scores.size for each in lists), default=0)
        rank, depth = 0, -(-(self.k - self.found) // max(1, len(lists)))
        while rank < longest and self.found < self.k:
            self._turns([each.cut(rank, rank + depth) for each in lists])
            rank, depth = rank + depth, 2 * depth
        return self.found == self.k

    def _turns(self, lists: Sequence[Ranked]) -> None:
        shape = (max(each.scores.size for each in lists), len(lists))
        positions = np.full(shape, -1, dtype=np.int64)
        scores = np.zeros(shape, dtype=np.result_type(*(each.scores for each in lists), np.float32))
        for column, each in enumerate(lists):
            positions[: each.positions.size, column] = each.positions
            scores[: each.scores.size, column] = each.scores
        real = np.flatnonzero(positions.ravel() >= 0)
        if self.allow is not None:
            real = real[self.allow(self._positions, positions.ravel()[real])]
        offered, given = positions.ravel()[real], scores.ravel()[real]
        new = np.flatnonzero(~np.isin(offered, self._positions))
        _, first = np.unique(offered[new], return_index=True)
        first = new[np.sort(first)[: self.k - self.found]]
        self._positions = np.concatenate([self._positions, offered[first]])
        self._scores = np.concatenate([self._scores, given[first]])
        self._picked_by = np.concatenate([self._picked_by, real[first] % len(lists)])
        if self.smaller_score:
            # Offers up to the last pick; np.minimum.at folds the repeated ones into the first.
            until = first[-1] + 1 if self.found == self.k else offered.size
            order = np.argsort(self._positions)
            where = order[np.searchsorted(self._positions, offered[:until], sorter=order)]
            np.minimum.at(self._scores, where, given[:until])

    def selection(self, refused: int) -> Selection:
        """What was found."""
        return Selection(self._positions, self._scores, self._picked_by, refused)


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"{k} samples are asked for; ask for at least 1")


def _too_few(k: int, found: int) -> str:
    return f"{k} samples are asked for, but there are only {found} to choose from"
