"""The picture of `docs/architecture.md`: which package imports which, drawn from the import graph."""

from __future__ import annotations

import re
import tomllib

import grimp
import matplotlib.pyplot as plt
import networkx as nx

from rdslib.params import ROOT

PICTURE = ROOT / "docs" / "architecture.svg"
# What an arrow is called in the picture's file.
_ARROW = re.compile(r'id="(\w+)--(\w+)"')


def layers() -> list[list[str]]:
    """The packages of each layer, from the top down, as pyproject.toml holds imports to them."""
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return [layer.split(" | ") for layer in rules[0]["layers"]]


def imports() -> nx.DiGraph:
    """Every package with those that it imports."""
    modules = grimp.build_graph("rdslib", cache_dir=None)
    found = nx.DiGraph()
    for module in modules.modules:
        for imported in modules.find_modules_directly_imported_by(module):
            parts = [name.split(".")[1:2] for name in (module, imported)]
            if all(parts) and parts[0] != parts[1]:
                found.add_edge(parts[0][0], parts[1][0])
    return found


def arrows() -> set[tuple[str, str]]:
    """The imports that say all others: who imports a package imports what that one imports, or may."""
    return set(nx.transitive_reduction(imports()).edges)


def shown() -> set[tuple[str, str]]:
    """The arrows of the picture that there is."""
    return set(_ARROW.findall(PICTURE.read_text(encoding="utf-8"))) if PICTURE.is_file() else set()


def draw() -> None:
    """Draw the picture."""
    rows = layers()
    places = {
        name: ((i + 1) / (len(row) + 1), len(rows) - depth)
        for depth, row in enumerate(rows)
        for i, name in enumerate(row)
    }
    box = {"boxstyle": "round,pad=0.45", "facecolor": "#e8f0f8", "edgecolor": "#0072b2"}
    with plt.rc_context({"svg.hashsalt": "rdslib", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure, axes = plt.subplots(figsize=(7, 6.5), layout="constrained")
        texts = {
            name: axes.text(*place, name, ha="center", va="center", fontsize=11, bbox=box)
            for name, place in places.items()
        }
        for above, below in sorted(arrows()):
            (x, y), (to_x, to_y) = places[above], places[below]
            hidden = any(
                to_y < row < y and abs(x + (to_x - x) * (y - row) / (y - to_y) - column) < 0.05
                for column, row in places.values()
            )
            bend = (0.25 if to_x > x else -0.25) if hidden else 0.0
            style = {
                "arrowstyle": "-|>",
                "color": "#777777",
                "connectionstyle": f"arc3,rad={bend}",
                "patchB": texts[below].get_bbox_patch(),
            }
            arrow = axes.annotate("", places[below], places[above], arrowprops=style, zorder=0)
            arrow.arrow_patch.set_gid(f"{above}--{below}")
        axes.set(xlim=(0, 1), ylim=(0.5, len(rows) + 0.5))
        axes.axis("off")
        figure.savefig(PICTURE, metadata={"Date": None, "Creator": None})
        plt.close(figure)
