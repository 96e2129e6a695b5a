"""A study's pool, queries and selections, looked at by hand: as tidy tables, and two of them as figures.

A method's scores are made once for each pool and task, and stay in memory (4 bytes a query and sample), so
that a selection of any budget is a walk over them. `rdslib.figures.explore_widgets` puts controls in front.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial, reduce

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.decomposition import PCA

from rdslib.data.chat import Sample
from rdslib.data.pool import subset
from rdslib.errors import UserError
from rdslib.figures import style as drawing
from rdslib.figures.plain_text import shortened
from rdslib.figures.style import human, method_name, styled
from rdslib.methods import ScoringInputs, features, get_extractor, get_scorer
from rdslib.methods.rds import RDS
from rdslib.pipeline.step import Step
from rdslib.pipeline.steps import takers_of
from rdslib.pipeline.study import Study
from rdslib.selection import round_robin as selectors
from rdslib.selection.topk import Block, Ranker, over

POOL = "The pool"


@dataclass(frozen=True)
class Comparison:
    """What two selections from one pool, of `pool_size` samples, have in common.

    `overlap`: samples that both took; `jaccard`: their share of those that either took. `sources`: source,
    and its counts `only_first`, `both` and `only_second`. `only_first`, `only_second`: samples that one of
    them alone took, with the columns of `Explorer.neighbours`; `rank` is their place in its selection.
    """

    pool_size: int
    overlap: int
    jaccard: float
    sources: pd.DataFrame
    only_first: pd.DataFrame
    only_second: pd.DataFrame


class Explorer:
    """A study to look into.

    Wherever it is asked for, `task` is the name of a task, or None for all of them together; a method without
    queries selects the same for each. A budget is any number from 1 to `largest`.
    """

    def __init__(self, study: Study) -> None:
        """Raises UserError if the study's profile has published numbers alone."""
        if study.profile.experiment is None:
            raise UserError(
                f"profile {study.profile.name}: has no pool to explore; use another, such as mini"
            )
        self.study = study
        self.methods = drawing.in_order(study.methods)
        self.tasks = study.task_names
        self._blocks: dict[tuple[str, str, str | None], list[Block]] = {}
        self._places: dict[str | None, np.ndarray] = {}

    # What there is.

    def steps(self) -> list[Step]:
        """What exploring rests on; `Study.compute` makes what is missing, with progress."""
        wanted = [self.study.data]
        for method in self.methods:
            for task in (None, *(self.tasks if self.needs_queries(method) else ())):
                wanted += self._features(method, self.pools(method)[0], task).values()
        return wanted

    @cached_property
    def samples(self) -> pd.DataFrame:
        """The whole pool: id, source and messages of each sample, by its position."""
        return self.study.pool_table()

    @cached_property
    def sources(self) -> list[str]:
        """The sources of the whole pool, in the order in which they come."""
        return drawing.distinct(self.samples["source"])

    def queries(self, task: str) -> list[Sample]:
        """The queries of a task; raises UserError if there is no such task."""
        if task not in self.tasks:
            raise UserError(f"unknown task {task!r}; tasks: {', '.join(self.tasks)}")
        return self._queries[task]

    @cached_property
    def _queries(self) -> dict[str, list[Sample]]:
        return {task: self.study.task_data(task).queries for task in self.tasks}

    def needs_queries(self, method: str) -> bool:
        """Whether a method looks at queries; raises UserError if it is not one of the study's."""
        if method not in self.methods:
            raise UserError(f"unknown method {method!r}; methods of this study: {', '.join(self.methods)}")
        return get_scorer(method).needs_queries

    def pools(self, *methods: str) -> list[str]:
        """The pools from which each of these methods can select, the largest first.

        They are all those of the study. Where a method's features are made for each pool apart (LESS), they
        are those that the study's grid names for it. Raises UserError if there is none, or for a method that
        is not one of the study's.
        """
        e = self.study.experiment
        names = ["all", *sorted(e.pool.subsets, key=self.study.pool_size, reverse=True)]
        for method in methods:
            self.needs_queries(method)
            if any(get_extractor(feature).per_pool for feature in get_scorer(method).features):
                there = {pool for pool, named in e.grid.single_task.items() if method in named}
                there |= {e.grid.ablation_pool} if method in e.grid.ablation_methods else set()
                there |= {"all"} if method in e.grid.multi_task_methods else set()
                names = [name for name in names if name in there]
        if not names:
            raise UserError(f"{', '.join(methods)}: this study has no pool from which all of these select")
        return names

    def _pool(self, method: str, pool: str | None) -> str:
        there = self.pools(method)
        if pool is not None and pool not in there:
            raise UserError(f"method {method}: selects from the pools {', '.join(there)}, not from {pool!r}")
        return pool or there[0]

    def largest(self, method: str, task: str | None = None, pool: str | None = None) -> int:
        """The largest budget: how many samples of a pool (see `selection`) a method has to offer."""
        pool = self._pool(method, pool)
        size = len(self._positions(pool))
        refused = [ranker(1, True, None).refused for ranker in self._rankers(method, pool, task)]
        return size - len(reduce(np.intersect1d, refused)) - int(get_scorer(method).skip * size)

    # What can be asked.

    def neighbours(self, task: str, query: int, method: str, k: int = 10) -> pd.DataFrame:
        """The `k` samples that score best for a query, given by its number from 0.

        A row a sample: rank (from 1), score, source, id, text (shortened). Fewer where the pool has fewer to
        offer. Raises UserError for an unknown task, query or method, a method without queries, or `k` < 1.
        """
        if k < 1:
            raise UserError(f"{k} neighbours are asked for; ask for at least 1")
        if not self.needs_queries(method):
            having = [name for name in self.methods if self.needs_queries(name)]
            raise UserError(f"method {method}: does not look at queries; use one of {', '.join(having)}")
        count = len(self.queries(task))
        if not 0 <= query < count:
            raise UserError(f"query {query} of {task}: there are {count}; use a number from 0 to {count - 1}")
        pool = self.pools(method)[0]
        ranked = self._ranker(method, pool, task)(k, False, None).lists()[query]
        picks = pd.DataFrame({"position": self._positions(pool)[ranked.positions], "score": ranked.scores})
        return self._listed(picks)

    def selection(
        self, method: str, budget: int, task: str | None = None, pool: str | None = None
    ) -> pd.DataFrame:
        """What `Study.picks` gives, for any budget: position, id, source, score, taker, in order of picking.

        `pool` is one of the method's `pools`, by default the largest. Raises UserError for another pool, an
        unknown method or task, and a budget that is not from 1 to `largest`.
        """
        pool = self._pool(method, pool)
        positions, scorer = self._positions(pool), get_scorer(method)
        rankers = self._rankers(method, pool, task)
        try:
            picked = selectors.choose(rankers, budget, int(scorer.skip * len(positions)))
        except ValueError as error:
            raise UserError(f"method {method}: {error}; choose another budget") from error
        at = positions[picked.indices]
        takers = takers_of(picked, scorer, self.tasks if len(rankers) > 1 else ())
        rows = self.samples[["id", "source"]].iloc[at].reset_index(drop=True)
        return rows.assign(position=at, score=picked.scores, taker=takers)[
            ["position", "id", "source", "score", "taker"]
        ]

    def mix(self, method: str, budget: int, task: str | None = None) -> pd.DataFrame:
        """How many samples of each source a selection has, and the pool that it was made from.

        A row a selection (`The pool`, or the method's name) and source: selection, source, count.
        """
        pool = self.samples["source"].iloc[self._positions(self.pools(method)[0])]
        groups = {POOL: pool, method_name(method): self.selection(method, budget, task)["source"]}
        return pd.concat(
            [
                pd.DataFrame({"selection": name, "source": self.sources, "count": self._counts(sources)})
                for name, sources in groups.items()
            ],
            ignore_index=True,
        )

    def compare(
        self, first: str, second: str, budget: int, task: str | None = None, shown: int = 5
    ) -> Comparison:
        """Two methods' selections from the largest pool that both select from.

        Of the samples that one of them alone took, the first `shown` are listed. Raises UserError as `pools`
        and `selection` do.
        """
        pool = self.pools(first, second)[0]
        ours, theirs = (self.selection(method, budget, task, pool) for method in (first, second))
        in_both = ours["position"].isin(theirs["position"])
        only_ours, only_theirs = ours[~in_both], theirs[~theirs["position"].isin(ours["position"])]
        sources = pd.DataFrame(
            {
                "source": self.sources,
                "only_first": self._counts(only_ours["source"]),
                "both": self._counts(ours["source"][in_both]),
                "only_second": self._counts(only_theirs["source"]),
            }
        )
        overlap = int(in_both.sum())
        return Comparison(
            pool_size=len(self._positions(pool)),
            overlap=overlap,
            jaccard=overlap / (2 * budget - overlap),
            sources=sources,
            only_first=self._listed(only_ours.head(shown)),
            only_second=self._listed(only_theirs.head(shown)),
        )

    def map(self, method: str, budget: int, task: str | None = None) -> pd.DataFrame:
        """The pool and the task's queries on the plane in which the pool's RDS+ vectors vary most.

        A row a sample, those of the pool first, by position: kind (`pool` or `query`), id, source, x, y (the
        first two principal components) and selected (whether the method took it).
        """
        selected = np.zeros(len(self.samples), dtype=bool)
        selected[self.selection(method, budget, task)["position"]] = True
        parts = [self.samples[["id", "source"]].assign(kind="pool", selected=selected)]
        places = [self._place(None)]
        for name in self.tasks if task is None else (task,):
            rows = [{"id": query.id, "source": query.source} for query in self.queries(name)]
            parts.append(pd.DataFrame(rows).assign(kind="query", selected=False))
            places.append(self._place(name))
        x, y = np.concatenate(places).T
        table = pd.concat(parts, ignore_index=True).assign(x=x, y=y)
        return table[["kind", "id", "source", "x", "y", "selected"]]

    # The figures.

    @styled
    def mix_figure(self, method: str, budget: int, task: str | None = None) -> Figure:
        """`mix`, in the style of figure 7."""
        table = self.mix(method, budget, task).assign(origin="measured")
        figure = drawing.Drawing(figsize=(5.2, 4.8))
        axes = figure.subplots()
        colours = drawing.source_colours(self.sources)
        drawing.stacked(axes, table, "selection", colours, "Share of the samples")
        drawing.heading(axes, table, self._details(method, budget, task))
        return figure

    @styled
    def map_figure(self, method: str, budget: int, task: str | None = None) -> Figure:
        """`map`: the pool coloured by source, with the selection and the queries on top."""
        table = self.map(method, budget, task).assign(origin="measured")
        pool, queries = table[table["kind"] == "pool"], table[table["kind"] == "query"]
        picked = pool[pool["selected"]]
        colours = drawing.source_colours(self.sources)
        figure = drawing.Drawing(figsize=(7.6, 5.4))
        axes = figure.subplots()
        axes.scatter(pool["x"], pool["y"], s=10, c=pool["source"].map(colours), alpha=0.6, linewidths=0)
        axes.scatter(queries["x"], queries["y"], s=16, c="black", marker="x", linewidths=0.7)
        faces = picked["source"].map(colours)
        axes.scatter(picked["x"], picked["y"], s=36, c=faces, edgecolors="black", linewidths=0.9)
        axes.grid(visible=True, axis="both")
        first, second = self._components.explained_variance_ratio_
        axes.set_xlabel(f"First principal component ({first:.0%} of the variance)")
        axes.set_ylabel(f"Second principal component ({second:.0%} of the variance)")
        drawing.heading(axes, table, self._details(method, budget, task))
        key = partial(Line2D, [], [], linestyle="")
        keys = [key(marker="o", color=colours[name], markersize=4.5, label=name) for name in self.sources]
        ring = key(marker="o", markerfacecolor="none", markeredgecolor="black", label="picked by the method")
        keys.append(ring)
        keys.append(key(marker="x", color="black", markersize=4, label=f"query of {task or 'any task'}"))
        axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8)
        return figure

    def _details(self, method: str, budget: int, task: str | None) -> str:
        size = len(self._positions(self.pools(method)[0]))
        aim = f" for {task or 'all tasks'}" if self.needs_queries(method) else ""
        samples = "1 sample" if budget == 1 else f"{budget:,} samples"
        return f"{method_name(method)}: {samples} selected from {human(size)}{aim}"

    # What is kept in memory.

    def _rankers(self, method: str, pool: str, task: str | None) -> list[Ranker]:
        """A ranker for each task that the method is to select for; one if it does not look at queries."""
        if not self.needs_queries(method):
            return [self._ranker(method, pool, None)]
        if task is not None:
            self.queries(task)
        return [self._ranker(method, pool, each) for each in (self.tasks if task is None else (task,))]

    def _ranker(self, method: str, pool: str, task: str | None) -> Ranker:
        if (method, pool, task) not in self._blocks:
            self._blocks[method, pool, task] = list(
                get_scorer(method).blocks(self._inputs(method, pool, task))
            )
        return over(lambda: self._blocks[method, pool, task])

    def _inputs(self, method: str, pool: str, task: str | None) -> ScoringInputs:
        e, path = self.study.experiment, self.study.store.path
        rows = self._features(method, pool, None)
        wanted = self._features(method, pool, task) if task else {}
        self.study.compute([*rows.values(), *wanted.values()])
        positions = self._positions(pool)
        return ScoringInputs(
            self.samples["source"].iloc[positions].tolist(),
            e.grid.seeds[0] if get_scorer(method).seeded else e.seed,
            {feature: path(step) for feature, step in rows.items()},
            {feature: path(step) for feature, step in wanted.items()},
            {feature: positions for feature in rows if not get_extractor(feature).per_pool},
        )

    def _features(self, method: str, pool: str, task: str | None) -> dict[str, Step]:
        names = get_scorer(method).features
        return {feature: self.study.features(feature, task, pool) for feature in names}

    def _positions(self, pool: str) -> np.ndarray:
        """Where the samples of a pool are in the whole pool: int64 [samples], sorted."""
        e, total = self.study.experiment, len(self.samples)
        return np.arange(total) if pool == "all" else subset(total, e.pool.subsets[pool], e.seed)

    @cached_property
    def _components(self) -> PCA:
        # By the eigenvectors of the covariance, which is exact, and quick for many samples.
        return PCA(2, svd_solver="covariance_eigh").fit(self._vectors(None))

    def _place(self, task: str | None) -> np.ndarray:
        """The pool (None) or a task's queries on the map: [samples, 2]."""
        if task not in self._places:
            self._places[task] = self._components.transform(self._vectors(task))
        return self._places[task]

    def _vectors(self, task: str | None) -> np.ndarray:
        """RDS+ vectors of the whole pool (None) or of a task's queries: float32 [samples, hidden size]."""
        ((feature, step),) = self._features(RDS.name, "all", task).items()
        self.study.compute([step])
        found = features.read_all(self.study.store.path(step), feature.partition(".")[2])
        return found.astype(np.float32)

    def _counts(self, sources: pd.Series) -> np.ndarray:
        """How many there are of each of the pool's sources."""
        return sources.value_counts().reindex(self.sources, fill_value=0).to_numpy()

    def _listed(self, picks: pd.DataFrame) -> pd.DataFrame:
        """Some picks, as a person reads them: rank (their place, from 1), score, source, id, text."""
        rows = self.samples.iloc[picks["position"].to_numpy()]
        return pd.DataFrame(
            {
                "rank": picks.index + 1,
                "score": picks["score"].to_numpy(),
                "source": rows["source"].to_numpy(),
                "id": rows["id"].to_numpy(),
                "text": [shortened(messages) for messages in rows["messages"]],
            }
        )
