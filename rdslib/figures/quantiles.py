"""The quantile experiment: is a sample worth more the nearer a method puts it to the queries?

Nayak and others (2026) cut the pool into ten equal parts, from the samples that a method puts first to those
that it puts last, train on some of each, and look at the loss. If a method's order means something, the loss
rises from part to part: the rank correlation of the two is near 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rdslib.evaluation.bootstrap import by_seed
from rdslib.figures import base
from rdslib.figures.base import (
    Figure,
    distinct,
    in_order,
    interval,
    method_title,
    number,
    published,
)
from rdslib.figures.scores import METRIC, measured_note
from rdslib.pipeline import results
from rdslib.pipeline.runs import quantile_runs
from rdslib.pipeline.step import Step
from rdslib.pipeline.study import Run, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rdslib.figures.style import Drawing

# What the loss is of: `queries` of the evaluation, in the order of panels.
SIDES = {"test": False, "queries": True}
WORDS = {"test": "Test samples", "queries": "Queries"}
CURVE, RANK = "loss", "rank correlation"
NOTE = "Nayak and others, 2026: mean of five tasks, a point a model and pool."


def steps(study: Study, runs: list[Run]) -> list[Step]:
    """Steps of the runs of the experiment: what they score on test samples and on queries, and untuned."""
    return [step for run in runs for step in study.steps_of(run)]


def _losses(study: Study, method: str, queries: bool) -> np.ndarray:
    """Loss relative to untuned after training on each part: float64 [parts, tasks, seeds, 1 + resamples]."""
    e = study.experiment
    runs = [run for run in quantile_runs(study) if run.method == method]
    tasks, parts = (
        list(dict.fromkeys(run.targets for run in runs)),
        list(dict.fromkeys(run.part for run in runs)),
    )

    def bits(run: Run, task: str) -> tuple[np.ndarray, np.ndarray]:
        scores = study.scores(run, task, queries=queries)
        return scores["bits"].to_numpy(), scores["bytes"].to_numpy()

    def one(part: tuple[int, int] | None, targets: tuple[str, ...]) -> np.ndarray:
        (task,) = targets
        those = [bits(run, task) for run in runs if run.part == part and run.targets == targets]
        base = {task: [bits(study.untuned(), task)]}
        return by_seed({task: those}, e.evaluate.bootstrap, e.seed, base)

    return np.array([[one(part, task) for task in tasks] for part in parts])


def correlations(losses: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of parts with losses, mean over tasks: float64 [seeds, 1 + resamples].

    `losses` are float64 [parts, tasks, seeds, 1 + resamples]. Of losses that are all the same it is 0.
    """
    from scipy.stats import rankdata

    ranks = rankdata(losses, axis=0)
    ranks -= ranks.mean(axis=0)
    places = np.arange(len(losses)) - (len(losses) - 1) / 2
    norms = np.sqrt((places**2).sum() * (ranks**2).sum(axis=0))
    products = np.tensordot(places, ranks, axes=1)
    return np.divide(products, norms, out=np.zeros_like(products), where=norms > 0).mean(axis=0)


def by_method(study: Study, queries: bool = False) -> dict[str, pd.DataFrame]:
    """The rank correlation of each method that was run: a row a seed, the value, then its resamples."""
    return {
        method: pd.DataFrame(correlations(_losses(study, method, queries)))
        for method in dict.fromkeys(run.method for run in quantile_runs(study))
    }


def _measured(study: Study) -> pd.DataFrame:
    """A row a method and part, with the loss; and one a method, with the rank correlation."""
    rows: list[dict[str, Any]] = []
    for side, queries in SIDES.items():
        for method in dict.fromkeys(run.method for run in quantile_runs(study)):
            losses = _losses(study, method, queries)
            of = {"method": method, "of": side, "n": losses.shape[2]}
            for part, each in enumerate(losses.mean(axis=1)):
                found = results.over_seeds(study, pd.DataFrame(each))
                ends = {"score": found.value, "low": found.low, "high": found.high}
                rows.append({**of, "kind": CURVE, "part": part + 1, **ends})
            found = results.over_seeds(study, pd.DataFrame(correlations(losses)))
            rows.append({**of, "kind": RANK, "score": found.value, "low": found.low, "high": found.high})
    columns = ["kind", "method", "of", "part", "score", "low", "high", "n"]
    asked = study.experiment.grid.quantiles
    note = (
        f"{measured_note(study)} Tasks: {', '.join(asked.tasks)}; {asked.budget} samples of each part."
        if asked
        else ""
    )
    return pd.DataFrame(rows, columns=columns).assign(metric=METRIC, note=note)


def _published() -> pd.DataFrame:
    """Rank correlations of the study of 2026: a row a pool, model and method, the mean over its tasks."""
    rows = published("others_quantiles").melt(
        ["pool", "model", "task", "method", "source"], list(SIDES), var_name="of", value_name="score"
    )
    means = (
        rows.groupby(["pool", "model", "method", "of", "source"], sort=False)["score"].mean().reset_index()
    )
    return means.assign(origin="others", kind=RANK, part=np.nan, n=1, metric=RANK, note=NOTE)


@base.styled
def _draw(table: pd.DataFrame) -> Drawing:
    """A row of panels for test samples and one for queries: losses by part, and rank correlations."""
    from rdslib.figures import style

    panels = [
        (kind, title)
        for title, rows in base.by_origin(table)
        for kind in (CURVE, RANK)
        if (rows["kind"] == kind).any()
    ]
    figure = style.Drawing(figsize=(style.PAGE, 6.4))
    grid = figure.subplots(
        len(SIDES), len(panels), squeeze=False, width_ratios=[2 if kind == CURVE else 1 for kind, _ in panels]
    )
    for line, (side, words) in zip(grid, WORDS.items(), strict=True):
        for axes, (kind, title) in zip(line, panels, strict=True):
            of = table["origin"].map(base.ORIGINS) == title
            rows = table[of & (table["of"] == side) & (table["kind"] == kind)]
            style.heading(axes, rows, f"{words}: {kind}")
            (_curves if kind == CURVE else _ranks)(axes, rows)
    style.footnotes(figure, distinct(table["note"]))
    return figure


def _curves(axes: Axes, rows: pd.DataFrame) -> None:
    from rdslib.figures import style

    for method in in_order(rows["method"]):
        part = rows[rows["method"] == method]
        colour = style.method_colour(method)
        axes.plot(
            part["part"], part["score"], color=colour, marker="o", markersize=4, label=method_title(method)
        )
        axes.fill_between(
            part["part"].astype(float), part["low"], part["high"], color=colour, alpha=0.15, linewidth=0
        )
    axes.set(xlabel="Part of the pool, the nearest to the queries first", ylabel=METRIC)
    axes.set_xticks(sorted(rows["part"].unique()))
    axes.legend()


def _ranks(axes: Axes, rows: pd.DataFrame) -> None:
    """A line a method: its models as points with their mean, or the mean over seeds with its interval."""
    from rdslib.figures import style

    methods = in_order(rows["method"])
    axes.axvline(0, color=style.GREY, linewidth=1)
    for place, method in enumerate(methods):
        part = rows[rows["method"] == method]
        colour = style.method_colour(method)
        axes.plot(part["score"], [place] * len(part), "o", color=colour, markersize=4, alpha=0.6)
        axes.plot(part["score"].mean(), place, "|", color=style.ink(colour), markersize=14, markeredgewidth=2)
        if "low" in part:
            axes.hlines(
                [place] * len(part), part["low"], part["high"], color=colour, linewidth=2.4, alpha=0.5
            )
    axes.set_yticks(range(len(methods)), map(method_title, methods), fontsize=style.SMALL)
    axes.set(
        ylim=(len(methods) - 0.4, -0.6),
        xlim=(-1.05, 1.05),
        xlabel="Rank correlation (1: the loss\nrises from part to part)",
    )
    axes.grid(axis="x")


def key_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """The mean rank correlation of each method, on test samples and on queries; an interval over seeds."""
    found = []
    rows = table[table["kind"] == RANK]
    for (origin, method), part in rows.groupby(["origin", "method"], sort=False):
        line: dict[str, Any] = {"origin": origin, "method": method_title(str(method))}
        for side in SIDES:
            of = part[part["of"] == side]
            line[f"{side}: rank correlation"] = number(of["score"].mean(), 2, "+")
            if origin == "measured":
                line[f"{side}: 95% interval"] = interval(of["low"].iloc[0], of["high"].iloc[0], 2)
            else:
                line["models and pools"] = len(of)
        found.append(line)
    return pd.DataFrame(found).astype(object).fillna("")


FIGURES = {"quantiles": Figure("Quantiles", _published, _measured, _draw, quantile_runs, steps)}
