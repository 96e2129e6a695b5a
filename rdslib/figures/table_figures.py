"""One function a table of the paper: a tidy table in, a matplotlib figure out. See `figures.py`.

A score is set with its interval in small print under it, the best of its column in bold; a missing one
is a dash, and is named under the table with its `note` as the reason.
"""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.figure import Figure

from rdslib.figures import style as drawing
from rdslib.figures.blocks import DASH, MINUS, Block, Cell
from rdslib.figures.published import AVERAGE, SCORE
from rdslib.figures.style import by_origin, human, in_order, method_name, span, styled
from rdslib.figures.table_drawing import draw_tables

NAME_WIDTH, SCORE_WIDTH = 1.45, 1.0


@styled
def tab1_single_task(table: pd.DataFrame) -> Figure:
    """Table 1: a method's score on each task, with a selection for that task, and the average.

    Columns origin, method, pool_size, task (AVERAGE for the average), budget, score, low, high, n, metric,
    better, note. A group of rows a pool; where only averages are known, a column a pool instead.
    """
    return _by_task(table, "Table 1")


@styled
def tab2_multi_task(table: pd.DataFrame) -> Figure:
    """Table 2: a method's score on each task, with one selection for all tasks, and the average.

    Columns as in `tab1_single_task`.
    """
    return _by_task(table, "Table 2")


@styled
def tab3_second_pool(table: pd.DataFrame) -> Figure:
    """Table 3: Table 2 with another pool. Columns as in `tab1_single_task`."""
    return _by_task(table, "Table 3")


def _by_task(table: pd.DataFrame, name_of_table: str) -> Figure:
    if table.empty:
        return drawing.nothing(name_of_table)
    by = ["origin", "method", "pool_size"]
    known = table[table["score"].notna()]
    begun = {tuple(row) for row in known[by].to_numpy()}
    by_task = {tuple(row) for row in known.loc[known["task"] != AVERAGE, by].to_numpy()}

    def name(row: pd.Series) -> str:
        # A method that was not run at all is named once, not for every task.
        whole = f"{method_name(row['method'])} from {human(row['pool_size'])}"
        if tuple(row[by]) not in begun:
            return whole
        return f"{whole} on {row['task'] if tuple(row[by]) in by_task else 'each task'}"

    blocks = [_single_task_block(title, rows) for title, rows in by_origin(table)]
    marks = f"Bold: the best of its column among methods that had the same pool.{_small(table)}"
    return draw_tables(blocks, [marks, *drawing.notes(table, name)])


def _single_task_block(title: str, rows: pd.DataFrame) -> Block:
    averages = rows[rows["task"] == AVERAGE]
    pools = "From " + rows["pool_size"].map(human)
    if len(averages) == len(rows):
        rows = rows.assign(column=pools, group="")
        columns = drawing.distinct(rows.sort_values("pool_size")["column"])
    else:
        rows = rows.assign(column=rows["task"], group=pools)
        columns = [task for task in drawing.distinct(rows["task"]) if task != AVERAGE]
        columns += [AVERAGE] if len(averages) else []
    header = [Cell("Method"), *(Cell(column, _n(rows[rows["column"] == column])) for column in columns)]
    digits = _digits(rows)
    cells: list[list[Cell]] = []
    rules = []
    for group in drawing.distinct(rows.sort_values("pool_size")["group"]):
        part = rows[rows["group"] == group]
        if group:
            rules.append(len(cells))
            cells.append([Cell(group, bold=True), *(Cell("") for _ in columns)])
        of_column = {column: _score_cells(part[part["column"] == column], digits) for column in columns}
        cells += [
            [Cell(method_name(method)), *(of_column[column].get(method, Cell(DASH)) for column in columns)]
            for method in in_order(part["method"])
        ]
    about = _metric(averages if len(averages) else rows)
    if len(averages) < len(rows) and (averages["metric"] == SCORE).any():
        about = "Score of each task, in percent, and the mean (higher is better)"
    details = f"{about}\n{span(rows['budget'])} samples selected"
    return Block(title, details, header, cells, [NAME_WIDTH, *(SCORE_WIDTH for _ in columns)], rules)


@styled
def tab4_splits(table: pd.DataFrame) -> Figure:
    """Table 4: how many query and test samples each task has. Columns origin, task, query, test, note."""
    if table.empty:
        return drawing.nothing("Table 4")
    blocks = []
    for title, rows in by_origin(table):
        header, widths = ["Task", "Queries", "Test"], [1.25, 0.85, 0.85]
        notes = rows["note"].fillna("").astype(str)
        cells = [[str(row["task"]), _count(row["query"]), _count(row["test"])] for _, row in rows.iterrows()]
        if notes.any():
            header, widths = [*header, "Note"], [*widths, 3.1]
            cells = [[*cell, str(note)] for cell, note in zip(cells, notes, strict=True)]
        blocks.append(Block(title, "Query and test samples of each task", header, cells, widths))
    return draw_tables(blocks, [])


@styled
def tab5_pool_sources(table: pd.DataFrame) -> Figure:
    """Table 5: the sources of each pool. Columns origin, pool, source, in_mixture, count and, if any, note.

    `in_mixture` is NaN, or absent, where there is no released mixture; its column is then left out.
    """
    if table.empty:
        return drawing.nothing("Table 5")
    blocks = []
    for title, part in by_origin(table):
        for pool, rows in part.groupby("pool", sort=False):
            columns = {"In the pool": rows["count"]}
            if "in_mixture" in rows and rows["in_mixture"].notna().any():
                columns = {"In the mixture": rows["in_mixture"], "In the pool": rows["count"]}
            cells = [
                [str(source), *(_count(values.iloc[index]) for values in columns.values())]
                for index, source in enumerate(rows["source"])
            ]
            cells.append(["Total", *(_count(values.sum()) for values in columns.values())])
            widths = [2.05, *(1.2 for _ in columns)]
            blocks.append(Block(title, f"{pool} pool", ["Source", *columns], cells, widths, [len(rows)]))
    return draw_tables(blocks, drawing.distinct(table["note"].dropna()) if "note" in table else [])


@styled
def tab6_rds_ablation(table: pd.DataFrame) -> Figure:
    """Table 6: what RDS+ pools over.

    Columns origin, method, pool_size, budget, score, low, high, n, metric, better, note and, if any,
    less_rds, less_rds_low, less_rds_high: the score less that of RDS+, NaN for RDS+ itself.
    """
    if table.empty:
        return drawing.nothing("Table 6")
    blocks = []
    for title, rows in by_origin(table):
        digits = _digits(rows)
        header, widths = [Cell("Variant"), Cell("Score", _n(rows))], [1.95, 1.2]
        columns = [_score_cells(rows, digits)]
        if "less_rds" in rows and rows["less_rds"].notna().any():
            way = "below" if (rows["better"] == "lower").all() else "above"
            header.append(Cell("Difference from RDS+", f"{way} 0 is better"))
            widths.append(1.65)
            columns.append({str(row["method"]): _difference_cell(row, digits) for _, row in rows.iterrows()})
        cells = [
            [Cell(method_name(method)), *(column[method] for column in columns)]
            for method in in_order(rows["method"])
        ]
        details = f"{_metric(rows)}\n{span(rows['budget'])} samples selected from {span(rows['pool_size'])}"
        blocks.append(Block(title, details, header, cells, widths))
    notes = drawing.notes(table, lambda row: method_name(row["method"]))
    return draw_tables(blocks, [f"Bold: the best.{_small(table)}", *notes])


def _score_cells(rows: pd.DataFrame, digits: int) -> dict[str, Cell]:
    """The cell of each method in one column, the best as printed in bold."""
    known = rows["score"].dropna()
    best = known.min() if (rows["better"] == "lower").all() else known.max()
    best_shown = "" if known.empty else _number(best, digits)
    cells = {}
    for _, row in rows.iterrows():
        shown = _number(row["score"], digits)
        interval = _interval(row["low"], row["high"], digits)
        cells[str(row["method"])] = Cell(shown, interval, shown == best_shown)
    return cells


def _difference_cell(row: pd.Series, digits: int) -> Cell:
    interval = _interval(row["less_rds_low"], row["less_rds_high"], digits)
    return Cell(_number(row["less_rds"], digits, "+"), interval)


def _number(value: float, digits: int, sign: str = "") -> str:
    return DASH if math.isnan(value) else f"{value:{sign}.{digits}f}".replace("-", MINUS)


def _interval(low: float, high: float, digits: int) -> str:
    if math.isnan(low):
        return ""
    return f"{_number(low, digits)} to {_number(high, digits)}"


def _digits(rows: pd.DataFrame) -> int:
    """Decimals for percentages, or for ratios."""
    return 1 if rows["score"].abs().max() >= 10 else 3


def _n(rows: pd.DataFrame) -> str:
    rows = rows.dropna(subset="score")
    return "" if rows.empty else f"n = {span(rows['n'], lambda n: f'{n:,.0f}')}"


def _metric(rows: pd.DataFrame) -> str:
    metric, better = drawing.one_metric(rows)
    return f"{metric} ({better} is better)"


def _small(table: pd.DataFrame) -> str:
    return " Small print: intervals." if table["low"].notna().any() else ""


def _count(value: float) -> str:
    return "" if math.isnan(value) else f"{value:,.0f}"
