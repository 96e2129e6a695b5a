"""One function a figure or table of the paper: a tidy table in, a matplotlib figure out.

`origin` in every table is "published" or "measured"; each origin has a panel of its own, and a table
without rows gives a figure that says so. Scores carry `metric`, `better` ("higher", or "lower" for bits
per byte, whose axis is turned so that up is better), `low` and `high` (NaN: no interval) and `n`.
Rows whose score is NaN are not drawn but named under the figure, with their `note` as the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from rdslib import drawing
from rdslib.drawing import GREY, Block, human, method_colour, method_name, save, span, styled
from rdslib.labels import Label, place_labels
from rdslib.pareto import pareto_frontier, steps

__all__ = [
    "fig1_pareto", "fig3_flops", "fig4_scaling", "fig5_score_histogram", "fig6_sources_by_task",
    "pareto_frontier", "save", "tab4_splits", "tab5_pool_sources",
]  # fmt: skip

RED = "#D7263D"
# From the smallest pool to the largest: marker, and whether it is filled.
MARKERS = (("o", False), ("D", True), ("s", True), ("^", True))
TASK_COLOURS = ("#0072B2", "#E69F00")


@styled
def fig1_pareto(table: pd.DataFrame) -> Figure:
    """Figure 1: score against cost when the same number is selected from a small and a large pool.

    Columns origin, method, pool_size, budget, flops, score, low, high, n, metric, better, note.
    A line joins a method's pools; what lies above the Pareto frontier is shaded red.
    """
    if table.empty:
        return drawing.nothing("Figure 1")
    figure, parts = drawing.panels(table, 6.2, 5.0)
    for rows, axes in parts:
        pools = sorted(rows["pool_size"].unique())
        known = _known(rows, axes, f"{span(rows['budget'])} samples selected")
        if known.empty:
            continue
        for method, points in known.groupby("method", sort=False):
            colour = method_colour(str(method))
            points = points.sort_values("pool_size")
            axes.plot(points["flops"], points["score"], color=colour, alpha=0.75, zorder=2)
            _intervals(axes, points, "flops", colour)
            for _, point in points.iterrows():
                marker, filled = MARKERS[min(pools.index(point["pool_size"]), len(MARKERS) - 1)]
                axes.plot(point["flops"], point["score"], marker, markeredgecolor=colour, zorder=3,
                          markerfacecolor=colour if filled else "white", markeredgewidth=1.4)  # fmt: skip
        drawing.flops_axis(axes, known["flops"])
        axes.set_xlabel("Cost of selection and training (FLOPs, log scale)")
        _room(axes, known, 0.2, 0.1)
        _shade_beyond_frontier(axes, known)
        keys: list[Line2D | Patch] = []
        for pool, (marker, filled) in zip(pools, MARKERS, strict=False):
            keys.append(
                Line2D([], [], color=GREY, marker=marker, linestyle="", markeredgewidth=1.4,
                       markerfacecolor=GREY if filled else "white", label=f"from {human(pool)}")
            )  # fmt: skip
        keys.append(Patch(color=RED, alpha=0.13, linewidth=0, label="beyond the Pareto frontier"))
        axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(0, -0.14), ncols=len(keys))
    drawing.footnotes(
        figure, _notes(table, lambda row: f"{method_name(row.method)} from {human(row.pool_size)}")
    )
    drawing.settle(figure)
    for rows, axes in parts:
        known = rows.dropna(subset="score")
        if len(known):
            # The label goes to the end where a method used most, which is where lines part.
            ends = known.sort_values(["flops", "pool_size"]).groupby("method", sort=False).tail(1)
            dots, lines = _ink(known, "flops")
            lines = np.concatenate([lines, steps(*_frontier(axes, known))])
            place_labels(axes, _method_labels(ends, "flops"), dots, lines)
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
    drawing.footnotes(figure, _notes(table, lambda row: f"{method_name(row.method)} at {human(row.budget)}"))
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
                    method_colour(row["method"]),
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
        sns.histplot(rows, x="score", hue="task", hue_order=tasks, palette=colours, bins=40, element="step",
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
        drawing.stacked_shares(axes, rows, "selection", colours)
        drawing.heading(axes, rows, "Share of each source in what was selected; the number of samples on top")
    return figure


@styled
def tab4_splits(table: pd.DataFrame) -> Figure:
    """Table 4: how many query and test samples each task has. Columns origin, task, query, test, note."""
    if table.empty:
        return drawing.nothing("Table 4")
    blocks = []
    for origin, title in drawing.ORIGINS.items():
        rows = table[table["origin"] == origin]
        if rows.empty:
            continue
        header, widths = ["Task", "Queries", "Test"], [1.25, 0.85, 0.85]
        notes = rows["note"].fillna("").astype(str)
        cells = [[str(row["task"]), _count(row["query"]), _count(row["test"])] for _, row in rows.iterrows()]
        if notes.any():
            header, widths = [*header, "Note"], [*widths, 3.1]
            cells = [[*cell, str(note)] for cell, note in zip(cells, notes, strict=True)]
        blocks.append(Block(title, "Query and test samples of each task", header, cells, widths))
    return drawing.draw_tables(blocks, [])


@styled
def tab5_pool_sources(table: pd.DataFrame) -> Figure:
    """Table 5: the sources of each pool. Columns origin, pool, source, in_mixture, count and, if any, note.

    `in_mixture` is NaN, or absent, where there is no released mixture; its column is then left out.
    """
    if table.empty:
        return drawing.nothing("Table 5")
    blocks = []
    for origin, title in drawing.ORIGINS.items():
        for pool, rows in table[table["origin"] == origin].groupby("pool", sort=False):
            columns = {"In the pool": rows["count"]}
            if "in_mixture" in rows and rows["in_mixture"].notna().any():
                columns = {"In the mixture": rows["in_mixture"], "In the pool": rows["count"]}
            cells = [
                [str(source), *(_count(values.iloc[index]) for values in columns.values())]
                for index, source in enumerate(rows["source"])
            ]
            cells.append(["Total", *(_count(values.sum()) for values in columns.values())])
            widths = [2.05, *(1.2 for _ in columns)]
            blocks.append(Block(title, f"{pool} pool", ["Source", *columns], cells, widths, len(rows)))
    return drawing.draw_tables(blocks, drawing.distinct(table["note"].dropna()) if "note" in table else [])


def _known(rows: pd.DataFrame, axes: Axes, details: str) -> pd.DataFrame:
    """Give a panel of scores its heading and y-axis, and return the rows that have a score."""
    known = rows.dropna(subset="score")
    drawing.heading(axes, rows, f"{details} · n = {span(rows['n'], lambda n: f'{n:,.0f}')} test samples")
    metrics = set(zip(rows["metric"], rows["better"], strict=True))
    if len(metrics) != 1:
        raise ValueError(f"one panel shows one metric, not {sorted(metrics)}")
    metric, better = metrics.pop()
    metric = metric[:1].upper() + metric[1:]
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


def _frontier(axes: Axes, known: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Corners x, y of the frontier's steps, the last one at the panel's right edge."""
    flops, score = known["flops"].to_numpy(dtype=float), known["score"].to_numpy(dtype=float)
    kept = pareto_frontier(flops, score, known["better"].iloc[0])
    return np.append(flops[kept], axes.get_xlim()[1]), np.append(score[kept], score[kept[-1]])


def _shade_beyond_frontier(axes: Axes, known: pd.DataFrame) -> None:
    # Steps, not slopes: between two points nothing was run, so the cheaper one is what can be had.
    x, y = _frontier(axes, known)
    axes.fill_between(x, y, axes.get_ylim()[1], step="post", color=RED, alpha=0.13, linewidth=0, zorder=0.5)
    axes.step(x, y, where="post", color=RED, linewidth=0.9, alpha=0.6, zorder=1)


def _intervals(axes: Axes, points: pd.DataFrame, x: str, colour: str) -> None:
    drawn = points.dropna(subset=["low", "high"])
    axes.vlines(drawn[x], drawn["low"], drawn["high"], color=colour, linewidth=1, alpha=0.55, zorder=1.8)
    # Methods of one cost share an x: caps tell whose interval ends where.
    for end in ("low", "high"):
        axes.plot(drawn[x], drawn[end], "_", color=colour, markersize=7, markeredgewidth=1.2, zorder=1.9)


def _ink(known: pd.DataFrame, x: str) -> tuple[np.ndarray, np.ndarray]:
    """Markers and caps (n, 2) and segments (m, 2, 2) that labels must keep clear of, in data coordinates."""
    points = np.concatenate(
        [known[[x, end]].dropna().to_numpy(dtype=float) for end in ("score", "low", "high")]
    )
    segments = [[(x, low), (x, high)] for x, low, high in known[[x, "low", "high"]].dropna().to_numpy()]
    for _, rows in known.sort_values([x, "budget"]).groupby("method"):
        path = rows[[x, "score"]].to_numpy(dtype=float)
        segments += [[tuple(a), tuple(b)] for a, b in pairwise(path)]
    return points, np.array(segments, dtype=float).reshape(-1, 2, 2)


def _method_labels(rows: pd.DataFrame, x: str) -> list[Label]:
    return [
        Label(row[x], row["score"], method_name(row["method"]), method_colour(row["method"]), "bold")
        for _, row in rows.iterrows()
    ]


def _notes(table: pd.DataFrame, name: Callable[[pd.Series], str]) -> list[str]:
    """The notes on what is drawn, then what is missing, gathered by the reason why."""
    notes = table["note"].fillna("").astype(str)
    missing: dict[str, list[str]] = {}
    for _, row in table.assign(note=notes)[table["score"].isna()].iterrows():
        place = "in the paper" if row["origin"] == "published" else "here"
        reason = f"Missing {place} ({row['note'] or 'not run'})"
        missing.setdefault(reason, []).append(name(row))
    drawn = drawing.distinct(notes[table["score"].notna()])
    return drawn + [f"{reason}: {', '.join(names)}." for reason, names in missing.items()]


def _percent(value: float) -> str:
    return f"{value:.2g}%" if value < 10 else f"{value:.0f}%"


def _count(value: float) -> str:
    return "" if math.isnan(value) else f"{value:,.0f}"
