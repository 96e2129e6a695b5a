"""Tables as HTML, Markdown and LaTeX: the same cells in each, whatever they hold."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdslib.figures import charts as figures
from rdslib.figures import published
from rdslib.figures.blocks import MINUS, Block, Cell, as_html, as_latex, as_markdown

TEXT = st.text(st.sampled_from("aZ9 .,-_|*&%$#{}<>\\~^`[]()\"'é\N{EN DASH}\N{MINUS SIGN}"), max_size=12).map(
    str.strip
)
CELL = st.one_of(TEXT, st.builds(Cell, TEXT, TEXT, st.booleans()))


@st.composite
def blocks(draw):
    columns = draw(st.integers(1, 4))
    row = st.lists(CELL, min_size=columns, max_size=columns)
    rows = draw(st.lists(row, max_size=4))
    return Block(draw(TEXT), draw(TEXT), draw(row), rows, [1.0] * columns, draw(st.lists(st.integers(0, 3))))


def parts(cell):
    return (cell, "") if isinstance(cell, str) else (cell.text, cell.small)


class Cells(HTMLParser):
    """The cells of the tables of a page: text and small print."""

    def __init__(self):
        super().__init__()
        self.rows, self.inside, self.small = [], False, False

    def handle_starttag(self, tag, attributes):
        assert tag in ("style", "div", "table", "caption", "thead", "tbody", "tr", "th", "td", "strong",
                       "small", "p"), tag  # fmt: skip
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append(["", ""])
            self.inside = True
        self.small = self.small or tag == "small"

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("th", "td")
        self.small = self.small and tag != "small"

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1][self.small] += data


@given(block=blocks(), notes=st.lists(TEXT, max_size=2))
def test_html_has_the_cells_and_nothing_that_they_say_is_a_tag(block, notes):
    page = Cells()
    page.feed(as_html([block], notes))
    assert [[tuple(cell) for cell in row] for row in page.rows] == [
        [parts(cell) for cell in row] for row in (block.header, *block.rows)
    ]


def unescaped(text):
    return re.sub(r"\\(.)", r"\1", text)


@given(block=blocks())
def test_markdown_has_as_many_cells_in_every_row(block):
    lines = as_markdown([block], []).split("\n\n", 1)[1].rstrip("\n").split("\n")
    assert len(lines) == 2 + len(block.rows)
    for line, row in zip([lines[0], *lines[2:]], [block.header, *block.rows], strict=True):
        cells = re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]
        assert len(cells) == len(row)


@given(block=blocks())
def test_latex_has_as_many_cells_in_every_row_and_balanced_braces(block):
    text = as_latex([block], [])
    rows = [line for line in text.split("\n") if line.endswith(r" \\")]
    assert len(rows) == 1 + len(block.rows)
    for line, row in zip(rows, [block.header, *block.rows], strict=True):
        assert len(re.findall(r"(?<!\\)&", line)) == len(row) - 1
        bare = re.sub(r"\\[{}]", "", line)
        assert bare.count("{") == bare.count("}")
        assert not re.search(r"(?<!\\)[%#_~^]", bare.replace("~", "", 0))


def test_a_table_of_the_paper_reads_the_same_in_every_form():
    figure = figures.tab2_multi_task(published.tab2_multi_task())
    page = figure._repr_html_()
    assert "<strong>56.0</strong>" in page
    assert 'class="n"' in page
    text = as_markdown(figure.blocks, figure.notes)
    assert "| Embed (NV) | 50.6 | 28.7 | 44.4 | **56.0** |" in text
    assert "| --- | ---: |" in text
    latex = as_latex(figure.blocks, figure.notes)
    assert r"Embed (NV) & 50.6 & 28.7 & 44.4 & \textbf{56.0} &" in latex
    assert "\\begin{tabular}{lrrrrrrrr}" in latex
    assert figure._repr_png_ is None


@pytest.mark.parametrize(("text", "number"), [("1.5", True), (f"{MINUS}3", True), ("1,024", True), ("", True),
                                              ("n = 3", False), ("1 to 2", False)])  # fmt: skip
def test_columns_of_numbers_stand_to_the_right(text, number):
    assert Block("", "", ["a"], [[text], ["7"]], [1.0]).numeric == [number]
