"""The steps of a profile: what each artifact is made of, and of which others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rdslib.errors import UserError
from rdslib.evaluation import harness as protocols
from rdslib.methods import digest_of, get_extractor, get_scorer, load_plugins
from rdslib.models.device import device_kind, token_budget
from rdslib.params import Experiment, Profile, Task
from rdslib.pipeline import steps as stages
from rdslib.pipeline.executors import Engine, Local
from rdslib.pipeline.store import Step

# Raise a stage's version when what it writes changes for the same parameters.
VERSIONS = {
    "model": 1,
    "data": 3,
    "prepare": 1,
    "encode": 2,
    "select": 2,
    "train": 2,
    "evaluate": 1,
    "measure": 1,
}

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


def _files(path: str | None) -> list[list[Any]]:
    """A user's own model's files, with sizes and times: another model may take its place."""
    given = Path(path) if path else None
    if given is None or not given.exists():
        return []
    files = sorted(given.iterdir()) if given.is_dir() else [given]
    return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]


def _on_this_device(experiment: Experiment) -> Experiment:
    """The experiment with what it leaves to the device filled in, so that recipes say it."""
    encode, evaluate = experiment.encode, experiment.evaluate
    return experiment.model_copy(
        update={
            "encode": encode.model_copy(update={"token_budget": encode.token_budget or token_budget()}),
            "evaluate": evaluate.model_copy(update={"token_budget": evaluate.token_budget or token_budget()}),
        }
    )


class Recipes:
    """The steps of a profile. None is computed here: a step says how, and `rdslib.pipeline.store` does it."""

    def __init__(self, profile: Profile, folder: Path) -> None:
        """`folder`: that of the profile's file, to which the paths of its plugins are relative."""
        self.profile = profile
        self.plugins: list[Path] = []
        if profile.experiment is not None:
            self.profile = profile.model_copy(update={"experiment": _on_this_device(profile.experiment)})
            self.plugins = [folder / plugin for plugin in profile.experiment.plugins]
            load_plugins(self.plugins)

    @cached_property
    def engine(self) -> Engine:
        """Where shards are computed; what they are does not depend on it."""
        if self.profile.engine == "local":
            return Local()
        from rdslib.pipeline.ray_executor import RayEngine

        return RayEngine(self.plugins)

    @property
    def experiment(self) -> Experiment:
        """What is computed under this profile; raises UserError if it shows published numbers alone."""
        if self.profile.experiment is None:
            raise UserError(
                f"profile {self.profile.name}: has no experiment, only published numbers; use show=published"
            )
        return self.profile.experiment

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
        params = {
            "model": e.model.model_dump(exclude={"title", "note"}),
            "downloads": pinned,
            "files": _files(e.model.path),
            "seed": e.seed,
        }
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
            "tasks": [task.model_dump(mode="json", exclude={"note", "protocol"}) for task in e.tasks],
            "downloads": {name: each.model_dump() for name, each in e.downloads.items()},
            "seed": e.seed,
        }
        return self._step("data", params, {}, lambda work: stages.build_data(work, e), "pool and tasks", 200)

    @property
    def query_data(self) -> Step:
        """Where the queries are."""
        return self.data

    def features(self, feature: str, task: str | None, pool: str = "all") -> Step:
        """The features that an extractor makes of a pool (`task` None) or of a task's queries.

        One step gives this feature and all others of that extractor that the study's methods read: they
        come from one pass. Where all pools share their features, those of the whole pool serve each.
        """
        e = self.experiment
        extractor = get_extractor(feature)
        pool = pool if extractor.per_pool else "all"
        draw = self._draw(pool) if task is None else None
        wanted = self._wanted(feature, task is not None)
        inputs = {"model": self.model, "data": self.data if task is None else self.query_data}
        if extractor.prepares:
            inputs["prepared"] = self.preparation(feature, pool)
        params = {
            **self._extractor_recipe(extractor.name),
            "wanted": wanted,
            "task": task,
            "pool": list(draw) if draw else None,
            "shard_size": e.encode.shard_size,
        }
        size = self._size(pool) if task is None else self.task(task).queries
        what = self._pool_name(pool) if task is None else f"{task} queries"
        return self._step(
            "encode",
            params,
            inputs,
            lambda work: stages.build_features(work, extractor, e, wanted, task, draw, self.engine),
            f"{extractor.name} features of {what}",
            size,
        )

    def preparation(self, feature: str, pool: str) -> Step:
        """What the extractor of a feature prepares before it makes features of samples of `pool`."""
        e = self.experiment
        extractor = get_extractor(feature)
        on = extractor.prepare_pool(e, pool)
        draw = self._draw(on or "all")
        inputs = {"model": self.model, "data": self.data}
        inputs |= {f"pool {each}": self.features(each, None) for each in extractor.prepare_features}
        params = {**self._extractor_recipe(extractor.name), "pool": list(draw) if draw else None}
        return self._step(
            "prepare",
            params,
            inputs,
            lambda work: stages.build_preparation(work, extractor, e, on is not None, draw),
            f"prepare {extractor.name}{f' on {self._pool_name(on)}' if on else ''}",
            100,
        )

    def _extractor_recipe(self, name: str) -> dict[str, Any]:
        extractor = get_extractor(name)
        return {
            "extractor": name,
            "version": extractor.version,
            "recipe": dict(extractor.key(self.experiment)),
            "plugin": digest_of(name),
            "device": device_kind(),
        }

    def _wanted(self, feature: str, queries: bool) -> list[str]:
        """A feature, and what else the study reads of its extractor, of pool samples or of queries."""
        extractor = get_extractor(feature).name
        methods = [get_scorer(name) for name in self.methods]
        features = {f for each in methods if each.needs_queries or not queries for f in each.features}
        features.add(feature)
        if not queries:
            features |= {f for each in set(features) for f in get_extractor(each).prepare_features}
        return sorted({name for found, _, name in (f.partition(".") for f in features) if found == extractor})

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """The methods of the study, each once: those of its grid, and RDS+, which figures 5 and 6 show."""
        grid = self.experiment.grid
        named = [("rds",), *grid.single_task.values(), grid.ablation_methods, grid.multi_task_methods]
        return tuple(dict.fromkeys(name for group in named for name in group))

    def _draw(self, pool: str) -> stages.Draw:
        """How a smaller pool is drawn: the same way for every method."""
        e = self.experiment
        return None if pool == "all" else (e.pool.subsets[pool], e.seed)

    def _size(self, pool: str) -> int:
        e = self.experiment
        return e.pool.subsets.get(pool) or sum(s.samples for s in e.pool.sources)

    def _pool_name(self, pool: str) -> str:
        return "the pool" if pool == "all" else f"the {pool} pool"

    @property
    def limits(self) -> Mapping[str, Any]:
        """How much a selection may take of a source (`quota.per_source`); nothing: as much as it likes."""
        return {}

    def selection(self, run: Run) -> Step:
        """What a run is trained on."""
        e = self.experiment
        scorer = get_scorer(run.method)
        draw = self._draw(run.pool)
        inputs = {"data": self.data}
        for feature in scorer.features:
            inputs[f"pool {feature}"] = self.features(feature, None, run.pool)
            for target in run.targets:
                step = self.features(feature, target, run.pool)
                inputs[f"queries {target} {feature}"] = step
        seed = run.seed if scorer.seeded else e.seed
        params = {
            "method": run.method,
            "plugin": digest_of(run.method),
            "k": run.budget,
            "pool": list(draw) if draw else None,
            "targets": list(run.targets),
            "seed": seed if scorer.seeded else None,
            **self.limits,
        }
        return self._step(
            "select",
            params,
            inputs,
            lambda work: stages.build_selection(
                work, scorer, run.budget, draw, run.targets, seed, self.engine, self.limits
            ),
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
        settings = e.evaluate.model_dump(exclude={"bootstrap", "max_response"})
        params = {**settings, "task": task, "device": device_kind()}
        return self._step(
            "evaluate",
            params,
            self._tested(run),
            lambda work: stages.build_evaluation(work, e.evaluate, task),
            f"evaluate {self.describe(run)} on {task}",
            2.0 * self.task(task).test,
        )

    def _tested(self, run: Run) -> dict[str, Step]:
        """What a run's model is tested with."""
        trained = self.training(run)
        return {"model": self.model, "data": self.data} | ({"trained": trained} if trained else {})

    def measurement(self, run: Run, task: str) -> Step:
        """A run's model on a task's test samples, by its protocol; raises UserError if it has none."""
        e = self.experiment
        protocol = self.task(task).protocol
        if protocol is None:
            raise UserError(
                f"task {task}: has no protocol in this profile; give it one of {', '.join(protocols.names())}"
            )
        params = {
            "protocol": protocol,
            "digest": protocols.digest(protocol),
            **e.evaluate.model_dump(exclude={"bootstrap"}),
            "task": task,
            "seed": e.seed,
            "device": device_kind(),
        }
        return self._step(
            "measure",
            params,
            self._tested(run),
            lambda work: stages.build_measurement(work, e.evaluate, task, protocol, e.seed),
            f"{protocol} protocol: {self.describe(run)} on {task}",
            20.0 * self.task(task).test,
        )

    def task(self, name: str) -> Task:
        """A task's parameters."""
        return next(task for task in self.experiment.tasks if task.name == name)

    def describe(self, run: Run) -> str:
        """A run in a few words."""
        if run.method == UNTUNED:
            return "the untuned model"
        targets = (
            "" if not run.targets else f" for {run.targets[0] if len(run.targets) == 1 else 'all tasks'}"
        )
        return f"{run.method} {run.budget} of {run.pool}{targets}"
