"""What claims are judged by: scores of the paper, of others and of a study, in one form.

A score is a table with a row a unit (a seed; of others, a model), the value first, then its resamples, if it
has any: a difference of two such tables is paired by both. Scores are turned so that more is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd

from rdslib.data.pool import subset
from rdslib.evaluation.bootstrap import Estimate, by_seed
from rdslib.figures import quantiles, sources
from rdslib.figures.base import BASELINE, RDS, evaluated, paper_flops, picked, published
from rdslib.figures.replication import RANDOM, half_width, others
from rdslib.pipeline import results
from rdslib.pipeline.runs import ablation_runs, multi_task_runs, quantile_runs, runs_of, single_task_runs
from rdslib.pipeline.step import Step
from rdslib.pipeline.study import Run, Study

POINTS, BITS = "points", "bits per byte, relative to untuned"
# The tasks of Figure 5 in the paper.
FIRST, SECOND = "GSM8k", "AlpacaEval"


@dataclass(frozen=True)
class Evidence:
    """Scores by what they are of; what there is nothing of is empty.

    Attributes:
        estimate: The mean over units of such a table, with its interval.
        unit: What scores are in.
        n: The test samples behind a score.
        whole: The size of the largest pool.
        single: One task at a time, by pool size and method.
        multi: One model for all tasks, by budget and method.
        ablation: RDS+ and its variants, by method.
        flops: FLOPs of selection and training in `single`.
        task_scores: By task the mean score of what RDS+ selects for it, with resamples of queries.
        queries: How many queries `task_scores` rest on.
        excess: By method and budget how much the share of the source with most picks exceeds what would not
            be a lean to it, with resamples of picks.
        quantiles: By method the rank correlation of the quantile experiment.
        asked: The keys that `single` has where all is run.
    """

    estimate: Callable[[pd.DataFrame], Estimate]
    unit: str
    n: int
    whole: float
    single: dict[tuple[float, str], pd.DataFrame]
    multi: dict[tuple[int, str], pd.DataFrame]
    ablation: dict[str, pd.DataFrame] = field(default_factory=dict)
    flops: dict[tuple[float, str], float] = field(default_factory=dict)
    task_scores: dict[str, pd.DataFrame] = field(default_factory=dict)
    queries: int = 0
    excess: dict[tuple[str, int], pd.DataFrame] = field(default_factory=dict)
    quantiles: dict[str, pd.DataFrame] = field(default_factory=dict)
    asked: Sequence[tuple[float, str]] = ()

    @property
    def places(self) -> list[tuple[float, str]]:
        """The keys of `single`, and after them those of what was asked for and is not there."""
        return list(dict.fromkeys([*self.single, *self.asked]))


def of_the_paper() -> Evidence:
    """The paper's numbers: one seed, and no intervals."""
    fig1, fig4, tab6 = (published(name).dropna(subset="score") for name in ("fig1", "fig4", "tab6"))
    single = [*zip(fig1["pool_size"], fig1["method"], strict=True)]
    return Evidence(
        estimate=lambda rows: Estimate(float(rows[0].mean()), math.nan, math.nan, 0),
        unit=POINTS,
        n=int(fig1["n"].iloc[0]),
        whole=float(fig1["pool_size"].max()),
        single=dict(zip(single, map(_alone, fig1["score"]), strict=True)),
        multi={(row["budget"], row["method"]): _alone(row["score"]) for _, row in fig4.iterrows()},
        ablation=dict(zip(tab6["method"], map(_alone, tab6["score"]), strict=True)),
        flops=dict(zip(single, paper_flops(fig1), strict=True)),
    )


def _alone(value: float) -> pd.DataFrame:
    return pd.DataFrame([[value]])


def of_others() -> Evidence:
    """The study of 2026 at each budget, one task at a time; its mean over budgets as `single`.

    A unit is a model, in the mean over pools and seeds. Its random is uniform, and stands for the balanced.
    """
    rows = others()
    rows = rows[rows["budget"] > 0].replace({"method": {RANDOM: BASELINE}})
    means = rows.groupby(["method", "budget", "model"])["score"].mean()
    found = published("others_quantiles")
    ranks = found.groupby(["method", "model"])["test"].mean()
    # As in the paper's small pool, of which it is nearly the size.
    size = 200_000.0
    methods = means.index.unique("method")
    cost = pd.DataFrame({"method": methods, "budget": 10_000, "pool_size": size})
    return Evidence(
        estimate=_over_models,
        unit=POINTS,
        n=int(rows["model"].nunique()),
        whole=math.inf,
        single={(size, each): means[each].groupby("model").mean().to_frame(0) for each in methods},
        multi={
            (budget, each): means[each].xs(budget, level="budget").to_frame(0)
            for each in methods
            for budget in means.index.unique("budget")
        },
        flops=dict(zip([(size, each) for each in methods], paper_flops(cost), strict=True)),
        quantiles={str(each): part.droplevel("method").to_frame(0) for each, part in ranks.groupby("method")},
    )


def _over_models(rows: pd.DataFrame) -> Estimate:
    mean, half = float(rows[0].mean()), half_width(rows[0])
    return Estimate(mean, mean - half, mean + half, len(rows))


# A study's own.


def runs(study: Study) -> list[Run]:
    """The runs whose scores claims rest on."""
    return [*single_task_runs(study), *ablation_runs(study), *multi_task_runs(study)]


def steps(study: Study, wanted: list[Run]) -> list[Step]:
    """What claims rest on: the runs' scores and costs, and what Figures 5 and 7 count."""
    return [
        *evaluated(study, wanted),
        *quantiles.steps(study, quantile_runs(study)),
        *picked(study, [*_runs_of("fig5", study), *_runs_of("fig7", study)]),
    ]


def _runs_of(figure: str, study: Study) -> list[Run]:
    (found,) = (each.runs for name, each in sources.FIGURES.items() if name.startswith(figure))
    return found(study) if found else []


def of_a_study(study: Study) -> Evidence:
    """What a study measured, of the runs that it has."""
    grid = study.experiment.grid
    single: dict[tuple[float, str], pd.DataFrame] = {}
    flops: dict[tuple[float, str], float] = {}
    asked = []
    for pool, methods in grid.single_task.items():
        for method in methods:
            place = (float(study.pool_size(pool)), method)
            asked.append(place)
            if those := runs_of(study, method, pool, grid.single_task_budget, multi=False):
                single[place] = -results.by_seed(study, those)
                flops[place] = sum(results.measured_flops(study, run) for run in those) / len(those)
    multi = {
        (budget, method): -results.by_seed(study, those)
        for budget in grid.multi_task_budgets
        for method in grid.multi_task_methods
        if (those := runs_of(study, method, "all", budget, multi=True))
    }
    ablation = {
        method: -results.by_seed(study, those)
        for method in (RDS, *grid.ablation_methods)
        if (those := runs_of(study, method, grid.ablation_pool, grid.single_task_budget, multi=False))
    }
    return Evidence(
        estimate=partial(results.over_seeds, study),
        unit=BITS,
        n=sum(task.test for task in study.experiment.tasks),
        whole=float(study.pool_size("all")),
        single=single,
        multi=multi,
        ablation=ablation,
        flops=flops,
        task_scores=_task_scores(study),
        queries=sum(task.queries for task in study.experiment.tasks if task.name in (FIRST, SECOND)),
        excess=_excess(study),
        quantiles=quantiles.by_method(study),
        asked=asked,
    )


def _resampled(study: Study, name: str, numerators: pd.Series, denominators: pd.Series) -> pd.DataFrame:
    """Total by total, and the same of resamples of what the rows are: queries, or picks."""
    e = study.experiment
    parts = numerators.to_numpy(dtype=float), denominators.to_numpy(dtype=float)
    return pd.DataFrame(by_seed({name: [parts]}, e.evaluate.bootstrap, e.seed))


def _task_scores(study: Study) -> dict[str, pd.DataFrame]:
    found = {}
    for run in _runs_of("fig5", study):
        of_query = study.picks(run).groupby("picked_by")["score"]
        found[run.targets[0]] = _resampled(study, f"queries of {run}", of_query.sum(), of_query.size())
    return found


def _excess(study: Study) -> dict[tuple[str, int], pd.DataFrame]:
    among, seed = study.pool_sources(), study.experiment.seed
    found = {}
    for run in _runs_of("fig7", study):
        size = study.experiment.pool.subsets.get(run.pool)
        pool = among if size is None else among.iloc[subset(len(among), size, seed)]
        source = study.picks(run)["source"]
        top = source.mode().iloc[0]
        share = _resampled(study, f"picks of {run}", source == top, pd.Series(np.ones(len(source))))
        found[run.method, run.budget] = share - max(0.5, float((pool == top).mean()))
    return found
