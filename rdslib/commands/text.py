"""What commands print: sentences and tables that fit the terminal, and nothing from data that controls it."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rdslib.data.chat import Message

# Columns of what is not a terminal, such as a file.
COLUMNS = 100
MARGIN = 4
# A shortened sample: characters of a message, and messages.
WIDTH, TURNS = 240, 4
_NUMBER = re.compile(r"[-+#]?[\d,.]*%?")


def plain(text: object) -> str:
    """A text as one line without control characters."""
    kept = (" " if unicodedata.category(each) in ("Cc", "Cs") else each for each in str(text))
    return " ".join("".join(kept).split())


def shortened(messages: Sequence[Message]) -> str:
    """The first messages of a sample, each cut to one line, an arrow before a response."""
    lines = []
    for message in messages[:TURNS]:
        words = " ".join(message["content"].split())
        words = words if len(words) <= WIDTH else words[: WIDTH - 1] + "…"
        lines.append(f"→ {words}" if message["role"] == "assistant" else words)
    more = len(messages) - TURNS
    return "\n".join([*lines, *([f"… {more} more messages"] if more > 0 else [])])


def line(text: object, margin: int = 0) -> RenderableType:
    """A text that wraps; `margin`: columns before each of its lines."""
    return Padding(Text(plain(text)), (0, 0, 0, margin))


def table(columns: Mapping[str, Iterable[object]], title: str = "") -> RenderableType:
    """A table by its columns, each row on one line: numbers to the right, long texts cut."""
    found = Table(box=None, pad_edge=False, title=plain(title) or None, title_justify="left", title_style="")
    cells = {name: [plain(value) for value in values] for name, values in columns.items()}
    for name, values in cells.items():
        number = all(map(_NUMBER.fullmatch, values))
        found.add_column(
            Text(plain(name)), justify="right" if number else "left", no_wrap=number, overflow="ellipsis"
        )
    for row in zip(*cells.values(), strict=True):
        found.add_row(*(Text(value, no_wrap=True, overflow="ellipsis") for value in row))
    return Padding(found, (0, 0, 0, MARGIN))


def show(parts: Iterable[RenderableType]) -> None:
    """Print parts, one under another, in the width of the terminal."""
    console = Console(file=sys.stdout, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = COLUMNS
    for part in parts:
        console.print(part, soft_wrap=False)


def as_text(parts: Iterable[RenderableType], width: int = COLUMNS) -> str:
    """What `show` prints on a terminal of some width."""
    console = Console(width=width, highlight=False, emoji=False, color_system=None, record=False)
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    return "\n".join(each.rstrip() for each in capture.get().splitlines()) + "\n"
