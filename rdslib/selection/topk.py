"""The best of a stream of scores, exactly and in bounded memory.

A *block* is `(start, S)`: `S[q, j]` is the score of query q for the pool sample at position `start + j`.
Blocks come in any order, together cover each position at most once, and are consumed as they are made.
Higher scores are better, ties go to the smaller position, and a sample at minus infinity is never offered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Block = tuple[int, np.ndarray]
# Makes one row of all queries' of a block: `(start, S)` to float [1, samples].
Reduce = Callable[[int, np.ndarray], np.ndarray]

# How many ranks a ranking holds by itself, over all queries: about 2 GiB with what is yet to be settled.
HELD = 2**26


@dataclass(frozen=True)
class Ranked:
    """`scores` (float [n], best first) and the `positions` (int64 [n]) that have them."""

    scores: np.ndarray
    positions: np.ndarray

    def cut(self, *ranks: int | None) -> Ranked:
        """Some of the ranks, as of `slice(*ranks)`."""
        return Ranked(self.scores[slice(*ranks)], self.positions[slice(*ranks)])


class Ranking:
    """Of each query, or of what `reduce` makes of all, the best `depth` samples of a stream of blocks.

    What is held at any time is at most twice that, whatever the size of the pool: what cannot be among the
    best any more is left out as soon as it comes. With `after`, a list for each query, ranking goes on after
    the last of that list: it gives the `depth` that come next. A query whose list is empty has no more to
    give and is passed over.
    """

    def __init__(
        self, depth: int, reduce: Reduce | None = None, after: Sequence[Ranked] | None = None
    ) -> None:
        self.depth = depth
        self.reduce = reduce
        self.after = after
        self.samples = 0  # how many have come
        self._kept: list[Ranked] = []
        # A lower score than its list's least cannot be among the best any more.
        self._least = np.empty(0)
        self._refused: list[np.ndarray] = []
        # What has come since the lists were last settled, block by block: scores and positions, list after
        # list, and where each list's start and end.
        self._new: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._waiting = 0
        self._queries: int | None = None

    def add(self, start: int, block: np.ndarray) -> None:
        """Take in a block; it is not held on to.

        Raises ValueError if a score is NaN, or if blocks disagree in how many queries they have.
        """
        if block.ndim != 2 or block.shape[0] == 0:
            raise ValueError(f"the block at {start} has shape {block.shape}; it must be [queries, samples]")
        self._queries = self._queries or block.shape[0]
        if block.shape[0] != self._queries:
            raise ValueError(
                f"the block at {start} has {block.shape[0]} queries, the first had {self._queries}"
            )
        if block.shape[1] == 0:
            return
        self.samples += block.shape[1]
        if self.reduce is not None:
            block = self.reduce(start, block)
        refused = np.flatnonzero(block[0] == -np.inf)
        if refused.size:
            refused = refused[(block[:, refused] == -np.inf).all(axis=0)]
            self._refused.append(refused + start)
        if not self._kept:
            nothing = Ranked(np.empty(0, dtype=block.dtype), np.empty(0, dtype=np.int64))
            self._kept = [nothing] * block.shape[0]
            self._least = np.full(block.shape[0], -np.inf, dtype=block.dtype)
        highest = block.max(axis=1)  # NaN where there is one
        if np.isnan(highest).any():
            raise ValueError(f"the block at {start} has scores that are not numbers (NaN)")
        some = np.flatnonzero((highest >= self._least) & (highest > -np.inf))
        if self.after is not None:
            some = np.array([q for q in some.tolist() if self.after[q].scores.size], dtype=np.int64)
        if some.size == 0:
            return
        part = block if some.size == block.shape[0] else block[some]
        wanted = part >= self._least[some, None]
        if not np.isfinite(self._least[some]).all():
            wanted &= part > -np.inf
        if self.after is not None:
            last = [self.after[q] for q in some.tolist()]
            score = np.array([each.scores[-1] for each in last])[:, None]
            position = np.array([each.positions[-1] for each in last])[:, None]
            place = np.arange(start, start + block.shape[1])[None, :]
            wanted &= (part < score) | ((part == score) & (place > position))
        # Flat, which is several times as fast as by two coordinates.
        at, width = np.flatnonzero(wanted), block.shape[1]
        counts = np.diff(np.searchsorted(at, np.arange(len(some) + 1) * width))
        columns = at - np.repeat(np.arange(len(some)) * width, counts)
        ends = np.zeros(len(self._kept) + 1, dtype=np.int64)
        ends[some + 1] = counts
        self._new.append((ends.cumsum(), part.ravel()[at], columns + start))
        self._waiting += at.size
        if self._waiting > self.depth * len(self._kept):
            self.settle()

    def settle(self) -> None:
        """Sort out what has come, so that nothing more than the lists is held."""
        if not self._new:
            return
        new, self._new, self._waiting = self._new, [], 0
        for row, kept in enumerate(self._kept):
            parts = [Ranked(scores, positions).cut(*ends[row : row + 2]) for ends, scores, positions in new]
            self._kept[row] = best = _best([kept, *parts], self.depth)
            if best.scores.size == self.depth:
                self._least[row] = best.scores.min()

    @property
    def refused(self) -> np.ndarray:
        """Positions that no query offers: int64 [n]."""
        return np.concatenate([*self._refused, np.empty(0, dtype=np.int64)])

    def merge(self, other: Ranking) -> None:
        """Take in what another ranking of the same queries, to the same depth, has found in other blocks."""
        self._refused += other._refused
        self.samples += other.samples
        theirs = other.lists()
        if not self._kept or not theirs:
            self._kept = self._kept or theirs
            return
        self._kept = [_best(both, self.depth) for both in zip(self._kept, theirs, strict=True)]

    def lists(self) -> list[Ranked]:
        """A list for each query (or one, of all): shorter than `depth` where there is no more."""
        self.settle()
        return [_sorted(kept) for kept in self._kept]


# Ranks one stream of blocks: `(k, reduce, after)` to a ranking that is as deep as `k`, or as deep as may be
# held at a time. It may be called again, to go deeper.
Ranker = Callable[[int, Reduce | None, Sequence[Ranked] | None], Ranking]


def over(blocks: Callable[[], Iterable[Block]], held: int = HELD) -> Ranker:
    """A ranker of the blocks that `blocks` makes, which holds no more than `held` ranks over all queries."""

    def ranker(k: int, reduce: Reduce | None, after: Sequence[Ranked] | None) -> Ranking:
        ranking: Ranking | None = None
        for start, block in blocks():
            lists = max(1, len(block)) if reduce is None else 1
            ranking = ranking or Ranking(min(k, max(1, held // lists)), reduce, after)
            ranking.add(start, block)
        ranking = ranking or Ranking(k, reduce)
        ranking.settle()
        return ranking

    return ranker


def _sorted(kept: Ranked) -> Ranked:
    """The best first, ties to the smaller position: `lexsort`, in a fraction of its time."""
    order = np.argsort(-kept.scores)
    scores = kept.scores[order]
    new = np.concatenate([[True], scores[1:] != scores[:-1]])
    tied = np.flatnonzero(~(new & np.concatenate([new[1:], [True]])))
    runs = np.cumsum(new)[tied]
    order[tied] = order[tied][np.lexsort((kept.positions[order[tied]], runs))]
    return Ranked(kept.scores[order], kept.positions[order])


def _best(parts: Sequence[Ranked], depth: int) -> Ranked:
    """The best `depth` of all parts, in no particular order."""
    scores = np.concatenate([part.scores for part in parts])
    positions = np.concatenate([part.positions for part in parts])
    if scores.size <= depth:
        return Ranked(scores, positions)
    least = np.partition(scores, scores.size - depth)[scores.size - depth]
    above = np.flatnonzero(scores > least)
    level = np.flatnonzero(scores == least)
    room = depth - above.size
    if level.size > room:
        level = level[np.argsort(positions[level], kind="stable")[:room]]
    keep = np.concatenate([above, level])
    return Ranked(scores[keep], positions[keep])
