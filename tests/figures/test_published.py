"""The published numbers: their sums, their averages, their provenance, and that gaps stay gaps."""

from __future__ import annotations

import pytest

from rdslib.figures import FIGURES
from rdslib.figures.base import AVERAGE, TASKS, method_title, paper_flops

PUBLISHED = {name: figure.published for name, figure in FIGURES.items() if figure.published is not None}
# The paper's own; what others published has intervals.
SCORES = [name for name in PUBLISHED if name.startswith(("fig", "tab")) and "score" in PUBLISHED[name]()]


def table(name):
    return PUBLISHED[name]()


def test_pool_totals():
    sums = table("tab5_pool_sources").groupby("pool")[["in_mixture", "count"]].sum()
    # The paper prints 326,153 under the first column, which is not what its rows add up to.
    assert sums["in_mixture"].to_dict() == {"Tulu 2": 326_154, "Tulu 3": 939_344}
    assert sums["count"].to_dict() == {"Tulu 2": 5_817_792, "Tulu 3": 4_783_043}
    assert "326,154" in table("tab5_pool_sources")["note"].iloc[0]
    assert table("fig2_pools").groupby("pool")["count"].sum().to_dict() == {
        "Unfiltered Tulu 2": 5_817_792,
        "Unfiltered Tulu 3": 4_783_043,
        "Xia et al. 2024": 270_679,
        "Chen et al. 2024": 52_002,
        "Li et al. 2024b": 52_002,
    }
    assert set(table("fig2_pools")["provenance"]) == {"review", "cited"}


@pytest.mark.parametrize("name", ["tab2_multi_task", "tab3_second_pool"])
def test_averages_of_complete_rows(name):
    complete = table(name).pivot(index="method", columns="task", values="score").dropna()
    assert len(complete) >= 5
    # The average and each of its seven terms are rounded to a tenth.
    gap = complete[list(TASKS)].mean(axis=1) - complete[AVERAGE]
    assert (gap.abs() <= 0.1 + 1e-9).all(), gap


def test_gaps_stay_gaps_and_say_why():
    fig1 = table("fig1_pareto")
    missing = fig1[fig1["score"].isna()]
    assert missing[["method", "pool_size", "note"]].values.tolist() == [["less", 5_817_792, "not run"]]
    table2 = table("tab2_multi_task")
    gone = table2[table2["score"].isna()]
    assert set(gone["note"]) == {"no source at hand"}
    assert set(gone.groupby("method").size().items()) == {
        ("tulu2_mixture", 8), ("rds_wildchat", 8), ("rds_arena_hard", 8), ("rds", 7), ("ifd", 7),
        ("embed_nv", 2),
    }  # fmt: skip
    assert (table2.loc[table2["score"].notna(), "note"] == "").all()


@pytest.mark.parametrize("name", SCORES)
def test_scores_are_tidy_and_carry_their_source(name):
    rows = table(name)
    known = rows["score"].notna()
    assert set(rows["origin"]) == {"published"}
    assert set(rows.loc[known, "source"]) <= {"review", "ref", "card", "fig"}
    assert set(rows.loc[~known, "source"]) <= {""}
    assert all(method_title(method) != method for method in rows["method"])
    assert rows[["low", "high"]].isna().all(axis=None)
    assert set(rows["better"]) == {"higher"}


def test_columns():
    scores = ["score", "low", "high", "n", "metric", "better", "note", "source"]
    assert list(table("fig1_pareto")) == ["origin", "method", "pool_size", "budget", "flops", *scores]
    scaling = ["origin", "method", "budget", "pool_size", "percent", "flops", *scores]
    assert list(table("fig4_scaling")) == scaling
    by_task = ["origin", "method", "task", "pool_size", "budget", *scores]
    assert list(table("tab1_single_task")) == list(table("tab2_multi_task")) == by_task
    assert list(table("tab6_rds_ablation")) == ["origin", "method", "pool_size", "budget", *scores]


def test_splits():
    rows = table("tab4_splits")
    assert list(rows["task"]) == list(TASKS)
    assert list(rows["query"]) == [285, 8, 81, 9, 16, 500, 50]
    assert rows["test"].sum() == 38_422 == table("fig1_pareto")["n"].iloc[0]


def test_scaling_points():
    rows = table("fig4_scaling")
    assert len(rows) == 22
    whole = rows[rows["budget"] == rows["pool_size"]]
    assert whole[["percent", "score"]].values.tolist() == [[100, 50.8], [100, 50.8]]
    best = rows.nlargest(1, "score")
    assert best[["method", "budget", "score"]].values.tolist() == [["rds", 1_200_000, 52.4]]
    assert rows.equals(table("fig3_flops"))


def test_costs_are_the_papers_formula():
    rows = table("fig1_pareto").set_index(["method", "pool_size"])["flops"]
    training = 6 * 8e9 * 2_048 * 10_000 * 2
    assert rows["random", 200_000] == training
    assert rows["rds", 5_817_792] == pytest.approx(training + 2 * 8e9 * 2_048 * 5_817_792)
    assert paper_flops(table("fig4_scaling").head(1)) == table("fig4_scaling")["flops"].head(1).tolist()


def test_tables_are_fresh():
    rows = table("fig1_pareto")
    rows["score"] = 0.0
    assert table("fig1_pareto")["score"].iloc[0] == 40.9
