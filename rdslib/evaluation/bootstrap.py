"""Estimates with intervals over test samples, by the bootstrap, and over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rdslib.seeds import generator

# By task: for each run (seed), numerators and denominators by test sample (float [n] each), such as bits
# and bytes for bits per byte, or correctness and ones for accuracy.
Runs = Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]]


class Estimate(NamedTuple):
    """A value with its 95% interval, the number of test samples, and of a difference its two-sided p."""

    value: float
    low: float
    high: float
    n: int
    p: float = math.nan


def resample(task: str, n: int, times: int, seed: int) -> np.ndarray:
    """Draw bootstrap positions of a task's test samples, the same for all runs: int64 [times, n]."""
    return generator(seed, "bootstrap", task).integers(0, n, size=(times, n))


def by_seed(
    ours: Runs, times: int, seed: int, base: Runs | None = None, theirs: Runs | None = None
) -> np.ndarray:
    """Of each seed, the mean over tasks of a ratio of sums, minus that of `theirs`, and its resamples.

    Test samples are resampled within each task, alike for all that is compared and for all seeds, so that a
    difference is paired, and so is one of what two calls return. Where `base` is given, each task's ratio is
    taken relative to that of `base`, so that tasks whose ratios differ in size weigh alike.

    Returns:
        float64 [seeds, 1 + times]: the value first, then its resamples.

    Raises:
        ValueError: Tasks, or both sides of a difference, have not the same number of seeds.
    """
    counts = {len(runs) for side in (ours, theirs or {}) for runs in side.values()}
    if len(counts) != 1:
        raise ValueError(f"runs are paired by seed, and there are {sorted(counts)} of a task")
    found = []
    for task, runs in ours.items():
        size = len(runs[0][0])
        draws = resample(task, size, times, seed)
        ratios = _ratios(runs, draws)
        if theirs is not None:
            ratios = ratios - _ratios(theirs[task], draws)
        found.append(ratios if base is None else ratios / _ratios(base[task], draws).mean(axis=0))
    return np.mean(found, axis=0)


def _ratios(runs: Sequence[tuple[np.ndarray, np.ndarray]], draws: np.ndarray) -> np.ndarray:
    """Total by total of each run, of all samples and of each resample: float64 [runs, 1 + times]."""
    return np.array(
        [[num.sum() / den.sum(), *(num[draws].sum(axis=-1) / den[draws].sum(axis=-1))] for num, den in runs]
    )


def over_seeds(rows: np.ndarray, seed: int, n: int = 0) -> Estimate:
    """Estimate the mean over seeds of what `by_seed` returns, with its interval over samples and seeds.

    To each resample is added an error of the mean over seeds: Student's t with one degree of freedom fewer
    than seeds, times the standard error. Resampled, m seeds give no interval wider than from the lowest to
    the highest, which holds the truth in 1 - 2^(1 - m) of cases where seeds are all that differs: three in
    four of three seeds. Of one seed, whose spread is not known, the interval is over test samples alone.
    """
    value, *_ = mean = rows.mean(axis=0)
    draws = mean[1:]
    if len(rows) > 1:
        error = rows[:, 0].std(ddof=1) / math.sqrt(len(rows))
        draws = draws + error * generator(seed, "bootstrap", "seeds").standard_t(len(rows) - 1, len(draws))
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high), n, p_value(draws))


def p_value(draws: np.ndarray) -> float:
    """Twice the share of draws on the side of 0 that has fewer, at most 1; draws are one more than given."""
    return min(1.0, 2 * (1 + min((draws <= 0).sum(), (draws >= 0).sum())) / (1 + len(draws)))


def holm(p: Sequence[float]) -> np.ndarray:
    """Correct p for so many comparisons, by Holm's method: float64 [comparisons], in their order."""
    given = np.asarray(p, dtype=float)
    order = np.argsort(given, kind="stable")
    corrected = np.empty(len(given))
    corrected[order] = np.minimum(1, np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1)))
    return corrected


def estimate_mean(
    ours: Runs, times: int, seed: int, base: Runs | None = None, theirs: Runs | None = None
) -> Estimate:
    """Estimate the mean over tasks and seeds of a ratio of sums, minus that of `theirs`.

    As of `by_seed` and `over_seeds`.
    """
    n = sum(len(runs[0][0]) for runs in ours.values())
    return over_seeds(by_seed(ours, times, seed, base, theirs), seed, n)


def estimate_difference(
    ours: Runs, theirs: Runs, times: int, seed: int, base: Runs | None = None
) -> Estimate:
    """Estimate ours minus theirs, mean over tasks and seeds, as `estimate_mean` does."""
    return estimate_mean(ours, times, seed, base, theirs)
