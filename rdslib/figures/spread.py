"""How much each headline difference varies from seed to seed: which differences mean something.

A difference is a score minus that of balanced random at the same pool and budget, of each seed and of all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from rdslib.figures import base
from rdslib.figures.base import BASELINE, Figure, evaluated, human, interval, method_title, number
from rdslib.figures.scores import METRIC, measured_note
from rdslib.pipeline import results
from rdslib.pipeline.runs import multi_task_runs, runs_of, single_task_runs
from rdslib.pipeline.study import Run, Study

if TYPE_CHECKING:
    from rdslib.figures.style import Drawing

SINGLE, MULTI = "One task at a time", "all tasks together"
ALL_SEEDS = "all"
KEYS = ["setting", "pool_size", "budget", "method"]


def _runs(study: Study) -> list[Run]:
    return [*single_task_runs(study), *multi_task_runs(study)]


def settings(study: Study) -> list[tuple[str, str, int, list[str]]]:
    """Where methods are compared: the setting, the pool, the budget, and the grid's methods there."""
    grid = study.experiment.grid
    single = [
        (SINGLE, pool, grid.single_task_budget, list(named)) for pool, named in grid.single_task.items()
    ]
    multi = [(MULTI, "all", budget, list(grid.multi_task_methods)) for budget in grid.multi_task_budgets]
    return single + multi


def _measured(study: Study) -> pd.DataFrame:
    """A row a difference and seed, and one of all its seeds with its interval."""
    rows: list[dict[str, Any]] = []
    for setting, pool, budget, methods in settings(study):
        runs = {each: runs_of(study, each, pool, budget, multi=setting == MULTI) for each in methods}
        known = {each: results.by_seed(study, those) for each, those in runs.items() if those}
        for method in known if BASELINE in known else ():
            if method == BASELINE:
                continue
            gaps = (known[method] - known[BASELINE]).dropna()
            if gaps.empty:
                continue
            of = {"setting": setting, "pool_size": study.pool_size(pool), "budget": budget, "method": method}
            found = results.over_seeds(study, gaps)
            all_of_it = {"difference": found.value, "low": found.low, "high": found.high, "p": found.p}
            rows.append({**of, "seed": ALL_SEEDS, **all_of_it})
            rows += [{**of, "seed": str(seed), "difference": gap} for seed, gap in gaps[0].items()]
    extra = {"metric": METRIC, "better": "lower", "note": measured_note(study)}
    return pd.DataFrame(rows, columns=[*KEYS, "seed", "difference", "low", "high", "p"]).assign(**extra)


@base.styled
def _draw(table: pd.DataFrame) -> Drawing:
    """A line a difference: its seeds as small points, their mean and its interval in bold."""
    from rdslib.figures import style

    groups = [rows for _, rows in table.groupby(KEYS, sort=False)]
    figure = style.Drawing(figsize=(style.PAGE, 1.6 + 0.21 * len(groups)))
    axes = figure.subplots()
    axes.axvline(0, color=style.GREY, linewidth=1)
    names = []
    for place, rows in enumerate(groups):
        of = rows.iloc[0]
        colour = style.method_colour(of["method"])
        seeds, whole = rows[rows["seed"] != ALL_SEEDS], rows[rows["seed"] == ALL_SEEDS]
        axes.hlines(
            [place] * len(whole), whole["low"], whole["high"], color=colour, linewidth=2.4, alpha=0.55
        )
        axes.plot(
            whole["difference"], [place] * len(whole), "|", color=colour, markersize=11, markeredgewidth=2
        )
        if len(seeds) > 1:
            axes.plot(seeds["difference"], [place] * len(seeds), "o", color=style.ink(colour), markersize=3)
        names.append(f"{method_title(of['method'])}, {human(of['budget'])} of {human(of['pool_size'])}")
    axes.set_yticks(range(len(groups)), names, fontsize=style.SMALL)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.grid(axis="x")
    settings = base.distinct(table["setting"])
    of_setting = [rows["setting"].iloc[0] for rows in groups]
    for setting in settings[1:]:
        axes.axhline(of_setting.index(setting) - 0.5, color=style.GREY, linewidth=0.7, linestyle=":")
    axes.set_xlabel(
        f"Difference from {method_title(BASELINE)} in {table['metric'].iloc[0]} (below 0 is better)"
    )
    n = table.loc[table["seed"] != ALL_SEEDS, "seed"].nunique()
    known = f"{n} seeds as points" if n > 1 else "one seed, whose spread is not known"
    style.heading(axes, table, f"{'; below the dotted line '.join(settings)}. {known}; bars: 95% intervals")
    style.footnotes(figure, base.notes(table, lambda row: method_title(row.method), "difference"))
    return figure


def key_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Of each difference: its mean and interval, the spread of seeds, and what difference could be told."""
    found = []
    for _, rows in table.groupby(KEYS, sort=False):
        whole, seeds = rows[rows["seed"] == ALL_SEEDS].iloc[0], rows[rows["seed"] != ALL_SEEDS]["difference"]
        found.append(
            {
                "origin": whole["origin"],
                "setting": whole["setting"],
                "pool": human(whole["pool_size"]),
                "selected": human(whole["budget"]),
                "method": method_title(whole["method"]),
                f"minus {method_title(BASELINE)}": number(whole["difference"], 3, "+"),
                "its 95% interval": interval(whole["low"], whole["high"], 3),
                "seeds": len(seeds),
                "standard deviation of seeds": number(seeds.std(), 3),
                "least difference to tell": number((whole["high"] - whole["low"]) / 2, 3),
                "p": number(whole["p"], 3),
            }
        )
    return pd.DataFrame(found)


FIGURES = {"seeds": Figure("Seeds", None, _measured, _draw, _runs, evaluated, "difference")}
