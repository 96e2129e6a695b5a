"""The cost model against the formulas of the paper's Appendix E, written out here a second time."""

from __future__ import annotations

import pytest

from rdslib.figures import FIGURES
from rdslib.methods import get_scorer
from rdslib.models.flops import PAPER, CostModel, training_flops

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
    table = FIGURES["fig1_pareto"].published()
    assert len(table) == 18
    for method, pool, flops in zip(table["method"], table["pool_size"], table["flops"], strict=True):
        assert flops == pytest.approx(expected(method, pool), rel=1e-12), method


def test_costs_as_numbers() -> None:
    assert training_flops(10_000) == 1.96608e18
    assert get_scorer("embed_minilm").paper_flops(200_000, 10_000, PAPER) == 2 * GTR * TOKENS * 200_000


def test_other_models_scale_the_cost() -> None:
    small = CostModel(parameters=8e8, epochs=1)
    assert training_flops(10, small) == pytest.approx(training_flops(10) / 20)
    for method in ("rds", "rds_eos", "less", "ifd", "top_ppl"):
        paper = get_scorer(method).paper_flops(10, 0, PAPER)
        assert get_scorer(method).paper_flops(10, 0, small) == pytest.approx(paper / 10)
