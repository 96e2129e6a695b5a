"""Samples and tables as plain text that people read, in a notebook or a terminal."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from rdslib.data.chat import Message

# A shortened sample: characters of a message, and messages.
WIDTH, TURNS = 240, 4
# Columns of a terminal; of a table's cell, but for the last of a row; of a text's margin.
COLUMNS, CELL, MARGIN = 100, 20, 4


def text_of(messages: Sequence[Message]) -> str:
    """A conversation as plain text, each message on lines of its own, an arrow before a response.

    Nothing but the arrow, which has no direction of its own, stands before a message: so each is shown in
    the direction in which its own words are read.
    """
    return "\n".join(_marked(message["role"], message["content"].strip()) for message in messages)


def shortened(messages: Sequence[Message]) -> str:
    """`text_of` the first messages, each cut to one line."""
    lines = []
    for message in messages[:TURNS]:
        words = " ".join(message["content"].split())
        lines.append(_marked(message["role"], words if len(words) <= WIDTH else words[: WIDTH - 1] + "…"))
    more = len(messages) - TURNS
    return "\n".join([*lines, *([f"… {more} more messages"] if more > 0 else [])])


def _marked(role: str, text: str) -> str:
    return f"→ {text}" if role == "assistant" else text


def tabulated(cells: Mapping[str, Iterable[str]]) -> list[str]:
    """A table by its columns, numbers to the right, each row in one line of at most 100 columns."""
    columns = []
    for place, (name, values) in enumerate(cells.items(), start=1):
        texts = [_widened(value) for value in (name, *values)]
        width = min(max(map(len, texts)), COLUMNS if place == len(cells) else CELL)
        number = all(re.fullmatch(r"[-#]?[\d,.]*%?", text) for text in texts[1:])
        cut = [_cut(text, width) for text in texts]
        columns.append([text.rjust(width) if number else text.ljust(width) for text in cut])
    rows = ["  ".join(row) for row in zip(*columns, strict=True)]
    return [_cut(" " * MARGIN + row, COLUMNS).rstrip().replace("\0", "") for row in rows]


def wrapped(text: str, margin: int = 0) -> list[str]:
    """A text in lines of at most 100 columns."""
    wide = _widened(text)
    # One column is left for the second half of a wide character, which a break may part from it.
    lines = textwrap.wrap(wide, COLUMNS - margin - 1, break_on_hyphens=False)
    return [" " * margin + line.replace("\0", "") for line in lines]


def _widened(text: str) -> str:
    """A text as one line without control characters, with a NUL after each character of two columns."""
    plain = "".join(" " if unicodedata.category(each) in ("Cc", "Cs") else each for each in text)
    wide = (each + "\0" * (unicodedata.east_asian_width(each) in "WF") for each in " ".join(plain.split()))
    return "".join(wide)


def _cut(wide: str, columns: int) -> str:
    return wide if len(wide) <= columns else wide[: columns - 2] + "…"
