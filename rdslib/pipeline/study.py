"""A profile's study: which runs it is made of, what it computes, and its records as a tidy table."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from rdslib.data import download as fetch
from rdslib.data import pool
from rdslib.evaluation.bootstrap import Estimate, estimate_difference, estimate_mean
from rdslib.methods import COST, features, get_extractor, get_scorer
from rdslib.models import flops
from rdslib.models.device import share_threads
from rdslib.params import ROOT, Profile, load_profile, profile_path
from rdslib.pipeline import steps as stages
from rdslib.pipeline.progress import Progress
from rdslib.pipeline.recipes import UNTUNED, Recipes, Run
from rdslib.pipeline.store import Step, Store, in_order
from rdslib.tasks import base as tasks


class Study(Recipes):
    """A profile's steps and runs, with the store where its artifacts are."""

    def __init__(
        self, profile: Profile, home: Path | None = None, root: Path = ROOT, folder: Path | None = None
    ) -> None:
        super().__init__(profile, folder or root / "params")
        self.root = root
        self.store = Store((home or fetch.home()) / "artifacts", Progress())

    @classmethod
    def load(
        cls, profile: str, home: Path | None = None, root: Path = ROOT, engine: str | None = None
    ) -> Study:
        """The study of a profile, by its name or the path of a YAML file; raises UserError.

        `engine`: `local` or `ray`, in place of the profile's.
        """
        share_threads()
        folder = profile_path(profile, root).resolve().parent
        loaded = load_profile(profile, root)
        if engine is not None:
            loaded = loaded.model_copy(update={"engine": engine})
        return cls(loaded, home, root, folder)

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks of the study, in order."""
        return tuple(task.name for task in self.experiment.tasks)

    # The runs.

    def single_task_runs(self) -> list[Run]:
        """Figure 1 and Table 1: each method, from each pool, one selection a task."""
        grid = self.experiment.grid
        return [
            run
            for pool_name, methods in grid.single_task.items()
            for method in methods
            for run in self.runs_of(method, pool_name, grid.single_task_budget, multi=False)
        ]

    def ablation_runs(self) -> list[Run]:
        """Table 6: RDS+ and its variants, from one pool, one selection a task."""
        grid = self.experiment.grid
        return [
            run
            for method in ("rds", *grid.ablation_methods)
            for run in self.runs_of(method, grid.ablation_pool, grid.single_task_budget, multi=False)
        ]

    def multi_task_runs(self) -> list[Run]:
        """Figures 3 and 4: each method at each budget, one selection for all tasks."""
        grid = self.experiment.grid
        return [
            run
            for budget in grid.multi_task_budgets
            for method in grid.multi_task_methods
            for run in self.runs_of(method, "all", budget, multi=True)
        ]

    def second_pool_runs(self) -> list[Run]:
        """Table 3: each method at the largest budget from the second pool, one selection for all tasks."""
        grid = self.experiment.grid
        if grid.second_pool is None:
            return []
        return [
            run
            for method in grid.multi_task_methods
            for run in self.runs_of(method, grid.second_pool, max(grid.multi_task_budgets), multi=True)
        ]

    def runs_of(self, method: str, pool_name: str, budget: int, multi: bool) -> list[Run]:
        """A method's runs at one budget, over targets and seeds."""
        targets: Sequence[tuple[str, ...]] = [()]
        if get_scorer(method).needs_queries:
            targets = [self.task_names] if multi else [(task,) for task in self.task_names]
        return [
            Run(method, pool_name, budget, each, seed)
            for each in targets
            for seed in self.experiment.grid.seeds
        ]

    def untuned(self) -> Run:
        """The model before fine-tuning."""
        return Run(UNTUNED, "all", 0, (), self.experiment.seed)

    def evaluations(self, runs: Iterable[Run]) -> list[Step]:
        """Every run on the tasks it is for: a single-task run on its own task, others on all."""
        return [self.evaluation(run, task) for run in runs for task in self.tasks_of(run)]

    def tasks_of(self, run: Run) -> tuple[str, ...]:
        """The tasks on which a run is evaluated."""
        return run.targets or self.task_names

    # Computing.

    def missing(self, steps: Iterable[Step]) -> list[Step]:
        """Of the steps and all they rest on, those without an artifact, in the order to make them."""
        return [step for step in in_order(list(steps)) if not self.store.has(step)]

    def compute(self, steps: Iterable[Step]) -> None:
        """Make every step and all they rest on; what is there is checked, byte for byte, and kept.

        Other processes may be at the same steps (`rdslib.pipeline.workers`): what one of them is making is
        left to it, and taken up once it is done, or once that process has ended.
        """
        # Features first: they take longest, and most of the rest waits for them.
        left = sorted(in_order(list(steps)), key=lambda step: step.stage in ("select", "train", "evaluate"))
        self.store.progress.plan(self.missing(left))
        while left:
            before, left = len(left), [step for step in left if not self.store.try_make(step)]
            if len(left) == before:
                time.sleep(0.2)

    # Reading.

    def table(self, step: Step, name: str) -> pd.DataFrame:
        """A Parquet file of a step's artifact, which is made if it is missing."""
        self.compute([step])
        return pq.read_table(self.store.path(step) / name).to_pandas()

    def pool_table(self) -> pd.DataFrame:
        """The pool: id, source, messages."""
        return self.table(self.data, "pool.parquet")

    def task_data(self, name: str) -> tasks.TaskData:
        """A task's query and test samples."""
        self.compute([self.data])
        return tasks.read_task(stages.task_folder(self.store.path(self.data), name))

    def pool_size(self, name: str) -> int:
        """How many samples a pool holds: all, or a named subset."""
        return self.experiment.pool.subsets.get(name) or len(self.pool_table())

    def picks(self, run: Run) -> pd.DataFrame:
        """A run's selection: position, id, source, score, taker, in order of picking."""
        return self.table(self.selection(run), "selection.parquet")

    def scores(self, run: Run, task: str) -> pd.DataFrame:
        """A run's evaluation on a task: id, subtask, bits, bytes, correct."""
        return self.table(self.evaluation(run, task), "scores.parquet")

    def measured(self, run: Run, task: str) -> pd.DataFrame:
        """A run on a task by the paper's protocol: id, subtask, score, prompt, responses."""
        return self.table(self.measurement(run, task), "measured.parquet")

    def bits_per_byte(self, run: Run, task: str) -> Estimate:
        """Bits per byte of the reference answers of a task, with its 95% interval."""
        e = self.experiment
        return estimate_mean({task: [self._bits(run, task)]}, e.evaluate.bootstrap, e.seed)

    def relative(self, runs: Sequence[Run], task: str | None = None) -> Estimate:
        """Bits per byte relative to the untuned model's, mean over tasks and runs; below 1 is better.

        Of the tasks that the runs are for, or of `task` alone.

        A plain mean over tasks would be that of the tasks with the shortest answers, whose bits per byte
        are several times those of the others.
        """
        e = self.experiment
        base = self._bits_by_task([self.untuned()])
        return estimate_mean(self._bits_by_task(runs, task), e.evaluate.bootstrap, e.seed, base)

    def difference(self, ours: Sequence[Run], theirs: Sequence[Run]) -> Estimate:
        """`relative` of ours less that of theirs, paired by test sample."""
        e = self.experiment
        base = self._bits_by_task([self.untuned()])
        return estimate_difference(
            self._bits_by_task(ours), self._bits_by_task(theirs), e.evaluate.bootstrap, e.seed, base
        )

    def accuracy(self, run: Run, task: str) -> Estimate | None:
        """Accuracy by likelihood on a task that has choices, with its 95% interval; else None."""
        correct = self.scores(run, task)["correct"].to_numpy()
        if np.isnan(correct).any():
            return None
        e = self.experiment
        return estimate_mean({task: [(correct, np.ones_like(correct))]}, e.evaluate.bootstrap, e.seed)

    def measured_flops(self, run: Run) -> float:
        """FLOPs of a run: what its method's features took, of its pool and its targets' queries, what was
        prepared for them, and training.

        2N a token forward and 6N a token of training, with N the non-embedding parameters of the model
        that did it, and the tokens that were really processed.
        """
        training = self.training(run)
        if training is None:
            return 0.0
        parameters = self.store.manifest(self.model)["counts"]["non_embedding_parameters"]
        tokens = self.store.manifest(training)["counts"]["training_tokens"]
        # Features of one extractor come from one pass.
        passes = {get_extractor(feature).name: feature for feature in get_scorer(run.method).features}
        selection = sum(self._extraction_flops(feature, run) for feature in passes.values())
        return selection + flops.TRAINING * parameters * tokens

    def formula_flops(self, run: Run) -> float:
        """What the paper's formula (Appendix E) gives for a run, with this model, pool and budget.

        Every sample counts as 2,048 tokens, as in the paper; NaN for a method whose cost it does not give.
        """
        if run.method == UNTUNED:
            return 0.0
        e = self.experiment
        parameters = self.store.manifest(self.model)["counts"]["non_embedding_parameters"]
        cost = flops.CostModel(parameters=parameters, epochs=e.train.epochs)
        scorer = get_scorer(run.method)
        for feature in scorer.features:
            extractor = get_extractor(feature)
            if extractor.prepares:
                counts = self.store.manifest(self.preparation(feature, run.pool))["counts"]
                on = extractor.prepare_pool(e, run.pool)
                cost = extractor.cost_model(cost, e, counts, self.pool_size(on) if on else 0)
        selection = scorer.paper_flops(self.pool_size(run.pool), run.budget, cost)
        return flops.training_flops(run.budget, cost) + selection

    def _extraction_flops(self, feature: str, run: Run) -> float:
        extractor = get_extractor(feature)
        cost = self._cost(self.features(feature, None, run.pool), None if extractor.per_pool else run.pool)
        for task in run.targets:
            cost += self._cost(self.features(feature, task, run.pool), None)
        if extractor.prepares:
            cost += self.store.manifest(self.preparation(feature, run.pool))["counts"]["flops"]
            on = extractor.prepare_pool(self.experiment, run.pool)
            # What the preparation reads, of the pool that it prepares on.
            for each in extractor.prepare_features:
                cost += self._cost(self.features(each, None), on)
        return cost

    def _cost(self, step: Step, of: str | None) -> float:
        """FLOPs of a step's features: of all its samples, or, of the whole pool's, of those of a smaller."""
        cost = features.read_all(self.store.path(step), COST)
        if of not in (None, "all"):
            cost = cost[pool.subset(len(cost), self.pool_size(of), self.experiment.seed)]
        return float(cost.sum())

    def _bits_by_task(
        self, runs: Sequence[Run], only: str | None = None
    ) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
        """Bits and bytes by test sample, of each run of a task, for the tasks that the runs are for."""
        found = {
            task: [self._bits(run, task) for run in runs if task in self.tasks_of(run)]
            for task in self.task_names
            if only in (None, task)
        }
        return {task: each for task, each in found.items() if each}

    def _bits(self, run: Run, task: str) -> tuple[np.ndarray, np.ndarray]:
        scores = self.scores(run, task)
        return scores["bits"].to_numpy(), scores["bytes"].to_numpy()
