"""The quantile experiment: rank correlations, what is drawn, and what `tiny` computes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from rdslib.errors import UserError
from rdslib.figures import draw, key_numbers, table
from rdslib.figures.base import method_title, published
from rdslib.figures.quantiles import correlations
from rdslib.pipeline.runs import quantile_runs
from rdslib.pipeline.study import Study
from rdslib.profiles import load_profile
from tests.figures.made_up import made_up_quantiles


@given(st.integers(2, 9), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99), st.booleans())
def test_rank_correlations_equal_a_naive_computation(parts, tasks, seeds, seed, ties):
    losses = np.random.default_rng(seed).normal(size=(parts, tasks, seeds, 4)).round(0 if ties else 9)
    found = correlations(losses)
    for at in np.ndindex(seeds, 4):
        each = [losses[(slice(None), task, *at)] for task in range(tasks)]
        # Losses that are all the same follow no order.
        ranks = [spearmanr(range(parts), row).statistic if np.ptp(row) else 0.0 for row in each]
        assert found[at] == pytest.approx(np.mean(ranks))


def test_a_loss_that_rises_from_part_to_part_is_1():
    assert correlations(np.arange(10.0).reshape(10, 1, 1, 1)).tolist() == [[1]]
    assert correlations(-np.arange(10.0).reshape(10, 1, 1, 1)).tolist() == [[-1]]


def test_every_part_and_every_model_is_a_point():
    rows = made_up_quantiles()
    theirs, curves, ours, *_ = draw("quantiles", rows).axes
    assert [len(line.get_xdata()) for line in curves.lines] == [10, 10, 10]
    for axes, count in ((ours, 1), (theirs, 4)):
        points = [len(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"]
        assert points == [count] * 3
        names = {label.get_text() for label in axes.get_yticklabels()}
        assert names == {method_title(method) for method in rows["method"]}


def test_key_numbers_are_means_over_models():
    rows = made_up_quantiles()
    found = key_numbers(rows).set_index(["origin", "method"])
    of = rows[(rows["origin"] == "others") & (rows["method"] == "less") & (rows["of"] == "queries")]
    assert found.loc[("others", "LESS"), "queries: rank correlation"] == f"{of['score'].mean():+.2f}"
    assert found.loc[("others", "LESS"), "models and pools"] == 4
    assert found.loc[("measured", method_title("rds")), "test: 95% interval"] == "-0.10 to 0.90"


def test_what_others_published_is_the_mean_over_their_tasks():
    rows = table(Study(load_profile("paper")), "quantiles")
    assert set(rows["origin"]) == {"others"}
    theirs = published("others_quantiles")
    means = theirs.groupby("method")["test"].mean()
    ours = rows[rows["of"] == "test"].groupby("method")["score"].mean()
    pd.testing.assert_series_equal(ours, means, check_names=False)


def with_quantiles(**changes):
    profile = load_profile("tiny")
    grid = profile.experiment.grid
    asked = grid.quantiles.model_copy(update=changes)
    experiment = profile.experiment.model_copy(update={"grid": grid.model_copy(update={"quantiles": asked})})
    return Study(profile.model_copy(update={"experiment": experiment}))


def test_a_method_without_queries_and_too_large_a_budget_are_refused():
    with pytest.raises(UserError, match="quantiles: top_ppl takes no queries"):
        quantile_runs(with_quantiles(methods=("top_ppl",)))
    study = with_quantiles(budget=1000)
    with pytest.raises(UserError, match=r"1000 samples of each of 3 parts of .* samples; lower the budget"):
        study.selection(quantile_runs(study)[0])


@pytest.mark.slow
def test_each_part_is_drawn_from_its_own_place_in_the_order(tiny_home):
    study = Study.load("tiny", home=tiny_home)
    runs = [run for run in quantile_runs(study) if run.method == "rds"]
    assert [run.part for run in runs] == [(1, 3), (2, 3), (3, 3)]
    size = study.pool_size("small")
    order = study.table(study.selection(runs[0]).arguments["order"], "selection.parquet")["position"].tolist()
    assert len(order) == len(set(order)) == size
    for parts, run in zip(np.array_split(order, 3), runs, strict=True):
        picked = study.picks(run)["position"].tolist()
        assert len(set(picked)) == 4
        places = [parts.tolist().index(each) for each in picked]
        assert places == sorted(places)


@pytest.mark.slow
def test_losses_are_those_of_models_trained_on_each_part(tiny_home):
    study = Study.load("tiny", home=tiny_home)
    assert not study.missing(study.evaluation(run, "Sums") for run in quantile_runs(study))
    rows = table(study, "quantiles", "measured")
    assert len(rows) == 2 * 2 * (3 + 1)
    for side, queries in (("test", False), ("queries", True)):
        untuned = study.scores(study.untuned(), "Sums", queries=queries)
        for run in quantile_runs(study):
            scores = study.scores(run, "Sums", queries=queries)
            loss = (
                scores["bits"].sum()
                / scores["bytes"].sum()
                / (untuned["bits"].sum() / untuned["bytes"].sum())
            )
            row = rows[(rows["method"] == run.method) & (rows["part"] == run.part[0]) & (rows["of"] == side)]
            assert row["score"].item() == pytest.approx(loss)
    assert len(untuned) == 4
    assert set(rows.loc[rows["part"].isna(), "kind"]) == {"rank correlation"}
