"""Tables as HTML, Markdown and LaTeX: the same cells in each, whatever they hold; the best in bold."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdslib.figures import FIGURES, draw, key_numbers
from rdslib.figures.typeset import DASH, MINUS, Cell, Part, Tables
from tests.figures.made_up import both, made_up_ablation, made_up_tasks

TEXT = st.text(st.sampled_from("aZ9 .,-_|*&%$#{}<>\\~^`[]()\"'é\N{EN DASH}\N{MINUS SIGN}"), max_size=12).map(
    str.strip
)
CELL = st.builds(Cell, TEXT, TEXT, st.booleans())


@st.composite
def parts(draw):
    columns = draw(st.integers(1, 4))
    row = st.lists(CELL, min_size=columns, max_size=columns)
    rows = draw(st.lists(row, min_size=1, max_size=4))
    return Part(draw(TEXT), [draw(TEXT)], draw(row), rows)


class Cells(HTMLParser):
    """The cells of the tables of a page: text and small print."""

    def __init__(self):
        super().__init__()
        self.rows, self.bold, self.inside, self.small = [], [], False, False

    def handle_starttag(self, tag, attributes):
        assert tag in ("style", "script", "div", "table", "caption", "thead", "tbody", "tr", "th", "td",
                       "strong", "small", "p"), tag  # fmt: skip
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


def cells_of(tables):
    page = Cells()
    page.feed(tables._repr_html_())
    return page.rows


@settings(deadline=None, max_examples=60)
@given(part=parts(), notes=st.lists(TEXT, max_size=2))
def test_html_has_the_cells_and_nothing_that_they_say_is_a_tag(part, notes):
    rows = cells_of(Tables([part], notes))
    assert rows == [[[cell.text, cell.small] for cell in row] for row in (part.header, *part.rows)]


@settings(deadline=None, max_examples=60)
@given(part=parts())
def test_markdown_and_latex_have_as_many_cells_in_every_row(part):
    lines = Tables([part], []).markdown().split("\n\n", 1)[1].rstrip("\n").split("\n")
    assert len(lines) == 2 + len(part.rows)
    for line, row in zip([lines[0], *lines[2:]], [part.header, *part.rows], strict=True):
        cells = [
            re.sub(r"\\(.)", r"\1", cell).strip() for cell in re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]
        ]
        assert len(cells) == len(row)
        for cell, written in zip(row, cells, strict=True):
            if not (cell.bold or cell.small or "\\" in cell.text):
                assert written == cell.text
    rows = [line for line in Tables([part], []).latex().split("\n") if line.endswith(r" \\")]
    assert len(rows) == 1 + len(part.rows)
    for line, row in zip(rows, [part.header, *part.rows], strict=True):
        assert len(re.findall(r"(?<!\\)&", line)) == len(row) - 1
        bare = re.sub(r"\\[{}]", "", line)
        assert bare.count("{") == bare.count("}")
        assert not re.search(r"(?<!\\)[%#_^]", bare)


@pytest.mark.parametrize(("text", "number"), [("1.5", True), (f"{MINUS}3", True), ("1,024", True), ("", True),
                                              ("n = 3", False), ("1 to 2", False)])  # fmt: skip
def test_columns_of_numbers_stand_to_the_right(text, number):
    part = Part("", [], [Cell("a")], [[Cell(text)], [Cell("7")]])
    assert part.numeric == [number]
    assert ('class="data row0 col0 n' in Tables([part], [])._repr_html_()) == number


def grid(tables, place=-1):
    """The rows of a table by their first cell, rows of one name in turn."""
    rows = {}
    for name, *cells in tables.parts[place].rows:
        rows.setdefault(name.text, []).extend(cells)
    return rows


def shown(cells):
    return [cell.text for cell in cells]


def bold(cells):
    return [cell.bold for cell in cells]


def test_a_table_of_the_paper_reads_the_same_in_every_form():
    tables = draw("tab2_multi_task", FIGURES["tab2_multi_task"].published())
    text = re.sub(" +", " ", tables.markdown())
    assert "| Embed (NV) | 50.6 | 28.7 | 44.4 | 56.0 |" in text
    latex = tables.latex()
    assert r"Embed (NV) & 50.6 & 28.7 & 44.4 & 56.0 &" in latex
    assert "\\begin{tabular}{lrrrrrrrr}" in latex
    assert shown(grid(tables)["RDS+"]) == [DASH] * 7 + ["50.9"]
    # What has an average alone is named once.
    assert text.count("IFD from 5.8M on each task") == 1
    assert "Embed (NV) from 5.8M on Squad, Embed (NV) from 5.8M on AlpacaEval" in text
    assert "RDS+ from 5.8M on MMLU" not in text


@pytest.mark.parametrize("name", [name for name in FIGURES if name.startswith("tab") and name[3] in "1236"])
def test_no_column_with_a_gap_has_a_winner(name):
    table = FIGURES[name].published()
    table = table if "task" in table else table.assign(task="Score")
    tables = draw(name, table)
    columns = [[cell.bold for cell in column] for column in zip(*tables.parts[0].rows, strict=True)][1:]
    pools = sorted(table["pool_size"].unique())
    parts = [table[table["pool_size"] == pool] for pool in pools] if name == "tab1_single_task" else [
        table[table["task"] == task] for task in dict.fromkeys(table["task"])]  # fmt: skip
    assert len(columns) == len(parts)
    for bolds, rows in zip(columns, parts, strict=True):
        gap = (rows["score"].isna() & (rows["note"] == "no source at hand")).any()
        assert any(bolds) != gap
    if name == "tab2_multi_task":
        assert key_numbers(table)["method"].tolist() == ["RDS+"]
        assert "rank" not in key_numbers(table), "nothing is ranked among gaps"


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_best_of_a_column_and_pool_is_bold(better):
    table = made_up_tasks(better)
    # Another method is best on one task from one pool.
    other = (table["method"] == "random") & (table["pool_size"] == 2000) & (table["task"] == "Squad")
    table.loc[other, "score"] = 0.5 if better == "lower" else 90.25
    rows = grid(draw("tab1_single_task", table))
    # Each method has a row in both groups, of three columns.
    assert bold(rows["RDS+"]) == [True, True, True, True, False, True]
    assert bold(rows["Random (unbal.)"]) == [False, False, False, False, True, False]
    assert shown(rows["Random (unbal.)"])[4] == ("0.500" if better == "lower" else "90.2")
    for name in ("IFD", "LESS", "Embed (MiniLM)", "Top-PPL", "Mid-PPL", "Random (bal.)"):
        assert not any(bold(rows[name]))


def test_table_1_says_what_is_missing_and_how_many_were_tested():
    tables = draw("tab1_single_task", made_up_tasks("lower"))
    assert len(grid(tables)["LESS"]) == 3, "without any number from the second pool: named below"
    assert [cell.small for cell in tables.parts[0].header] == ["", "n = 12", "n = 16", "n = 28"]
    assert "Missing here (not run): LESS from 2k." in tables.notes
    assert "0.889 to 0.911" in tables.markdown()
    one_task = made_up_tasks("lower")
    gone = (one_task["method"] == "ifd") & (one_task["task"] == "Squad")
    one_task[["score", "low", "high"]] = one_task[["score", "low", "high"]].mask(gone)
    assert "IFD from 600 on Squad" in " ".join(draw("tab1_single_task", one_task).notes)


def test_table_1_of_the_paper_has_averages_by_pool():
    table = both(FIGURES["tab1_single_task"].published(), made_up_tasks("higher"))
    tables = draw("tab1_single_task", table)
    rows = grid(tables, 0)
    assert [cell.text for cell in tables.parts[0].header] == ["Method", "From 200k", "From 5.8M"]
    assert shown(rows["RDS+"]) == ["46.4", "50.5"]
    assert shown(rows["LESS"]) == ["44.2", DASH]
    assert [name for name, cells in rows.items() if any(bold(cells))] == ["RDS+"]


def test_table_6_shows_differences_from_rds():
    tables = draw("tab6_rds_ablation", made_up_ablation())
    rows = grid(tables)
    assert [cell.small for cell in tables.parts[0].header] == ["", "n = 28", "below 0 is better"]
    assert shown(rows["RDS+"]) == ["0.920", DASH]
    assert shown(rows["RDS+, uniform mean-pool"]) == ["0.910", f"{MINUS}0.010"]
    assert shown(rows["RDS+, EOS token only"]) == ["0.930", "+0.010"]
    assert "RDS+, label only" not in rows
    assert [name for name, cells in rows.items() if bold(cells)[0]] == ["RDS+, uniform mean-pool"]
    assert rows["RDS+, uniform mean-pool"][1].small == f"{MINUS}0.014 to {MINUS}0.005"
    assert "Missing here (not run): RDS+, label only." in tables.notes
    higher = draw("tab6_rds_ablation", made_up_ablation("higher"))
    assert bold(grid(higher)["RDS+, prompt only"])[0]
    assert higher.parts[0].header[2].small == "above 0 is better"
    # The paper has no differences, so there is no column for them.
    paper = grid(draw("tab6_rds_ablation", FIGURES["tab6_rds_ablation"].published()))
    assert shown(paper["RDS+"]) == ["46.4"]
    assert bold(paper["RDS+"]) == [True]


def test_tables_4_and_5_count():
    splits = pd.DataFrame([
        {"origin": "measured", "task": "GSM8k", "query": 8, "test": 1040, "note": "made up"},
        {"origin": "measured", "task": "Codex", "query": math.nan, "test": math.nan, "note": "not run"},
    ])  # fmt: skip
    rows = grid(draw("tab4_splits", both(FIGURES["tab4_splits"].published(), splits)))
    assert shown(rows["GSM8k"]) == ["8", "1,040", "made up"]
    assert shown(rows["Codex"]) == ["", "", "not run"]
    tables = draw("tab5_pool_sources", FIGURES["tab5_pool_sources"].published())
    assert shown(grid(tables, 0)["Total"]) == ["326,154", "5,817,792"]
    assert shown(grid(tables, 1)["Total"]) == ["939,344", "4,783,043"]
    assert len(tables.notes) == 2
