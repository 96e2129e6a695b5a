"""What others published: our aggregates of it, and what is drawn and said of them."""

from __future__ import annotations

import csv
import os
import statistics
from pathlib import Path

import pandas as pd
import pytest
import scipy.stats

from rdslib.figures import FIGURES, draw, key_numbers
from rdslib.figures.base import PUBLISHED
from rdslib.figures.replication import STUDY
from tests.figures import others

MIRROR = os.environ.get("RDSLIB_MIRROR")
needs_mirror = pytest.mark.skipif(MIRROR is None, reason="the study's tables are in the mirror")


def runs():
    """The runs as the CSV has them, without pandas: scores by pool, model, method, budget and seed."""
    with (PUBLISHED / "others.csv").open() as file:
        return {
            (row["pool"], row["model"], row["method"], int(row["budget"]), row["seed"]): float(row["score"])
            for row in csv.DictReader(file)
        }


def table():
    return FIGURES["replication"].published()


def test_every_run_is_there_once():
    found = runs()
    assert len(found) == 2 * 5 * (4 * 5 * 3 + 1)
    assert {key[4] for key in found if key[2] != "untuned"} == {"0", "1", "2"}


def test_means_and_differences_equal_a_naive_computation():
    found = runs()
    rows = table()
    rows = rows[(rows["study"] == STUDY) & (rows["budget"] > 0)]
    assert len(rows) == 2 * 5 * 4 * 5
    for row in rows.to_dict("records"):
        values = {
            seed: found[row["pool"], row["model"], row["method"], row["budget"], seed] for seed in "012"
        }
        columns = {"": values}
        for column, other in (("diff_vs_random_", "random"), ("diff_vs_rds_", "rds")):
            of = {s: found[row["pool"], row["model"], other, row["budget"], s] for s in "012"}
            columns[column] = {s: values[s] - of[s] for s in "012"}
            if other == row["method"]:
                assert pd.isna(row[column.rstrip("_")])
                del columns[column]
        for column, each in columns.items():
            mean = statistics.mean(each.values())
            error = statistics.stdev(each.values()) / 3**0.5
            low, high = scipy.stats.t.interval(0.95, 2, mean, error)
            assert row[column.rstrip("_") or "score"] == pytest.approx(mean)
            assert (row[f"{column}low"], row[f"{column}high"]) == pytest.approx((low, high))


def test_who_published_what_is_said():
    rows = table()
    assert set(zip(rows["origin"], rows["source"], strict=True)) == {
        ("others", "tis"), ("others", "34"), ("published", "ref"),
    }  # fmt: skip
    paper = FIGURES["fig1_pareto"].published()
    first = rows[rows["origin"] == "published"]
    assert first["score"].tolist() == paper[paper["method"] == "rds"]["score"].tolist()[:1]
    again = rows[rows["source"] == "34"].set_index("task")["score"]
    # The average is of the six tasks, rounded to a tenth as they are.
    assert again["Average"] == pytest.approx(again.drop("Average").mean(), abs=0.1)
    assert "Issue 34" in " ".join(
        text.get_text() for text in draw("replication", rows).findobj(match=is_text)
    )


def is_text(artist):
    return hasattr(artist, "get_text")


def test_key_numbers_say_what_holds_across_models():
    found = key_numbers(table()).set_index(["pool", "what", "model"])
    gains = []
    for model in others.MODELS.values():
        values = runs()
        seeds = [
            values["Dolci", model, "rds", 1000, seed] - values["Dolci", model, "random", 1000, seed]
            for seed in "012"
        ]
        gains.append(statistics.mean(seeds))
        assert found.loc[("Dolci", "RDS+ minus random", model), "1k"].startswith(f"{gains[-1]:+.1f} (")
    mean = statistics.mean(gains)
    low, high = scipy.stats.t.interval(0.95, 4, mean, statistics.stdev(gains) / 5**0.5)
    shown = found.loc[("Dolci", "RDS+ minus random", "mean of 5"), "1k"]
    assert shown == f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
    assert (found["origin"] == "published").sum() == 1


@needs_mirror
def test_the_aggregates_equal_a_naive_reading_of_the_tables():
    owner, commit = others.REPOSITORY.split("@")
    folder = Path(MIRROR, "github", owner, commit, "assets")
    found = runs()
    for part, pool in others.POOLS.items():
        for key, model in others.MODELS.items():
            place = folder / part / "quantile_budget" / key
            with (place / "budget_true_metric_budget.csv").open() as file:
                lines = list(csv.DictReader(file))
            for name, method in others.METHODS.items():
                for budget in (500, 1000, 2500, 5000, 10_000):
                    for seed in "012":
                        wanted = {"method": name, "num_samples": str(budget), "seed": seed}
                        scores = [
                            float(line["true_metric"])
                            for line in lines
                            if all(line[column] == value for column, value in wanted.items())
                        ]
                        assert len(scores) == 5
                        mean = statistics.mean(scores)
                        assert found[pool, model, method, budget, seed] == pytest.approx(mean, abs=6e-5)
            with (place / "budget_true_metric_zero_shot.csv").open() as file:
                before = [float(line["true_metric"]) for line in csv.DictReader(file)]
            assert found[pool, model, "untuned", 0, ""] == pytest.approx(statistics.mean(before), abs=6e-5)


@needs_mirror
def test_the_script_writes_what_is_committed(tmp_path):
    others.write(tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (PUBLISHED / path.name).read_bytes()


@needs_mirror
def test_rank_correlations_equal_a_naive_computation():
    rows = pd.read_csv(PUBLISHED / "others_quantiles.csv")
    assert len(rows) == 2 * 5 * 5 * 3
    owner, commit = others.REPOSITORY.split("@")
    names = {value: name for mapping in (others.POOLS, others.MODELS) for name, value in mapping.items()}
    for (pool, model), group in rows.groupby(["pool", "model"]):
        place = Path(MIRROR, "github", owner, commit, "assets", names[pool], "quantile_budget", names[model])
        lines = pd.read_csv(place / "binning_ce_loss_quantile.csv")
        for row in group.to_dict("records"):
            method = next(name for name, value in others.METHODS.items() if value == row["method"])
            part = lines[(lines["dataset"] == row["task"]) & (lines["method"] == method)]
            for column, loss in (("queries", "dev"), ("test", "test")):
                rank = scipy.stats.spearmanr(part["bin"], part[loss]).statistic
                assert row[column] == pytest.approx(rank, abs=6e-5)
