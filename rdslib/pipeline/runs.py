"""Which runs a study is made of, by what shows them, and the order in which they tell most."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from rdslib.errors import UserError
from rdslib.methods import fits, get_scorer
from rdslib.pipeline.pipeline import ALL
from rdslib.pipeline.step import Step
from rdslib.pipeline.study import Run, Study
from rdslib.selection.round_robin import ROUND_ROBIN

METHODS_FIRST = 8


def single_task_runs(study: Study) -> list[Run]:
    """Figure 1 and Table 1: each method, from each pool, one selection a task."""
    grid = study.experiment.grid
    return [
        run
        for pool_name, methods in grid.single_task.items()
        for run in _runs(study, methods, pool_name, [grid.single_task_budget], multi=False)
    ]


def selector_runs(study: Study) -> list[Run]:
    """The single-task runs of methods with queries, by each of the grid's other selectors that fits."""
    grid = study.experiment.grid
    return [
        run
        for selector in grid.selectors or ()
        for pool_name, methods in grid.single_task.items()
        for method in methods
        if fits(method, selector) and get_scorer(method).needs_queries
        for run in runs_of(study, method, pool_name, grid.single_task_budget, False, selector=selector)
    ]


def ablation_runs(study: Study) -> list[Run]:
    """Table 6: RDS+ and its variants, from one pool, one selection a task; none without variants."""
    grid = study.experiment.grid
    methods = ("rds", *grid.ablation_methods) if grid.ablation_methods else ()
    return _runs(study, methods, grid.ablation_pool, [grid.single_task_budget], multi=False)


def multi_task_runs(study: Study) -> list[Run]:
    """Figures 3 and 4: each method at each budget, one selection for all tasks; and those of Table 2."""
    grid = study.experiment.grid
    runs = _runs(study, grid.multi_task_methods, ALL, grid.multi_task_budgets, multi=True)
    return list(dict.fromkeys([*runs, *(run for some in table_runs(study, ALL).values() for run in some)]))


def second_pool_runs(study: Study) -> list[Run]:
    """Table 3: what Table 2 has, from the second pool."""
    pool = study.experiment.grid.second_pool
    return [run for runs in table_runs(study, pool).values() for run in runs] if pool is not None else []


def table_runs(study: Study, pool_name: str) -> dict[str, list[Run]]:
    """Tables 2 and 3: by row, each method at their budget from a pool, one selection for all tasks.

    RDS+ for a set of queries is a row of its own, such as `rds_arena_hard`.
    """
    grid = study.experiment.grid
    budget = study.largest_budget
    methods = dict.fromkeys([*grid.multi_task_methods, *grid.table_methods]) if budget else ()
    rows = {each: runs_of(study, each, pool_name, budget, multi=True) for each in methods}
    for name in study.query_sets if budget else ():
        runs = [Run("rds", pool_name, budget, (name,), seed) for seed in grid.seeds]
        rows[f"rds_{name.lower().replace(' ', '_')}"] = [run for run in runs if study.there([run])]
    return rows


def quantile_runs(study: Study) -> list[Run]:
    """The quantile experiment (`params.Quantiles`); of a partial study what is there of all tasks.

    Raises:
        UserError: A method that it names takes no queries.
    """
    asked = study.experiment.grid.quantiles
    if asked is None:
        return []
    found = []
    for method in asked.methods:
        if not get_scorer(method).needs_queries:
            raise UserError(
                f"profile {study.profile.name}: quantiles: {method} takes no queries, and puts no sample "
                "nearer to them than another; leave it out"
            )
        for seed in study.experiment.grid.seeds:
            runs = [
                Run(method, asked.pool, asked.budget, (task,), seed, (part + 1, asked.parts))
                for task in asked.tasks
                for part in range(asked.parts)
            ]
            found += runs if study.there(runs) else []
    return found


def all_runs(study: Study) -> list[Run]:
    """Every run, each once, the model before fine-tuning first; of a partial study those there are.

    Those of the quantile experiment are none of a method as the others are, and stand apart.
    """
    of_task = single_task_runs(study) + ablation_runs(study) + selector_runs(study)
    of_all = multi_task_runs(study) + second_pool_runs(study)
    return list(dict.fromkeys([study.untuned(), *of_task, *of_all]))


def _runs(
    study: Study, methods: Sequence[str], pool_name: str, budgets: Sequence[int], multi: bool
) -> list[Run]:
    pairs = [(budget, method) for budget in budgets for method in methods]
    return [run for budget, each in pairs for run in runs_of(study, each, pool_name, budget, multi)]


def runs_of(
    study: Study,
    method: str,
    pool_name: str,
    budget: int,
    multi: bool,
    picks: bool = False,
    selector: str = ROUND_ROBIN.name,
) -> list[Run]:
    """A method's runs at one budget, over targets and seeds.

    Of a partial study those of seeds that are there for all targets: with their scores, or `picks` alone.
    """
    targets: Sequence[tuple[str, ...]] = [()]
    if get_scorer(method).needs_queries:
        targets = [study.task_names] if multi else [(task,) for task in study.task_names]
    made = functools.partial(Run, method, pool_name, budget, selector=selector)
    seeds = [
        seed
        for seed in study.experiment.grid.seeds
        if study.there([made(each, seed) for each in targets], picks)
    ]
    return [made(each, seed) for each in targets for seed in seeds]


def by_worth(study: Study) -> list[Run]:
    """All runs in the order in which they tell most.

    The methods in the profile's order, each from every pool, and `METHODS_FIRST` of them before what else
    there is. A method is run with the next seed together with the method after it, so that what is
    compared first soon has all its seeds.
    """
    grid = study.experiment.grid
    methods = list(dict.fromkeys(name for named in grid.single_task.values() for name in named))
    first = dict.fromkeys(sorted(single_task_runs(study), key=lambda run: methods.index(run.method)))
    others = dict.fromkeys([*first, *all_runs(study), *quantile_runs(study)])
    del others[study.untuned()]

    def worth(run: Run) -> int:
        place = methods.index(run.method) if run in first else METHODS_FIRST
        return place + grid.seeds.index(run.seed)

    return [study.untuned(), *sorted(others, key=worth)]


def recorded(study: Study) -> list[Step]:
    """What a study's records are of: all evaluations, and what they cost."""
    runs = all_runs(study)
    parts = [step for run in quantile_runs(study) for step in study.steps_of(run)]
    return [*study.data_steps, *study.evaluations(runs), *study.costs(runs), *parts]
