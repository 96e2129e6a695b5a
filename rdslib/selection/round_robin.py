"""Round-robin: queries, or tasks, take turns in picking (paper, section 3).

Blocks are ranked as they come (`rdslib.selection.topk`), and the ranked lists are walked once the last block
is through. The walk serves every selector: the others make one list of a task's queries.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rdslib.selection.base import Lists, Rows, Selector, by_max
from rdslib.selection.topk import Ranked, Ranker

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


def _of_one_task(ranker: Ranker, rows: Rows | None) -> Lists:
    return Lists(ranker)


ROUND_ROBIN = Selector(
    "round_robin",
    "Queries take turns, each offering its next best sample; several tasks go by their best queries.",
    "its best query",
    _of_one_task,
    of_several=by_max,
)


def choose(
    rankers: Sequence[Ranker],
    k: int,
    skip: int = 0,
    limit: Limit | None = None,
    selector: Selector = ROUND_ROBIN,
    rows: Rows | None = None,
) -> Selection:
    """Pick `k` samples: of one task, or of several that take turns, a ranker each.

    A selector makes lists of the queries of a task: with round-robin one of each, with the others one of all.
    At its turn a list offers its next best sample, once; a sample that was already taken, or that `limit`
    does not allow, is passed over and the turn is spent. So: walk the pairs (rank, list) in lexicographic
    order and keep first occurrences. A pick's score is that of the list that took it.

    Each of several tasks has one list: with round-robin that of the maximum over its queries. A sample that
    more than one task has offered keeps the smaller score.

    With `skip`, of one list alone, the best `skip` are passed over first: a percentile window. `rows` gives
    the vectors of samples, for selectors that compare them.

    Raises:
        ValueError: `k` < 1, blocks disagree in shape, a score is NaN, there is more than one list with
            `skip`, or there are fewer than `k` different samples to choose from.
    """
    if k < 1:
        raise ValueError(f"{k} samples are asked for; ask for at least 1")
    several = len(rankers) > 1
    make = selector.of(len(rankers))
    tasks = [make(ranker, rows) for ranker in rankers]
    rankings = [task.ranked(skip + k, None) for task in tasks]
    refused = functools.reduce(np.intersect1d, [ranking.refused for ranking in rankings])
    outside = [refused]
    if skip:
        lists = [each for ranking in rankings for each in ranking.lists()]
        if len(lists) > 1:
            raise ValueError(f"the blocks have {len(lists)} queries; a window needs one")
        outside += [each.cut(0, skip).positions for each in lists]
    walk = Walk(k, smaller_score=several, allow=limit(np.concatenate(outside)) if limit else None)
    # Without a limit the walk can go as deep as rank k, and with one as deep as there is anything. Where a
    # ranker does not hold as much, the walk goes as deep as it does, and the ranker then gives what comes
    # next, for those of its queries that have more to give.
    while True:
        depth = min(ranking.depth for ranking in rankings)
        ranked = [[each.cut(0, depth) for each in ranking.lists()] for ranking in rankings]
        offers = [(task, each) for task, some in zip(tasks, ranked, strict=True) for each in some]
        if walk.offer([task.shown(each.cut(skip, None)) for task, each in offers]):
            return walk.selection(len(refused))
        skip = max(0, skip - depth)
        # A list that has ended goes no deeper.
        after = [[each if each.scores.size == depth else each.cut(0) for each in some] for some in ranked]
        if not any(each.scores.size for some in after for each in some):
            raise ValueError(f"{k} samples are asked for, but there are only {walk.found} to choose from")
        rankings = [task.ranked(DEEPER * depth, some) for task, some in zip(tasks, after, strict=True)]


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
