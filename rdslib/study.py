"""A profile's study: which runs it is made of, the steps behind them, and their records as a tidy table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from rdslib import features, fetch, flops, pool, stages, tasks
from rdslib.device import device_kind
from rdslib.errors import UserError
from rdslib.estimate import Estimate, estimate_difference, estimate_mean
from rdslib.params import ROOT, Experiment, Profile, load_profile
from rdslib.progress import Progress
from rdslib.scorers import get_scorer
from rdslib.store import Step, Store, in_order

# Raise a stage's version when what it writes changes for the same parameters.
VERSIONS = {"model": 1, "data": 1, "encode": 1, "select": 1, "train": 1, "evaluate": 1}

UNTUNED = "untuned"


@dataclass(frozen=True)
class Run:
    """One fine-tuning: `method` picks `budget` samples of `pool` for `targets`, trained with `seed`.

    Query-free methods have no targets: one run serves every task. The model as it is, before any
    fine-tuning, is the run with method `untuned` and budget 0.
    """

    method: str
    pool: str
    budget: int
    targets: tuple[str, ...]
    seed: int


class Study:
    """A profile, with the store where its artifacts are."""

    def __init__(self, profile: Profile, home: Path | None = None, root: Path = ROOT) -> None:
        self.profile = profile
        self.root = root
        self.store = Store((home or fetch.home()) / "artifacts", Progress())

    @classmethod
    def load(cls, profile: str, home: Path | None = None, root: Path = ROOT) -> Study:
        """The study of a profile, by its name or the path of a YAML file; raises UserError."""
        return cls(load_profile(profile, root), home, root)

    @property
    def experiment(self) -> Experiment:
        """What is computed under this profile; raises UserError if it shows published numbers alone."""
        if self.profile.experiment is None:
            raise UserError(
                f"profile {self.profile.name}: has no experiment, only published numbers; use show=published"
            )
        return self.profile.experiment

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks of the study, in order."""
        return tuple(task.name for task in self.experiment.tasks)

    # The steps.

    def _step(
        self,
        stage: str,
        params: dict[str, Any],
        inputs: dict[str, Step],
        build: Any,
        label: str,
        weight: float,
    ) -> Step:
        return Step(stage, VERSIONS[stage], params, inputs, build, label, weight)

    @cached_property
    def model(self) -> Step:
        """The language model."""
        e = self.experiment
        pinned = {e.model.download: e.downloads[e.model.download].model_dump()} if e.model.download else {}
        params = {"model": e.model.model_dump(exclude={"title", "note"}), "downloads": pinned, "seed": e.seed}
        return self._step(
            "model",
            params,
            {},
            lambda work: stages.build_model(work, e.model, e.downloads, e.seed),
            f"model {e.model.title}",
            100,
        )

    @cached_property
    def data(self) -> Step:
        """The pool, and the tasks' query and test samples."""
        e = self.experiment
        params = {
            "pool": e.pool.model_dump(mode="json", exclude={"subsets"}),
            "tasks": [task.model_dump(mode="json", exclude={"note"}) for task in e.tasks],
            "downloads": {name: each.model_dump() for name, each in e.downloads.items()},
            "seed": e.seed,
        }
        return self._step("data", params, {}, lambda work: stages.build_data(work, e), "pool and tasks", 200)

    def encoding(self, task: str | None) -> Step:
        """Features of the pool (`task` None) or of a task's queries."""
        e = self.experiment
        params = {**e.encode.model_dump(), "task": task, "device": device_kind()}
        size = sum(s.samples for s in e.pool.sources) if task is None else self._task(task).queries
        return self._step(
            "encode",
            params,
            {"model": self.model, "data": self.data},
            lambda work: stages.build_encoding(work, e.encode, task),
            f"encode {'the pool' if task is None else f'{task} queries'}",
            size,
        )

    def selection(self, run: Run) -> Step:
        """What a run is trained on."""
        e = self.experiment
        scorer = get_scorer(run.method)
        subset = None if run.pool == "all" else (run.pool, e.pool.subsets[run.pool])
        keep = None if subset is None else (subset[1], e.seed)
        inputs = {"data": self.data}
        if scorer.features:
            inputs["pool"] = self.encoding(None)
            inputs |= {f"queries {target}": self.encoding(target) for target in run.targets}
        seed = run.seed if scorer.seeded else e.seed
        params = {
            "method": run.method,
            "k": run.budget,
            "subset": list(subset) if subset else None,
            "targets": list(run.targets),
            "seed": seed if scorer.seeded or subset else None,
        }
        return self._step(
            "select",
            params,
            inputs,
            lambda work: stages.build_selection(work, run.method, run.budget, keep, run.targets, seed),
            f"select {self.describe(run)}",
            1,
        )

    def training(self, run: Run) -> Step | None:
        """The fine-tuned model of a run; None for the untuned model."""
        if run.method == UNTUNED:
            return None
        e = self.experiment
        return self._step(
            "train",
            {**e.train.model_dump(mode="json"), "seed": run.seed, "device": device_kind()},
            {"model": self.model, "data": self.data, "selection": self.selection(run)},
            lambda work: stages.build_training(work, e.train, run.seed),
            f"train {self.describe(run)}",
            4.0 * run.budget * e.train.epochs,
        )

    def evaluation(self, run: Run, task: str) -> Step:
        """A run's model on a task's test samples."""
        e = self.experiment
        trained = self.training(run)
        inputs = {"model": self.model, "data": self.data} | ({"trained": trained} if trained else {})
        params = {**e.evaluate.model_dump(exclude={"bootstrap"}), "task": task, "device": device_kind()}
        return self._step(
            "evaluate",
            params,
            inputs,
            lambda work: stages.build_evaluation(work, e.evaluate, task),
            f"evaluate {self.describe(run)} on {task}",
            2.0 * self._task(task).test,
        )

    def _task(self, name: str) -> Any:
        return next(task for task in self.experiment.tasks if task.name == name)

    def describe(self, run: Run) -> str:
        """A run in a few words."""
        if run.method == UNTUNED:
            return "the untuned model"
        targets = (
            "" if not run.targets else f" for {run.targets[0] if len(run.targets) == 1 else 'all tasks'}"
        )
        return f"{run.method} {run.budget} of {run.pool}{targets}"

    # The runs.

    def single_task_runs(self) -> list[Run]:
        """Figure 1: each method, from each pool, one selection a task."""
        grid = self.experiment.grid
        return [
            run
            for pool_name in grid.single_task_pools
            for method in grid.single_task_methods
            for run in self.runs_of(method, pool_name, grid.single_task_budget, multi=False)
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
        """Make every step and all they rest on; what is there is checked, byte for byte, and kept."""
        ordered = in_order(list(steps))
        self.store.progress.plan(self.missing(ordered))
        for step in ordered:
            self.store.make(step)

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

    def bits_per_byte(self, run: Run, task: str) -> Estimate:
        """Bits per byte of the reference answers of a task, with its 95% interval."""
        e = self.experiment
        return estimate_mean({task: [self._bits(run, task)]}, e.evaluate.bootstrap, e.seed)

    def relative(self, runs: Sequence[Run]) -> Estimate:
        """Bits per byte relative to the untuned model's, mean over tasks and runs; below 1 is better.

        A plain mean over tasks would be that of the tasks with the shortest answers, whose bits per byte
        are several times those of the others.
        """
        e = self.experiment
        base = self._bits_by_task([self.untuned()])
        return estimate_mean(self._bits_by_task(runs), e.evaluate.bootstrap, e.seed, base)

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
        """FLOPs of a run: the forward pass over its pool and queries, if the method needs one, and training.

        2N a token forward and 6N a token of training, with N the non-embedding parameters and the tokens
        that were really processed.
        """
        training = self.training(run)
        if training is None:
            return 0.0
        parameters = self.store.manifest(self.model)["counts"]["non_embedding_parameters"]
        forward = 0
        if get_scorer(run.method).features:
            lengths = features.read_all(self.store.path(self.encoding(None)), "length")
            if run.pool != "all":
                lengths = lengths[pool.subset(len(lengths), self.pool_size(run.pool), self.experiment.seed)]
            forward = int(lengths.sum())
            for task in run.targets:
                forward += self.store.manifest(self.encoding(task))["counts"]["tokens"]
        tokens = self.store.manifest(training)["counts"]["training_tokens"]
        return flops.measured_flops(forward, tokens, parameters)

    def _bits_by_task(self, runs: Sequence[Run]) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
        """Bits and bytes by test sample, of each run of a task, for the tasks that the runs are for."""
        found = {
            task: [self._bits(run, task) for run in runs if task in self.tasks_of(run)]
            for task in self.task_names
        }
        return {task: each for task, each in found.items() if each}

    def _bits(self, run: Run, task: str) -> tuple[np.ndarray, np.ndarray]:
        scores = self.scores(run, task)
        return scores["bits"].to_numpy(), scores["bytes"].to_numpy()
