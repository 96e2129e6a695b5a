"""What commands print: sentences and tables that fit the terminal, and nothing from data that controls it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterable, Mapping

import typer
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rdslib.errors import plain

# Columns of what is not a terminal, such as a file.
COLUMNS = 100
MARGIN = 4
_NUMBER = re.compile(r"[-+#]?[\d,.]*%?")


def line(text: object, margin: int = 0) -> RenderableType:
    """A text that wraps; `margin`: columns before each of its lines."""
    return Padding(Text(plain(text)), (0, 0, 0, margin))


def table(
    columns: Mapping[str, Iterable[object]], cut: Collection[str] = (), wrapped: Collection[str] = ()
) -> RenderableType:
    """A table by its columns, each row on one line, numbers to the right.

    Where the table is too wide, the columns `cut` are cut, and those `wrapped` go on in the next line.
    """
    cells = {name: [plain(value) for value in values] for name, values in columns.items()}
    found = Table(box=None, pad_edge=False, show_header=any(map(str.strip, cells)))
    for name, values in cells.items():
        number = all(map(_NUMBER.fullmatch, values))
        found.add_column(
            Text(plain(name), no_wrap=True, overflow="ellipsis"),
            justify="right" if number else "left",
            no_wrap=name not in cut and name not in wrapped,
            overflow="ellipsis",
        )
    for row in zip(*cells.values(), strict=True):
        found.add_row(
            *(
                Text(value, no_wrap=name not in wrapped, overflow="fold" if name in wrapped else "ellipsis")
                for name, value in zip(cells, row, strict=True)
            )
        )
    return Padding(found, (0, 0, 0, MARGIN))


def as_text(parts: Iterable[RenderableType], width: int | None = None) -> str:
    """Parts as text, one under another, in the width of the terminal."""
    width = width or shutil.get_terminal_size((COLUMNS, 24)).columns
    console = Console(width=width, highlight=False, emoji=False, markup=False, color_system=None)
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    return "\n".join(each.rstrip() for each in capture.get().splitlines())


def hint(text: str) -> None:
    """Tell a person what to do next, apart from what a command prints as its result."""
    typer.echo(plain(f"next: {text}"), err=True)


def show(parts: Iterable[RenderableType]) -> None:
    """Print parts."""
    typer.echo(as_text(parts))
