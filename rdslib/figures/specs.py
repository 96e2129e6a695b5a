"""What each figure and table shows: published numbers, measured records, or both, as one tidy table.

A notebook asks for its table by name; `FIGURES` says, for each name, how its table is made and which
steps must be there first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd

from rdslib.data.pool import subset
from rdslib.errors import UserError
from rdslib.evaluation.bootstrap import Estimate
from rdslib.figures import published
from rdslib.params import Show
from rdslib.pipeline.step import Step
from rdslib.pipeline.study import Run, Study

METRIC = "bits per byte, relative to untuned"
# What the other methods are compared with, on the same test samples.
BASELINE = "random_balanced"


@dataclass(frozen=True)
class Spec:
    """A figure: its published rows (None where the paper gives no numbers), its measured rows, the runs
    behind those, and what of these runs they rest on.
    """

    published: Callable[[], pd.DataFrame] | None
    measured: Callable[[Study], pd.DataFrame]
    runs: Callable[[Study], list[Run]]
    needs: Callable[[Study, list[Run]], list[Step]]


def table(study: Study, name: str, show: Show = "both") -> pd.DataFrame:
    """The tidy table of a figure, computing what its measured rows need.

    `show` is what to put in: `measured` here, `published` by the paper, or `both`, told apart by the
    column `origin`. Raises UserError for an unknown figure or `show`.
    """
    spec, show = spec_of(name), checked(show)
    parts = []
    if wants(study, show, "published") and spec.published is not None:
        parts.append(spec.published())
    if wants(study, show, "measured"):
        study.compute(steps(study, name, show))
        parts.append(spec.measured(study).assign(origin="measured"))
    if not parts:
        return pd.DataFrame(columns=["origin"])
    rows = pd.concat(parts, ignore_index=True)
    return rows[["origin", *(column for column in rows.columns if column != "origin")]]


def runs(study: Study, name: str, show: Show = "both") -> list[Run]:
    """The runs that a figure's measured rows are of; none where only published numbers are shown."""
    return spec_of(name).runs(study) if wants(study, show, "measured") else []


def steps(study: Study, name: str, show: Show = "both") -> list[Step]:
    """The steps that a figure's measured rows rest on; none where only published numbers are shown."""
    if not wants(study, show, "measured"):
        return []
    return spec_of(name).needs(study, runs(study, name, show))


def checked(show: str) -> Show:
    """`show`, if it is one of what there is to show; raises UserError."""
    if show not in ("measured", "published", "both"):
        raise UserError(f"show={show!r}: use measured, published or both")
    return cast("Show", show)


def spec_of(name: str) -> Spec:
    """A figure by name; raises UserError with the names there are."""
    if name not in FIGURES:
        raise UserError(f"unknown figure {name!r}; figures: {', '.join(FIGURES)}")
    return FIGURES[name]


def wants(study: Study, show: Show, origin: str) -> bool:
    """Whether rows of an origin are to be shown; a profile without an experiment has nothing measured."""
    if origin == "measured" and study.profile.experiment is None:
        if show == "measured":
            raise UserError(f"profile {study.profile.name}: measures nothing; use show=published")
        return False
    return show in (origin, "both")


def _measured(estimate: Estimate) -> dict[str, Any]:
    return {
        "score": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "n": estimate.n,
        "metric": METRIC,
        "better": "lower",
    }


def _note(study: Study) -> str:
    """What a measured figure must say of its model and tasks."""
    e = study.experiment
    absent = [task for task in published.TASKS if task not in study.task_names]
    parts = [f"{e.model.title}{f' ({e.model.note})' if e.model.note else ''}"]
    parts.append("1 is the model before fine-tuning")
    if absent:
        parts.append(f"without {', '.join(absent)}")
    return "; ".join(parts)


def _against(study: Study, runs: list[Run], method: str, there: bool, prefix: str) -> dict[str, Any]:
    """What some runs' score is less that of `method` at the same pool and budget, with its interval.

    Paired by test sample; NaN for the method itself, or where it is not `there`.
    """
    columns = (prefix, f"{prefix}_low", f"{prefix}_high")
    if runs[0].method == method or not there:
        return dict.fromkeys(columns, float("nan"))
    theirs = study.runs_of(method, runs[0].pool, runs[0].budget, multi=False)
    found = study.difference(runs, theirs)
    return dict(zip(columns, (found.value, found.low, found.high), strict=True))


def _costs(study: Study, runs: list[Run]) -> dict[str, float]:
    """The mean cost of a method's models: those of the tasks in a single-task setting, those of the seeds.

    `flops` as measured, `formula_flops` by the paper's formula.
    """
    return {
        "flops": sum(study.measured_flops(run) for run in runs) / len(runs),
        "formula_flops": sum(study.formula_flops(run) for run in runs) / len(runs),
    }


def _not_run(study: Study) -> list[dict[str, Any]]:
    """Rows for methods that the grid has on some pool, where it does not have them on another."""
    grid = study.experiment.grid
    methods = dict.fromkeys(method for named in grid.single_task.values() for method in named)
    return [
        {
            "method": method,
            "pool_size": study.pool_size(pool),
            "budget": grid.single_task_budget,
            "n": _test_samples(study),
            "metric": METRIC,
            "better": "lower",
            "note": "not run from the larger pool, as in the paper"
            if method == "less"
            else "not run from this pool",
        }
        for pool, named in grid.single_task.items()
        for method in methods
        if method not in named
    ]


def _test_samples(study: Study) -> int:
    return sum(task.test for task in study.experiment.tasks)


def _fig1(study: Study) -> pd.DataFrame:
    grid = study.experiment.grid
    rows = [
        {
            "method": method,
            "pool_size": study.pool_size(pool),
            "budget": grid.single_task_budget,
            **_costs(study, runs),
            **_measured(study.relative(runs)),
            **_against(study, runs, BASELINE, BASELINE in methods, "less_random"),
            "note": _note(study),
        }
        for pool, methods in grid.single_task.items()
        for method in methods
        if (runs := study.runs_of(method, pool, grid.single_task_budget, multi=False))
    ]
    return pd.DataFrame(rows + _not_run(study))


def _tab1(study: Study) -> pd.DataFrame:
    grid = study.experiment.grid
    rows = [
        {
            "method": method,
            "task": task or published.AVERAGE,
            "pool_size": study.pool_size(pool),
            "budget": grid.single_task_budget,
            **_measured(study.relative(runs, task)),
            "note": _note(study),
        }
        for pool, methods in grid.single_task.items()
        for method in methods
        for task in (*study.task_names, None)
        if (runs := study.runs_of(method, pool, grid.single_task_budget, multi=False))
    ]
    missing = [{**row, "task": task} for row in _not_run(study) for task in study.task_names]
    return pd.DataFrame(rows + missing + [{**row, "task": published.AVERAGE} for row in _not_run(study)])


def _by_task(study: Study, pool: str | None) -> pd.DataFrame:
    """Tables 2 and 3: the multi-task methods at the largest budget, task by task; no rows without a pool."""
    grid = study.experiment.grid
    budget = max(grid.multi_task_budgets, default=0)
    rows = [
        {
            "method": method,
            "task": task or published.AVERAGE,
            "pool_size": study.pool_size(pool),
            "budget": budget,
            **_measured(study.relative(runs, task)),
            "note": _note(study),
        }
        for method in grid.multi_task_methods
        if pool is not None
        for task in (*study.task_names, None)
        if (runs := study.runs_of(method, pool, budget, multi=True))
    ]
    return pd.DataFrame(rows)


def _tab6(study: Study) -> pd.DataFrame:
    grid = study.experiment.grid
    rows = [
        {
            "method": method,
            "pool_size": study.pool_size(grid.ablation_pool),
            "budget": grid.single_task_budget,
            **_measured(study.relative(runs)),
            **_against(study, runs, "rds", True, "less_rds"),
            "note": _note(study),
        }
        for method in ("rds", *grid.ablation_methods)
        if (runs := study.runs_of(method, grid.ablation_pool, grid.single_task_budget, multi=False))
    ]
    return pd.DataFrame(rows)


def _scaling(study: Study) -> pd.DataFrame:
    grid = study.experiment.grid
    size = study.pool_size("all")
    rows = [
        {
            "method": method,
            "budget": budget,
            "pool_size": size,
            "percent": 100 * budget / size,
            **_costs(study, runs),
            **_measured(study.relative(runs)),
            **_against(study, runs, BASELINE, BASELINE in grid.multi_task_methods, "less_random"),
            "note": _note(study),
        }
        for method in grid.multi_task_methods
        for budget in grid.multi_task_budgets
        if (runs := study.runs_of(method, "all", budget, multi=True))
    ]
    return pd.DataFrame(rows)


# Figure 5 sets two tasks against each other: the paper AlpacaEval against GSM8k, and where a study has no
# AlpacaEval, its last task against GSM8k.
def _fig5_tasks(study: Study) -> list[str]:
    names = list(study.task_names)
    first = "GSM8k" if "GSM8k" in names else names[0]
    others = [name for name in names if name != first]
    return [first, *(["AlpacaEval"] if "AlpacaEval" in others else others[-1:])]


def _fig5_runs(study: Study) -> dict[str, Run]:
    budget, seed = study.experiment.grid.single_task_budget, study.experiment.grid.seeds[0]
    return {task: Run("rds", "all", budget, (task,), seed) for task in _fig5_tasks(study)}


def _fig5(study: Study) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"task": task, "score": study.picks(run)["score"]})
        for task, run in _fig5_runs(study).items()
    ]
    return pd.concat(parts, ignore_index=True)


def _fig6_runs(study: Study) -> dict[str, Run]:
    """The largest budget: random, RDS+ for each task alone, and round-robin over all."""
    budget, seed = max(study.experiment.grid.multi_task_budgets), study.experiment.grid.seeds[0]
    runs = {"Random": Run("random", "all", budget, (), seed)}
    runs |= {task: Run("rds", "all", budget, (task,), seed) for task in study.task_names}
    return runs | {"Round-robin": Run("rds", "all", budget, study.task_names, seed)}


def _fig6(study: Study) -> pd.DataFrame:
    sources = study.pool_table()["source"].unique()
    rows = [
        {"selection": name, "source": source, "count": count}
        for name, run in _fig6_runs(study).items()
        for source, count in study.picks(run)["source"].value_counts().reindex(sources, fill_value=0).items()
    ]
    return pd.DataFrame(rows)


def _fig7_runs(study: Study) -> list[Run]:
    """Every method at each budget: from the whole pool, or the one that it runs from, for all tasks."""
    grid, seed = study.experiment.grid, study.experiment.grid.seeds[0]
    pools = {method: pool for pool, named in grid.single_task.items() for method in named}
    pools |= dict.fromkeys(grid.single_task.get("all", ()), "all")
    return [
        run
        for budget in grid.source_budgets
        for method, pool in pools.items()
        for run in study.runs_of(method, pool, budget, multi=True)
        if run.seed == seed
    ]


def _fig7(study: Study) -> pd.DataFrame:
    sources = study.pool_table()["source"].unique()
    rows = [
        {
            "method": run.method,
            "pool_size": study.pool_size(run.pool),
            "budget": run.budget,
            "source": source,
            "count": count,
        }
        for run in _fig7_runs(study)
        for source, count in study.picks(run)["source"].value_counts().reindex(sources, fill_value=0).items()
    ]
    return pd.DataFrame(rows)


def _fig2(study: Study) -> pd.DataFrame:
    """The whole pool, and the smaller ones that are drawn from it."""
    sources = study.pool_table()["source"]
    title, seed = study.profile.name, study.experiment.seed
    pools = {title: sources}
    for name, size in study.experiment.pool.subsets.items():
        pools[f"{title}, {name}"] = sources.iloc[subset(len(sources), size, seed)]
    rows = [
        {"pool": name, "source": source, "count": count}
        for name, drawn in pools.items()
        for source, count in drawn.value_counts().reindex(sources.unique(), fill_value=0).items()
    ]
    return pd.DataFrame(rows)


def _tab4(study: Study) -> pd.DataFrame:
    rows = []
    for name in dict.fromkeys([*published.TASKS, *study.task_names]):
        row: dict[str, Any] = {"task": name, "note": "not run"}
        if name in study.task_names:
            task = study.task_data(name)
            row |= {"query": len(task.queries), "test": len(task.test), "note": task.note}
        rows.append(row)
    return pd.DataFrame(rows, columns=["task", "query", "test", "note"])


def _tab5(study: Study) -> pd.DataFrame:
    counts = study.pool_table()["source"].value_counts(sort=False)
    return pd.DataFrame({"pool": study.profile.name, "source": counts.index, "count": counts.to_numpy()})


def _evaluated(study: Study, runs: list[Run]) -> list[Step]:
    return study.evaluations([study.untuned(), *runs])


def _picked(study: Study, runs: list[Run]) -> list[Step]:
    return [study.selection(run) for run in runs]


def _data(study: Study, _: list[Run]) -> list[Step]:
    return study.data_steps


def _no_runs(_: Study) -> list[Run]:
    return []


FIGURES: dict[str, Spec] = {
    "fig1_pareto": Spec(published.fig1, _fig1, Study.single_task_runs, _evaluated),
    "fig2_pools": Spec(published.fig2, _fig2, _no_runs, _data),
    "fig3_flops": Spec(published.fig3, _scaling, Study.multi_task_runs, _evaluated),
    "fig4_scaling": Spec(published.fig4, _scaling, Study.multi_task_runs, _evaluated),
    "fig5_score_histogram": Spec(None, _fig5, lambda study: list(_fig5_runs(study).values()), _picked),
    "fig6_sources_by_task": Spec(None, _fig6, lambda study: list(_fig6_runs(study).values()), _picked),
    "fig7_sources_by_method": Spec(None, _fig7, _fig7_runs, _picked),
    "tab1_single_task": Spec(published.tab1_single_task, _tab1, Study.single_task_runs, _evaluated),
    "tab2_multi_task": Spec(
        published.tab2_multi_task, lambda study: _by_task(study, "all"), Study.multi_task_runs, _evaluated
    ),
    "tab3_second_pool": Spec(
        published.tab3_second_pool,
        lambda study: _by_task(study, study.experiment.grid.second_pool),
        Study.second_pool_runs,
        _evaluated,
    ),
    "tab4_splits": Spec(published.tab4_splits, _tab4, _no_runs, _data),
    "tab5_pool_sources": Spec(published.tab5_pool_sources, _tab5, _no_runs, _data),
    "tab6_rds_ablation": Spec(published.tab6_rds_ablation, _tab6, Study.ablation_runs, _evaluated),
}
