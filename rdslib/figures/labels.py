"""Labels beside points and lines that keep clear of each other and of what is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox


@dataclass(frozen=True)
class Label:
    """Words that belong to a point (x, y), in data coordinates."""

    x: float
    y: float
    text: str
    colour: str
    weight: str = "normal"
    size: float = 8.5


def place_labels(axes: Axes, labels: Sequence[Label], points: np.ndarray, lines: np.ndarray) -> None:
    """Write labels next to their points without overlaps.

    points (n, 2) are markers and lines (m, 2, 2) are segments, in data coordinates, to be kept clear
    of. Each label tries places in rings round its point and takes the one that costs least, the
    labels with most neighbours first. A label that stands far from its point gets a thin leader.
    The figure's layout must be final (`settle`).
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    pixel = figure.dpi / 72
    inside = axes.bbox
    transform = axes.transData.transform
    dots = transform(points)
    trail = [
        np.linspace(a, b, max(2, int(np.hypot(*(b - a)) / (3 * pixel)))) for a, b in map(transform, lines)
    ]
    strokes = np.concatenate([np.empty((0, 2)), *trail])
    anchors = transform([(label.x, label.y) for label in labels])
    texts = [
        axes.text(0, 0, label.text, color=label.colour, size=label.size, weight=label.weight, zorder=5,
                  ha="center", va="center", transform=None)
        for label in labels
    ]  # fmt: skip
    crowd = [(np.hypot(*(anchors - anchor).T) < 60 * pixel).sum() for anchor in anchors]
    taken: list[Bbox] = []
    for index in sorted(range(len(labels)), key=lambda i: (-crowd[i], i)):
        size = texts[index].get_window_extent()
        half = np.array([size.width, size.height]) / 2
        best: tuple[float, np.ndarray, Bbox] | None = None
        for ring, distance in enumerate((5, 9, 15, 23, 33, 45, 60, 78)):
            for turn in range(16):
                angle = turn * math.pi / 8
                way = np.array([math.cos(angle), math.sin(angle)])
                centre = anchors[index] + way * (half + distance * pixel)
                box = Bbox([centre - half, centre + half]).padded(1.5 * pixel)
                cost = 4.0 * ring**1.5 + 2 * (1 - way[0]) + (0 if turn % 4 == 0 else 1)
                cost += 500 * sum(box.overlaps(other) for other in taken)
                cost += 60 * _within(dots, box.padded(3.5 * pixel)) + 8 * _within(strokes, box)
                cost += 0 if _contains(inside, box) else 10_000
                if best is None or cost < best[0]:
                    best = (cost, centre, box)
        assert best is not None
        _, centre, box = best
        taken.append(box)
        texts[index].set_transform(axes.transAxes)
        texts[index].set_position(tuple(_fraction(inside, centre)))
        edge = np.clip(anchors[index], box.p0, box.p1)
        if np.hypot(*(edge - anchors[index])) > 11 * pixel:
            near, far = (_fraction(inside, place) for place in (anchors[index], edge))
            axes.plot(*np.transpose([near, far]), transform=axes.transAxes, color=labels[index].colour,
                      linewidth=0.6, alpha=0.7, zorder=1.5)  # fmt: skip


def _fraction(box: Bbox, place: np.ndarray) -> np.ndarray:
    """Pixels (2,) as fractions of a box."""
    return np.asarray((place - box.p0) / box.size, dtype=float)


def _within(places: np.ndarray, box: Bbox) -> int:
    return int(((places > box.p0) & (places < box.p1)).all(axis=1).sum())


def _contains(outer: Bbox, inner: Bbox) -> bool:
    return bool((inner.p0 >= outer.p0).all() and (inner.p1 <= outer.p1).all())
