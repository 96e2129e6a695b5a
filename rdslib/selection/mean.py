"""The mean score over queries, highest first (the reference's `mean_max`)."""

from __future__ import annotations

import numpy as np

from rdslib.selection.base import Lists, Rows, Selector
from rdslib.selection.topk import Ranker


def mean(start: int, block: np.ndarray) -> np.ndarray:
    """The mean over queries, float64 [1, samples]; a sample that any query refuses is never offered."""
    total = np.zeros(block.shape[1])
    # One query after another: numpy would sum blocks of other sizes in another order.
    for row in block:
        total += row
    return (total / len(block))[None]


def _lists(ranker: Ranker, rows: Rows | None) -> Lists:
    return Lists(ranker, mean)


MEAN = Selector("mean", "The mean score over queries, highest first.", "the mean of its queries", _lists)
