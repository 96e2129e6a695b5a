"""The published numbers: their sums, their averages, their provenance, and that gaps stay gaps."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest

from rdslib.figures import published

SOURCES = {"review", "ref", "card", "fig", "cited"}


def test_pool_totals() -> None:
    sums = published.tab5_pool_sources().groupby("pool")[["in_mixture", "count"]].sum()
    # The paper prints 326,153 under the first column, which is not what its rows add up to.
    assert sums["in_mixture"].to_dict() == {"Tulu 2": 326_154, "Tulu 3": 939_344}
    assert sums["count"].to_dict() == {"Tulu 2": 5_817_792, "Tulu 3": 4_783_043}
    assert published.PRINTED_TOTALS == {"Tulu 2": (326_153, 5_817_792), "Tulu 3": (939_344, 4_783_043)}
    assert "326,154" in published.tab5_pool_sources()["note"].iloc[0]


def test_figure_2_totals() -> None:
    totals = published.fig2().groupby("pool")["count"].sum()
    assert totals.to_dict() == {
        "Unfiltered Tulu 2": 5_817_792,
        "Unfiltered Tulu 3": 4_783_043,
        "Xia et al. 2024": 270_679,
        "Chen et al. 2024": 52_002,
        "Li et al. 2024b": 52_002,
    }


@pytest.mark.parametrize("table", [published.tab2_multi_task(), published.tab3_second_pool()])
def test_averages_of_complete_rows(table: pd.DataFrame) -> None:
    wide = table.pivot(index="method", columns="task", values="score")
    complete = wide.dropna()
    assert len(complete) >= 5
    # The average and each of its seven terms are rounded to a tenth.
    gap = complete[list(published.TASKS)].mean(axis=1) - complete[published.AVERAGE]
    assert (gap.abs() <= 0.1 + 1e-9).all(), gap


def test_gaps_stay_gaps_and_say_why() -> None:
    fig1 = published.fig1()
    missing = fig1[fig1["score"].isna()]
    assert missing[["method", "pool_size", "note"]].values.tolist() == [["less", 5_817_792, "not run"]]
    table2 = published.tab2_multi_task()
    gone = table2[table2["score"].isna()]
    assert set(gone["note"]) == {"not published"}
    assert set(gone.groupby("method").size().items()) == {
        ("tulu2_mixture", 8), ("rds_wildchat", 8), ("rds_arena_hard", 8), ("rds", 7), ("ifd", 7),
        ("embed_nv", 2),
    }  # fmt: skip
    assert (table2.loc[table2["score"].notna(), "note"] == "").all()


@pytest.mark.parametrize(
    "make",
    [published.fig1, published.fig3, published.fig4, published.tab2_multi_task, published.tab3_second_pool,
     published.tab1_single_task, published.tab6_rds_ablation],
)  # fmt: skip
def test_scores_are_tidy_and_carry_their_source(make: Callable[[], pd.DataFrame]) -> None:
    table = make()
    known = table.dropna(subset="score")
    assert set(table["origin"]) == {"published"}
    assert set(known["source"]) <= SOURCES
    assert set(table.loc[table["score"].isna(), "source"]) <= {""}
    assert set(table["method"]) <= set(published.METHOD_NAMES)
    assert table["low"].isna().all()
    assert table["high"].isna().all()
    assert set(table["better"]) == {"higher"}


def test_columns() -> None:
    assert list(published.fig1().columns) == published.FIG1_COLUMNS
    assert list(published.fig4().columns) == published.SCALING_COLUMNS
    assert published.fig1()["source"].unique().tolist() == ["ref", ""]
    assert set(published.tab4_splits()["source"]) == {"review"}
    assert set(published.fig2()["provenance"]) == {"review", "cited"}


def test_splits() -> None:
    table = published.tab4_splits()
    assert list(table["task"]) == list(published.TASKS)
    assert list(table["query"]) == [285, 8, 81, 9, 16, 500, 50]
    assert table["test"].sum() == 38_422 == published.fig1()["n"].iloc[0]


def test_scaling_points() -> None:
    table = published.fig4()
    assert len(table) == 22
    whole = table[table["budget"] == table["pool_size"]]
    assert whole["percent"].tolist() == [100, 100]
    assert whole["score"].tolist() == [50.8, 50.8]
    best = table.nlargest(1, "score")
    assert best[["method", "budget", "score"]].values.tolist() == [["rds", 1_200_000, 52.4]]
    pd.testing.assert_frame_equal(published.fig3(), table)


def test_tables_are_fresh() -> None:
    table = published.fig1()
    table["score"] = 0.0
    assert published.fig1()["score"].iloc[0] == 40.9
