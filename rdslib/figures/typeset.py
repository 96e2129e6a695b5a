"""Tables as a page shows them: set by pandas as HTML for a notebook, as Markdown and as LaTeX."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from rdslib.figures.base import distinct

# What stands for a missing number, and before a negative one.
DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
# Colours follow the page's, so that a notebook's dark theme shows the table as well.
CSS = """<style>
.rds{display:flex;flex-wrap:wrap;gap:2rem;align-items:flex-start;overflow-x:auto}
.rds table{border-collapse:collapse;border-top:2px solid;border-bottom:2px solid;font-size:.9rem;margin:0}
.rds caption{text-align:left;padding-bottom:.5rem;white-space:pre-line;position:sticky;left:0;max-width:85vw}
.rds th,.rds td{padding:.2rem .6rem;vertical-align:top;background:none;border:0}
.rds table :is(th,td):not(.n){text-align:left}
.rds td{max-width:22rem}
.rds thead th{border-bottom:1px solid}
.rds .n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.rds small{display:block;font-size:.72rem;font-weight:normal}
.rds-notes{font-size:.8rem;margin:.5rem 0 0}
</style>"""
# Makes tables sortable; it can stand on a page more than once.
SORT = f"<script>{Path(__file__).with_name('sort.js').read_text(encoding='utf-8')}</script>"
_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", DASH: "--", MINUS: "$-$",
    "\N{NO-BREAK SPACE}": "~", "\N{MIDDLE DOT}": r"$\cdot$", "<": r"\textless{}", ">": r"\textgreater{}",
})  # fmt: skip


class Cell(NamedTuple):
    """A cell: its text, the small print under it, and whether it is bold."""

    text: str
    small: str = ""
    bold: bool = False


@dataclass(frozen=True)
class Part:
    """A table: its title, the lines below that, a header and rows."""

    title: str
    details: Sequence[str]
    header: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]

    @property
    def numeric(self) -> list[bool]:
        """Of each column, whether all its cells are numbers: such columns are set to the right."""
        number = re.compile(rf"[+{MINUS}]?[\d,]*\.?\d*|{DASH}").fullmatch
        return [all(number(cell.text) for cell in column) for column in zip(*self.rows, strict=True)]

    def frame(self, form: Callable[[Cell], str]) -> pd.DataFrame:
        """The cells as text of one form."""
        return pd.DataFrame(
            [[form(cell) for cell in row] for row in self.rows], columns=[*map(form, self.header)]
        )


@dataclass(frozen=True)
class Tables:
    """Tables side by side, and the notes under them."""

    parts: Sequence[Part]
    notes: Sequence[str]

    def files(self) -> dict[str, bytes]:
        """The tables as Markdown and LaTeX."""
        return {"md": self.markdown().encode(), "tex": self.latex().encode()}

    def _repr_html_(self) -> str:
        tables = "".join(map(_styled, self.parts))
        small = "".join(f'<p class="rds-notes">{html.escape(note)}</p>' for note in self._lines)
        return f'{CSS}<div class="rds mathjax_ignore tex2jax_ignore">{tables}</div>{small}{SORT}'

    def markdown(self) -> str:
        """The tables as Markdown, one after another."""
        blocks = []
        for part in self.parts:
            align = ["right" if number else "left" for number in part.numeric]
            table = part.frame(_markdown).to_markdown(index=False, colalign=align, disable_numparse=True)
            blocks += [f"**{_marked(part.title)}.** {_marked('. '.join(part.details))}.", table]
        return "\n\n".join([*blocks, *map(_marked, self._lines)]) + "\n"

    def latex(self) -> str:
        """The tables as LaTeX, one after another; they need the package booktabs."""
        blocks = ["% Needs \\usepackage{booktabs}."]
        for part in self.parts:
            styler = part.frame(_latex).style.hide(axis="index")
            columns = "".join("r" if number else "l" for number in part.numeric)
            about = ". ".join(part.details).translate(_LATEX)
            head = rf"\noindent\textbf{{{part.title.translate(_LATEX)}.}} {about}.\par\smallskip"
            blocks.append(f"{head}\n{styler.to_latex(column_format=columns, hrules=True)}".rstrip())
        small = [rf"{{\footnotesize {note.translate(_LATEX)}\par}}" for note in self._lines]
        return "\n\n".join([*blocks, *small]) + "\n"

    @property
    def _lines(self) -> list[str]:
        return distinct(filter(None, self.notes))


def _styled(part: Part) -> str:
    """A table as HTML, its colours and sizes by classes."""
    frame = part.frame(_html)
    heads: list[Any] = [
        {"selector": f"th.col{place}", "props": "text-align: right"}
        for place, number in enumerate(part.numeric)
        if number
    ]
    classes = pd.DataFrame([["n" if number else "" for number in part.numeric]] * len(frame))
    caption = "\n".join([f"<strong>{html.escape(part.title)}</strong>", *map(html.escape, part.details)])
    # Columns go by their number: two may have one name.
    name: Any = frame.columns.tolist().__getitem__
    styler = frame.set_axis(range(len(part.header)), axis=1).style.hide(axis="index")
    styler = styler.format_index(name, axis="columns").set_caption(caption).set_table_styles(heads)
    # Named by what it holds, so that styles of other tables on the page are not its styles.
    digest = hashlib.sha256(frame.to_csv().encode()).hexdigest()[:8]
    return styler.set_td_classes(classes).set_uuid(digest).to_html()


def _html(cell: Cell) -> str:
    text = html.escape(cell.text)
    text = f"<strong>{text}</strong>" if cell.bold else text
    return text + (f"<small>{html.escape(cell.small)}</small>" if cell.small else "")


def _markdown(cell: Cell) -> str:
    text = f"**{_marked(cell.text)}**" if cell.bold else _marked(cell.text)
    return f"{text} ({_marked(cell.small)})" if cell.small else text


def _marked(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]$~&#])", r"\\\1", text)


def _latex(cell: Cell) -> str:
    text = cell.text.translate(_LATEX)
    text = rf"\textbf{{{text}}}" if cell.bold else text
    return rf"{text} {{\scriptsize ({cell.small.translate(_LATEX)})}}" if cell.small else text
