"""`rds compare`: what two selections have in common, in samples, ranks, sources and scores."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd
import typer
from rich.console import RenderableType

from rdslib.commands.select import read_record, record_of
from rdslib.commands.text import line, show, table
from rdslib.data.dedup import text_key
from rdslib.data.formats import form_of
from rdslib.data.reader import Row, read_rows
from rdslib.errors import UserError
from rdslib.methods import SCORERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = ("A", "B")
COLOURS = ("#0072B2", "#E69F00")
FIGURES = (".png", ".svg")
# Sources that are shown apart, the largest, and characters of a name in the figure.
LAYERS, LONGEST = 20, 34
# The source of a selection's rows that name none: in the pool it was the name of their file.
UNNAMED = "(no source named)"
SPREAD = ("min", "25%", "median", "75%", "max")


def compare_command(
    a: Annotated[Path, typer.Argument(help="A file that `rds select` wrote, or other samples.")],
    b: Annotated[Path, typer.Argument(help="Another.")],
    figure: Annotated[Path | None, typer.Option(help="A .png or .svg file to draw them to.")] = None,
    format: Annotated[
        str | None, typer.Option(help="The rows' form, where their fields do not tell.")
    ] = None,
) -> None:
    """Compare two selections: their overlap, sources and scores."""
    if figure is not None:
        check_figure(figure)
    compared = compare(a, b, format)
    show(shown(compared))
    if figure is not None:
        write_figure(compare_figure(compared), figure)


@dataclass(frozen=True)
class Side:
    """One of two selections.

    Attributes:
        path: Its file.
        method: The method that its record names, or None.
        samples: How many samples it has.
        texts: How many different texts.
        common_rank: The mean rank of those that are ranked in both, or None.
    """

    path: Path
    method: str | None
    samples: int
    texts: int
    common_rank: float | None

    @property
    def made_by(self) -> str:
        """The method in words, if it is known."""
        return "" if self.method is None else f" by {title_of(self.method)}"


@dataclass(frozen=True)
class Compared:
    """Two selections, A and B, side by side; samples with one text are the same.

    Attributes:
        sides: The two.
        common: How many texts are in both.
        jaccard: Their share of those in either.
        sources: For every source of either, the largest shares first: selection, source, count, share.
        scores: A row for each sample that has one: selection, score.
        spread: A row for each selection that has scores: selection, n, min, 25%, median, 75%, max, mean.
    """

    sides: tuple[Side, Side]
    common: int
    jaccard: float
    sources: pd.DataFrame
    scores: pd.DataFrame
    spread: pd.DataFrame

    @property
    def scales_differ(self) -> bool:
        """Whether records name two methods, so that scores of one say nothing beside the other's."""
        first, second = (side.method for side in self.sides)
        return first is not None and second is not None and first != second

    @property
    def notes(self) -> list[str]:
        """What is to be known of the scores: whose are missing, and whether they compare."""
        missing = [name for name in NAMES if name not in set(self.spread["selection"])]
        notes = [f"No row of {' or '.join(missing)} has rds_score."] if missing else []
        if self.scales_differ:
            first, second = (title_of(side.method or "") for side in self.sides)
            notes.append(f"Scores of {first} and of {second} are on different scales and do not compare.")
        return notes


def compare(a: Path, b: Path, form: str | None = None) -> Compared:
    """Compare two files: what `rds select` has written, or other data that `read_rows` reads.

    Holds a few hundred bytes a sample.

    Args:
        a: A file.
        b: Another.
        form: That of the rows; by default the one that a selection was made with, or what their fields say.

    Raises:
        UserError: Something cannot be read, or a rank or score is no number.
    """
    (first_method, first), (second_method, second) = (_read(path, form) for path in (a, b))
    one, other = (table.drop_duplicates("text").set_index("text") for table in (first, second))
    common = one.index.intersection(other.index)
    ranks = pd.concat([each["rank"].reindex(common) for each in (one, other)], axis=1).dropna()
    mean = ranks.mean().tolist() if len(ranks) else [None, None]
    rows = pd.concat(
        [table.assign(selection=name) for name, table in zip(NAMES, (first, second), strict=True)]
    )
    counts = pd.crosstab(rows["source"], rows["selection"])
    # The largest shares first; of equal ones by name.
    shares = (counts / counts.sum()).sum(axis=1)
    counts = counts.loc[shares.sort_values(ascending=False, kind="stable").index]
    sources = counts.reset_index().melt("source", var_name="selection", value_name="count")
    sources = sources[["selection", "source", "count"]]
    sources["share"] = sources["count"] / sources.groupby("selection")["count"].transform("sum")
    scores = rows.loc[rows["score"].notna(), ["selection", "score"]].reset_index(drop=True)
    spread = [
        [name, len(values), *np.quantile(values, [0, 0.25, 0.5, 0.75, 1]), values.mean()]
        for name, values in scores.groupby("selection")["score"]
    ]
    return Compared(
        (
            Side(a, first_method, len(first), len(one), mean[0]),
            Side(b, second_method, len(second), len(other), mean[1]),
        ),
        len(common),
        len(common) / (len(one) + len(other) - len(common)),
        sources,
        scores,
        pd.DataFrame(spread, columns=["selection", "n", *SPREAD, "mean"]),
    )


def _read(path: Path, form: str | None) -> tuple[str | None, pd.DataFrame]:
    """The method that a selection's record names, and of each row a hash of the text, source, rank, score."""
    record = record_of(path) if path.is_file() else None
    if record is None or not record.exists():
        return None, _rows(path, form, False)
    request = read_record(path)["request"]
    method, made_with = request.method, request.format
    if form is None and made_with is not None:
        # The pool's form, unless the rows were given another with `--as messages`.
        first = next(read_rows(path, on_error="quarantine"))
        form = form_of(first.record) if isinstance(first, Row) else made_with
    return method, _rows(path, form, True)


def _rows(path: Path, form: str | None, selection: bool) -> pd.DataFrame:
    rows = []
    for row in read_rows(path, form):
        assert isinstance(row, Row)  # a bad one is an error
        named = row.record.get("source") or row.record.get("dataset") or not selection
        text = repr(text_key(row.sample)).encode()
        rows.append(
            {
                "text": hashlib.blake2b(text, digest_size=16).digest(),
                "source": row.source if named else UNNAMED,
                "rank": _number(row, "rds_rank"),
                "score": _number(row, "rds_score"),
            }
        )
    return pd.DataFrame(rows)


def _number(row: Row, name: str) -> float:
    """A number of a row, NaN where there is none."""
    value = row.record.get(name)
    if value is None:
        return math.nan
    try:
        number = float(value)  # of CSV it is text
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{row.where}: its {name} {str(value)[:40]!r} is no number; correct or remove it")
    return number


def title_of(method: str) -> str:
    """What a method is called; one of a plug-in that is not loaded, by its name."""
    return SCORERS[method].title if method in SCORERS else method


def layers(sources: pd.DataFrame) -> pd.DataFrame:
    """`Compared.sources`, of which all but the `LAYERS` largest are one: "7 others"."""
    names = sources["source"].drop_duplicates()
    if len(names) <= LAYERS + 1:
        return sources
    small = sources["source"].isin(names[LAYERS:])
    merged = sources.assign(source=sources["source"].where(~small, f"{len(names) - LAYERS} others"))
    return merged.groupby(["selection", "source"], sort=False, as_index=False).sum()


def shown(compared: Compared) -> list[RenderableType]:
    """A comparison for a terminal."""
    c = compared
    parts = []
    for name, side in zip(NAMES, c.sides, strict=True):
        texts = "" if side.texts == side.samples else f", {side.texts:,} different texts"
        parts.append(line(f"{name}: {side.path}{side.made_by}, {side.samples:,} samples{texts}"))
    parts += ["", line(f"{_texts(c.common)} in both, which is a Jaccard index of {c.jaccard:.4f}.")]
    first, second = (side.common_rank for side in c.sides)
    if first is not None and second is not None:
        ranks = f"{first:,.1f} in A and {second:,.1f} in B"
        parts.append(line(f"The mean rank of what is ranked in both is {ranks}."))
    rows = layers(c.sources)
    counts = rows.set_index(["source", "selection"])[["count", "share"]].unstack()
    counts = counts.loc[rows["source"].drop_duplicates().tolist()]
    columns: dict[str, pd.Series | pd.Index] = {}
    for name in NAMES:
        columns[f"in {name}"] = counts["count", name].map("{:,}".format)
        columns[f"of {name}"] = counts["share", name].map("{:.1%}".format)
    parts += ["", "Samples of each source", table({**columns, "source": counts.index}, ["source"])]
    if len(c.spread):
        columns = {"selection": c.spread["selection"], "n": c.spread["n"].map("{:,}".format)}
        columns |= {name: c.spread[name].map("{:.4f}".format) for name in (*SPREAD, "mean")}
        parts += ["", "Scores", table(columns)]
    return [*parts, *(["", *map(line, c.notes)] if c.notes else [])]


def _texts(count: int) -> str:
    return "1 text is" if count == 1 else f"{count:,} texts are"


def compare_figure(compared: Compared) -> Figure:
    """Draw the sources of both selections, as shares, and beside them the scores of each."""
    from rdslib.figures import style

    c = compared
    methods = {side.method for side in c.sides}
    one_scale = len(methods) == 1 and None not in methods and len(c.scores) > 0
    files = [f"{name}: {side.path}{side.made_by}" for name, side in zip(NAMES, c.sides, strict=True)]

    @style.styled
    def draw() -> Figure:
        figure = style.Drawing(figsize=(11, 5.2))
        grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.1))
        _draw_sources(figure.add_subplot(grid[:, 0]), c)
        upper = None
        for row, (name, side, colour) in enumerate(zip(NAMES, c.sides, COLOURS, strict=True)):
            values = c.scores.loc[c.scores["selection"] == name, "score"]
            axes = figure.add_subplot(grid[row, 1], sharex=upper)
            binned = c.scores["score"] if one_scale else values
            _draw_scores(axes, f"Scores in {name}{side.made_by}", values, binned, colour)
            upper = axes if one_scale else None
        style.footnotes(figure, [*files, *c.notes])
        return figure

    return draw()


def _draw_sources(axes: Axes, c: Compared) -> None:
    from matplotlib.patches import Patch

    from rdslib.figures import style

    rows = layers(c.sources)
    names = rows["source"].drop_duplicates().tolist()
    colours = style.source_colours(names[:LAYERS]) | dict.fromkeys(names[LAYERS:], style.OTHERS)
    style.stacked(axes, rows, "selection", colours, "Share of the samples")
    # In place of matplotlib's key, for names of any length and any characters.
    keys = [Patch(color=colours[name]) for name in reversed(names)]
    words = [_shortened(name) for name in reversed(names)]
    axes.legend(keys, words, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8)
    style.title(axes, "Sources", f"{_texts(c.common)} in both (Jaccard index {c.jaccard:.3f})")


def _draw_scores(axes: Axes, title: str, values: pd.Series, binned: pd.Series, colour: str) -> None:
    from rdslib.figures import style

    details = ""
    if len(values):
        edges = np.histogram_bin_edges(binned, style.bins(len(binned))).tolist()
        axes.hist(values, edges, color=colour, alpha=0.6, edgecolor="white", linewidth=0.5)
        axes.axvline(values.mean(), color=colour, linestyle="--", linewidth=1.3)
        details = f"n = {len(values):,}, mean {values.mean():.3f} (dashed)"
    else:
        axes.text(0.5, 0.5, "No scores", transform=axes.transAxes, ha="center", color=style.GREY)
        axes.set(xticks=[], yticks=[])
    axes.set(ylabel="Samples")
    style.title(axes, title, details)


def _shortened(name: str) -> str:
    """A name without its middle, if it is long: paths differ at their ends."""
    half = LONGEST // 2
    return name if len(name) <= LONGEST else f"{name[:half]}…{name[-half:]}"


def check_figure(path: Path) -> None:
    """Raise UserError unless a figure can be written to `path`, by its name and folder."""
    if path.suffix.lower() not in FIGURES:
        raise UserError(f"--figure {path}: is of no known kind; end its name with {' or '.join(FIGURES)}")
    if not path.parent.is_dir():
        raise UserError(f"--figure {path}: there is no folder {path.parent}; create it first")


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG or SVG; raises UserError as `check_figure` does, or if it cannot be written."""
    from rdslib.figures import style

    check_figure(path)
    form = style.png if path.suffix.lower() == ".png" else style.svg
    try:
        path.write_bytes(form(figure))
    except OSError as error:
        raise UserError(f"--figure {path}: cannot be written ({error.strerror}); give another") from error
