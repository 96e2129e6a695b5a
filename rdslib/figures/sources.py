"""Figures 2, 5, 6 and 7: which sources pools and selections are made of, and how selected samples score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from rdslib.data.pool import subset
from rdslib.errors import UserError
from rdslib.figures import base
from rdslib.figures.base import RDS, Figure, distinct, human, in_order, method_title, picked, published
from rdslib.pipeline.runs import runs_of
from rdslib.pipeline.study import Run, Study

if TYPE_CHECKING:
    from rdslib.figures.style import Drawing

TASK_COLOURS = ("#0072B2", "#E69F00")
CHOSEN = "Share of the samples selected"


def counted(sources: pd.Series, among: pd.Series) -> list[dict[str, object]]:
    """Rows of how many samples each source has, for all sources of the pool, in the pool's order."""
    counts = sources.value_counts().reindex(among.unique(), fill_value=0)
    return [{"source": source, "count": count} for source, count in counts.items()]


def _first_seed(study: Study) -> int:
    return study.experiment.grid.seeds[0]


# Figure 2: how large pools are, and which sources make them up.


def _fig2_published() -> pd.DataFrame:
    """The paper's pools, as in Table 5, and earlier works'."""
    ours = published("tab5").drop(columns=["in_mixture", "note"])
    return pd.concat([ours.assign(pool="Unfiltered " + ours["pool"]), published("fig2")], ignore_index=True)


def _fig2_measured(study: Study) -> pd.DataFrame:
    """The whole pool, and the smaller ones that are drawn from it."""
    sources = study.pool_sources()
    title, seed = study.profile.name, study.experiment.seed
    pools = {title: sources}
    for name, size in study.experiment.pool.subsets.items():
        pools[f"{title}, {name}"] = sources.iloc[subset(len(sources), size, seed)]
    return pd.DataFrame(
        [{"pool": name, **row} for name, drawn in pools.items() for row in counted(drawn, sources)]
    )


@base.styled
def _fig2_draw(table: pd.DataFrame) -> Drawing:
    """A source that is under 1% of every pool is drawn with the others of that kind."""
    from rdslib.figures import style

    figure, parts = style.panels(table, lambda rows: 2.2 + 0.7 * rows["pool"].nunique(), 4.8)
    for rows, axes in parts:
        shares = rows["count"] / rows.groupby("pool")["count"].transform("sum")
        small = shares.groupby(rows["source"]).transform("max") < 0.01
        small &= rows.loc[small, "source"].nunique() > 1
        others = f"{rows.loc[small, 'source'].nunique()} others, each under 1%"
        rows = rows.assign(source=rows["source"].where(~small, others))
        # Largest source first, so that it stands at the foot of its bar.
        order = rows.groupby("source")["count"].sum().sort_values(ascending=False, kind="stable").index
        colours = style.source_colours(name for name in order if name != others)
        if small.any():
            colours[others] = style.OTHERS
        style.stacked(axes, rows, "pool", colours, "Samples in the pool", shares=False)
        style.heading(axes, rows, "By source; the size of the pool on top")
    return figure


# Figure 5: how the scores of the largest selection lie, for two tasks. The paper shows AlpacaEval and GSM8k;
# a study without AlpacaEval shows its last task.


def _fig5_runs(study: Study) -> list[Run]:
    names = list(study.task_names)
    first = "GSM8k" if "GSM8k" in names else names[0]
    others = [name for name in names if name != first]
    tasks = [first, *(["AlpacaEval"] if "AlpacaEval" in others else others[-1:])]
    grid = study.experiment.grid
    budget = max([grid.single_task_budget, study.largest_budget, *grid.source_budgets])
    runs = [Run(RDS, "all", budget, (task,), _first_seed(study)) for task in tasks]
    return runs if study.there(runs, picks=True) else []


def _fig5_measured(study: Study) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"task": run.targets[0], "score": study.picks(run)["score"]})
        for run in _fig5_runs(study)
    ]
    return pd.concat(parts, ignore_index=True)


@base.styled
def _fig5_draw(table: pd.DataFrame) -> Drawing:
    """A histogram for each of the first two tasks of the table, whose rows are selected samples."""
    import seaborn as sns
    from matplotlib.patches import Patch

    from rdslib.figures import style

    figure, parts = style.panels(table, 6.2, 4.0)
    for rows, axes in parts:
        tasks = distinct(rows["task"])[:2]
        rows = rows[rows["task"].isin(tasks)]
        style.heading(axes, rows, "Scores of the samples selected for a task")
        colours = dict(zip(tasks, TASK_COLOURS, strict=False))
        bins = style.bins(len(rows) / len(tasks))
        sns.histplot(rows, x="score", hue="task", hue_order=tasks, palette=colours, bins=bins, element="step",
                     alpha=0.45, linewidth=1, legend=False, ax=axes)  # fmt: skip
        top = axes.get_ylim()[1]
        keys = []
        for task in tasks:
            scores = rows.loc[rows["task"] == task, "score"]
            axes.vlines(scores.mean(), 0, top, color=colours[task], linestyle="--", linewidth=1.3)
            axes.plot(scores.mean(), top, "v", color=colours[task], markersize=5)
            text = f"{task}: mean {scores.mean():.3f} (dashed), n = {len(scores):,}"
            keys.append(Patch(color=colours[task], alpha=0.6, linewidth=0, label=text))
        # Room over the bars for the key, so that it never lies on them.
        axes.set_ylim(0, top * 1.28)
        axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(0.01, 0.99))
        axes.set(xlabel="Score (cosine similarity)", ylabel="Samples")
    return figure


# Figure 6: from which sources RDS+ picks for each task, beside random picks and those for all tasks.


def _fig6_runs(study: Study) -> list[Run]:
    budget, seed = study.largest_budget, _first_seed(study)
    if not budget:
        return []
    targets = [*((task,) for task in study.task_names), study.task_names]
    runs = [Run("random", "all", budget, (), seed), *(Run(RDS, "all", budget, of, seed) for of in targets)]
    return runs if study.there(runs, picks=True) else []


def _fig6_measured(study: Study) -> pd.DataFrame:
    among = study.pool_sources()
    return pd.DataFrame(
        [
            {"selection": name, **row}
            for name, run in zip(("Random", *study.task_names, "Round-robin"), _fig6_runs(study), strict=True)
            for row in counted(study.picks(run)["source"], among)
        ]
    )


@base.styled
def _fig6_draw(table: pd.DataFrame) -> Drawing:
    """Bars and layers stand in the order of the table."""
    from rdslib.figures import style

    bars = table.groupby("origin")["selection"].nunique().max()
    figure, parts = style.panels(table, max(6.2, 2.2 + 0.78 * bars), 4.8)
    colours = style.source_colours(table["source"])
    for rows, axes in parts:
        style.stacked(axes, rows, "selection", colours, CHOSEN)
        style.heading(axes, rows, "Share of each source in what was selected; the number of samples on top")
    return figure


# Figure 7: from which sources each method picks, at a small and at a large budget.


def _fig7_runs(study: Study) -> list[Run]:
    """Every method at each budget: from the whole pool, or the one that it runs from, for all tasks.

    At a budget of which that pool does not have as many samples there is none.
    """
    grid = study.experiment.grid
    pools: Mapping[str, str] = {method: pool for pool, named in grid.single_task.items() for method in named}
    pools = {**pools, **dict.fromkeys(grid.single_task.get("all", ()), "all")}
    most = max((study.offered(method, pool) for method, pool in pools.items()), default=0)
    if (asked := max(grid.source_budgets, default=0)) > most:
        raise UserError(
            f"profile {study.profile.name}: source_budgets: asks for {asked:,} samples, and no method has "
            f"more than {most:,} to offer; lower it"
        )
    return [
        run
        for budget in grid.source_budgets
        for method, pool in pools.items()
        if budget <= study.offered(method, pool)
        for run in runs_of(study, method, pool, budget, multi=True, picks=True)
        if run.seed == _first_seed(study)
    ]


def _fig7_measured(study: Study) -> pd.DataFrame:
    among = study.pool_sources()
    return pd.DataFrame(
        [
            {"method": run.method, "pool_size": study.pool_size(run.pool), "budget": run.budget, **row}
            for run in _fig7_runs(study)
            for row in counted(study.picks(run)["source"], among)
        ]
    )


@base.styled
def _fig7_draw(table: pd.DataFrame) -> Drawing:
    """A panel a budget, one under another."""
    from rdslib.figures import style

    methods, budgets = in_order(table["method"]), sorted(table["budget"].unique())
    colours = style.source_colours(table["source"])
    pool_size = table["pool_size"].max()
    width = min(2.3 + max(2.4, 0.8 * len(methods)), style.PAGE)
    figure = style.Drawing(figsize=(width, 0.4 + 3.6 * len(budgets)))
    panels = figure.subplots(len(budgets), 1, squeeze=False)[:, 0]
    for budget, axes in zip(budgets, panels, strict=True):
        rows = table[table["budget"] == budget]
        rows = rows.sort_values("method", key=lambda names: names.map(methods.index), kind="stable")
        # A method that had a smaller pool says so under its bar, in another line.
        names = rows["method"].map(method_title)
        smaller = rows["pool_size"].map(lambda size: f" from\N{NO-BREAK SPACE}{human(size)}")
        names = names.where(rows["pool_size"] == pool_size, names + smaller)
        style.stacked(axes, rows.assign(bar=names), "bar", colours, CHOSEN)
        but = ", but where a bar says otherwise" if (rows["pool_size"] < pool_size).any() else ""
        style.heading(axes, rows, f"{human(budget)} samples selected from {human(pool_size)}{but}")
        if axes is not panels[0]:
            axes.set_title("")
            axes.get_legend().remove()
    return figure


FIGURES = {
    "fig2_pools": Figure("Figure 2", _fig2_published, _fig2_measured, _fig2_draw, value="count"),
    "fig5_score_histogram": Figure("Figure 5", None, _fig5_measured, _fig5_draw, _fig5_runs, picked),
    "fig6_sources_by_task": Figure("Figure 6", None, _fig6_measured, _fig6_draw, _fig6_runs, picked, "count"),
    "fig7_sources_by_method": Figure(
        "Figure 7", None, _fig7_measured, _fig7_draw, _fig7_runs, picked, "count"
    ),
}
