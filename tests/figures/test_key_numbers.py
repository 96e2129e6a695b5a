"""The key numbers under a figure, each worked out once more from the table."""

from __future__ import annotations

import base64
import math
import re
from pathlib import Path

import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from rdslib.figures import FIGURES, key_numbers
from rdslib.figures.base import human, interval, method_title
from rdslib.figures.publish import as_csv, summary
from tests.figures.made_up import METHODS, both, made_up_ablation, made_up_histogram, made_up_scores

MINI = Path(__file__).resolve().parents[2] / "figures" / "mini"
OF_RANDOM = f"minus {method_title('random_balanced')}"


@settings(deadline=None, max_examples=20)
@given(methods=st.lists(st.sampled_from(METHODS), min_size=1, unique=True), seed=st.integers(0, 99),
       better=st.sampled_from(["lower", "higher"]))  # fmt: skip
def test_scores_equal_a_naive_computation(methods, seed, better):
    measured = made_up_scores(tuple(methods), (300, 2000), (48,), seed).assign(better=better)
    paper = FIGURES["fig1_pareto"].published()
    found = key_numbers(both(paper, measured))
    sign = -1 if better == "lower" else 1
    for size, published_size in ((300, 200_000), (2000, 5_817_792)):
        rows = measured[measured["pool_size"] == size].set_index("method")["score"]
        best = (sign * rows).idxmax()
        shown = found[(found["origin"] == "measured") & (found["pool"] == human(size))]
        expected = [best] + (["rds"] if "rds" in methods and best != "rds" else [])
        assert shown["method"].tolist() == [method_title(method) for method in expected]
        for method, (_, row) in zip(expected, shown.iterrows(), strict=True):
            place = 1 + sum(sign * score > sign * rows[method] for score in rows)
            assert row["rank"] == f"{place} of {len(rows)}"
            assert row["score"] == f"{rows[method]:.3f}"
            assert row["95% interval"] == f"{rows[method] - 0.01:.3f} to {rows[method] + 0.012:.3f}"
            if "random_balanced" in methods and method != "random_balanced":
                assert row[OF_RANDOM] == f"{rows[method] - rows['random_balanced']:+.3f}"
        theirs = (
            paper[paper["pool_size"] == published_size].dropna(subset="score").set_index("method")["score"]
        )
        shared = [method for method in methods if method in theirs]
        if len(shared) >= 3:
            rank = scipy.stats.spearmanr(sign * rows[shared], theirs[shared]).statistic
            assert set(shown["rank correlation with the paper"]) == {round(rank, 2)}


def test_differences_are_paired_where_the_table_has_them():
    table = pd.read_csv(MINI / "fig1_pareto.csv")
    found = key_numbers(table)
    row = table[(table["method"] == "rds") & (table["origin"] == "measured")].iloc[-1]
    shown = found[(found["origin"] == "measured") & (found["method"] == "RDS+")].iloc[-1]
    assert shown[OF_RANDOM] == f"{row['diff_vs_random']:+.3f}"
    interval = f"{row['diff_vs_random_low']:.3f} to {row['diff_vs_random_high']:.3f}"
    assert shown["its 95% interval"] == interval
    ablation = key_numbers(made_up_ablation())
    assert ablation["method"].tolist() == ["RDS+, uniform mean-pool", "RDS+"]
    assert ablation["minus RDS+"].tolist() == ["-0.010", ""]


@pytest.mark.parametrize("name", FIGURES)
def test_every_table_has_key_numbers_and_no_gaps(name):
    table = pd.read_csv(MINI / f"{name}.csv")
    found = key_numbers(table)
    assert len(found)
    assert set(found["origin"]) == set(table["origin"])
    assert not found.isna().any(axis=None)


def test_shares_and_means_equal_a_naive_computation():
    table = pd.read_csv(MINI / "fig6_sources_by_task.csv")
    found = key_numbers(table).set_index("selection")
    for name, rows in table.groupby("selection"):
        top = rows.loc[rows["count"].idxmax()]
        assert found.loc[name, "samples"] == rows["count"].sum()
        assert found.loc[name, "largest source"] == top["source"]
        assert found.loc[name, "its share"] == f"{100 * top['count'] / rows['count'].sum():.1f}%"
    scores = made_up_histogram()
    means = key_numbers(scores).set_index("task")["mean"]
    assert means["GSM8k"] == round(scores.loc[scores["task"] == "GSM8k", "score"].mean(), 3)


def test_intervals_are_written_only_where_they_say_something():
    assert interval(0.9, 0.95, 3) == "0.900 to 0.950"
    assert interval(0.9, 0.9, 3) == "n too small"
    assert interval(float("nan"), float("nan"), 3) == ""
    # Of a difference of a model from itself.
    assert interval(0.0, 0.0, 3) == "0.000 to 0.000"


def test_under_a_figure_stand_its_key_numbers_and_all_of_them_as_a_file():
    table = FIGURES["tab5_pool_sources"].published().replace("Dolly", "<b>-1</b>")
    page = summary("tab5_pool_sources", table).data
    assert "Key numbers" in page
    assert "5,817,792" in page
    link = re.search(
        'href="data:text/csv;charset=utf-8;base64,([^"]*)" download="tab5_pool_sources.csv"', page
    )
    assert base64.b64decode(link[1]).decode() == as_csv(table)
    # What is missing is nothing, and a number below 0 has its sign.
    rows = table.assign(source="-0.5", count=[1.0, *[math.nan] * (len(table) - 1)])
    shown = summary("tab5_pool_sources", rows).data
    assert ">nan<" not in shown
    assert "\N{MINUS SIGN}0.5" in shown
