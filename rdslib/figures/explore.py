"""A pool, its queries and selections, looked at by hand, as tidy tables.

A method's scores are made once for each pool and task, and stay in memory (4 bytes a query and sample), so
that a selection of any budget is a walk over them. `rdslib.figures.controls` puts controls in front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from rdslib.data.chat import Message, Sample, shortened, text_of
from rdslib.data.pool import subset
from rdslib.errors import UserError
from rdslib.figures.base import RDS, distinct, human, in_order, method_title
from rdslib.figures.sources import counted
from rdslib.files import read_table
from rdslib.methods import ScoringInputs, features, fits, get_extractor, get_scorer
from rdslib.methods.blocks import blocks_of
from rdslib.pipeline import steps
from rdslib.pipeline.pipeline import ALL, Pipeline, Request
from rdslib.pipeline.step import Step
from rdslib.pipeline.study import Study
from rdslib.selection.base import highest
from rdslib.selection.round_robin import ROUND_ROBIN
from rdslib.selection.topk import Block, Ranker, over
from rdslib.tasks.base import read_queries

POOL = "The pool"


class Explorer:
    """A pipeline to look into.

    Wherever it is asked for, `task` is the name of a task, or None for all of them together; a method without
    queries selects the same for each. A budget is any number from 1 to `largest`. A name that is not known
    raises UserError.

    Args:
        pipeline: What selects, from which pool and for which tasks.
        pools: The methods to look at, and the pools from which each can select, the largest first.
        first: The method to begin with, of one feature, which also places samples on the map.
        budget: The budget to begin with.
        seed: The seed of methods that draw.
        limits: How much of a source may be selected, as of `Request`.
        selector: How methods with queries select, as of `Request`.
        max_similarity: How like one another picks may be, as of `Request`, by methods that compare vectors.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        pools: Mapping[str, Sequence[str]],
        first: str,
        budget: int,
        seed: int,
        limits: Mapping[str, Any] | None = None,
        selector: str = ROUND_ROBIN.name,
        max_similarity: float | None = None,
    ) -> None:
        self.pipeline, self._pools, self.first, self.budget = pipeline, pools, first, budget
        self.seed, self.limits = seed, limits or {}
        self.selector, self.max_similarity = selector, max_similarity
        self.methods = in_order(pools)
        self.tasks = tuple(pipeline.queries)
        self._queries: dict[str, list[Sample]] = {}
        self._blocks: dict[tuple[str, str, str | None], list[Block]] = {}

    @classmethod
    def of(cls, study: Study) -> Explorer:
        """Explore a study, with its methods.

        A method whose features are made for each pool apart (LESS) has the pools that the study's grid names
        for it. Raises UserError if the study's profile has published numbers alone.
        """
        if study.profile.experiment is None:
            raise UserError(
                f"profile {study.profile.name}: has no pool to explore; use another, such as mini"
            )
        e, grid = study.experiment, study.experiment.grid
        names = [ALL, *sorted(e.pool.subsets, key=study.pool_size, reverse=True)]
        pools = {}
        for method in study.methods:
            there = set(names)
            if any(get_extractor(feature).per_pool for feature in get_scorer(method).features):
                there = {pool for pool, named in grid.single_task.items() if method in named}
                there |= {grid.ablation_pool} if method in grid.ablation_methods else set()
                there |= {ALL} if method in grid.multi_task_methods else set()
            pools[method] = [name for name in names if name in there]
        budget = max(grid.source_budgets, default=grid.single_task_budget)
        return cls(study.pipeline, pools, RDS, budget, grid.seeds[0])

    def steps(self) -> list[Step]:
        """List what exploring rests on; `Pipeline.compute` makes what is missing, with progress."""
        wanted = [*self.pipeline.queries.values(), self.pipeline.pool]
        for method in self.methods:
            for task in (None, *(self.tasks if self.needs_queries(method) else ())):
                wanted += self._features(method, self.pools(method)[0], task).values()
        return wanted

    @cached_property
    def samples(self) -> pd.DataFrame:
        """The whole pool: id, source and messages of each sample, by its position."""
        return read_table(self._made(self.pipeline.pool)[0] / steps.POOL).to_pandas()

    @cached_property
    def sources(self) -> list[str]:
        """The sources of the whole pool, in the order in which they come."""
        return distinct(self.samples["source"])

    def queries(self, task: str) -> list[Sample]:
        """Return the queries of a task."""
        if task not in self.tasks:
            raise UserError(f"unknown task {task!r}; tasks: {', '.join(self.tasks)}")
        if task not in self._queries:
            self._queries[task] = read_queries(self._made(self.pipeline.queries[task])[0])
        return self._queries[task]

    def clearest(self) -> tuple[str, int]:
        """A query to begin with, as its task and its number: the one that is most of letters, and short."""

        def share(at: tuple[str, int]) -> float:
            text = text_of(self.queries(at[0])[at[1]].messages)
            plain = sum(each.isalpha() or each in " .,?" for each in text)
            return plain / max(len(text), 1) - len(text) / 5_000

        return max(((task, at) for task in self.tasks for at in range(len(self.queries(task)))), key=share)

    def messages(self, sample: str) -> list[Message]:
        """The messages of a sample of the pool, by its id."""
        return list(self.samples["messages"].iloc[self._places[sample]])

    def text(self, sample: str) -> str:
        """The whole text of a sample of the pool, by its id."""
        return text_of(self.messages(sample))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {sample: place for place, sample in enumerate(self.samples["id"])}

    def needs_queries(self, method: str) -> bool:
        """Whether a method looks at queries."""
        if method not in self.methods:
            raise UserError(f"unknown method {method!r}; methods: {', '.join(self.methods)}")
        return get_scorer(method).needs_queries

    def pools(self, *methods: str) -> list[str]:
        """List the pools from which each of these methods can select, the largest first.

        Raises UserError if there is none.
        """
        for method in methods:
            self.needs_queries(method)
        first, *others = (self._pools[method] for method in methods)
        names = [name for name in first if all(name in each for each in others)]
        if not names:
            raise UserError(f"{', '.join(methods)}: there is no pool from which all of these select")
        return names

    def largest(self, method: str, task: str | None = None, pool: str | None = None) -> int:
        """The largest budget: how many samples of a pool (see `selection`) a method has to offer."""
        pool = self._pool(method, pool)
        positions = self._positions(pool)
        skip = int(get_scorer(method).skip * len(positions))
        rankings = [ranker(max(skip, 1), highest, None) for ranker in self._rankers(method, pool, task)]
        refused = reduce(np.intersect1d, [ranking.refused for ranking in rankings])
        # Only a method with one list passes any over.
        passed_over = [each.cut(0, skip).positions for each in rankings[0].lists()]
        offered = np.delete(positions, np.concatenate([refused, *passed_over]))
        counts = self.samples["source"].iloc[offered].value_counts().to_numpy()
        return int(np.minimum(counts, self.limits.get("most", len(positions))).sum())

    def neighbours(self, task: str, query: int, method: str, k: int = 10) -> pd.DataFrame:
        """Find the `k` samples that score best for a query, given by its number from 0.

        Returns:
            A row a sample: rank (from 1), score, source, id, text (shortened); fewer than `k` where the pool
            has fewer to offer.
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
        lists = self._ranker(method, pool, task)(k, None, None).lists()
        ranked = lists[0 if get_scorer(method).joins_queries else query]
        picks = pd.DataFrame({"position": self._positions(pool)[ranked.positions], "score": ranked.scores})
        return self._listed(picks)

    def selection(
        self, method: str, budget: int, task: str | None = None, pool: str | None = None
    ) -> pd.DataFrame:
        """Select as the pipeline does, with any budget.

        `pool` is one of the method's `pools`, by default the largest.

        Returns:
            What `Pipeline.picks` gives: position, id, source, score, picked_by, in order of picking.
        """
        pool = self._pool(method, pool)
        positions, rankers = self._positions(pool), self._rankers(method, pool, task)
        try:
            picked = steps.choose(
                method, self._inputs(method, pool, None), rankers, budget, self.limits, *self._how(method)
            )
        except ValueError as error:
            raise UserError(f"method {method}: {error}; choose another budget") from error
        at = positions[picked.indices]
        tasks = self.tasks if len(rankers) > 1 else (task or self.tasks[0],)
        names = steps.picked_by(
            picked, method, tasks if self.needs_queries(method) else (), self._how(method)[0]
        )
        rows = self.samples[["id", "source"]].iloc[at].reset_index(drop=True)
        rows.insert(0, "position", at)
        return rows.assign(score=picked.scores, picked_by=names)

    def mix(self, method: str, budget: int, task: str | None = None) -> pd.DataFrame:
        """Count the sources of a selection, and of the pool that it was made from.

        Returns:
            A row a selection (`The pool`, or the method's title) and source: selection, source, count.
        """
        pool = self.samples["source"].iloc[self._positions(self.pools(method)[0])]
        groups = {POOL: pool, method_title(method): self.selection(method, budget, task)["source"]}
        return pd.DataFrame(
            [
                {"selection": name, **row}
                for name, sources in groups.items()
                for row in counted(sources, self.samples["source"])
            ]
        )

    def compare(self, first: str, second: str, budget: int, task: str | None = None) -> pd.DataFrame:
        """Compare two methods' selections from the largest pool that both select from.

        Returns:
            A row a sample that either took: taken (`both`, `first` or `second`, by whom), and the columns of
            `neighbours`; what only one took stands in the order in which it picked, with its rank there.
        """
        pool = self.pools(first, second)[0]
        ours, theirs = (self.selection(method, budget, task, pool) for method in (first, second))
        in_both = ours["position"].isin(theirs["position"])
        only_theirs = theirs[~theirs["position"].isin(ours["position"])]
        parts = {"both": ours[in_both], "first": ours[~in_both], "second": only_theirs}
        return pd.concat(
            [self._listed(picks).assign(taken=name) for name, picks in parts.items()], ignore_index=True
        )

    def map(self, method: str, budget: int, task: str | None = None) -> pd.DataFrame:
        """Place the pool and the task's queries on the plane in which the vectors of `first` vary most.

        Returns:
            A row a sample, those of the pool first, by position: kind (`pool` or `query`), id, source, x, y
            (the first two principal components) and selected (whether the method took it).
        """
        selected = np.zeros(len(self.samples), dtype=bool)
        selected[self.selection(method, budget, task)["position"]] = True
        parts = [self.samples[["id", "source"]].assign(kind="pool", selected=selected)]
        vectors = [self._vectors(None)]
        for name in self.tasks if task is None else (task,):
            rows = [{"id": query.id, "source": query.source} for query in self.queries(name)]
            parts.append(pd.DataFrame(rows).assign(kind="query", selected=False))
            vectors.append(self._vectors(name))
        x, y = self.components.transform(np.concatenate(vectors)).T
        table = pd.concat(parts, ignore_index=True).assign(x=x, y=y)
        return table[["kind", "id", "source", "x", "y", "selected"]]

    @cached_property
    def components(self) -> PCA:
        """The first two principal components of the pool's vectors."""
        # By the eigenvectors of the covariance, which is exact, and quick for many samples.
        return PCA(2, svd_solver="covariance_eigh").fit(self._vectors(None))

    def pool_size(self, pool: str) -> int:
        """How many samples a pool holds."""
        return len(self._positions(pool))

    def title(self, method: str, budget: int, task: str | None) -> str:
        """Say in a line what was selected, from how many and for which task."""
        size = self.pool_size(self.pools(method)[0])
        aim = f" for {task or 'all tasks'}" if self.needs_queries(method) else ""
        samples = "1 sample" if budget == 1 else f"{budget:,} samples"
        return f"{method_title(method)}: {samples} selected from {human(size)}{aim}"

    def _pool(self, method: str, pool: str | None) -> str:
        there = self.pools(method)
        if pool is not None and pool not in there:
            raise UserError(f"method {method}: selects from the pools {', '.join(there)}, not from {pool!r}")
        return pool or there[0]

    def _rankers(self, method: str, pool: str, task: str | None) -> list[Ranker]:
        """A ranker for each task that the method is to select for; one if it does not look at queries."""
        if not self.needs_queries(method):
            return [self._ranker(method, pool, None)]
        if task is not None:
            self.queries(task)
        return [self._ranker(method, pool, each) for each in (self.tasks if task is None else (task,))]

    def _ranker(self, method: str, pool: str, task: str | None) -> Ranker:
        if (method, pool, task) not in self._blocks:
            for each in (None, task):
                self._made(*self._features(method, pool, each).values())
            inputs = self._inputs(method, pool, task)
            self._blocks[method, pool, task] = list(blocks_of(get_scorer(method), inputs))
        return over(lambda: self._blocks[method, pool, task])

    def _inputs(self, method: str, pool: str, task: str | None) -> ScoringInputs:
        return self.pipeline.scoring_inputs(Request(method, 1, pool=pool, seed=self.seed), task)

    def _how(self, method: str) -> tuple[str, float | None]:
        """The selector, and how like one another picks may be, as far as they are for a method."""
        scorer = get_scorer(method)
        like = self.max_similarity if scorer.vector else None
        return (self.selector if fits(method, self.selector) else ROUND_ROBIN.name), like

    def _features(self, method: str, pool: str, task: str | None) -> dict[str, Step]:
        return self.pipeline.read_by(method, task, pool)

    def _positions(self, pool: str) -> np.ndarray:
        """Where the samples of a pool are in the whole pool: int64 [samples], sorted."""
        total, draw = len(self.samples), self.pipeline.draws[pool]
        return np.arange(total) if draw is None else subset(total, *draw)

    def _vectors(self, task: str | None) -> np.ndarray:
        """What `first` makes of the whole pool (None) or of a task's queries: float32 [samples, values]."""
        ((feature, step),) = self._features(self.first, self.pools(self.first)[0], task).items()
        folder, name = self._made(step)[0], features.split_feature(feature)[1]
        return features.read_all(folder, name).astype(np.float32)

    def _made(self, *wanted: Step) -> list[Path]:
        """Make steps with all their files; return the folder of each."""
        self.pipeline.compute(wanted)
        return [self.pipeline.store.make(each) for each in wanted]

    def _listed(self, picks: pd.DataFrame) -> pd.DataFrame:
        """Some picks, as a person reads them: rank (their place, from 1), score, source, id, text."""
        rows = self.samples.iloc[picks["position"].to_numpy()].set_axis(picks.index)
        columns = {"rank": picks.index + 1, "score": picks["score"], "source": rows["source"]}
        return pd.DataFrame({**columns, "id": rows["id"], "text": rows["messages"].map(shortened)})
