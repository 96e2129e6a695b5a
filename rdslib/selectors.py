"""Selectors: folds over score blocks (paper, section 3; PAPER.md section 3).

A selector has the blocks ranked as they come (`rdslib.ranking`), and walks the ranked lists once the last
block is through.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rdslib.ranking import Ranked, Ranker


@dataclass(frozen=True)
class Selection:
    """`indices` (int64 [k]): pool positions in the order of picking; `scores` (float [k]): theirs;
    `takers` (int64 [k]): the query, or task, that picked each, by its position; `refused`: how many samples
    no query offers, whatever `k` is."""

    indices: np.ndarray
    scores: np.ndarray
    takers: np.ndarray
    refused: int


def round_robin(ranker: Ranker, k: int) -> Selection:
    """Pick `k` samples by going round the queries.

    At its turn a query offers its next best sample, once; a sample that was already taken is skipped and
    the turn is spent. So: walk the pairs (rank, query) in lexicographic order and keep first occurrences.
    A pick's score is that of the query that took it.

    Raises ValueError if `k` < 1, if blocks disagree in shape, if a score is NaN, or if the queries have
    fewer than `k` different samples to offer.
    """
    return _go_round([ranker], k, maximum=False)


def round_robin_tasks(rankers: Sequence[Ranker], k: int) -> Selection:
    """Pick `k` samples by going round the tasks, one ranker each.

    A task's score for a sample is the maximum over its queries; then the walk of `round_robin`, with tasks
    in place of queries. A sample that more than one task has offered keeps the smaller score.
    Raises ValueError as `round_robin` does.
    """
    return _go_round(rankers, k, maximum=True)


def _go_round(rankers: Sequence[Ranker], k: int, maximum: bool) -> Selection:
    """Walk the lists of all rankers to the `k`-th pick.

    The walk can go as deep as rank `k`. Where a ranker does not hold as much, the walk goes as deep as it
    does, and the ranker then gives what comes next, for those of its queries that have more to give.
    """
    _check_k(k)
    walk = Walk(k, smaller_score=maximum)
    rankings = [ranker(k, maximum, None) for ranker in rankers]
    refused = len(functools.reduce(np.intersect1d, [ranking.refused for ranking in rankings]))
    while True:
        depth = min(ranking.depth for ranking in rankings)
        lists = [[each.cut(0, depth) for each in ranking.lists()] for ranking in rankings]
        if walk.offer([each for some in lists for each in some]):
            return walk.selection(refused)
        # A list that has ended goes no deeper.
        after = [[each if each.scores.size == depth else each.cut(0) for each in some] for some in lists]
        if not any(each.scores.size for some in after for each in some):
            raise ValueError(_too_few(k, walk.found))
        rankings = [ranker(k, maximum, some) for ranker, some in zip(rankers, after, strict=True)]


def window(ranker: Ranker, k: int, skip: int) -> Selection:
    """Pick `k` samples by score, best first, after passing over the best `skip`: a percentile window.

    Raises ValueError as `round_robin` does, or if there is more than one query.
    """
    _check_k(k)
    ranking = ranker(skip + k, False, None)
    lists = ranking.lists()
    if len(lists) > 1:
        raise ValueError(f"the blocks have {len(lists)} queries; a window needs one")
    best = lists[0].cut(skip, skip + k) if lists else Ranked(np.empty(0), np.empty(0, dtype=np.int64))
    if best.positions.size < k:
        raise ValueError(_too_few(k, best.positions.size))
    return Selection(best.positions, best.scores, np.zeros(k, dtype=np.int64), len(ranking.refused))


class Walk:
    """Goes through (rank, list) pairs in lexicographic order to the `k`-th different sample."""

    def __init__(self, k: int, smaller_score: bool = False) -> None:
        self.k = k
        self.smaller_score = smaller_score
        self._positions = np.empty(0, dtype=np.int64)
        self._scores = np.empty(0, dtype=np.float32)
        self._takers = np.empty(0, dtype=np.int64)

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
        offered, given = positions.ravel()[real], scores.ravel()[real]
        new = np.flatnonzero(~np.isin(offered, self._positions))
        _, first = np.unique(offered[new], return_index=True)
        first = new[np.sort(first)[: self.k - self.found]]
        self._positions = np.concatenate([self._positions, offered[first]])
        self._scores = np.concatenate([self._scores, given[first]])
        self._takers = np.concatenate([self._takers, real[first] % len(lists)])
        if self.smaller_score:
            # Offers up to the last pick; np.minimum.at folds the repeated ones into the first.
            until = first[-1] + 1 if self.found == self.k else offered.size
            order = np.argsort(self._positions)
            where = order[np.searchsorted(self._positions, offered[:until], sorter=order)]
            np.minimum.at(self._scores, where, given[:until])

    def selection(self, refused: int) -> Selection:
        """What was found."""
        return Selection(self._positions, self._scores, self._takers, refused)


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"{k} samples are asked for; ask for at least 1")


def _too_few(k: int, found: int) -> str:
    return f"{k} samples are asked for, but there are only {found} to choose from"
