"""Differences by seed: what is drawn, and the key numbers under it."""

from __future__ import annotations

import statistics

import pandas as pd
import pytest

from rdslib.figures import draw, key_numbers
from rdslib.figures.base import human, method_title
from tests.figures.made_up import made_up_seeds


def drawn(table):
    (axes,) = draw("seeds", table).axes
    points = [tuple(map(float, line.get_xdata())) for line in axes.lines if line.get_marker() == "o"]
    return axes, points


def test_every_seed_is_a_point_and_every_difference_a_line():
    table = made_up_seeds()
    axes, points = drawn(table)
    seeds = table[table["seed"] != "all"]
    groups = seeds.groupby(["setting", "pool_size", "budget", "method"], sort=False)["difference"]
    assert points == [tuple(part) for _, part in groups]
    names = [label.get_text() for label in axes.get_yticklabels()]
    whole = table[table["seed"] == "all"]
    assert names == [
        f"{method_title(row.method)}, {human(row.budget)} of {human(row.pool_size)}"
        for row in whole.itertuples()
    ]
    assert (
        axes.texts[0].get_text().startswith("One task at a time; below the dotted line all tasks together.")
    )


def test_of_one_seed_no_spread_is_drawn_or_said():
    table = made_up_seeds((1,))
    axes, points = drawn(table)
    assert points == []
    assert "one seed, whose spread is not known" in axes.texts[0].get_text()
    assert "standard deviation of seeds" not in key_numbers(table).replace("", pd.NA).dropna(axis=1)


def test_key_numbers_equal_a_naive_computation():
    table = made_up_seeds()
    found = key_numbers(table)
    whole = table[table["seed"] == "all"]
    assert len(found) == len(whole)
    for (_, shown), row in zip(found.iterrows(), whole.to_dict("records"), strict=True):
        same = ["setting", "pool_size", "budget", "method"]
        gaps = [
            each["difference"]
            for each in table.to_dict("records")
            if each["seed"] != "all" and all(each[key] == row[key] for key in same)
        ]
        assert shown["minus Random (bal.)"] == f"{row['difference']:+.3f}"
        assert float(shown["standard deviation of seeds"]) == pytest.approx(statistics.stdev(gaps), abs=6e-4)
        assert float(shown["least difference to tell"]) == pytest.approx(
            (row["high"] - row["low"]) / 2, abs=6e-4
        )
