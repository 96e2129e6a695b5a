"""One function a figure or table of the paper: a tidy table in, a matplotlib figure out.

`origin` in every table is "published" or "measured"; each origin has a panel of its own, and a table
without rows gives a figure that says so. Scores carry `metric`, `better` ("higher", or "lower" for bits
per byte, whose axis is turned so that up is better), `low` and `high` (NaN: no interval) and `n`.
Rows whose score is NaN are not drawn but named under the figure, with their `note` as the reason.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from rdslib.figures import style as drawing
from rdslib.figures.labels import Label, place_labels
from rdslib.figures.pareto import pareto_frontier, steps
from rdslib.figures.style import GREY, human, ink, method_colour, method_name, save, span, styled
from rdslib.figures.table_figures import (
    tab1_single_task,
    tab2_multi_task,
    tab3_second_pool,
    tab4_splits,
    tab5_pool_sources,
    tab6_rds_ablation,
)

__all__ = [
    "fig1_pareto", "fig2_pools", "fig3_flops", "fig4_scaling", "fig5_score_histogram", "fig6_sources_by_task",
    "fig7_sources_by_method", "pareto_frontier", "save", "tab1_single_task", "tab2_multi_task",
    "tab3_second_pool", "tab4_splits", "tab5_pool_sources", "tab6_rds_ablation",
]  # fmt: skip

RED = "#D7263D"
# From the smallest pool to the largest: marker, and whether it is filled.
MARKERS = (("o", False), ("D", True), ("s", True), ("^", True))
TASK_COLOURS = ("#0072B2", "#E69F00")
CHOSEN = "Share of the samples selected"
# Inches between points with intervals: a cap and a little more.
GAP = 0.085


@styled
def fig1_pareto(table: pd.DataFrame) -> Figure:
    """Figure 1: score against cost when the same number is selected from a small and a large pool.

    Columns origin, method, pool_size, budget, flops, score, low, high, n, metric, better, note.
    A line joins a method's pools; what lies above the Pareto frontier is shaded red.
    """
    if table.empty:
        return drawing.nothing("Figure 1")
    figure, parts = drawing.panels(table, 6.2, 5.4)
    for rows, axes in parts:
        known = _known(rows, axes, f"{span(rows['budget'])} samples selected")
        if known.empty:
            continue
        drawing.flops_axis(axes, known["flops"])
        axes.set_xlabel("Cost of selection and training (FLOPs, log scale)")
        _room(axes, known, 0.2, 0.13)
        keys: list[Line2D | Patch] = [
            Line2D([], [], color=GREY, linestyle="", label=f"from {human(pool)}", **_marker(rank, GREY))
            for rank, pool in enumerate(sorted(rows["pool_size"].unique()))
        ]
        keys.append(Patch(color=RED, alpha=0.13, linewidth=0, label="beyond the Pareto frontier"))
        axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(0, -0.14), ncols=len(keys))
    moved = "Where costs are nearly equal, points with intervals are moved sideways to be told apart."
    drawing.footnotes(
        figure,
        [
            *drawing.notes(table, lambda row: f"{method_name(row.method)} from {human(row.pool_size)}"),
            moved if table["low"].notna().any() else "",
        ],
    )
    drawing.settle(figure)
    for rows, axes in parts:
        known = rows.dropna(subset="score")
        if len(known):
            ranks = known["pool_size"].map(sorted(rows["pool_size"].unique()).index)
            _draw_methods(axes, known.assign(x=_beside(axes, known), rank=ranks))
    return figure


def _draw_methods(axes: Axes, known: pd.DataFrame) -> None:
    """Figure 1's points, lines, frontier and labels; `x`: where they stand, `rank`: their pool's, by size."""
    for method, points in known.groupby("method", sort=False):
        colour = method_colour(str(method))
        points = points.sort_values("pool_size")
        axes.plot(points["x"], points["score"], color=colour, alpha=0.75, zorder=2)
        _intervals(axes, points, "x", colour)
        for _, point in points.iterrows():
            axes.plot(point["x"], point["score"], linestyle="", zorder=3, **_marker(point["rank"], colour))
    corners = _shade_beyond_frontier(axes, known)
    # The label goes to the end where a method used most, which is where lines part.
    ends = known.sort_values(["x", "pool_size"]).groupby("method", sort=False).tail(1)
    dots, lines = _ink(known, "x")
    place_labels(axes, _method_labels(ends, "x"), dots, np.concatenate([lines, steps(*corners)]))


def _beside(axes: Axes, known: pd.DataFrame) -> np.ndarray:
    """Where on the x-axis points stand: at their cost, or where they have intervals, clear of each other."""
    costs = known["flops"].to_numpy(dtype=float)
    if known["low"].isna().all():
        return costs
    left, right = np.log10(axes.get_xlim())
    figure = axes.get_figure(root=True)
    assert figure is not None
    decade = axes.get_position().width * figure.get_figwidth() / (right - left)
    return 10 ** (drawing.apart(np.log10(costs) * decade, GAP) / decade)


@styled
def fig2_pools(table: pd.DataFrame) -> Figure:
    """Figure 2: how large pools are and which sources make them up, with their totals on top.

    Columns origin, pool, source, count. A source that is under 1% of every pool is drawn with the others of
    that kind.
    """
    if table.empty:
        return drawing.nothing("Figure 2")
    figure, parts = drawing.panels(table, lambda rows: 3.2 + 0.85 * rows["pool"].nunique(), 4.8)
    for rows, axes in parts:
        shares = rows["count"] / rows.groupby("pool")["count"].transform("sum")
        small = shares.groupby(rows["source"]).transform("max") < 0.01
        small &= rows.loc[small, "source"].nunique() > 1
        others = f"{rows.loc[small, 'source'].nunique()} others, each under 1%"
        rows = rows.assign(source=rows["source"].where(~small, others))
        # Largest source first, so that it stands at the foot of its bar.
        order = rows.groupby("source")["count"].sum().sort_values(ascending=False, kind="stable").index
        names = [*(name for name in order if name != others), *([others] if small.any() else [])]
        colours = drawing.source_colours([name for name in names if name != others])
        if small.any():
            colours[others] = drawing.OTHERS
        drawing.stacked(axes, rows, "pool", colours, "Samples in the pool", shares=False)
        drawing.heading(axes, rows, "Samples of each source; the size of the pool on top")
    return figure


@styled
def fig3_flops(table: pd.DataFrame) -> Figure:
    """Figure 3: score of one model for all tasks against cost, points labelled with percent of the pool.

    Columns origin, method, budget, pool_size, percent, flops, score, low, high, n, metric, better, note.
    """
    return _scaling(table, "flops", "Figure 3")


@styled
def fig4_scaling(table: pd.DataFrame) -> Figure:
    """Figure 4: score of one model for all tasks against the samples selected. Columns as Figure 3's."""
    return _scaling(table, "budget", "Figure 4")


def _scaling(table: pd.DataFrame, x: str, what: str) -> Figure:
    if table.empty:
        return drawing.nothing(what)
    figure, parts = drawing.panels(table, 6.2, 4.5)
    for rows, axes in parts:
        known = _known(rows, axes, f"One model for all tasks, selected from {span(rows['pool_size'])}")
        if known.empty:
            continue
        for method, points in known.groupby("method", sort=False):
            points = points.sort_values("budget")
            axes.plot(
                points[x], points["score"], "o-", color=method_colour(str(method)), markersize=4.5, zorder=3
            )
            _intervals(axes, points, x, method_colour(str(method)))
        if x == "flops":
            drawing.flops_axis(axes, known[x])
            axes.set_xlabel(
                "Cost of selection and training (FLOPs, log scale); labels: percent of the pool used"
            )
        else:
            drawing.count_axis(axes, known[x])
            axes.set_xlabel("Samples selected (log scale)")
        _room(axes, known, 0.09, 0.09, x)
    drawing.footnotes(
        figure, drawing.notes(table, lambda row: f"{method_name(row.method)} at {human(row.budget)}")
    )
    drawing.settle(figure)
    for rows, axes in parts:
        known = rows.dropna(subset="score")
        if known.empty:
            continue
        # Near the right end, but not at it: at the whole pool every method is the same selection.
        runs = [points.sort_values("budget") for _, points in known.groupby("method", sort=False)]
        labels = _method_labels(pd.concat([points.iloc[-2:].head(1) for points in runs]), x)
        if x == "flops":
            labels += [
                Label(
                    row["flops"],
                    row["score"],
                    _percent(row["percent"]),
                    ink(method_colour(row["method"])),
                    size=7.5,
                )
                for _, row in known.iterrows()
            ]
        place_labels(axes, labels, *_ink(known, x))
    return figure


@styled
def fig5_score_histogram(table: pd.DataFrame) -> Figure:
    """Figure 5: how the scores of what was selected lie, for the first two tasks of the table.

    Columns origin, task, score; a row a selected sample.
    """
    if table.empty:
        return drawing.nothing("Figure 5")
    figure, parts = drawing.panels(table, 6.2, 4.0)
    for rows, axes in parts:
        tasks = drawing.distinct(rows["task"])[:2]
        rows = rows[rows["task"].isin(tasks)]
        drawing.heading(axes, rows, "Scores of the samples selected for a task")
        colours = dict(zip(tasks, TASK_COLOURS, strict=False))
        bins = drawing.bins(len(rows) / len(tasks))
        sns.histplot(rows, x="score", hue="task", hue_order=tasks, palette=colours, bins=bins, element="step",
                     alpha=0.45, linewidth=1, legend=False, ax=axes)  # fmt: skip
        top = axes.get_ylim()[1]
        keys = []
        for task in tasks:
            scores = rows.loc[rows["task"] == task, "score"]
            axes.vlines(scores.mean(), 0, top, color=colours[task], linestyle="--", linewidth=1.3)
            axes.plot(scores.mean(), top, "v", color=colours[task], markersize=5)
            text = f"{task}: mean {scores.mean():.3f} (dashed), n = {len(scores):,}"
            keys.append(Patch(color=colours[task], alpha=0.6, linewidth=0, label=text))
        # Room over the bars for the key, so that it never lies on them.
        axes.set_ylim(0, top * 1.28)
        axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(0.01, 0.99))
        axes.set(xlabel="Score (cosine similarity)", ylabel="Samples")
    return figure


@styled
def fig6_sources_by_task(table: pd.DataFrame) -> Figure:
    """Figure 6: from which sources each selection drew, as shares that sum to 1, with its total on top.

    Columns origin, selection, source, count; bars and layers stand in the order of the table.
    """
    if table.empty:
        return drawing.nothing("Figure 6")
    bars = table.groupby("origin")["selection"].nunique().max()
    figure, parts = drawing.panels(table, max(6.2, 2.6 + 0.85 * bars), 4.8)
    colours = drawing.source_colours(table["source"])
    for rows, axes in parts:
        drawing.stacked(axes, rows, "selection", colours, CHOSEN)
        drawing.heading(axes, rows, "Share of each source in what was selected; the number of samples on top")
    return figure


@styled
def fig7_sources_by_method(table: pd.DataFrame) -> Figure:
    """Figure 7: from which sources each method drew, as shares that sum to 1, with its total on top.

    Columns origin, method, pool_size, budget, source, count and, if any, note; rows are of one origin. A
    panel a budget. A row whose count is NaN, whatever its source, is a bar that is missing for its note.
    """
    table = table if "note" in table else table.assign(note="")
    if "count" not in table or table["count"].isna().all():
        return drawing.nothing("Figure 7")
    known = table.dropna(subset="count")
    methods, budgets = drawing.in_order(known["method"]), sorted(known["budget"].unique())
    colours = drawing.source_colours(known["source"])
    pool_size = known["pool_size"].max()
    figure = drawing.Drawing(figsize=(2.6 + len(budgets) * max(2.4, 0.76 * len(methods)), 4.8))
    panels = figure.subplots(1, len(budgets), squeeze=False, sharey=True)[0]
    for budget, axes in zip(budgets, panels, strict=True):
        rows = known[known["budget"] == budget]
        rows = rows.sort_values("method", key=lambda names: names.map(methods.index), kind="stable")
        # A method that had a smaller pool says so under its bar, in a line of its own.
        names = rows["method"].map(method_name)
        smaller = rows["pool_size"].map(lambda size: f" from\N{NO-BREAK SPACE}{human(size)}")
        names = names.where(rows["pool_size"] == pool_size, names + smaller)
        drawing.stacked(axes, rows.assign(bar=names), "bar", colours, CHOSEN)
        drawing.heading(axes, rows, f"{human(budget)} samples selected from {human(pool_size)}")
        if axes is not panels[0]:
            axes.set(title="", ylabel="")
        if axes is not panels[-1]:
            axes.get_legend().remove()
    drawing.footnotes(
        figure, drawing.notes(table, lambda row: f"{method_name(row.method)} at {human(row.budget)}", "count")
    )
    return figure


def _known(rows: pd.DataFrame, axes: Axes, details: str) -> pd.DataFrame:
    """Give a panel of scores its heading and y-axis, and return the rows that have a score."""
    known = rows.dropna(subset="score")
    drawing.heading(axes, rows, f"{details} · n = {span(rows['n'], lambda n: f'{n:,.0f}')} test samples")
    metric, better = drawing.one_metric(rows)
    if better == "lower":
        axes.set_ylabel(f"{metric}\n(lower is better; axis inverted, so up is better)")
    else:
        axes.set_ylabel(f"{metric} (higher is better)")
    if known.empty:
        axes.text(0.5, 0.5, "Not run", transform=axes.transAxes, ha="center", color=GREY)
        axes.set(xticks=[], yticks=[])
    return known


def _room(axes: Axes, known: pd.DataFrame, wide: float, high: float, x: str = "flops") -> None:
    """Set the limits to what is drawn and a share of room for labels, up being better."""
    places = np.log10(known[x].to_numpy(dtype=float))
    width = max(np.ptp(places), 0.3) * wide
    axes.set_xlim(10 ** (places.min() - width), 10 ** (places.max() + width))
    ends = known[["score", "low", "high"]].to_numpy(dtype=float)
    bottom, top = np.nanmin(ends), np.nanmax(ends)
    height = (top - bottom or 1) * high
    limits = (bottom - height, top + height)
    axes.set_ylim(limits[::-1] if known["better"].iloc[0] == "lower" else limits)


def _marker(rank: int, colour: str) -> dict[str, Any]:
    """How the points of a pool are marked, by its rank among the pools."""
    marker, filled = MARKERS[min(rank, len(MARKERS) - 1)]
    face = colour if filled else "white"
    return {"marker": marker, "markeredgecolor": colour, "markerfacecolor": face, "markeredgewidth": 1.4}


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


def _intervals(axes: Axes, points: pd.DataFrame, x: str, colour: str) -> None:
    drawn = points.dropna(subset=["low", "high"])
    axes.vlines(drawn[x], drawn["low"], drawn["high"], color=colour, linewidth=1, alpha=0.55, zorder=1.8)
    # Methods of one cost share an x: caps tell whose interval ends where.
    for end in ("low", "high"):
        axes.plot(drawn[x], drawn[end], "_", color=colour, markersize=7, markeredgewidth=1.2, zorder=1.9)


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
    return [
        Label(row[x], row["score"], method_name(row["method"]), ink(method_colour(row["method"])), "bold")
        for _, row in rows.iterrows()
    ]


def _percent(value: float) -> str:
    return f"{value:.2g}%" if value < 10 else f"{value:.0f}%"
