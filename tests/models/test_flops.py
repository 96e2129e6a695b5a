"""The cost model against the formulas of the paper's Appendix E, written out here a second time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdslib.figures import published
from rdslib.models.flops import CostModel, selection_flops, total_flops, training_flops

N, GTR, TOKENS = 8_000_000_000, 110_000_000, 2_048
TRAIN = 6 * N * TOKENS * 2 * 10_000


def expected(method: str, pool: int) -> int:
    """Figure 1's x, in exact integers, for 10,000 samples."""
    forward = 2 * N * TOKENS * pool
    return {
        "random": TRAIN,
        "random_balanced": TRAIN,
        "rds": TRAIN + forward,
        "top_ppl": TRAIN + forward,
        "mid_ppl": TRAIN + forward,
        "embed_nv": TRAIN + forward,
        "embed_gtr": TRAIN + 2 * GTR * TOKENS * pool,
        "less": 2 * TRAIN + 3 * (6 * N * TOKENS * pool),
        "ifd": TRAIN + 2 * N * TOKENS * 200_000 + 6 * N * TOKENS * 1_000 + forward,
    }[method]


def test_figure_1_costs() -> None:
    table = published.fig1()
    assert len(table) == 18
    for method, pool, flops in zip(table["method"], table["pool_size"], table["flops"], strict=True):
        assert flops == pytest.approx(expected(method, pool), rel=1e-12), method


def test_figure_1_costs_as_numbers() -> None:
    assert training_flops(10_000) == 1.96608e18
    assert total_flops("rds", 10_000, 200_000) == pytest.approx(8.51968e18)
    assert total_flops("less", 10_000, 200_000) == pytest.approx(6.291456e19)
    assert total_flops("embed_gtr", 10_000, 5_817_792) == pytest.approx(4.587344e18, rel=1e-6)


@given(samples=st.integers(1, 10**7), pool=st.integers(1, 10**7))
def test_total_is_selection_and_training(samples: int, pool: int) -> None:
    for method in ("random", "rds", "less", "ifd", "embed_gtr"):
        total = training_flops(samples) + selection_flops(method, pool, samples)
        assert total_flops(method, samples, pool) == total
        assert total >= training_flops(samples)


def test_other_models_scale_the_cost() -> None:
    small = CostModel(parameters=8e8, epochs=1)
    assert training_flops(10, small) == pytest.approx(training_flops(10) / 20)
    assert selection_flops("rds", 10, 1, small) == pytest.approx(selection_flops("rds", 10, 1) / 10)


def test_unknown_method_is_named() -> None:
    with pytest.raises(ValueError, match="'magic'"):
        total_flops("magic", 1, 1)
