"""Tables 1 to 6.

A score is set with its interval in small print, the best of its column in bold; a missing one is a dash, and
is named under the table with its `note` as the reason. A row without any number is named there alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import pandas as pd

from rdslib.figures import base
from rdslib.figures.base import (
    AVERAGE,
    RDS,
    Figure,
    distinct,
    evaluated,
    human,
    method_title,
    published,
    span,
)
from rdslib.figures.scores import bare_score, difference, measured_note, measured_score, not_run, not_yet
from rdslib.figures.typeset import DASH, MINUS, Cell, Part, Tables
from rdslib.pipeline.runs import (
    ablation_runs,
    multi_task_runs,
    runs_of,
    second_pool_runs,
    single_task_runs,
    table_runs,
)
from rdslib.pipeline.step import Step
from rdslib.pipeline.study import Run, Study

# Cells of scores and counts.


def _scores(rows: pd.DataFrame, digits: int) -> dict[str, Cell]:
    """The cell of each method in one column, the best as printed in bold; none in a column with a gap."""
    gap = base.gaps(rows).any()
    best = rows["score"].min() if (rows["better"] == "lower").all() else rows["score"].max()
    cells = {}
    for _, row in rows.iterrows():
        shown = _number(row["score"], digits)
        bold = shown == _number(best, digits) != DASH and not gap
        cells[str(row["method"])] = Cell(shown, _interval(row["low"], row["high"], digits), bold)
    return cells


def _number(value: float, digits: int, sign: str = "") -> str:
    return base.number(value, digits, sign).replace("-", MINUS) or DASH


def _interval(low: float, high: float, digits: int) -> str:
    return base.interval(low, high, digits).replace("-", MINUS)


def _count(value: float) -> str:
    return "" if math.isnan(value) else f"{value:,.0f}"


def _n(rows: pd.DataFrame) -> str:
    rows = rows.dropna(subset="score")
    return "" if rows.empty else f"n = {span(rows['n'], '{:,.0f}'.format)}"


def _metric(rows: pd.DataFrame) -> str:
    metric, better = base.one_metric(rows)
    return f"{metric} ({better} is better)"


def _small(table: pd.DataFrame) -> str:
    return " Small print: intervals." if len(table) and table["low"].notna().any() else ""


# Tables 1 to 3: a method's score on each task, and the average.


def _tab1_published() -> pd.DataFrame:
    """The scores of Figure 1, which are this table's averages; those by task are in nothing at hand."""
    rows = published("fig1")
    rows.insert(2, "task", AVERAGE)
    by_task = f"The paper's scores by task: {base.NO_SOURCE}."
    return rows.assign(note=rows["note"].where(rows["score"].isna(), by_task))


def _tab1_measured(study: Study) -> pd.DataFrame:
    """A selection, and a model, for each task."""
    grid = study.experiment.grid
    rows = _by_task(
        study,
        [
            (method, runs_of(study, method, pool, grid.single_task_budget, multi=False))
            for pool, methods in grid.single_task.items()
            for method in methods
        ],
        bare=False,
    )
    gone = not_run(study)
    rows += [{**row, "task": task} for row in gone for task in study.task_names]
    return pd.DataFrame(rows + [{**row, "task": AVERAGE} for row in gone])


def _tab2_measured(study: Study) -> pd.DataFrame:
    return _multi_task(study, "all", bare=True)


def _tab2_steps(study: Study, runs: list[Run]) -> list[Step]:
    """Evaluations, and those of bare answers at the largest budget."""
    largest = [run for run in runs if study.shows_bare(run)]
    return evaluated(study, runs) + study.evaluations([study.untuned(), *largest], bare=True)


def _tab3_measured(study: Study) -> pd.DataFrame:
    return _multi_task(study, study.experiment.grid.second_pool, bare=False)


def _multi_task(study: Study, pool: str | None, bare: bool) -> pd.DataFrame:
    """One selection for all tasks, at one budget; no rows without a pool."""
    rows = table_runs(study, pool) if pool is not None else {}
    place = {"pool_size": study.pool_size(pool), "budget": study.largest_budget} if pool is not None else {}
    absent = [
        {"method": method, "task": task, **place, **not_yet(study)}
        for method, runs in rows.items()
        for task in (*study.task_names, AVERAGE)
        if not runs
    ]
    return pd.DataFrame(_by_task(study, rows.items(), bare) + absent)


def _by_task(study: Study, rows: Iterable[tuple[str, list[Run]]], bare: bool) -> list[dict[str, Any]]:
    """A row of each task, and of their mean, for the runs of each method."""
    return [
        {
            "method": method,
            "task": task or AVERAGE,
            "pool_size": study.pool_size(runs[0].pool),
            "budget": runs[0].budget,
            **measured_score(study, runs, task),
            **(bare_score(study, runs, task) if bare else {}),
            "note": measured_note(study),
        }
        for method, runs in rows
        for task in (*study.task_names, None)
        if runs
    ]


def _tasks_set(table: pd.DataFrame) -> Tables:
    """A row a method, a group of rows a pool; where only averages are known, a column a pool instead."""
    by = ["origin", "method", "pool_size"]
    known = table[table["score"].notna()]
    begun = set(known[by].itertuples(index=False, name=None))
    by_task = set(known.loc[known["task"] != AVERAGE, by].itertuples(index=False, name=None))

    def name(row: pd.Series) -> str:
        # A method that was not run at all is named once, not for every task.
        whole = f"{method_title(row['method'])} from {human(row['pool_size'])}"
        if tuple(row[by]) not in begun:
            return whole
        return f"{whole} on {row['task'] if tuple(row[by]) in by_task else 'each task'}"

    gap = " A column with a number that is in the paper, and in nothing at hand, has no best."
    marks = f"Bold: the best of its column among methods that had the same pool.{_small(table)}"
    marks += gap if base.gaps(table).any() else ""
    return Tables([_tasks_part(*part) for part in base.by_origin(table)], [marks, *base.notes(table, name)])


def _tab2_set(table: pd.DataFrame) -> Tables:
    """As Table 1, and once more for bare answers, where they were measured."""
    whole = _tasks_set(table)
    if "bare" not in table or table["bare"].isna().all():
        return whole
    rows = table[table["bare"].notna()]
    names = {"bare": "score", "bare_low": "low", "bare_high": "high"}
    bare = rows.drop(columns=[*names.values()]).rename(columns=names)
    part = _tasks_part("Measured: the bare answer", bare)
    forms = (
        "Bits are of the response in the form that the task's protocol asks for, after its exemplars; of the "
        "bare answer, they are of the answer alone after the question alone, so that a model that has learnt "
        "to explain first, as the exemplars do, is marked down for it."
    )
    return Tables([*whole.parts, part], [*whole.notes, forms])


def _tasks_part(title: str, rows: pd.DataFrame) -> Part:
    averages = rows[rows["task"] == AVERAGE]
    alone = len(averages) == len(rows)
    pools = "From " + rows["pool_size"].map(human)
    rows = rows.assign(column=pools if alone else rows["task"], group="" if alone else pools)
    rows = rows.sort_values("pool_size", kind="stable")
    columns = sorted(distinct(rows["column"]), key=AVERAGE.__eq__)
    header = [Cell("Method"), *(Cell(column, _n(rows[rows["column"] == column])) for column in columns)]
    digits = base.digits(rows["score"])
    cells: list[list[Cell]] = []
    for group, part in rows.groupby("group", sort=False):
        cells += [[Cell(str(group), bold=True), *(Cell("") for _ in columns)]] if group else []
        of = {column: _scores(part[part["column"] == column], digits) for column in columns}
        cells += [
            [Cell(method_title(method)), *(of[column].get(method, Cell(DASH)) for column in columns)]
            for method in base.in_order(part.loc[part["score"].notna(), "method"])
        ]
    about = _metric(averages if len(averages) else rows)
    if not alone and rows["metric"].nunique() > 1:
        about = f"Score of each task, in percent, and the mean ({rows['better'].iloc[0]} is better)"
    return Part(title, [about, f"{span(rows['budget'])} samples selected"], header, cells)


# Table 4: query and test samples of each task.


def _tab4_measured(study: Study) -> pd.DataFrame:
    rows = []
    for name in dict.fromkeys([*base.TASKS, *study.task_names]):
        row: dict[str, Any] = {"task": name, "note": "not run"}
        if name in study.task_names:
            counts = study.task_counts(name)
            row |= {"query": counts["queries"], "test": counts["test"], "note": counts["note"]}
        rows.append(row)
    return pd.DataFrame(rows, columns=["task", "query", "test", "note"])


def _tab4_set(table: pd.DataFrame) -> Tables:
    parts = []
    for title, rows in base.by_origin(table):
        columns = {
            "Task": rows["task"],
            "Queries": rows["query"].map(_count),
            "Test": rows["test"].map(_count),
        }
        if (remarks := rows["note"].fillna("")).any():
            columns["Note"] = remarks
        cells = [[*map(Cell, row)] for row in zip(*columns.values(), strict=True)]
        parts.append(Part(title, ["Query and test samples of each task"], [*map(Cell, columns)], cells))
    return Tables(parts, [])


# Table 5: the sources of each pool, and of the mixture that was released, where there is one.


def _tab5_measured(study: Study) -> pd.DataFrame:
    counts = study.pool_sources().value_counts(sort=False)
    return pd.DataFrame({"pool": study.profile.name, "source": counts.index, "count": counts.to_numpy()})


def _tab5_set(table: pd.DataFrame) -> Tables:
    parts = []
    for title, part in base.by_origin(table):
        for pool, rows in part.groupby("pool", sort=False):
            counts = {"In the pool": rows["count"]}
            if "in_mixture" in rows and rows["in_mixture"].notna().any():
                counts = {"In the mixture": rows["in_mixture"], **counts}
            columns = [[*rows["source"], "Total"], *([*each, each.sum()] for each in counts.values())]
            cells = [
                [Cell(str(name)), *(Cell(_count(n)) for n in row)]
                for name, *row in zip(*columns, strict=True)
            ]
            parts.append(Part(title, [f"{pool} pool"], [Cell("Source"), *map(Cell, counts)], cells))
    return Tables(parts, distinct(table["note"].dropna()) if "note" in table else [])


# Table 6: what RDS+ pools over.


def _tab6_measured(study: Study) -> pd.DataFrame:
    grid = study.experiment.grid
    rows = [
        {
            "method": method,
            "pool_size": study.pool_size(grid.ablation_pool),
            "budget": grid.single_task_budget,
            **(_tab6_columns(study, runs) if runs else not_yet(study)),
        }
        for method in (RDS, *grid.ablation_methods)
        for runs in [runs_of(study, method, grid.ablation_pool, grid.single_task_budget, multi=False)]
    ]
    return pd.DataFrame(rows)


def _tab6_columns(study: Study, runs: list[Run]) -> dict[str, Any]:
    compared = difference(study, runs, RDS, True, "diff_vs_rds")
    return {**measured_score(study, runs), **compared, "note": measured_note(study)}


def _tab6_set(table: pd.DataFrame) -> Tables:
    parts = []
    for title, rows in base.by_origin(table):
        digits = base.digits(rows["score"])
        header = [Cell("Variant"), Cell("Score", _n(rows))]
        columns = [_scores(rows, digits)]
        if "diff_vs_rds" in rows and rows["diff_vs_rds"].notna().any():
            way = "below" if (rows["better"] == "lower").all() else "above"
            header.append(Cell("Difference from RDS+", f"{way} 0 is better"))
            paired = rows[["method", "diff_vs_rds", "diff_vs_rds_low", "diff_vs_rds_high"]]
            columns.append(
                {
                    str(method): Cell(_number(value, digits, "+"), _interval(low, high, digits))
                    for method, value, low, high in paired.itertuples(index=False)
                }
            )
        cells = [
            [Cell(method_title(method)), *(column[method] for column in columns)]
            for method in base.in_order(rows.loc[rows["score"].notna(), "method"])
        ]
        details = [_metric(rows), f"{span(rows['budget'])} samples selected from {span(rows['pool_size'])}"]
        parts.append(Part(title, details, header, cells))
    missing = base.notes(table, lambda row: method_title(row["method"]))
    return Tables(parts, [f"Bold: the best.{_small(table)}", *missing])


FIGURES = {
    "tab1_single_task": Figure(
        "Table 1", _tab1_published, _tab1_measured, _tasks_set, single_task_runs, evaluated
    ),
    "tab2_multi_task": Figure(
        "Table 2",
        partial(published, "tab2"),
        _tab2_measured,
        _tab2_set,
        multi_task_runs,
        _tab2_steps,
    ),
    "tab3_second_pool": Figure(
        "Table 3",
        partial(published, "tab3"),
        _tab3_measured,
        _tasks_set,
        second_pool_runs,
        evaluated,
    ),
    "tab4_splits": Figure("Table 4", partial(published, "tab4"), _tab4_measured, _tab4_set, value="query"),
    "tab5_pool_sources": Figure(
        "Table 5", partial(published, "tab5"), _tab5_measured, _tab5_set, value="count"
    ),
    "tab6_rds_ablation": Figure(
        "Table 6", partial(published, "tab6"), _tab6_measured, _tab6_set, ablation_runs, evaluated
    ),
}
