"""A table as blocks of cells, and its forms as text: HTML, Markdown and LaTeX."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# What stands for a missing number, and before a negative one.
DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"

# Colours follow the page's own, so that a notebook's dark theme shows the table as well.
_CSS = """
.rds{display:flex;flex-wrap:wrap;gap:2rem;align-items:flex-start;overflow-x:auto}
.rds table{border-collapse:collapse;border-top:2px solid;border-bottom:2px solid;font-size:.9rem;margin:0}
.rds caption{text-align:left;padding-bottom:.5rem;white-space:pre-line}
.rds caption{position:sticky;left:0;max-width:85vw}
.rds th,.rds td{padding:.2rem .6rem;text-align:left;vertical-align:top;background:none;border:0}
.rds td{max-width:22rem}
.rds thead th{border-bottom:1px solid}.rds tr.rule>*{border-top:1px solid}
.rds .n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.rds tbody th{font-weight:normal}.rds small{display:block;font-size:.72rem;font-weight:normal}
.rds-notes{font-size:.8rem;margin:.5rem 0 0;white-space:pre-line}
"""


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, and small print under it."""

    text: str
    small: str = ""
    bold: bool = False


@dataclass(frozen=True)
class Block:
    """A table: its title, the lines of `details` under it, its header, rows of cells, the widths of its
    columns in inches, and the rows that have a thin rule before them.
    """

    title: str
    details: str
    header: Sequence[str | Cell]
    rows: Sequence[Sequence[str | Cell]]
    widths: Sequence[float]
    rules: Sequence[int] = ()

    @property
    def width(self) -> float:
        """Inches from end to end."""
        return sum(self.widths)

    @property
    def numeric(self) -> list[bool]:
        """Of each column, whether all its cells are numbers: such columns are set to the right."""
        columns = zip(*self.rows, strict=True) if self.rows else [() for _ in self.header]
        return [all(_is_number(cell_of(cell).text) for cell in column) for column in columns]


def cell_of(cell: str | Cell) -> Cell:
    """A cell, from one or from its text."""
    return Cell(cell) if isinstance(cell, str) else cell


def as_html(blocks: Sequence[Block], notes: Sequence[str]) -> str:
    """Tables as HTML for a notebook or a page: side by side where there is room, notes under them."""
    tables = "".join(_html_table(block) for block in blocks)
    small = "".join(f'<p class="rds-notes">{html.escape(note)}</p>' for note in notes)
    return f'<style>{_CSS}</style><div class="rds">{tables}</div>{small}'


def _html_table(block: Block) -> str:
    def line(row: Sequence[str | Cell], head: bool, rule: bool) -> str:
        cells = []
        for place, (each, number) in enumerate(zip(map(cell_of, row), block.numeric, strict=True)):
            text = html.escape(each.text)
            text = f"<strong>{text}</strong>" if each.bold else text
            text += f"<small>{html.escape(each.small)}</small>" if each.small else ""
            scope = ' scope="col"' if head else ' scope="row"' if place == 0 else ""
            tag, kind = "th" if scope else "td", ' class="n"' if number else ""
            cells.append(f"<{tag}{scope}{kind}>{text}</{tag}>")
        kind = ' class="rule"' if rule else ""
        return f"<tr{kind}>{''.join(cells)}</tr>"

    rows = "".join(line(row, False, place in block.rules) for place, row in enumerate(block.rows))
    caption = f"<strong>{html.escape(block.title)}</strong>\n{html.escape(block.details)}"
    head = line(block.header, True, False)
    return f"<table><caption>{caption}</caption><thead>{head}</thead><tbody>{rows}</tbody></table>"


def as_markdown(blocks: Sequence[Block], notes: Sequence[str]) -> str:
    """Tables as Markdown, one after another."""
    parts = []
    for block in blocks:
        lines = [_markdown_row(block.header), _bar("---:" if number else "---" for number in block.numeric)]
        lines += [_markdown_row(row) for row in block.rows]
        about = ". ".join(block.details.splitlines())
        parts.append(f"**{block.title}.** {_marked(about)}.\n\n" + "\n".join(lines))
    return "\n\n".join([*parts, *map(_marked, notes)]) + "\n"


def _markdown_row(row: Sequence[str | Cell]) -> str:
    cells = []
    for each in map(cell_of, row):
        text = f"**{_marked(each.text)}**" if each.bold else _marked(each.text)
        cells.append(f"{text} ({_marked(each.small)})" if each.small else text)
    return _bar(cells)


def _bar(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _marked(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", text)


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", DASH: "--", MINUS: "$-$",
    "\N{NO-BREAK SPACE}": "~", "\N{MIDDLE DOT}": r"$\cdot$", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def as_latex(blocks: Sequence[Block], notes: Sequence[str]) -> str:
    """Tables as LaTeX, one after another; they need the package booktabs."""
    parts = ["% Needs \\usepackage{booktabs}."]
    for block in blocks:
        columns = "".join("r" if number else "l" for number in block.numeric)
        lines = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", _latex_row(block.header), "\\midrule"]
        for place, row in enumerate(block.rows):
            # The rule under the header stands before the first row already.
            lines += ["\\midrule"] if place in block.rules and place else []
            lines.append(_latex_row(row))
        about = ". ".join(block.details.splitlines())
        head = f"\\noindent\\textbf{{{_latex(block.title)}.}} {_latex(about)}.\\par\\smallskip"
        parts.append("\n".join([head, *lines, "\\bottomrule", "\\end{tabular}"]))
    parts += [f"{{\\footnotesize {_latex(note)}\\par}}" for note in notes]
    return "\n\n".join(parts) + "\n"


def _latex_row(row: Sequence[str | Cell]) -> str:
    cells = []
    for each in map(cell_of, row):
        text = f"\\textbf{{{_latex(each.text)}}}" if each.bold else _latex(each.text)
        cells.append(f"{text} {{\\scriptsize ({_latex(each.small)})}}" if each.small else text)
    return " & ".join(cells) + r" \\"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _is_number(text: str) -> bool:
    return text in ("", DASH) or text.lstrip(f"+{MINUS}").replace(",", "").replace(".", "").isdigit()
