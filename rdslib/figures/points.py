"""Scores as points: lines, intervals, the Pareto frontier, and labels clear of them. Loads matplotlib."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox
from sklearn.isotonic import isotonic_regression

from rdslib.figures import style
from rdslib.figures.base import digits, human, interval, method_title, number, one_metric, span

RED = "#D7263D"
# From the smallest pool to the largest: marker, and whether it is filled.
MARKERS = (("o", False), ("D", True), ("s", True), ("^", True))
# Inches between points with intervals: a cap and a little more.
GAP = 0.085


class Label(NamedTuple):
    """Words that belong to a point (x, y), in data coordinates."""

    x: float
    y: float
    text: str
    colour: str
    weight: str = "normal"
    size: float = 8.5


def panel(axes: Axes, rows: pd.DataFrame, x: str, details: str, wide: float, high: float) -> None:
    """Give a panel of scores its heading, its y-axis (up being better) and room for labels.

    `wide` and `high` are the room beside what is drawn, as shares of it.
    """
    style.heading(axes, rows, f"{details} · n = {span(rows['n'], '{:,.0f}'.format)} test samples")
    metric, better = one_metric(rows)
    lower = "\n(lower is better; axis inverted, so up is better)"
    axes.set_ylabel(metric + (lower if better == "lower" else " (higher is better)"))
    places = np.log10(rows[x].to_numpy(dtype=float))
    width = max(np.ptp(places), 0.3) * wide
    axes.set_xlim(10 ** (places.min() - width), 10 ** (places.max() + width))
    ends = rows[["score", "low", "high"]].to_numpy(dtype=float)
    bottom, top = np.nanmin(ends), np.nanmax(ends)
    height = (top - bottom or 1) * high
    limits = (bottom - height, top + height)
    axes.set_ylim(limits[::-1] if better == "lower" else limits)


def marker(rank: int, colour: str) -> dict[str, Any]:
    """How the points of a pool are marked, by its rank among the pools."""
    shape, filled = MARKERS[min(rank, len(MARKERS) - 1)]
    face = colour if filled else "white"
    return {"marker": shape, "markeredgecolor": colour, "markerfacecolor": face, "markeredgewidth": 1.4}


def lines(axes: Axes, rows: pd.DataFrame, x: str, **look: Any) -> None:
    """A line through each method's points in their order, and the intervals of those that have one."""
    methods = {str(method): style.method_colour(str(method)) for method in rows["method"].unique()}
    labels = {"xlabel": axes.get_xlabel(), "ylabel": axes.get_ylabel()}
    sns.lineplot(rows, x=x, y="score", hue="method", palette=methods, estimator=None, sort=False,
                 markeredgewidth=0, legend=False, ax=axes, **look)  # fmt: skip
    axes.set(**labels)
    drawn = rows.dropna(subset=["low", "high"])
    colours = drawn["method"].map(methods).tolist()
    axes.vlines(drawn[x], drawn["low"], drawn["high"], color=colours, linewidth=1, alpha=0.55, zorder=1.8)
    # Methods of one cost share an x: caps tell whose interval ends where.
    for end in ("low", "high"):
        axes.scatter(drawn[x], drawn[end], s=49, c=colours, marker="_", linewidths=1.2, zorder=1.9)


def beside(axes: Axes, rows: pd.DataFrame) -> np.ndarray:
    """Where on the x-axis points stand: at their cost, or where they have intervals, clear of each other."""
    costs = rows["flops"].to_numpy(dtype=float)
    if rows["low"].isna().all():
        return costs
    left, right = np.log10(axes.get_xlim())
    decade = axes.get_position().width * style.figure_of(axes).get_figwidth() / (right - left)
    return 10 ** (apart(np.log10(costs) * decade, GAP) / decade)


def apart(places: np.ndarray, gap: float) -> np.ndarray:
    """Places (n,) moved as little as can be, keeping their order, so that neighbours stand `gap` apart."""
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    moved = np.empty(len(places))
    # Gaps are kept where place less gaps never falls, and what never falls and is nearest is known.
    moved[order] = isotonic_regression(places[order] - steps) + steps
    return moved


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


def frontier(axes: Axes, rows: pd.DataFrame) -> np.ndarray:
    """Shade what no point reaches; returns the frontier as segments [n, 2, 2] in data coordinates.

    `rows` have their places in the column `x`.
    """
    x, flops, score = rows[["x", "flops", "score"]].to_numpy(dtype=float).T
    kept = pareto_frontier(flops, score, rows["better"].iloc[0])
    x, y = np.append(x[kept], axes.get_xlim()[1]), np.append(score[kept], score[kept[-1]])
    # Steps, not slopes: between two points nothing was run, so the cheaper one is what can be had.
    axes.fill_between(x, y, axes.get_ylim()[1], step="post", color=RED, alpha=0.13, linewidth=0, zorder=0.5)
    axes.step(x, y, where="post", color=RED, linewidth=0.9, alpha=0.6, zorder=1)
    path = np.column_stack([np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]])
    return np.stack([path[:-1], path[1:]], axis=1)


def label(
    axes: Axes, rows: pd.DataFrame, x: str, named: pd.DataFrame, more: Sequence[Label] = (), keep: Any = ()
) -> None:
    """Write the methods of the rows `named` beside their points, and `more`, clear of what `rows` draw.

    `keep` are further segments [n, 2, 2] to keep clear of. The layout must be final (`style.settle`).
    """
    names = [
        Label(row[x], row["score"], method_title(row["method"]), ink_of(row), "bold")
        for _, row in named.iterrows()
    ]
    # An interval counts as points all along: a label across a bar is hard to read, one across a line less so.
    places, low, high = rows.dropna(subset=["low", "high"])[[x, "low", "high"]].to_numpy(dtype=float).T
    bars = [np.column_stack([places, low + part * (high - low)]) for part in np.linspace(0, 1, 13)]
    points = np.concatenate([rows[[x, "score"]].to_numpy(dtype=float), *bars])
    segments = [
        [tuple(a), tuple(b)]
        for _, each in rows.sort_values([x, "budget"]).groupby("method")
        for a, b in pairwise(each[[x, "score"]].to_numpy(dtype=float))
    ]
    place_labels(axes, [*names, *more], points, np.array([*segments, *keep], dtype=float).reshape(-1, 2, 2))


def names(axes: Axes, rows: pd.DataFrame, x: str) -> list[style.Named]:
    """What points say on hover: method, budget and pool, score with its interval, and cost."""
    places = digits(rows["score"])
    found = []
    for _, row in rows.iterrows():
        ends = interval(row["low"], row["high"], places)
        words = [
            method_title(row["method"]),
            f"{human(row['budget'])} samples selected from {human(row['pool_size'])}",
            f"{row['metric']}: {number(row['score'], places)}{f' ({ends})' if ends else ''}",
            f"{style.flops(row['flops'])} FLOPs",
        ]
        found.append(style.Named(axes, row[x], row["score"], "\n".join(words)))
    return found


def ink_of(row: pd.Series) -> str:
    """The colour of words about a row's method."""
    return style.ink(style.method_colour(row["method"]))


def place_labels(axes: Axes, labels: Sequence[Label], points: np.ndarray, lines: np.ndarray) -> None:
    """Write labels next to their points without overlaps.

    points (n, 2) are markers and lines (m, 2, 2) are segments, in data coordinates, to be kept clear
    of. Each label tries places in rings round its point and takes the one that costs least, the
    labels with most neighbours first. A label that stands far from its point gets a thin leader.
    """
    pixel = style.figure_of(axes).dpi / 72
    inside, transform = axes.bbox, axes.transData.transform
    dots = transform(points)
    trail = [
        np.linspace(a, b, max(2, int(np.hypot(*(b - a)) / (3 * pixel)))) for a, b in map(transform, lines)
    ]
    strokes = np.concatenate([np.empty((0, 2)), *trail])
    anchors = transform([(each.x, each.y) for each in labels])
    crowd = [(np.hypot(*(anchors - anchor).T) < 60 * pixel).sum() for anchor in anchors]
    taken: list[Bbox] = []
    for index in sorted(range(len(labels)), key=lambda i: (-crowd[i], i)):
        each, anchor = labels[index], anchors[index]
        text = axes.text(0, 0, each.text, color=each.colour, size=each.size, weight=each.weight, zorder=5,
                         ha="center", va="center", transform=axes.transAxes)  # fmt: skip
        size = text.get_window_extent()
        half = np.array([size.width, size.height]) / 2

        def cost(place: tuple[float, np.ndarray, Bbox]) -> float:
            effort, _, box = place
            met = 500 * sum(box.overlaps(other) for other in taken)
            met += 60 * _within(dots, box.padded(3.5 * pixel)) + 8 * _within(strokes, box)
            whole = (box.p0 >= inside.p0).all() and (box.p1 <= inside.p1).all()
            return effort + met + (0 if whole else 10_000)

        _, centre, box = min(_round(anchor, half, pixel), key=cost)
        taken.append(box)
        text.set_position(tuple(axes.transAxes.inverted().transform(centre)))
        edge = np.clip(anchor, box.p0, box.p1)
        if np.hypot(*(edge - anchor)) > 11 * pixel:
            ends = axes.transAxes.inverted().transform([anchor, edge])
            axes.plot(
                *ends.T, transform=axes.transAxes, color=each.colour, linewidth=0.6, alpha=0.7, zorder=1.5
            )


def _round(anchor: np.ndarray, half: np.ndarray, pixel: float) -> Iterator[tuple[float, np.ndarray, Bbox]]:
    """Places for a label round its point: how far they are to be avoided, their centre, and their box."""
    for ring, distance in enumerate((5, 9, 15, 23, 33, 45, 60, 78)):
        for turn in range(16):
            way = np.array([math.cos(turn * math.pi / 8), math.sin(turn * math.pi / 8)])
            centre = anchor + way * (half + distance * pixel)
            effort = 4.0 * ring**1.5 + 2 * (1 - way[0]) + (0 if turn % 4 == 0 else 1)
            yield effort, centre, Bbox([centre - half, centre + half]).padded(1.5 * pixel)


def _within(places: np.ndarray, box: Bbox) -> int:
    return int(((places > box.p0) & (places < box.p1)).all(axis=1).sum())
