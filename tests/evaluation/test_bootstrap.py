"""Bootstrap intervals."""

from __future__ import annotations

import numpy as np
import pytest

from rdslib.evaluation.bootstrap import estimate_difference, estimate_mean, resample


def runs(seed, n=200, shift=0.0):
    rng = np.random.default_rng(seed)
    size = rng.integers(5, 50, n).astype(float)
    return [(size * (1 + shift) + rng.normal(0, 3, n), size)]


def test_the_value_is_the_ratio_of_sums_averaged_over_tasks():
    a, b = runs(0), runs(1)
    found = estimate_mean({"a": a, "b": b}, 100, 0)
    assert found.value == pytest.approx(np.mean([x[0][0].sum() / x[0][1].sum() for x in (a, b)]))
    assert found.n == 400
    assert found.low < found.value < found.high


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        found = estimate_mean({"a": runs(seed, n=60)}, 300, seed)
        covered += found.low <= 1.0 <= found.high
    assert 0.89 <= covered / 200 <= 0.99


def test_a_paired_difference_is_tighter_than_two_intervals():
    (bits, size), noise = runs(0)[0], np.random.default_rng(1).normal(0, 0.1, 200)
    ours, theirs = [(bits - 1 + noise, size)], [(bits, size)]
    found = estimate_difference({"a": ours}, {"a": theirs}, 500, 0)
    assert found.high < 0
    alone = estimate_mean({"a": theirs}, 500, 0)
    assert found.high - found.low < alone.high - alone.low


def test_resamples_repeat_and_differ_between_tasks():
    assert (resample("a", 30, 5, 0) == resample("a", 30, 5, 0)).all()
    assert (resample("a", 30, 5, 0) != resample("b", 30, 5, 0)).any()
