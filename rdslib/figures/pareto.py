"""The Pareto frontier of cost and score (Figure 1)."""

from __future__ import annotations

import math

import numpy as np


def pareto_frontier(flops: np.ndarray, score: np.ndarray, better: str) -> np.ndarray:
    """Indices of the points (n,) on the Pareto frontier of cost and score, cheapest first (Figure 1).

    A point is kept when its score beats that of all cheaper ones; of several at one cost only the
    best can be kept, and of equals the first. Points without a score are never kept.
    """
    gain = _gain(score, better)
    best, kept = -math.inf, []
    for index in np.lexsort((np.arange(len(gain)), -gain, flops)):
        if gain[index] > best:
            best = gain[index]
            kept.append(index)
    return np.array(kept, dtype=int)


def steps(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The segments (m, 2, 2) that `axes.step(x, y, where="post")` draws."""
    path = np.column_stack([np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]])
    return np.stack([path[:-1], path[1:]], axis=1)


def _gain(score: np.ndarray, better: str) -> np.ndarray:
    """Scores turned so that more is better, a missing one being worst of all."""
    gain = np.asarray(score, dtype=float) * (-1 if better == "lower" else 1)
    return np.where(np.isnan(gain), -np.inf, gain)
