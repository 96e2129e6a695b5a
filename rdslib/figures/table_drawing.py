"""Tables, drawn as figures: cells in columns of given widths, under rules."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rdslib.figures.blocks import Block, Cell, as_html, cell_of
from rdslib.figures.style import GREY, Drawing


class TableFigure(Drawing):
    """Tables as a figure, which a notebook shows as HTML."""

    def __init__(self, blocks: Sequence[Block], notes: Sequence[str], size: tuple[float, float]) -> None:
        super().__init__(figsize=size)
        self.blocks, self.notes = blocks, notes

    # Of two forms a notebook would store both.
    _repr_png_ = None  # type: ignore[assignment]

    def _repr_html_(self) -> str:
        return as_html(self.blocks, self.notes)


def draw_tables(blocks: Sequence[Block], notes: Sequence[str]) -> TableFigure:
    """Tables side by side, with rules above, under the header, before `rules` and below.

    Columns whose cells are all numbers are set to the right; long text wraps in its column.
    """
    gap, margin, line, print_line = 0.45, 0.25, 0.165, 0.13
    width = 2 * margin + sum(block.width for block in blocks) + gap * (len(blocks) - 1)
    notes = [note for note in dict.fromkeys(notes) if note]
    small = [part for note in notes for part in textwrap.wrap(note, int(width * 16))]
    details = [
        [part for text in block.details.splitlines() for part in textwrap.wrap(text, int(block.width * 14.5))]
        for block in blocks
    ]
    head = 0.385 + line * max(map(len, details))
    cells = [
        [
            [_wrapped(cell, size) for cell, size in zip(row, block.widths, strict=True)]
            for row in (block.header, *block.rows)
        ]
        for block in blocks
    ]
    heights = [
        [max(line * len(lines) + print_line * bool(cell.small) for cell, lines in row) + 0.09 for row in rows]
        for rows in cells
    ]
    height = 2 * margin + head + max(map(sum, heights)) + (0.15 * len(small) + 0.1 if small else 0)
    figure = TableFigure(blocks, notes, (width, height))
    figure.set_layout_engine("none")
    # One set of axes over the whole figure, in inches, so that every place below is a length.
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    left, top = margin, height - margin
    for block, rows, tall, about in zip(blocks, cells, heights, details, strict=True):
        axes.text(left, top, block.title, weight="bold", fontsize=10, va="top")
        for place, words in enumerate(about):
            axes.text(left, top - 0.25 - line * place, words, color=GREY, fontsize=8.5, va="top")
        y = top - head
        rules = [(y, 1.1)]
        for index, row in enumerate(rows):
            if index == 1 or index - 1 in block.rules:
                rules.append((y, 0.6))
            x = left
            for (cell, lines), size, to_right in zip(row, block.widths, block.numeric, strict=True):
                # Words stand further from the numbers of the column before them than from the rule's end.
                edge = x + (size - 0.04 if to_right else 0.04 if x == left else 0.2)
                side = "right" if to_right else "left"
                for place, words in enumerate(lines):
                    axes.text(edge, y - 0.17 - line * place, words, ha=side, va="baseline", fontsize=8.5,
                              weight="bold" if index == 0 or cell.bold else "normal")  # fmt: skip
                axes.text(edge, y - 0.145 - line * len(lines), cell.small, ha=side, va="baseline",
                          fontsize=6.5, color=GREY)  # fmt: skip
                x += size
            y -= tall[index]
        for level, thickness in [*rules, (y, 1.1)]:
            axes.plot([left, left + block.width], [level, level], color="#333333", linewidth=thickness)
        left += block.width + gap
    axes.text(margin, margin, "\n".join(small), color=GREY, fontsize=7.5, va="bottom", linespacing=1.35)
    return figure


def _wrapped(cell: str | Cell, width: float) -> tuple[Cell, list[str]]:
    """A cell, and the lines of its text in a column of `width` inches."""
    cell = cell_of(cell)
    return cell, textwrap.wrap(cell.text, max(4, int(width * 13.5))) or [""]
