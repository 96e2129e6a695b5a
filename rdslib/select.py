"""Selectors: folds over score blocks (paper, section 3; PAPER.md section 3).

A *block* is `(start, S)`: `S[q, j]` is the score of query q for the pool sample at position `start + j`.
Blocks come in any order, together cover each position at most once, and are consumed as they are made:
of each query only the best `k` samples are kept, which is as deep as a round-robin of `k` can go.
Higher scores are better, ties go to the smaller position, and a sample at minus infinity is never offered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

Block = tuple[int, np.ndarray]


@dataclass(frozen=True)
class Selection:
    """`indices` (int64 [k]): pool positions in the order of picking; `scores` (float [k]): theirs;
    `takers` (int64 [k]): the query, or task, that picked each, by its position."""

    indices: np.ndarray
    scores: np.ndarray
    takers: np.ndarray


class _Best:
    """The best `k` of a stream of scored positions, exactly, ties to the smaller position."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.scores = np.empty(0)
        self.positions = np.empty(0, dtype=np.int64)
        self._new: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting = 0
        self._least: np.floating | float = -np.inf  # a lower score cannot be among the best any more

    def add(self, scores: np.ndarray, start: int) -> None:
        """Take in the scores of consecutive positions from `start`."""
        at = np.flatnonzero((scores >= self._least) & (scores > -np.inf))
        if at.size == 0:
            return
        self._new.append((scores[at], at + start))
        self._waiting += at.size
        if self._waiting > self.k:
            self._settle()

    def _settle(self) -> None:
        scores = np.concatenate([*([self.scores] if self.scores.size else []), *(s for s, _ in self._new)])
        positions = np.concatenate([self.positions, *(p for _, p in self._new)])
        self._new, self._waiting = [], 0
        if scores.size > self.k:
            least = np.partition(scores, scores.size - self.k)[scores.size - self.k]
            above = np.flatnonzero(scores > least)
            level = np.flatnonzero(scores == least)
            room = self.k - above.size
            if level.size > room:
                level = level[np.argsort(positions[level], kind="stable")[:room]]
            keep = np.concatenate([above, level])
            scores, positions, self._least = scores[keep], positions[keep], least
        self.scores, self.positions = scores, positions

    def ranked(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores and positions, best first."""
        if self._new:
            self._settle()
        order = np.lexsort((self.positions, -self.scores))
        return self.scores[order], self.positions[order]


def round_robin(blocks: Iterable[Block], k: int) -> Selection:
    """Pick `k` samples by going round the queries.

    At its turn a query offers its next best sample, once; a sample that was already taken is skipped and
    the turn is spent. So: walk the pairs (rank, query) in lexicographic order and keep first occurrences.
    A pick's score is that of the query that took it.

    Raises ValueError if `k` < 1, if blocks disagree in shape, if a score is NaN, or if the queries have
    fewer than `k` different samples to offer.
    """
    _check_k(k)
    best: list[_Best] = []
    for start, block in blocks:
        _check_block(start, block)
        if not best:
            best = [_Best(k) for _ in range(block.shape[0])]
        if len(best) != block.shape[0]:
            raise ValueError(f"the block at {start} has {block.shape[0]} queries, the first had {len(best)}")
        for row, kept in zip(block, best, strict=True):
            kept.add(row, start)
    return _walk([kept.ranked() for kept in best], k, smaller_score=False)


def round_robin_tasks(tasks: Mapping[str, Iterable[Block]], k: int) -> Selection:
    """Pick `k` samples by going round the tasks, in the order of `tasks`.

    A task's score for a sample is the maximum over its queries; then the walk of `round_robin`, with tasks
    in place of queries. A sample that more than one task has offered keeps the smaller score.
    Raises ValueError as `round_robin` does.
    """
    _check_k(k)
    lists = []
    for blocks in tasks.values():
        kept = _Best(k)
        for start, block in blocks:
            _check_block(start, block)
            kept.add(block.max(axis=0), start)
        lists.append(kept.ranked())
    return _walk(lists, k, smaller_score=True)


def window(blocks: Iterable[Block], k: int, skip: int) -> Selection:
    """Pick `k` samples by score, best first, after passing over the best `skip`: a percentile window.

    Raises ValueError as `round_robin` does, or if the blocks have more than one query.
    """
    _check_k(k)
    kept = _Best(skip + k)
    for start, block in blocks:
        _check_block(start, block)
        if block.shape[0] != 1:
            raise ValueError(f"the block at {start} has {block.shape[0]} queries; a window needs one")
        kept.add(block[0], start)
    scores, positions = kept.ranked()
    if positions.size < skip + k:
        left = max(0, positions.size - skip)
        raise ValueError(f"{k} samples are asked for, but there are only {left} to choose from")
    return Selection(positions[skip:], scores[skip:], np.zeros(k, dtype=np.int64))


def _walk(lists: list[tuple[np.ndarray, np.ndarray]], k: int, smaller_score: bool) -> Selection:
    """Walk (rank, list) pairs in lexicographic order to the `k`-th different position."""
    offered = max((scores.size for scores, _ in lists), default=0)
    depth = min(offered, -(-k // max(1, len(lists))))
    while True:
        positions = np.full((depth, len(lists)), -1, dtype=np.int64)
        scores = np.zeros((depth, len(lists)), dtype=np.result_type(*(s for s, _ in lists), np.float32))
        for column, (score, position) in enumerate(lists):
            size = min(depth, score.size)
            positions[:size, column], scores[:size, column] = position[:size], score[:size]
        real = np.flatnonzero(positions.ravel() >= 0)
        walk = positions.ravel()[real]
        _, first = np.unique(walk, return_index=True)
        if first.size >= k:
            break
        if depth == offered:
            raise ValueError(f"{k} samples are asked for, but there are only {first.size} to choose from")
        depth = min(offered, 2 * depth)
    first = np.sort(first)[:k]
    picks, walk_scores = walk[first], scores.ravel()[real]
    picked_scores = walk_scores[first]
    if smaller_score:
        # Offers up to the last pick; np.minimum.at folds the repeated ones into the first.
        until = first[-1] + 1
        order = np.argsort(picks)
        where = order[np.searchsorted(picks, walk[:until], sorter=order)]
        np.minimum.at(picked_scores, where, walk_scores[:until])
    return Selection(picks, picked_scores, real[first] % len(lists))


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"{k} samples are asked for; ask for at least 1")


def _check_block(start: int, block: np.ndarray) -> None:
    if block.ndim != 2 or block.shape[0] == 0:
        raise ValueError(f"the block at {start} has shape {block.shape}; it must be [queries, samples]")
    if np.isnan(block).any():
        raise ValueError(f"the block at {start} has scores that are not numbers (NaN)")
