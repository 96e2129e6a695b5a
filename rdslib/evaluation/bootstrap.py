"""Estimates with bootstrap intervals over test samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rdslib.seeds import generator

# By task: for each run (seed), numerators and denominators by test sample (float [n] each), such as bits
# and bytes for bits per byte, or correctness and ones for accuracy.
Runs = Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% bootstrap interval and the number of test samples."""

    value: float
    low: float
    high: float
    n: int


def ratio(num: np.ndarray, den: np.ndarray) -> float:
    """Total over total (such as bits over bytes): [..., n] -> [...]."""
    return num.sum(axis=-1) / den.sum(axis=-1)


def resample(task: str, n: int, times: int, seed: int) -> np.ndarray:
    """Bootstrap positions of a task's test samples: int64 [times, n].

    The same for the same arguments, so that two runs are compared on the same resamples.
    """
    return generator(seed, "bootstrap", task).integers(0, n, size=(times, n))


def estimate_mean(runs: Runs, times: int, seed: int, base: Runs | None = None) -> Estimate:
    """The mean over tasks of the mean over runs of a ratio of sums, with its interval.

    With `base`, each task's ratio is taken relative to that of `base`, so that tasks whose ratios differ
    in size weigh alike. Test samples are resampled within each task, alike for all that is compared.
    """
    values, draws, n = [], [], 0
    for task, each in runs.items():
        at = resample(task, len(each[0][0]), times, seed)
        values.append(_mean(each) / _scale(base, task))
        draws.append(_mean(each, at) / _scale(base, task, at))
        n += len(each[0][0])
    return _estimate(values, draws, n)


def estimate_difference(
    ours: Runs, theirs: Runs, times: int, seed: int, base: Runs | None = None
) -> Estimate:
    """Ours less theirs, mean over tasks, paired by test sample: the same resamples for both sides.

    `base` is as in `estimate_mean`. Both sides hold runs as it takes them, of the same tasks and samples.
    """
    values, draws, n = [], [], 0
    for task, each in ours.items():
        at = resample(task, len(each[0][0]), times, seed)
        values.append((_mean(each) - _mean(theirs[task])) / _scale(base, task))
        draws.append((_mean(each, at) - _mean(theirs[task], at)) / _scale(base, task, at))
        n += len(each[0][0])
    return _estimate(values, draws, n)


def _mean(runs: Sequence[tuple[np.ndarray, np.ndarray]], at: np.ndarray | slice = slice(None)) -> np.ndarray:
    return np.mean([ratio(num[at], den[at]) for num, den in runs], axis=0)


def _scale(base: Runs | None, task: str, at: np.ndarray | slice = slice(None)) -> np.ndarray | float:
    return 1.0 if base is None else _mean(base[task], at)


def _estimate(values: list[np.ndarray], draws: list[np.ndarray], n: int) -> Estimate:
    low, high = np.quantile(np.mean(draws, axis=0), [0.025, 0.975])
    return Estimate(float(np.mean(values)), float(low), float(high), n)
