"""Bootstrap intervals."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdslib.evaluation.bootstrap import (
    by_seed,
    estimate_difference,
    estimate_mean,
    holm,
    over_seeds,
    p_value,
    resample,
)
from rdslib.seeds import generator


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


# Several seeds.


def made_up_study(rng, seeds, n, of_seed, of_sample, shift=0.0):
    """Two tasks of two methods: samples vary alike for both, seeds apart; they differ by `shift`."""
    ours, theirs = {}, {}
    for task in "ab":
        size, shared = rng.integers(5, 50, n).astype(float), rng.normal(0, 3, n)
        for side, level in ((ours, 1 + shift), (theirs, 1.0)):
            side[task] = [
                (size * (level + rng.normal(0, of_seed)) + shared + rng.normal(0, of_sample, n) * size, size)
                for _ in range(seeds)
            ]
    return ours, theirs


def naive(ours, theirs, base, times, seed):
    """The interval of a difference, number by number."""
    tasks = list(ours)
    resamples = {task: [np.arange(len(ours[task][0][0])), *resample(task, len(ours[task][0][0]), times, seed)]
                 for task in tasks}  # fmt: skip

    def ratio(run, at):
        return sum(run[0][i] for i in at) / sum(run[1][i] for i in at)

    rows = []
    for place in range(len(ours["a"])):
        row = []
        for draw in range(1 + times):
            parts = []
            for task in tasks:
                at = resamples[task][draw]
                gap = ratio(ours[task][place], at) - ratio(theirs[task][place], at)
                parts.append(gap / ratio(base[task][0], at))
            row.append(sum(parts) / len(parts))
        rows.append(row)
    values = [row[0] for row in rows]
    errors = generator(seed, "bootstrap", "seeds").standard_t(len(rows) - 1, times)
    spread = statistics.stdev(values) / len(values) ** 0.5
    draws = [statistics.mean(row[1 + draw] for row in rows) + spread * errors[draw] for draw in range(times)]
    below = sum(draw <= 0 for draw in draws)
    p = min(1, 2 * (1 + min(below, times - below)) / (1 + times))
    return (statistics.mean(values), *np.quantile(draws, [0.025, 0.975]), p)


@settings(deadline=None, max_examples=10)
@given(seeds=st.integers(2, 5), n=st.integers(2, 9), seed=st.integers(0, 99), shift=st.sampled_from([0, 0.1]))
def test_seeds_and_samples_together_equal_a_naive_version(seeds, n, seed, shift):
    rng = np.random.default_rng(seed)
    ours, theirs = made_up_study(rng, seeds, n, 0.02, 0.1, shift)
    base = {task: each[:1] for task, each in made_up_study(rng, 1, n, 0, 0)[0].items()}
    found = estimate_difference(ours, theirs, 40, seed, base)
    assert (found.value, found.low, found.high, found.p) == pytest.approx(naive(ours, theirs, base, 40, seed))
    assert found.n == 2 * n


def test_the_interval_is_right_where_seeds_differ_and_where_samples_do():
    """Of three seeds; resampling seeds would cover 0.75 at most in the first case."""
    for of_seed, of_sample in ((0.02, 0.0), (0.0, 0.2), (0.01, 0.1)):
        covered = 0
        for repetition in range(150):
            rng = np.random.default_rng(repetition)
            found = estimate_difference(*made_up_study(rng, 3, 40, of_seed, of_sample), 300, repetition)
            covered += found.low <= 0 <= found.high
        assert covered / 150 >= 0.9


def test_differences_of_two_calls_are_paired_too():
    ours, theirs = made_up_study(np.random.default_rng(0), 3, 20, 0.01, 0.1)
    apart = by_seed(ours, 50, 3) - by_seed(theirs, 50, 3)
    assert apart == pytest.approx(by_seed(ours, 50, 3, theirs=theirs))
    assert over_seeds(apart, 3).low == pytest.approx(estimate_difference(ours, theirs, 50, 3).low)


def test_sides_with_other_seeds_are_not_paired():
    ours, theirs = made_up_study(np.random.default_rng(0), 3, 20, 0.01, 0.1)
    theirs["b"].pop()
    with pytest.raises(ValueError, match=r"paired by seed, and there are \[2, 3\] of a task"):
        estimate_difference(ours, theirs, 50, 3)


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_equals_a_naive_version(p):
    """Reject from the smallest p up, at 5% by the number that is left, until one is not."""
    corrected = holm(p)
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for left, (value, place) in zip(
            range(len(p), 0, -1), sorted((v, i) for i, v in enumerate(p)), strict=True
        ):
            if value * left > level:
                break
            rejected.add(place)
        assert {i for i, value in enumerate(corrected) if value <= level} == rejected


def test_p_is_small_where_0_is_outside_the_interval_alone():
    rng = np.random.default_rng(0)
    for shift in (0, 1, 2, 3, 4):
        draws = rng.normal(shift, 1, 4000)
        low, high = np.quantile(draws, [0.025, 0.975])
        assert (p_value(draws) < 0.05) == (not low <= 0 <= high)
    assert p_value(np.zeros(10)) == 1
