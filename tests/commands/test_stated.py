"""What a plan says of the paper's setting, from what its profiles state, with nothing there."""

from __future__ import annotations

import tempfile

import numpy as np
import pandas as pd
import pytest

from rdslib.commands.plan import plan_profile, shown
from rdslib.commands.speed import DISK, FLOPS, TOKENS
from rdslib.commands.stated import StatedCosts
from rdslib.commands.text import as_text
from rdslib.figures.base import PUBLISHED, paper_flops
from rdslib.pipeline.study import Study

# Llama-2-7B's and Llama-3.1-8B's parameters, and of these those of the two tables of embeddings.
PARAMETERS = {"tulu2": (6_738_415_616, 262_144_000), "tulu3": (8_030_261_248, 1_050_673_152)}
# Tokens of Tulu's format around a prompt and its response, where a byte is a token, with the last one's end.
FORMAT = len("<|user|>\n\n<|assistant|>\n\n") + 1


@pytest.fixture
def nothing(tmp_path, monkeypatch):
    """No home, no hub; and a folder in which nothing may be left."""
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("rdslib.models.folder._commit", lambda name: (None, None))
    scratch = tmp_path / "temporary"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    yield tmp_path
    assert list(scratch.iterdir()) == []
    assert not (tmp_path / "home").exists()


def of(study, tmp_path):
    (tmp_path / "made").mkdir()
    return StatedCosts(study, study.experiment.stated, tmp_path / "made")


def test_costs_by_the_papers_formula_are_the_x_axes_of_figures_1_and_3(nothing):
    rows = of(Study.load("tulu2"), nothing).runs()
    found = {tuple(each[:4]): each[4] for each in rows.itertuples(index=False, name=None)}
    for figure, file in (("1", "fig1"), ("3", "fig4")):
        paper = pd.read_csv(PUBLISHED / f"{file}.csv")
        paper = paper[paper["score"].notna()]
        for row, flops in zip(paper.itertuples(), paper_flops(paper), strict=True):
            assert found[figure, row.method, row.pool_size, row.budget] == flops
    # As Appendix E counts it: RDS+ passes over the pool once, and trains twice on what it picks.
    one = 8e9 * 2048
    assert found["1", "rds", 200_000, 10_000] == pytest.approx(2 * one * 200_000 + 6 * one * 10_000 * 2)


def test_costs_here_are_those_of_the_stated_tokens_and_the_models_parameters(nothing):
    study = Study.load("tulu2")
    rows = of(study, nothing).runs().set_index(["figure", "method", "pool_size", "budget"])["here"]
    total, tables = PARAMETERS["tulu2"]
    stated = study.experiment.stated
    tokens, n = stated.prompt_tokens + stated.response_tokens + FORMAT, total - tables
    train = 6 * n * tokens * 10_000 * 2
    assert rows["1", "random", 200_000, 10_000] == pytest.approx(train, rel=0.01)
    # The pool once, and the queries of a task, of which there are 136 on average.
    forward = 2 * n * tokens
    assert rows["1", "rds", 200_000, 10_000] == pytest.approx(train + forward * 200_136, rel=0.01)
    assert rows["1", "top_ppl", 5_817_792, 10_000] == pytest.approx(train + forward * 5_817_792, rel=0.01)
    # Forward and backward at each of four checkpoints; the warm-up is four epochs on 5% of the pool.
    less = 6 * n * tokens * 4 * (200_136 + 0.05 * 200_000)
    assert rows["1", "less", 200_000, 10_000] == pytest.approx(train + less, rel=0.01)


@pytest.mark.parametrize("profile", PARAMETERS)
def test_a_profile_is_planned_with_nothing_there(nothing, profile):
    plan = plan_profile(profile)
    total, tables = PARAMETERS[profile]
    assert plan.facts["parameters"][0] == total
    assert plan.facts["parameters without embeddings"][0] == total - tables
    assert plan.facts["test samples"][0] == 38_422
    assert not any(part.there for part in plan.parts)
    parts = {part.name: part for part in plan.parts}
    pool = parts["lm features of the pool"]
    size = Study.load(profile).experiment.pool.sources[0].samples
    assert pool.samples == parts["the pool"].samples == size
    assert pool.costs[FLOPS, 0] == pytest.approx(2 * (total - tables) * pool.costs[TOKENS, 0])
    assert pool.costs[DISK, 0] >= size * 2 * 4096
    assert not np.isnan(plan.left.costs[[TOKENS, FLOPS, DISK]]).any()
    names = [part.name.partition(" ")[0] for part in plan.parts]
    assert names.index("model") < names.index("lm") < names.index("train") < names.index("evaluate")
    text = as_text(shown(plan))
    for said in ("GPU-hours", "40% of dense bf16 peak", "an assumption", "paper's FLOPs", "memory"):
        assert said in text
