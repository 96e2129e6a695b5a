"""How anything is drawn: the look, colours, panels, small print and saving. Loads matplotlib."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import math
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from rdslib.figures import base
from rdslib.figures.base import ORIGINS, by_origin, distinct, human
from rdslib.figures.base import styled as styled

# Inches of the widest figure, and of a panel; in a README of 830 pixels, SMALL points of it are 9.
PAGE, PANEL, SMALL = 9.5, 4.75, 7.5
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
GREY = "#666666"
# Points of a picture, and the words of the one that is met.
CSS = """<style>
.rds-picture{position:relative;max-width:100%}
.rds-picture img{display:block;width:100%;background:#fff}
.rds-point{position:absolute;width:1rem;height:1rem;margin:-.5rem;border-radius:50%}
.rds-point:is(:hover,:focus){outline:2px solid #222;z-index:1}
.rds-point:is(:hover,:focus)::after{content:attr(aria-label);position:absolute;left:120%;top:120%;z-index:1;
width:max-content;max-width:min(20rem,40vw);padding:.3rem .5rem;border:1px solid #888;border-radius:.3rem;
background:#fff;color:#222;font:normal .8rem/1.4 system-ui,sans-serif;white-space:pre-line;
unicode-bidi:plaintext;overflow-wrap:anywhere;pointer-events:none}
.rds-point.rds-left::after{left:auto!important;right:120%}
.rds-point.rds-up::after{top:auto!important;bottom:120%}
</style>"""
# Small sources of a pool, together.
OTHERS = "#DDDDDD"
# A dark and a light step of each hue in turn, so that neighbours in a stack differ in lightness
# too, which every kind of colour vision sees. Names that are not here get one of them by their hash.
_SOURCE_PALETTE = (
    "#1F5A99", "#9EC9E8", "#0B7A5C", "#8FD6BD", "#B85A00", "#F7C27A", "#8C2D6B", "#E3A6CC",
    "#4A3F99", "#B9B2E6", "#7A6A00", "#E0D272", "#A32A2A", "#F2A79B", "#17737F", "#97D9E0",
    "#5B7A1E", "#C3DB8E", "#5C4033", "#CDB39F", "#3D4A57", "#B4BEC8", "#C2185B", "#F6A5C0",
)  # fmt: skip
_KNOWN_SOURCES = (
    "FLAN V2", "FLAN CoT", "Open Assistant", "Dolly", "GPT-4 Alpaca", "Code Alpaca", "ShareGPT", "LIMA",
    "Wizard Evol-Instruct V2", "Open Orca", "Alpaca", "SciRIFF", "WildChat (GPT-4 subset)", "Aya",
    "OpenMathInstruct 2", "NuminaMath-TIR", "Tulu 3 Persona MATH", "Tulu 3 Persona Algebra",
    "Evol CodeAlpaca", "Tulu 3 WildJailbreak", "Tulu 3 WildGuardMix", "No Robots", "TableGPT",
    "Tulu 3 Persona GSM",
)  # fmt: skip


# The look, and saving.


class Named(NamedTuple):
    """A point (x, y) of a panel, in data coordinates, and the words that it shows when it is met."""

    axes: Axes
    x: float
    y: float
    words: str


class Drawing(Figure):
    """A figure outside pyplot's state that a notebook still shows, once, of its size in inches.

    Attributes:
        named: Points that name themselves on a page, where mouse, finger or Tab key meet them. The layout
            must be final (`settle`).
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.named: list[Named] = []
        self._png = b""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        return self.png(), {"width": round(96 * self.get_figwidth())}

    def _repr_html_(self) -> str | None:
        titles = distinct(axes.get_title(loc="left") for axes in self.axes)
        return self.html("; ".join(titles)) if self.named else None

    def html(self, alt: str) -> str:
        """The figure as HTML: a PNG, under points that say on hover what they are."""
        data = base64.b64encode(self.png()).decode("ascii")
        # A CSS inch has 96 pixels: the picture's are finer.
        width = f"width: {96 * self.get_figwidth():.0f}px"
        image = f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt)}">'
        # So many can be gone through by keys; of more, a page would have no end.
        key = ' tabindex="0"' if len(self.named) <= 200 else ""
        points = []
        for axes, x, y, words in self.named:
            right, up = axes.transData.transform((x, y)) / self.bbox.size
            # Words go towards the middle, where there is room for them.
            to = f"{'rds-up' if up < 0.5 else ''} {'rds-left' if right > 0.5 else ''}"
            place = f"left:{100 * right:.2f}%;top:{100 - 100 * up:.2f}%"
            points.append(
                f'<i class="rds-point {to}" role="img"{key} style="{place}" '
                f'aria-label="{html.escape(words)}"></i>'
            )
        return f'{CSS}<div class="rds-picture" style="{width}">{image}{"".join(points)}</div>'

    def files(self) -> dict[str, bytes]:
        """The figure as PNG (200 dpi) and SVG; the same figure gives the same bytes."""
        files = {"png": self.png(), "svg": svg(self)}
        self.stale = False  # which saving sets, though it changes nothing
        return files

    def png(self) -> bytes:
        """The figure as PNG, drawn again only where it has changed: a notebook asks for it three times."""
        if self.stale or not self._png:
            self._png = png(self)
            self.stale = False
        return self._png


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes at 200 dots an inch, without date or software name."""
    return _image(figure, format="png", dpi=200, metadata={"Software": None})


def svg(figure: Figure) -> bytes:
    """The figure as SVG bytes, without date or software name."""
    return _image(figure, format="svg", metadata={"Date": None, "Creator": None})


@styled
def _image(figure: Figure, **form: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, **form)
    return buffer.getvalue()


# Colours.


def method_colour(method: str) -> str:
    """The colour of a method, the same in every figure."""
    return base.method_colour(method) or _SOURCE_PALETTE[_hash(method) % len(_SOURCE_PALETTE)]


def ink(colour: str) -> str:
    """A colour, darkened as far as words on white need it (a contrast of 4.5, as WCAG asks)."""
    while _contrast(colour) < 4.5:
        colour = to_hex(tuple(0.97 * np.array(to_rgb(colour))))
    return colour


def _contrast(colour: str) -> float:
    """The contrast of a colour with white (WCAG 2)."""
    channels = np.array(to_rgb(colour))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05))


def source_colours(sources: Iterable[object]) -> dict[str, str]:
    """A colour for each source, in the order given: fixed for the paper's, by the name's hash for others.

    Two unknown names of one figure that hash alike take neighbouring free colours, in order of name.
    """
    given = distinct(sources)
    names = sorted(given)
    places = {name: _KNOWN_SOURCES.index(name) for name in names if name in _KNOWN_SOURCES}
    for name in names:
        if name in places:
            continue
        place = _hash(name) % len(_SOURCE_PALETTE)
        if len(places) < len(_SOURCE_PALETTE):
            while place in places.values():
                place = (place + 1) % len(_SOURCE_PALETTE)
        places[name] = place
    return {name: _SOURCE_PALETTE[places[name]] for name in given}


def _hash(name: str) -> int:
    # Python's hash of a string differs between processes.
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


# Panels and words.


def panels(
    table: pd.DataFrame, width: float | Callable[[pd.DataFrame], float], height: float
) -> tuple[Drawing, list[tuple[pd.DataFrame, Axes]]]:
    """A figure with one panel (of width x height inches) for each origin in the table, and its rows.

    The width may depend on the rows; panels that together are wider than the page are narrowed.
    """
    parts = [rows for _, rows in by_origin(table)]
    widths = [width(rows) if callable(width) else width for rows in parts]
    figure = Drawing(figsize=(min(sum(widths), PAGE), height))
    axes = figure.subplots(1, len(parts), squeeze=False, width_ratios=widths)[0]
    return figure, list(zip(parts, axes, strict=True))


def heading(axes: Axes, rows: pd.DataFrame, details: str) -> None:
    """Over a panel: which origin it is, in bold, and below that its n and budget."""
    title(axes, ORIGINS[rows["origin"].iloc[0]], details)


def title(axes: Axes, words: str, details: str) -> None:
    """Over a panel: words in bold, and details below them."""
    columns = int(axes.get_position().width * figure_of(axes).get_figwidth() * 18)
    lines = textwrap.wrap(details, columns)
    axes.set_title(words, pad=9 + 11 * len(lines))
    axes.annotate(
        "\n".join(lines),
        (0, 1),
        (0, 7),
        "axes fraction",
        "offset points",
        fontsize=8,
        color=GREY,
        va="bottom",
    )


def footnotes(figure: Figure, lines: Iterable[str]) -> None:
    """Small print under the figure, wrapped to its width, one paragraph a line."""
    columns = int(figure.get_figwidth() * 16.5)
    wrapped = [textwrap.fill(line, columns) for line in dict.fromkeys(lines) if line]
    if wrapped:
        figure.supxlabel("\n".join(wrapped), x=0.012, ha="left", fontsize=SMALL, color=GREY, linespacing=1.35)


def settle(figure: Figure) -> None:
    """Lay the figure out and keep it so, that words can be placed in pixels."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def figure_of(axes: Axes) -> Figure:
    """The figure that axes belong to."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def count_axis(axes: Axes, values: Iterable[float]) -> None:
    """A log x-axis of sample counts whose ticks are the counts drawn, as far as they fit."""
    known = sorted(set(values))
    kept = known[:1]
    room = 10 ** (0.115 * math.log10(known[-1] / known[0]))
    for value in known[1:-1]:
        if value >= kept[-1] * room and value * room <= known[-1]:
            kept.append(value)
    if known[-1] > known[0]:
        kept.append(known[-1])
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.FixedLocator(kept))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: human(value)))
    axes.xaxis.set_minor_locator(ticker.NullLocator())


def flops_axis(axes: Axes, values: Iterable[float]) -> None:
    """A log x-axis of FLOPs, with ticks in between where the values span less than two decades."""
    known = sorted(values)
    axes.set_xscale("log")
    decades = math.log10(known[-1] / known[0])
    subs = (1,) if decades > 2 else (1, 3) if decades > 1 else (1, 2, 5) if decades > 0.3 else range(1, 10)
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=tuple(float(sub) for sub in subs)))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(_power))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())


def flops(value: float) -> str:
    """A number of FLOPs, to two digits."""
    return _power(float(f"{value:.2g}"))


def _power(value: float, _: int | None = None) -> str:
    exponent = math.floor(math.log10(value) + 1e-9)
    lead = value / 10**exponent
    times = "" if round(lead, 6) == 1 else f"{lead:g}\N{MULTIPLICATION SIGN}"
    return f"{times}10{str(exponent).translate(RAISED)}"


def stacked(
    axes: Axes, rows: pd.DataFrame, bar: str, colours: dict[str, str], what: str, shares: bool = True
) -> None:
    """Stacked bars of sources, as shares of 1 or as counts, one bar for each value of the column `bar`.

    `colours` has every source, in the order of the layers, and so of the key, from the bottom up; `what` is
    the name of the y-axis. A bar's total stands on top.
    """
    bars, sources = distinct(rows[bar]), list(colours)
    counts = rows.pivot_table(index="source", columns=bar, values="count", aggfunc="sum", fill_value=0)
    counts = counts.reindex(index=sources, columns=bars, fill_value=0)
    totals = counts.sum()
    heights = counts / totals if shares else counts
    highest = heights.sum().max()
    layers = heights.set_axis(range(len(bars)), axis=1).melt(
        var_name="bar", value_name="height", ignore_index=False
    )
    # Seaborn stacks the last of the order first.
    sns.histplot(
        layers.reset_index(), x="bar", hue="source", weights="height", hue_order=sources[::-1],
        palette=colours, multiple="stack", discrete=True, shrink=0.78, alpha=1, edgecolor="white",
        linewidth=0.5, legend=False, ax=axes,
    )  # fmt: skip
    for place, name in enumerate(bars):
        tops = heights[name].cumsum()
        for source, colour, value, top in zip(sources, colours.values(), heights[name], tops, strict=True):
            if value >= 0.06 * highest:
                share = f"{counts.loc[source, name] / totals[name]:.0%}"
                colour = "white" if _contrast(colour) > 3.5 else "#222222"
                middle = top - value / 2
                axes.text(place, middle, share, ha="center", va="center", fontsize=SMALL, color=colour)
        over = tops.iloc[-1] + 0.012 * highest
        axes.text(place, over, f"{totals[name]:,.0f}", ha="center", va="bottom", fontsize=SMALL, color=GREY)
    axes.set(ylim=(0, 1.06 * highest), xlim=(-0.6, len(bars) - 0.4), xlabel="", ylabel=what)
    if shares:
        axes.yaxis.set_major_formatter(ticker.PercentFormatter(1))
        axes.set_yticks(np.linspace(0, 1, 6))
    else:
        axes.yaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: human(value)))
    # Names in lines that fit under a bar; a registry key is broken after its underscores.
    names = [textwrap.fill(name.replace("_", "_ "), 10).replace("_ ", "_") for name in bars]
    axes.set_xticks(range(len(bars)), names, fontsize=SMALL)
    axes.tick_params(axis="x", length=0)
    # Reversed, to read from the top of the stack down.
    keys = [
        Patch(facecolor=colours[name], edgecolor="white", linewidth=0.5, label=name)
        for name in reversed(sources)
    ]
    axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=SMALL, handlelength=1.2)


def bins(samples: float) -> int:
    """The bins of a histogram of so many samples: few samples in narrow ones would be a comb of ones."""
    return int(np.clip(2 * np.sqrt(samples), 8, 40))
