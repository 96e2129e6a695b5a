"""What a selector is: it says which lists of samples, best first, take turns in picking for a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rdslib.selection.topk import Ranked, Ranker, Ranking, Reduce

# The vectors of samples at some positions of the pool (int64 [samples]): [samples, values].
Rows = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Lists:
    """The lists of one task: one of each query, or with `reduce` one of all.

    `shown` gives a list with the scores that picks have, where it is ranked by others.
    """

    ranker: Ranker
    reduce: Reduce | None = None
    shown: Callable[[Ranked], Ranked] = lambda ranked: ranked

    def ranked(self, depth: int, after: Sequence[Ranked] | None) -> Ranking:
        """The best `depth` of each list, or those after what is given, as of `Ranker`."""
        return self.ranker(depth, self.reduce, after)


# The lists of a task, from what ranks its scores, and the vectors of samples where the method compares such.
Make = Callable[[Ranker, Rows | None], Lists]


@dataclass(frozen=True)
class Selector:
    """A way to pick by the scores of many queries.

    Attributes:
        about: What it does, in a sentence.
        by: What a task's one list goes by.
        lists: Makes the lists of a task.
        of_several: Makes the one list of each of several tasks, which take turns, where `lists` gives each
            query a list of its own.
        vectors: Whether it compares samples by their vectors.
    """

    name: str
    about: str
    by: str
    lists: Make
    of_several: Make | None = None
    vectors: bool = False

    def of(self, tasks: int) -> Make:
        """What makes the lists of each of so many tasks."""
        return self.of_several if tasks > 1 and self.of_several is not None else self.lists

    def one_list(self, tasks: int) -> bool:
        """Whether each of so many tasks has one list for all of its queries."""
        return tasks > 1 or self.of_several is None


def highest(start: int, block: np.ndarray) -> np.ndarray:
    """The largest score of any query."""
    return block.max(axis=0, keepdims=True)


def by_max(ranker: Ranker, rows: Rows | None) -> Lists:
    """One list of the largest scores of any query."""
    return Lists(ranker, highest)
