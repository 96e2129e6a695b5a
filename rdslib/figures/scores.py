"""Figures 1, 3 and 4: scores against the cost of a run and against how much was selected.

Scores carry `metric`, `better` ("higher", or "lower" for bits per byte, whose axis is turned so that up is
better), `low` and `high` (NaN: no interval) and `n`. Rows whose score is NaN are not drawn but named under
the figure, with their `note` as the reason.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from rdslib.evaluation.bootstrap import Estimate
from rdslib.figures import base
from rdslib.figures.base import BASELINE, TASKS, Figure, evaluated, human, method_title, published, span
from rdslib.pipeline import results
from rdslib.pipeline.runs import multi_task_runs, runs_of, single_task_runs
from rdslib.pipeline.study import Run, Study

if TYPE_CHECKING:
    from rdslib.figures.style import Drawing

METRIC = "bits per byte, relative to untuned"


# Measured scores, of these figures and of tables.


def bare_score(study: Study, runs: list[Run], task: str | None = None) -> dict[str, float]:
    """The same columns for bare answers: `bare`, `bare_low`, `bare_high`."""
    return _estimated(results.relative(study, runs, task, bare=True), "bare")


def measured_score(study: Study, runs: list[Run], task: str | None = None) -> dict[str, Any]:
    """The columns of a score: the mean of some runs, or of a task's, with its interval."""
    found = results.relative(study, runs, task)
    return {**_estimated(found, "score"), "n": found.n, "metric": METRIC, "better": "lower"}


def _estimated(found: Estimate, column: str) -> dict[str, float]:
    prefix = "" if column == "score" else f"{column}_"
    return {column: found.value, f"{prefix}low": found.low, f"{prefix}high": found.high}


def difference(study: Study, runs: list[Run], method: str, there: bool, column: str) -> dict[str, float]:
    """Columns of the runs' score minus that of `method` at the same pool and budget, with its interval.

    Paired by test sample; NaN for the method itself, or where it is not `there`.
    """
    found = Estimate(math.nan, math.nan, math.nan, 0)
    theirs = runs_of(study, method, runs[0].pool, runs[0].budget, multi=False) if there else []
    # Of a partial study one may have more seeds than the other.
    seeds = {run.seed for run in runs} & {run.seed for run in theirs}
    if seeds and runs[0].method != method:
        paired = [[run for run in those if run.seed in seeds] for those in (runs, theirs)]
        found = results.difference(study, *paired)
    return _estimated(found, column)


def measured_note(study: Study) -> str:
    """What a measured figure must say of its model and tasks."""
    e = study.experiment
    absent = [task for task in TASKS if task not in study.task_names]
    parts = [f"{e.model.title}{f' ({e.model.note})' if e.model.note else ''}"]
    parts.append("1 is the model before fine-tuning")
    if absent:
        parts.append(f"without {', '.join(absent)}")
    return "; ".join(parts)


def not_yet(study: Study) -> dict[str, Any]:
    """The columns of a row of a partial study whose runs are not there yet."""
    n = sum(task.test for task in study.experiment.tasks)
    return {"n": n, "metric": METRIC, "better": "lower", "note": "not run yet"}


def not_run(study: Study) -> list[dict[str, Any]]:
    """Rows for methods that the grid has on some pool, where it does not have them on another, or not yet."""
    grid = study.experiment.grid
    paper = published("fig1")
    nor_the_paper = paper.loc[paper["score"].isna(), "method"]
    elsewhere = dict.fromkeys(nor_the_paper, "not run from the larger pool, as in the paper")
    methods = dict.fromkeys(method for named in grid.single_task.values() for method in named)
    return [
        {
            "method": method,
            "pool_size": study.pool_size(pool),
            "budget": grid.single_task_budget,
            **not_yet(study),
            **({} if method in named else {"note": elsewhere.get(method, "not run from this pool")}),
        }
        for pool, named in grid.single_task.items()
        for method in methods
        if method not in named or not runs_of(study, method, pool, grid.single_task_budget, multi=False)
    ]


def _columns(study: Study, runs: list[Run], compared: bool) -> dict[str, Any]:
    """The columns of a figure's row: cost, score, difference from balanced random if that is `compared`.

    Costs are means over a method's models, of its tasks in a single-task setting and of its seeds: `flops` as
    measured, `formula_flops` by the paper's formula.
    """
    return {
        "flops": sum(results.measured_flops(study, run) for run in runs) / len(runs),
        "formula_flops": sum(results.formula_flops(study, run) for run in runs) / len(runs),
        **measured_score(study, runs),
        **difference(study, runs, BASELINE, compared, "diff_vs_random"),
        "note": measured_note(study),
    }


# Figure 1: score against cost when the same number is selected from a small and a large pool.


def _fig1_published() -> pd.DataFrame:
    """10,000 selected for one task at a time from 200k and from 5.8M, mean of seven tasks, in percent."""
    rows = published("fig1")
    rows.insert(4, "flops", base.paper_flops(rows))
    return rows


def _fig1_measured(study: Study) -> pd.DataFrame:
    grid = study.experiment.grid
    rows = [
        {
            "method": method,
            "pool_size": study.pool_size(pool),
            "budget": grid.single_task_budget,
            **_columns(study, runs, BASELINE in methods),
        }
        for pool, methods in grid.single_task.items()
        for method in methods
        if (runs := runs_of(study, method, pool, grid.single_task_budget, multi=False))
    ]
    return pd.DataFrame(rows + not_run(study))


@base.styled
def _fig1_draw(table: pd.DataFrame) -> Drawing:
    """A line joins a method's pools; what lies above the Pareto frontier is shaded red."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from rdslib.figures import points, style

    figure, parts = style.panels(table.dropna(subset="score"), style.PANEL, 5.0)
    for rows, axes in parts:
        points.panel(axes, rows, "flops", f"{span(rows['budget'])} samples selected", 0.2, 0.13)
        style.flops_axis(axes, rows["flops"])
        axes.set_xlabel("Cost of selection and training (FLOPs, log scale)")
        keys: list[Line2D | Patch] = [
            Line2D([], [], linestyle="", label=f"from {human(pool)}", **points.marker(rank, style.GREY))
            for rank, pool in enumerate(sorted(rows["pool_size"].unique()))
        ]
        keys.append(Patch(color=points.RED, alpha=0.13, linewidth=0, label="beyond the frontier"))
        axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(0, -0.14), ncols=len(keys))
    moved = "Where costs are nearly equal, points with intervals are moved sideways to be seen apart."
    small = base.notes(table, lambda row: f"{method_title(row.method)} from {human(row.pool_size)}")
    style.footnotes(figure, [*small, moved if table["low"].notna().any() else ""])
    style.settle(figure)
    for known, axes in parts:
        ranks = known["pool_size"].map(sorted(known["pool_size"].unique()).index)
        rows = known.assign(x=points.beside(axes, known), rank=ranks)
        points.lines(axes, rows.sort_values("pool_size"), "x", alpha=0.75, zorder=2)
        for _, row in rows.iterrows():
            marker = points.marker(row["rank"], style.method_colour(row["method"]))
            axes.plot(row["x"], row["score"], linestyle="", zorder=3, **marker)
        beyond = points.frontier(axes, rows)
        # The label goes to the end where a method used most, which is where lines part.
        ends = rows.sort_values(["x", "pool_size"]).groupby("method", sort=False).tail(1)
        points.label(axes, rows, "x", ends, keep=beyond)
        figure.named += points.names(axes, rows, "x")
    return figure


# Figures 3 and 4: score of one model for all tasks against cost, and against the samples selected.


def _scaling_published() -> pd.DataFrame:
    """Up to the whole pool of 5.8M selected for all tasks, mean of seven tasks, in percent."""
    rows = published("fig4")
    rows.insert(4, "percent", 100 * rows["budget"] / rows["pool_size"])
    rows.insert(5, "flops", base.paper_flops(rows))
    return rows


def _scaling_measured(study: Study) -> pd.DataFrame:
    grid = study.experiment.grid
    size = study.pool_size("all")
    rows = [
        {
            "method": method,
            "budget": budget,
            "pool_size": size,
            "percent": 100 * budget / size,
            **(_columns(study, runs, BASELINE in grid.multi_task_methods) if runs else not_yet(study)),
        }
        for method in grid.multi_task_methods
        for budget in grid.multi_task_budgets
        for runs in [runs_of(study, method, "all", budget, multi=True)]
    ]
    return pd.DataFrame(rows)


@base.styled
def _fig3_draw(table: pd.DataFrame) -> Drawing:
    return _scaling_draw(table, "flops")


@base.styled
def _fig4_draw(table: pd.DataFrame) -> Drawing:
    return _scaling_draw(table, "budget")


def _scaling_draw(table: pd.DataFrame, x: str) -> Drawing:
    """Scores against the column `x`: against cost, with the percent of the pool at each point, or samples."""
    from rdslib.figures import points, style

    figure, parts = style.panels(table.dropna(subset="score"), style.PANEL, 4.4)
    for rows, axes in parts:
        about = f"One model for all tasks, from {span(rows['pool_size'])}"
        points.panel(axes, rows, x, about, 0.09, 0.09)
        if x == "flops":
            style.flops_axis(axes, rows[x])
            axes.set_xlabel(
                "Cost of selection and training (FLOPs, log scale)\nLabels: percent of the pool that was used"
            )
        else:
            style.count_axis(axes, rows[x])
            axes.set_xlabel("Samples selected (log scale)")
    small = base.notes(table, lambda row: f"{method_title(row.method)} at {human(row.budget)}")
    style.footnotes(figure, small)
    style.settle(figure)
    for rows, axes in parts:
        ordered = rows.sort_values("budget")
        points.lines(axes, ordered, x, marker="o", markersize=5.5, zorder=3)
        # Near the right end, but not at it: at the whole pool every method is the same selection.
        near = pd.concat([each.iloc[-2:].head(1) for _, each in ordered.groupby("method", sort=False)])
        percents = [
            points.Label(row[x], row["score"], _percent(row["percent"]), points.ink_of(row), size=style.SMALL)
            for _, row in rows.iterrows()
        ]
        points.label(axes, rows, x, near, percents if x == "flops" else ())
        figure.named += points.names(axes, rows, x)
    return figure


def _percent(value: float) -> str:
    return f"{value:.2g}%" if value < 10 else f"{value:.0f}%"


SCALING = (_scaling_published, _scaling_measured)
FIGURES = {
    "fig1_pareto": Figure(
        "Figure 1", _fig1_published, _fig1_measured, _fig1_draw, single_task_runs, evaluated
    ),
    "fig3_flops": Figure("Figure 3", *SCALING, _fig3_draw, multi_task_runs, evaluated),
    "fig4_scaling": Figure("Figure 4", *SCALING, _fig4_draw, multi_task_runs, evaluated),
}
