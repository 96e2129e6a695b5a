"""Methods compared: every cell is its row, and what is bold is what was told from balanced random."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rdslib.figures import FIGURES, draw, key_numbers
from rdslib.figures.base import method_title, published

PLACE = ["setting", "pool_size", "budget"]
SINGLE, MULTI = ("One task at a time", 2000, 64), ("all tasks together", 20_000, 256)


def made_up():
    """Two methods beside balanced random, one by two selectors, and at a second place one of them."""
    rows = []
    for place, methods in (
        (
            ("One task at a time", 2000, 64),
            [("rds", "round_robin"), ("rds", "mean"), ("less", "round_robin")],
        ),
        (MULTI, [("rds", "round_robin")]),
    ):
        for number, (method, selector) in enumerate([("random_balanced", "round_robin"), *methods]):
            gap = np.nan if method == "random_balanced" else -0.01 * number
            rows.append(
                {
                    **dict(zip(PLACE, place, strict=True)),
                    "method": method,
                    "selector": selector,
                    "score": 0.95 + (0 if np.isnan(gap) else gap),
                    "low": 0.9,
                    "high": 1.0,
                    "n": 100,
                    "metric": "bits per byte",
                    "better": "lower",
                    "diff_vs_random": gap,
                    "diff_vs_random_low": gap - 0.015,
                    "diff_vs_random_high": gap + 0.015,
                    "note": "a model",
                    "origin": "measured",
                }
            )
    return pd.DataFrame(rows)


def cells(axes):
    """The text of each cell, by its row's name and its column's; the heading is the last text."""
    names = [each.get_text() for each in axes.get_yticklabels()]
    places = [each.get_text() for each in axes.get_xticklabels()]
    return {
        (names[int(y)], places[int(x)]): each for each in axes.texts[:-1] for x, y in [each.get_position()]
    }


def test_every_cell_is_its_row():
    axes = draw("compare_methods", made_up()).axes[0]
    found = cells(axes)
    first, second = "64 of 2k", "256 of 20k"
    assert {place: text.get_text() for place, text in found.items()} == {
        ("Random (bal.)", first): "0.950",
        ("RDS+", first): "0.940",
        ("RDS+, mean", first): "0.930",
        ("LESS", first): "0.920",
        ("Random (bal.)", second): "0.950",
        ("RDS+", second): "0.940",
    }
    bold = {place for place, text in found.items() if text.get_fontweight() == "bold"}
    assert bold == {("RDS+, mean", first), ("LESS", first)}
    gains = axes.collections[0].get_array()
    # Lower is better, and a gain is above 0.
    assert np.ma.allclose(np.sort(gains.compressed()), [0, 0, 0.01, 0.01, 0.02, 0.03])


def test_published_differences_are_those_of_the_papers_scores():
    rows = FIGURES["compare_methods"].published()
    paper = published("fig1").set_index(["method", "pool_size"])["score"]
    single = rows[rows["setting"] == "One task at a time"]
    for row in single.dropna(subset="score").itertuples():
        expected = round(paper[row.method, row.pool_size] - paper["random_balanced", row.pool_size], 6)
        own = row.method == "random_balanced"
        assert np.isnan(row.diff_vs_random) if own else row.diff_vs_random == expected
    drawn = cells(draw("compare_methods", rows.assign(origin="published")).axes[0])
    assert drawn["RDS+", "10k of 200k"].get_text() == f"{paper['rds', 200_000]:.1f}"


def test_key_numbers_count_what_is_told():
    table = key_numbers(made_up())
    assert table["best"].tolist() == ["LESS", "RDS+"]
    assert table["compared"].tolist() == [4, 2]
    assert table[["better than it", "worse than it"]].to_numpy().tolist() == [[2, 0], ["", ""]]
    turned = made_up().assign(better="higher")
    assert key_numbers(turned)["best"].tolist() == [method_title("random_balanced")] * 2
    assert key_numbers(turned)["worse than it"].tolist()[0] == 2
