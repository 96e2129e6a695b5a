"""Figures 1, 3 and 4: scores against the cost of a run and against how much was selected.

Scores carry `metric`, `better` ("higher", or "lower" for bits per byte, whose axis is turned so that up is
better), `low` and `high` (NaN: no interval) and `n`. Rows whose score is NaN are not drawn but named under
the figure, with their `note` as the reason.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rdslib.evaluation.bootstrap import Estimate
from rdslib.figures.base import (
    BASELINE,
    TASKS,
    Drawn,
    Figure,
    evaluated,
    human,
    method_title,
    notes,
    one_metric,
    paper_flops,
    published,
    span,
)
from rdslib.pipeline.study import Run, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rdslib.figures.style import Drawing, Label

METRIC = "bits per byte, relative to untuned"
RED = "#D7263D"
# From the smallest pool to the largest: marker, and whether it is filled.
MARKERS = (("o", False), ("D", True), ("s", True), ("^", True))
# Inches between points with intervals: a cap and a little more.
GAP = 0.085


# Measured scores, of these figures and of tables.


def measured_score(study: Study, runs: list[Run], task: str | None = None) -> dict[str, Any]:
    """The columns of a score: the mean of some runs, or of a task's, with its interval."""
    found = study.relative(runs, task)
    return {**_estimated(found, "score"), "n": found.n, "metric": METRIC, "better": "lower"}


def drawing(what: str) -> Callable[[Callable[[pd.DataFrame], Drawn]], Callable[[pd.DataFrame], Drawn]]:
    """Mark a function that draws `what`: it runs under the project's style, and has rows to draw.

    The style, and matplotlib with it, is loaded when something is drawn.
    """

    def decorate(function: Callable[[pd.DataFrame], Drawn]) -> Callable[[pd.DataFrame], Drawn]:
        @functools.wraps(function)
        def inside(table: pd.DataFrame) -> Drawn:
            from rdslib.figures import style

            return style.nothing(what) if table.empty else style.styled(function)(table)

        return inside

    return decorate


def _estimated(found: Estimate, column: str) -> dict[str, float]:
    prefix = "" if column == "score" else f"{column}_"
    return {column: found.value, f"{prefix}low": found.low, f"{prefix}high": found.high}


def difference(study: Study, runs: list[Run], method: str, there: bool, column: str) -> dict[str, float]:
    """Columns of the runs' score minus that of `method` at the same pool and budget, with its interval.

    Paired by test sample; NaN for the method itself, or where it is not `there`.
    """
    found = Estimate(math.nan, math.nan, math.nan, 0)
    if there and runs[0].method != method:
        found = study.difference(runs, study.runs_of(method, runs[0].pool, runs[0].budget, multi=False))
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


def not_run(study: Study) -> list[dict[str, Any]]:
    """Rows for methods that the grid has on some pool, where it does not have them on another."""
    grid = study.experiment.grid
    paper = published("fig1")
    nor_the_paper = set(paper.loc[paper["score"].isna(), "method"])
    methods = dict.fromkeys(method for named in grid.single_task.values() for method in named)
    return [
        {
            "method": method,
            "pool_size": study.pool_size(pool),
            "budget": grid.single_task_budget,
            "n": sum(task.test for task in study.experiment.tasks),
            "metric": METRIC,
            "better": "lower",
            "note": "not run from the larger pool, as in the paper"
            if method in nor_the_paper
            else "not run from this pool",
        }
        for pool, named in grid.single_task.items()
        for method in methods
        if method not in named
    ]


def _costs(study: Study, runs: list[Run]) -> dict[str, float]:
    """The mean cost of a method's models: those of the tasks in a single-task setting, those of the seeds.

    `flops` as measured, `formula_flops` by the paper's formula.
    """
    return {
        "flops": sum(study.measured_flops(run) for run in runs) / len(runs),
        "formula_flops": sum(study.formula_flops(run) for run in runs) / len(runs),
    }


# Figure 1: score against cost when the same number is selected from a small and a large pool.


def _fig1_published() -> pd.DataFrame:
    """10,000 selected for one task at a time from 200k and from 5.8M, mean of seven tasks, in percent."""
    rows = published("fig1")
    rows.insert(4, "flops", paper_flops(rows))
    return rows


def _fig1_measured(study: Study) -> pd.DataFrame:
    grid = study.experiment.grid
    rows = [
        {
            "method": method,
            "pool_size": study.pool_size(pool),
            "budget": grid.single_task_budget,
            **_costs(study, runs),
            **measured_score(study, runs),
            **difference(study, runs, BASELINE, BASELINE in methods, "diff_vs_random"),
            "note": measured_note(study),
        }
        for pool, methods in grid.single_task.items()
        for method in methods
        if (runs := study.runs_of(method, pool, grid.single_task_budget, multi=False))
    ]
    return pd.DataFrame(rows + not_run(study))


@drawing("Figure 1")
def _fig1_draw(table: pd.DataFrame) -> Drawing:
    """A line joins a method's pools; what lies above the Pareto frontier is shaded red."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from rdslib.figures import style

    figure, parts = style.panels(table, 6.2, 5.4)
    for rows, axes in parts:
        known = _known(rows, axes, f"{span(rows['budget'])} samples selected")
        if known.empty:
            continue
        style.flops_axis(axes, known["flops"])
        axes.set_xlabel("Cost of selection and training (FLOPs, log scale)")
        _room(axes, known, "flops", 0.2, 0.13)
        keys: list[Line2D | Patch] = [
            Line2D([], [], linestyle="", label=f"from {human(pool)}", **_marker(rank, style.GREY))
            for rank, pool in enumerate(sorted(rows["pool_size"].unique()))
        ]
        keys.append(Patch(color=RED, alpha=0.13, linewidth=0, label="beyond the Pareto frontier"))
        axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(0, -0.14), ncols=len(keys))
    moved = "Where costs are nearly equal, points with intervals are moved sideways to be seen apart."
    small = notes(table, lambda row: f"{method_title(row.method)} from {human(row.pool_size)}")
    style.footnotes(figure, [*small, moved if table["low"].notna().any() else ""])
    style.settle(figure)
    for rows, axes in parts:
        known = rows.dropna(subset="score")
        if len(known):
            ranks = known["pool_size"].map(sorted(rows["pool_size"].unique()).index)
            _draw_methods(axes, known.assign(x=_beside(axes, known), rank=ranks))
    return figure


def _draw_methods(axes: Axes, known: pd.DataFrame) -> None:
    """Draw points, lines, frontier and labels; `x`: where points stand, `rank`: their pool's, by size."""
    from rdslib.figures import style

    _lines(axes, known.sort_values("pool_size"), "x", alpha=0.75, zorder=2)
    for _, point in known.iterrows():
        marker = _marker(point["rank"], style.method_colour(point["method"]))
        axes.plot(point["x"], point["score"], linestyle="", zorder=3, **marker)
    corners = _shade_beyond_frontier(axes, known)
    # The label goes to the end where a method used most, which is where lines part.
    ends = known.sort_values(["x", "pool_size"]).groupby("method", sort=False).tail(1)
    dots, lines = _ink(known, "x")
    path = np.column_stack([np.repeat(corners[0], 2)[1:], np.repeat(corners[1], 2)[:-1]])
    frontier = np.stack([path[:-1], path[1:]], axis=1)
    style.place_labels(axes, _method_labels(ends, "x"), dots, np.concatenate([lines, frontier]))


def _beside(axes: Axes, known: pd.DataFrame) -> np.ndarray:
    """Where on the x-axis points stand: at their cost, or where they have intervals, clear of each other."""
    from rdslib.figures import style

    costs = known["flops"].to_numpy(dtype=float)
    if known["low"].isna().all():
        return costs
    left, right = np.log10(axes.get_xlim())
    figure = axes.get_figure(root=True)
    assert figure is not None
    decade = axes.get_position().width * figure.get_figwidth() / (right - left)
    return 10 ** (style.apart(np.log10(costs) * decade, GAP) / decade)


def _marker(rank: int, colour: str) -> dict[str, Any]:
    """How the points of a pool are marked, by its rank among the pools."""
    marker, filled = MARKERS[min(rank, len(MARKERS) - 1)]
    face = colour if filled else "white"
    return {"marker": marker, "markeredgecolor": colour, "markerfacecolor": face, "markeredgewidth": 1.4}


def pareto_frontier(flops: np.ndarray, score: np.ndarray, better: str) -> np.ndarray:
    """Indices of the points (n,) on the Pareto frontier of cost and score, cheapest first.

    A point is kept when its score beats that of all cheaper ones; of several at one cost only the
    best can be kept, and of equals the first. Points without a score are never kept.
    """
    # Turned so that more is better, a missing score being worst of all.
    gain = np.nan_to_num(np.asarray(score, dtype=float) * (-1 if better == "lower" else 1), nan=-np.inf)
    best, kept = -math.inf, []
    for index in np.lexsort((np.arange(len(gain)), -gain, flops)):
        if gain[index] > best:
            best = gain[index]
            kept.append(index)
    return np.array(kept, dtype=int)


def _shade_beyond_frontier(axes: Axes, known: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Shade what no point reaches; returns the frontier's corners x, y, the last at the right edge."""
    flops, score = known["flops"].to_numpy(dtype=float), known["score"].to_numpy(dtype=float)
    kept = pareto_frontier(flops, score, known["better"].iloc[0])
    x = np.append(known["x"].to_numpy(dtype=float)[kept], axes.get_xlim()[1])
    y = np.append(score[kept], score[kept[-1]])
    # Steps, not slopes: between two points nothing was run, so the cheaper one is what can be had.
    axes.fill_between(x, y, axes.get_ylim()[1], step="post", color=RED, alpha=0.13, linewidth=0, zorder=0.5)
    axes.step(x, y, where="post", color=RED, linewidth=0.9, alpha=0.6, zorder=1)
    return x, y


# Figures 3 and 4: score of one model for all tasks against cost, and against the samples selected.


def _scaling_published() -> pd.DataFrame:
    """Up to the whole pool of 5.8M selected for all tasks, mean of seven tasks, in percent."""
    rows = published("fig4")
    rows.insert(4, "percent", 100 * rows["budget"] / rows["pool_size"])
    rows.insert(5, "flops", paper_flops(rows))
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
            **_costs(study, runs),
            **measured_score(study, runs),
            **difference(study, runs, BASELINE, BASELINE in grid.multi_task_methods, "diff_vs_random"),
            "note": measured_note(study),
        }
        for method in grid.multi_task_methods
        for budget in grid.multi_task_budgets
        if (runs := study.runs_of(method, "all", budget, multi=True))
    ]
    return pd.DataFrame(rows)


@drawing("Figure 3")
def _fig3_draw(table: pd.DataFrame) -> Drawing:
    from rdslib.figures import style

    def axis(axes: Axes, known: pd.DataFrame) -> None:
        style.flops_axis(axes, known["flops"])
        axes.set_xlabel("Cost of selection and training (FLOPs, log scale); labels: percent of the pool used")

    def labels(known: pd.DataFrame) -> list[Label]:
        return [
            style.Label(row["flops"], row["score"], _percent(row["percent"]),
                        style.ink(style.method_colour(row["method"])), size=7.5)
            for _, row in known.iterrows()
        ]  # fmt: skip

    return _scaling(table, "flops", axis, labels)


@drawing("Figure 4")
def _fig4_draw(table: pd.DataFrame) -> Drawing:
    from rdslib.figures import style

    def axis(axes: Axes, known: pd.DataFrame) -> None:
        style.count_axis(axes, known["budget"])
        axes.set_xlabel("Samples selected (log scale)")

    return _scaling(table, "budget", axis, lambda _: [])


def _scaling(table: pd.DataFrame, x: str, axis: Any, labels: Any) -> Drawing:
    """Scores against the column `x`, whose axis `axis` sets up; `labels` are put beside the points."""
    from rdslib.figures import style

    figure, parts = style.panels(table, 6.2, 4.5)
    for rows, axes in parts:
        known = _known(rows, axes, f"One model for all tasks, selected from {span(rows['pool_size'])}")
        if known.empty:
            continue
        _lines(axes, known.sort_values("budget"), x, marker="o", markersize=5.5, zorder=3)
        axis(axes, known)
        _room(axes, known, x, 0.09, 0.09)
    style.footnotes(figure, notes(table, lambda row: f"{method_title(row.method)} at {human(row.budget)}"))
    style.settle(figure)
    for rows, axes in parts:
        known = rows.dropna(subset="score")
        if known.empty:
            continue
        # Near the right end, but not at it: at the whole pool every method is the same selection.
        runs = [points.sort_values("budget") for _, points in known.groupby("method", sort=False)]
        near = pd.concat([points.iloc[-2:].head(1) for points in runs])
        style.place_labels(axes, _method_labels(near, x) + labels(known), *_ink(known, x))
    return figure


# What the three share.


def _known(rows: pd.DataFrame, axes: Axes, details: str) -> pd.DataFrame:
    """Give a panel of scores its heading and y-axis, and return the rows that have a score."""
    from rdslib.figures import style

    known = rows.dropna(subset="score")
    style.heading(axes, rows, f"{details} · n = {span(rows['n'], '{:,.0f}'.format)} test samples")
    metric, better = one_metric(rows)
    if better == "lower":
        axes.set_ylabel(f"{metric}\n(lower is better; axis inverted, so up is better)")
    else:
        axes.set_ylabel(f"{metric} (higher is better)")
    if known.empty:
        axes.text(0.5, 0.5, "Not run", transform=axes.transAxes, ha="center", color=style.GREY)
        axes.set(xticks=[], yticks=[])
    return known


def _room(axes: Axes, known: pd.DataFrame, x: str, wide: float, high: float) -> None:
    """Set the limits to what is drawn and a share of room for labels, up being better."""
    places = np.log10(known[x].to_numpy(dtype=float))
    width = max(np.ptp(places), 0.3) * wide
    axes.set_xlim(10 ** (places.min() - width), 10 ** (places.max() + width))
    ends = known[["score", "low", "high"]].to_numpy(dtype=float)
    bottom, top = np.nanmin(ends), np.nanmax(ends)
    height = (top - bottom or 1) * high
    limits = (bottom - height, top + height)
    axes.set_ylim(limits[::-1] if known["better"].iloc[0] == "lower" else limits)


def _lines(axes: Axes, known: pd.DataFrame, x: str, **look: Any) -> None:
    """A line through each method's points in their order, and the intervals of those that have one."""
    import seaborn as sns

    from rdslib.figures import style

    methods = {str(method): style.method_colour(str(method)) for method in known["method"].unique()}
    labels = {"xlabel": axes.get_xlabel(), "ylabel": axes.get_ylabel()}
    sns.lineplot(known, x=x, y="score", hue="method", palette=methods, estimator=None, sort=False,
                 markeredgewidth=0, legend=False, ax=axes, **look)  # fmt: skip
    axes.set(**labels)
    drawn = known.dropna(subset=["low", "high"])
    colours = drawn["method"].map(methods).tolist()
    axes.vlines(drawn[x], drawn["low"], drawn["high"], color=colours, linewidth=1, alpha=0.55, zorder=1.8)
    # Methods of one cost share an x: caps tell whose interval ends where.
    for end in ("low", "high"):
        axes.scatter(drawn[x], drawn[end], s=49, c=colours, marker="_", linewidths=1.2, zorder=1.9)


def _ink(known: pd.DataFrame, x: str) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 2) and segments (m, 2, 2) that labels must keep clear of, in data coordinates.

    An interval counts as points all along: a label across a bar is hard to read, one across a line less so.
    """
    places, low, high = known.dropna(subset=["low", "high"])[[x, "low", "high"]].to_numpy(dtype=float).T
    points = np.concatenate(
        [known[[x, "score"]].to_numpy(dtype=float)]
        + [np.column_stack([places, low + part * (high - low)]) for part in np.linspace(0, 1, 13)]
    )
    segments = [
        [tuple(a), tuple(b)]
        for _, rows in known.sort_values([x, "budget"]).groupby("method")
        for a, b in pairwise(rows[[x, "score"]].to_numpy(dtype=float))
    ]
    return points, np.array(segments, dtype=float).reshape(-1, 2, 2)


def _method_labels(rows: pd.DataFrame, x: str) -> list[Label]:
    from rdslib.figures import style

    return [
        style.Label(row[x], row["score"], method_title(row["method"]),
                    style.ink(style.method_colour(row["method"])), "bold")
        for _, row in rows.iterrows()
    ]  # fmt: skip


def _percent(value: float) -> str:
    return f"{value:.2g}%" if value < 10 else f"{value:.0f}%"


FIGURES = {
    "fig1_pareto": Figure(
        "Figure 1", _fig1_published, _fig1_measured, Study.single_task_runs, evaluated, _fig1_draw
    ),
    "fig3_flops": Figure(
        "Figure 3", _scaling_published, _scaling_measured, Study.multi_task_runs, evaluated, _fig3_draw
    ),
    "fig4_scaling": Figure(
        "Figure 4", _scaling_published, _scaling_measured, Study.multi_task_runs, evaluated, _fig4_draw
    ),
}
