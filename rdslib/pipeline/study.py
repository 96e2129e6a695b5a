"""A profile's study: its data, and the steps of each of its runs, which `runs` lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from rdslib.data import download
from rdslib.errors import UserError
from rdslib.evaluation import harness
from rdslib.files import read_table
from rdslib.methods import get_scorer, load_plugins
from rdslib.models.device import device_kind, share_threads, token_budget
from rdslib.params import ROOT, Experiment, Profile, Task
from rdslib.pipeline import costs, steps, train_steps
from rdslib.pipeline.pipeline import ALL, Pipeline, Request, executor
from rdslib.pipeline.progress import Progress
from rdslib.pipeline.step import Step
from rdslib.pipeline.store import Store
from rdslib.profiles import load_profile, profile_path
from rdslib.selection.round_robin import ROUND_ROBIN
from rdslib.tasks.base import QUERIES, TEST, TaskData, read_task

UNTUNED = "untuned"
METHODS_FIRST = 8


@dataclass(frozen=True)
class Run:
    """One fine-tuning: `method` picks `budget` samples of `pool` for `targets`, trained with `seed`.

    Query-free methods have no targets: one run serves every task. The model as it is, before any
    fine-tuning, is the run with method `untuned` and budget 0. With a `part` (i, n) the samples are drawn
    from the i-th of n equal parts of the pool in the method's order, from 1 (`quantile_runs`).
    """

    method: str
    pool: str
    budget: int
    targets: tuple[str, ...]
    seed: int
    part: tuple[int, int] | None = None
    selector: str = ROUND_ROBIN.name

    @property
    def request(self) -> Request:
        """The selection that the run is trained on."""
        chosen = self.method, self.budget, self.targets, self.pool, self.seed
        return Request(*chosen, selector=self.selector)

    def __str__(self) -> str:
        if self.method == UNTUNED:
            return "the untuned model"
        of = "" if not self.targets else f" for {self.targets[0] if len(self.targets) == 1 else 'all tasks'}"
        part = "" if self.part is None else " part {} of {} of".format(*self.part)
        by = "" if self.selector == ROUND_ROBIN.name else f" by {self.selector}"
        return f"{self.method} {self.budget} of{part} {self.pool}{of}{by}"


class Study:
    """A profile's runs: a pipeline up to their selections, and the training and evaluation of each.

    `home` is the folder of downloads and artifacts, by default `RDSLIB_HOME`; `folder` that of the profile's
    file, to which the paths of its plug-ins are relative.
    """

    def __init__(self, profile: Profile, home: Path | None = None, folder: Path | None = None) -> None:
        self.profile, self.folder = profile, folder
        self.store = Store((home or download.home()) / "artifacts", Progress())
        self.plugins: list[Path] = []
        if profile.experiment is not None:
            self.plugins = [(folder or ROOT / "params") / each for each in profile.experiment.plugins]
            load_plugins(self.plugins)

    @classmethod
    def load(cls, profile: str, home: Path | None = None, engine: str | None = None) -> Study:
        """The study of a profile, by its name or the path of a YAML file; `engine` in place of its own.

        Raises:
            UserError: There is no such profile, or it has a mistake.
        """
        share_threads()
        folder = profile_path(profile).resolve().parent
        loaded = load_profile(profile)
        if engine is not None:
            loaded = loaded.model_copy(update={"engine": engine})
        return cls(loaded, home, folder)

    @property
    def experiment(self) -> Experiment:
        """What is computed under this profile; raises UserError if it shows published numbers alone."""
        if self.profile.experiment is None:
            raise UserError(
                f"profile {self.profile.name}: has no experiment, only published numbers; use show=published"
            )
        return self.profile.experiment

    # Data, and the pipeline over it.

    @cached_property
    def tasks(self) -> dict[str, Step]:
        """The step of each task: its query and test samples."""
        e = self.experiment
        return {
            each.name: steps.task.step(
                label=f"task {each.name}",
                weight=20,
                settings=each.model_copy(update={"note": "", "protocol": None}),
                pinned={name: e.downloads[name] for name in each.downloads},
                seed=e.seed,
            )
            for each in e.tasks
        }

    @cached_property
    def pool(self) -> Step:
        """The step of the pool, which leaves out what the tasks' test samples hold."""
        e = self.experiment
        used = [each.download for each in e.pool.sources if each.download is not None]
        return steps.pool.step(
            label="the pool",
            weight=200,
            settings=e.pool.model_copy(update={"subsets": {}}),
            pinned={name: e.downloads[name] for name in used},
            tests=[self.store.file(self.tasks[name], TEST) for name in self.task_names]
            if e.pool.decontaminate
            else [],
            seed=e.seed,
        )

    @property
    def data_steps(self) -> list[Step]:
        """The steps of the tasks and of the pool."""
        return [*self.tasks.values(), self.pool]

    @cached_property
    def pipeline(self) -> Pipeline:
        """The steps up to the selections of runs."""
        e = self.experiment
        return Pipeline(
            e,
            self.pool,
            self.tasks,
            self.store,
            executor(self.profile.engine, self.plugins),
            {name: (size, e.seed) for name, size in e.pool.subsets.items()},
            sum(source.samples for source in e.pool.sources),
        )

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks of the study, in order."""
        return tuple(task.name for task in self.experiment.tasks if task.test)

    @property
    def query_sets(self) -> tuple[str, ...]:
        """The sets of queries that test nothing, in order."""
        return tuple(task.name for task in self.experiment.tasks if not task.test)

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """The methods of the study, each once: those of its grid, and RDS+, which figures 5 and 6 show."""
        grid = self.experiment.grid
        of_all = grid.multi_task_methods, grid.table_methods
        named = [*grid.single_task.values(), grid.ablation_methods, *of_all]
        return tuple(dict.fromkeys(["rds", *(name for group in named for name in group)]))

    def task(self, name: str) -> Task:
        """A task's parameters."""
        return next(task for task in self.experiment.tasks if task.name == name)

    # What its runs are of.

    def there(self, runs: Sequence[Run], picks: bool = False) -> bool:
        """Whether figures may show runs: all that a study has, of a partial one those that are computed."""
        if not self.profile.partial:
            return True
        if picks:
            return all(self.store.has(self.selection(run)) for run in runs)
        steps = [step for run in runs for step in self.steps_of(run)]
        return all(self.store.has(step) for step in steps)

    def steps_of(self, run: Run) -> list[Step]:
        """What figures rest on of a run: its scores, bare ones where they are shown, and what it cost."""
        if run.part is not None:
            (task,) = run.targets
            both = (self.untuned(), run)
            return [self.evaluation(each, task, queries=side) for each in both for side in (False, True)]
        bare = self.evaluations([run], bare=True) if self.shows_bare(run) else []
        return [*self.evaluations([run]), *bare, *self.costs([run])]

    def shows_bare(self, run: Run) -> bool:
        """Whether bare answers are scored too: of the largest selections for all tasks (Table 2)."""
        of_all = run.pool == ALL and (
            run.targets in ((), self.task_names) or run.targets[0] in self.query_sets
        )
        return run.method == UNTUNED or (of_all and run.budget == self.largest_budget)

    @property
    def largest_budget(self) -> int:
        """The budget of Tables 2 and 3 and of Figure 6, by default the largest; 0 where there is none."""
        grid = self.experiment.grid
        return grid.table_budget or max(grid.multi_task_budgets, default=0)

    def untuned(self) -> Run:
        """The model before fine-tuning."""
        return Run(UNTUNED, ALL, 0, (), self.experiment.seed)

    def tasks_of(self, run: Run) -> tuple[str, ...]:
        """The tasks on which a run is evaluated: those it is for, or all, if it is for none that tests."""
        return tuple(each for each in run.targets if each in self.task_names) or self.task_names

    # Their steps.

    def selection(self, run: Run) -> Step:
        """What a run is trained on; raises UserError where that is more than the method can offer."""
        offered = self.offered(run.method, run.pool)
        if run.part is not None:
            part, parts = run.part
            if run.budget > offered // parts:
                raise UserError(
                    f"profile {self.profile.name}: quantiles: asks for {run.budget} samples of each of "
                    f"{parts} parts of {offered:,} samples; lower the budget, or the parts"
                )
            whole = replace(run.request, k=offered)
            return steps.quantile.step(
                label=f"draw {run}",
                order=self.pipeline.selection(whole),
                part=part,
                parts=parts,
                k=run.budget,
                seed=run.seed,
            )
        if run.budget > offered:
            raise UserError(
                f"profile {self.profile.name}: asks for {run}, but {run.method} has at most {offered:,} of "
                f"its {self.pipeline.pool_size(run.pool):,} samples to offer; lower the budget, or leave the "
                "method out"
            )
        return self.pipeline.selection(run.request)

    def offered(self, method: str, pool_name: str) -> int:
        """How many samples of a pool a method can select."""
        size = self.pipeline.pool_size(pool_name)
        return size - int(get_scorer(method).skip * size)

    def training(self, run: Run) -> Step | None:
        """The fine-tuned model of a run; None for the untuned model."""
        if run.method == UNTUNED:
            return None
        e = self.experiment
        return train_steps.train.step(
            label=f"train {run}",
            transient=not e.keep_models,
            weight=4.0 * run.budget * e.train.epochs,
            marks={"device": device_kind()},
            given={"device_map": self.experiment.model.device_map},
            model=self.pipeline.model,
            pool=self.store.file(self.pool, steps.POOL),
            selection=self.selection(run),
            settings=e.train,
            seed=run.seed,
        )

    def evaluation(self, run: Run, task: str, bare: bool = False, queries: bool = False) -> Step:
        """A run's model on a task's test samples, in the form of its protocol if it has one.

        `bare`: the question and the answer alone, whatever the protocol. So it is on its `queries`.
        """
        protocol = self.task(task).protocol
        form = None if bare or queries or protocol is None else harness.form(protocol)
        how = " (queries)" if queries else " (bare)" if bare else ""
        return train_steps.evaluate.step(
            label=f"evaluate {run} on {task}{how}",
            form=form,
            weight=2.0 * self.task(task).test,
            marks={"device": device_kind()},
            given={"device_map": self.experiment.model.device_map},
            **({"queries": True} if queries else {}),
            **self._tested(run, task, QUERIES if queries else TEST),
        )

    def _tested(self, run: Run, task: str, file: str = TEST) -> dict[str, Any]:
        """What is evaluated, on what, and in which batches."""
        return {
            "model": self.pipeline.model,
            "trained": self.training(run),
            "task": self.store.file(self.tasks[task], file),
            "max_length": self.experiment.evaluate.max_length,
            "token_budget": self.experiment.evaluate.token_budget or token_budget(),
        }

    def costs(self, runs: Iterable[Run]) -> list[Step]:
        """What the FLOPs of runs are added up from, beside their training."""
        return [
            step for run in runs if self.training(run) for step in costs.steps_of(self.pipeline, run.request)
        ]

    def whole(self) -> Study:
        """The study as if it were not partial: what `rds compute` computes of it."""
        return Study(
            self.profile.model_copy(update={"partial": False}), self.store.folder.parent, self.folder
        )

    def evaluations(self, runs: Iterable[Run], bare: bool = False) -> list[Step]:
        """Every run on the tasks it is for: a single-task run on its task, others on all."""
        return [self.evaluation(run, task, bare) for run in runs for task in self.tasks_of(run)]

    def measurement(self, run: Run, task: str) -> Step:
        """A run's model on a task's test samples, by its protocol; raises UserError if it has none."""
        e, protocol = self.experiment, self.task(task).protocol
        if protocol is None:
            raise UserError(
                f"task {task}: has no protocol in this profile; give it one of {', '.join(harness.names())}"
            )
        return train_steps.measure.step(
            label=f"{protocol} protocol: {run} on {task}",
            weight=20.0 * self.task(task).test,
            # Another engine's responses differ; the key is as it was when there was one.
            marks={
                "digest": harness.digest(protocol),
                "device": device_kind(),
                **({"engine": e.evaluate.engine} if e.evaluate.engine != "transformers" else {}),
            },
            given={"device_map": e.model.device_map, "engine": e.evaluate.engine},
            protocol=protocol,
            max_response=e.evaluate.max_response,
            seed=e.seed,
            **self._tested(run, task),
        )

    # Computing and reading.

    def compute(self, wanted: Iterable[Step], whole: bool = False, until: float | None = None) -> None:
        """Make every step and all they rest on; what is there is checked, byte for byte, and kept.

        `whole`: of each wanted, files that were dropped, or that a record has not, are made again. `until` is
        that of `Pipeline.compute`.
        """
        # Of a profile with published numbers alone there are no steps, and no pipeline.
        if laid_out := list(wanted):
            self.pipeline.compute(laid_out, until)
        for each in laid_out if whole else ():
            self.store.make(each)

    def missing(self, wanted: Iterable[Step]) -> list[Step]:
        """Of the steps and all they rest on, those without an artifact, in the order to make them."""
        return self.store.missing(wanted)

    def table(self, step: Step, name: str) -> pd.DataFrame:
        """A Parquet file of a step's artifact, which is made if it is missing."""
        self.compute([step])
        return read_table(self.store.make(step) / name).to_pandas()

    def pool_table(self) -> pd.DataFrame:
        """The pool: id, source, messages."""
        return self.table(self.pool, steps.POOL)

    def pool_sources(self) -> pd.Series:
        """The source of each sample of the pool."""
        self.compute([self.pool])
        found = read_table(self.store.path(self.pool) / steps.SOURCES)["source"]
        return found.to_pandas().astype(object)

    def task_counts(self, name: str) -> dict[str, Any]:
        """How many queries and test samples a task has, and the profile's note before the task's."""
        self.compute([self.tasks[name]])
        counts = self.store.manifest(self.tasks[name])["counts"]
        parts = (self.task(name).note.strip(), counts["note"])
        return {**counts, "note": " ".join(part for part in parts if part)}

    def task_data(self, name: str) -> TaskData:
        """A task's query and test samples."""
        self.compute([self.tasks[name]])
        return read_task(self.store.make(self.tasks[name]))

    def pool_size(self, name: str) -> int:
        """How many samples a pool has: all, or a named subset."""
        if name == ALL:
            self.compute([self.pool])
        return self.pipeline.pool_size(name)

    def picks(self, run: Run) -> pd.DataFrame:
        """A run's selection: position, id, source, score, picked_by, in order of picking."""
        return self.table(self.selection(run), "selection.parquet")

    def scores(self, run: Run, task: str, bare: bool = False, queries: bool = False) -> pd.DataFrame:
        """A run's evaluation on a task: id, subtask, bits, bytes, correct."""
        return self.table(self.evaluation(run, task, bare, queries), "scores.parquet")

    def measured(self, run: Run, task: str) -> pd.DataFrame:
        """A run on a task by the paper's protocol: id, subtask, score, prompt, responses."""
        return self.table(self.measurement(run, task), "measured.parquet")
