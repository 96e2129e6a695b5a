"""Estimates with bootstrap intervals over test samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rdslib.seeds import generator

# By task: for each run (seed), numerators and denominators by test sample (float [n] each), such as bits
# and bytes for bits per byte, or correctness and ones for accuracy.
Runs = Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]]


class Estimate(NamedTuple):
    """A value with its 95% bootstrap interval and the number of test samples."""

    value: float
    low: float
    high: float
    n: int


def resample(task: str, n: int, times: int, seed: int) -> np.ndarray:
    """Draw bootstrap positions of a task's test samples, the same for all runs: int64 [times, n]."""
    return generator(seed, "bootstrap", task).integers(0, n, size=(times, n))


def estimate_mean(
    ours: Runs, times: int, seed: int, base: Runs | None = None, theirs: Runs | None = None
) -> Estimate:
    """Estimate the mean over tasks of the mean over runs of a ratio of sums, minus that of `theirs`.

    Test samples are resampled within each task, alike for all that is compared, so that a difference is
    paired. Where `base` is given, each task's ratio is taken relative to that of `base`, so that tasks whose
    ratios differ in size weigh alike.
    """
    values: list[np.ndarray] = []
    draws: list[np.ndarray] = []
    n = 0
    for task, runs in ours.items():
        size = len(runs[0][0])
        n += size
        for at, found in ((slice(None), values), (resample(task, size, times, seed), draws)):
            mean = _mean(runs, at)
            if theirs is not None:
                mean = mean - _mean(theirs[task], at)
            found.append(mean if base is None else mean / _mean(base[task], at))
    low, high = np.quantile(np.mean(draws, axis=0), [0.025, 0.975])
    return Estimate(float(np.mean(values)), float(low), float(high), n)


def estimate_difference(
    ours: Runs, theirs: Runs, times: int, seed: int, base: Runs | None = None
) -> Estimate:
    """Estimate ours minus theirs, mean over tasks, as `estimate_mean` does."""
    return estimate_mean(ours, times, seed, base, theirs)


def _mean(runs: Sequence[tuple[np.ndarray, np.ndarray]], at: np.ndarray | slice) -> np.ndarray:
    """The mean over runs of total by total, of the samples at `at`: [..., n] -> [...]."""
    return np.mean([num[at].sum(axis=-1) / den[at].sum(axis=-1) for num, den in runs], axis=0)
