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

from rdslib.commands.outputs import check_apart, read_record, record_of
from rdslib.commands.text import line, show, table
from rdslib.data.dedup import text_key
from rdslib.data.formats import form_of
from rdslib.data.inputs import Input, find_input
from rdslib.data.reader import Row, read_records, rows_of
from rdslib.errors import UserError, needs
from rdslib.methods import SCORERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = ("A", "B")
COLOURS = ("#0072B2", "#E69F00")
FIGURES = (".png", ".svg")
# Sources that are shown apart, the largest, and characters of a name in the figure.
LAYERS, LONGEST = 20, 34


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
        read = [path for each in (a, b) for path in (find_input(each).files if each.is_dir() else [each])]
        check_apart([figure], [*read, record_of(a), record_of(b)], "--figure")
    compared = compare(a, b, format)
    show(shown(compared))
    if figure is not None:
        write_figure(compare_figure(compared), figure)


@dataclass(frozen=True)
class Compared:
    """Two selections, A and B, side by side; samples with one text are the same.

    Attributes:
        sides: A row for each, A and B: path, method (None if no record names it), samples, texts (different
            ones), and common_rank, the mean rank of those that are ranked in both, or NaN.
        common: How many texts are in both.
        jaccard: Their share of those in either.
        sources: For every source of either, the largest shares first: selection, source, count, share.
        scores: A row for each sample that has one: selection, score.
        unread: What folders have that is not read.
    """

    sides: pd.DataFrame
    common: int
    jaccard: float
    sources: pd.DataFrame
    scores: pd.DataFrame
    unread: list[str]

    @property
    def spread(self) -> pd.DataFrame:
        """Quartiles and mean of the scores of each selection that has any."""
        return self.scores.groupby("selection")["score"].describe().drop(columns="std")

    @property
    def names(self) -> dict[str, str]:
        """The selections: their files, and their methods if they are known."""
        made_by = self.sides["method"].map(lambda each: "" if each is None else f" by {title_of(each)}")
        return {name: f"{self.sides['path'][name]}{made_by[name]}" for name in NAMES}

    @property
    def notes(self) -> list[str]:
        """What is to be known of the scores: whose are missing, and whether they compare."""
        missing = [name for name in NAMES if name not in set(self.scores["selection"])]
        notes = [f"{note}." for note in self.unread]
        notes += [f"No row of {' or '.join(missing)} has rds_score."] if missing else []
        first, second = self.sides["method"]
        if first and second and first != second:
            first, second = title_of(first), title_of(second)
            notes.append(f"Scores of {first} and of {second} are on different scales and do not compare.")
        return notes


def compare(a: Path | str, b: Path | str, form: str | None = None) -> Compared:
    """Compare two files: what `rds select` has written, or other data that is read as a pool is.

    Holds a few hundred bytes a sample.

    Args:
        a: A file.
        b: Another.
        form: That of the rows; by default the one that a selection was made with, or what their fields say.

    Raises:
        UserError: Something cannot be read, or a rank or score is no number.
    """
    inputs = [find_input(path) for path in (a, b)]
    read = [_read(Path(path), given, form) for path, given in zip((a, b), inputs, strict=True)]
    one, other = (table.drop_duplicates("text").set_index("text") for _, table in read)
    common = one.index.intersection(other.index)
    ranks = pd.concat([each["rank"].reindex(common) for each in (one, other)], axis=1).dropna()
    sides = pd.DataFrame(
        {
            "path": [a, b],
            "method": pd.Series([method for method, _ in read], NAMES, dtype=object),
            "samples": [len(table) for _, table in read],
            "texts": [len(one), len(other)],
            "common_rank": ranks.mean().to_numpy(),
        },
        index=NAMES,
    )
    rows = pd.concat([table.assign(selection=name) for name, (_, table) in zip(NAMES, read, strict=True)])
    counts = pd.crosstab(rows["source"], rows["selection"])
    # The largest shares first; of equal ones by name.
    shares = (counts / counts.sum()).sum(axis=1)
    counts = counts.loc[shares.sort_values(ascending=False, kind="stable").index]
    sources = counts.reset_index().melt("source", var_name="selection", value_name="count")
    sources["share"] = sources["count"] / sources.groupby("selection")["count"].transform("sum")
    jaccard = len(common) / (len(one) + len(other) - len(common))
    scores = rows.loc[rows["score"].notna(), ["selection", "score"]].reset_index(drop=True)
    unread = [note for given in inputs for note in given.notes]
    return Compared(sides, len(common), jaccard, sources, scores, unread)


def _read(path: Path, given: Input, form: str | None) -> tuple[str | None, pd.DataFrame]:
    """The method that a selection's record names, and of each row a hash of the text, source, rank, score."""
    method, selected = None, path.is_file() and record_of(path).exists()
    if selected:
        request = read_record(path)["request"]
        method = request.method
        if form is None and request.format is not None:
            # The pool's form, unless the rows were given another with `--as messages`.
            first = next(rows_of(read_records(given), on_error="quarantine"))
            form = form_of(first.record) if isinstance(first, Row) else request.format
    rows = []
    for row in rows_of(read_records(given), form):
        assert isinstance(row, Row)  # a bad one is an error
        text = hashlib.blake2b(repr(text_key(row.sample)).encode(), digest_size=16).digest()
        # What it was in the pool, where a selection's rows may name none.
        source = str(row.record.get("rds_source") or row.source)
        rows.append((text, source, _number(row, "rds_rank"), _number(row, "rds_score")))
    return method, pd.DataFrame(rows, columns=["text", "source", "rank", "score"])


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
    for name, side in c.sides.to_dict("index").items():
        texts = "" if side["texts"] == side["samples"] else f", {side['texts']:,} different texts"
        parts.append(line(f"{name}: {c.names[str(name)]}, {side['samples']:,} samples{texts}"))
    parts += ["", line(f"{_texts(c.common)} in both, which is a Jaccard index of {c.jaccard:.4f}.")]
    first, second = c.sides["common_rank"]
    if not math.isnan(first):
        ranks = f"{first:,.1f} in A and {second:,.1f} in B"
        parts.append(line(f"The mean rank of what is ranked in both is {ranks}."))
    rows = layers(c.sources)
    columns: dict[str, pd.Series | pd.Index] = {}
    for name in NAMES:
        mix = rows[rows["selection"] == name]
        columns[f"in {name}"] = mix["count"].map("{:,}".format)
        columns[f"of {name}"] = mix["share"].map("{:.1%}".format)
    columns["source"] = rows["source"].drop_duplicates()
    parts += ["", "Samples of each source", table(columns, ["source"])]
    if len(c.scores):
        columns = {"selection": c.spread.index, "n": c.spread["count"].map("{:,.0f}".format)}
        columns |= {name: c.spread[name].map("{:.4f}".format) for name in c.spread.columns.drop("count")}
        parts += ["", "Scores", table(columns)]
    return [*parts, *(["", *map(line, c.notes)] if c.notes else [])]


def _texts(count: int) -> str:
    return "1 text is" if count == 1 else f"{count:,} texts are"


def compare_figure(compared: Compared) -> Figure:
    """Draw the sources of both selections, as shares, and beside them the scores of each."""
    from rdslib.figures import style

    c = compared
    one_scale = c.sides["method"].nunique(dropna=False) == 1 and None not in set(c.sides["method"])

    @style.styled
    def draw() -> Figure:
        figure = style.Drawing(figsize=(11, 5.2))
        grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.1))
        _draw_sources(figure.add_subplot(grid[:, 0]), c)
        upper = None
        for row, name in enumerate(NAMES):
            values = c.scores.loc[c.scores["selection"] == name, "score"]
            axes = figure.add_subplot(grid[row, 1], sharex=upper)
            details = ""
            if len(values):
                binned = c.scores["score"] if one_scale else values
                edges = np.histogram_bin_edges(binned, style.bins(len(binned))).tolist()
                axes.hist(values, edges, color=COLOURS[row], alpha=0.6, edgecolor="white", linewidth=0.5)
                axes.axvline(values.mean(), color=COLOURS[row], linestyle="--", linewidth=1.3)
                details = f"n = {len(values):,}, mean {values.mean():.3f} (dashed)"
                upper = axes if one_scale else None
            else:
                axes.text(0.5, 0.5, "No scores", transform=axes.transAxes, ha="center", color=style.GREY)
                axes.set(xticks=[], yticks=[])
            axes.set(ylabel="Samples")
            style.title(axes, f"Scores in {name}", details)
        lines = [f"{name}: {file}" for name, file in c.names.items()]
        style.footnotes(figure, [*lines, *c.notes])
        return figure

    return draw()


def _draw_sources(axes: Axes, c: Compared) -> None:
    from rdslib.figures import style

    rows = layers(c.sources)
    names = rows["source"].drop_duplicates().tolist()
    colours = style.source_colours(names[:LAYERS]) | dict.fromkeys(names[LAYERS:], style.OTHERS)
    style.stacked(axes, rows, "selection", colours, "Share of the samples")
    legend = axes.get_legend()
    assert legend is not None
    for text, name in zip(legend.get_texts(), reversed(names), strict=True):
        # Without its middle, if it is long: paths differ at their ends.
        half = LONGEST // 2
        text.set_text(name if len(name) <= LONGEST else f"{name[:half]}…{name[-half:]}")
    style.title(axes, "Sources", f"{_texts(c.common)} in both (Jaccard index {c.jaccard:.3f})")


def check_figure(path: Path) -> None:
    """Raise UserError unless a figure can be written to `path`, by its name and folder."""
    if path.suffix.lower() not in FIGURES:
        raise UserError(f"--figure {path}: is of no known kind; end its name with {' or '.join(FIGURES)}")
    if path.is_dir():
        raise UserError(f"--figure {path}: is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise UserError(f"--figure {path}: there is no folder {path.parent}; create it first")
    needs("study", "matplotlib", "seaborn", "sklearn")


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG or SVG, by the ending of the name."""
    from rdslib.figures import style

    path.write_bytes(style.png(figure) if path.suffix.lower() == ".png" else style.svg(figure))
