"""A pipeline: the steps up to a selection, for any pool, queries and methods."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from rdslib.data.pool import PoolFile
from rdslib.methods import Extractor, ScoringInputs, check_selector, digest_of, get_extractor, get_scorer
from rdslib.methods.features import split_feature
from rdslib.models.device import device_kind, token_budget
from rdslib.models.folder import contents_of
from rdslib.params import NO_MODEL, Settings
from rdslib.pipeline import steps
from rdslib.pipeline.executors import Executor, Local
from rdslib.pipeline.step import Step, in_order
from rdslib.pipeline.steps import POOL, Draw
from rdslib.pipeline.store import Store
from rdslib.processes import Waiting
from rdslib.selection import get_selector
from rdslib.selection.base import Lists
from rdslib.selection.round_robin import ROUND_ROBIN
from rdslib.tasks.base import QUERIES

ALL = "all"


@dataclass(frozen=True)
class Request:
    """One selection: `method` picks `k` samples of a pool for some tasks (none if it looks at no queries).

    `pool` is the whole pool ("all"), or the name of a smaller one; `limits` is what
    `rdslib.selection.quota.per_source` takes, where sources are limited; `selector` is the name of one, and
    no pick is more like an earlier one than `max_similarity`, where that is given.

    Raises:
        UserError: The method cannot be selected by so (`check_selector`).
    """

    method: str
    k: int
    targets: tuple[str, ...] = ()
    pool: str = ALL
    seed: int = 42
    limits: Mapping[str, Any] = field(default_factory=dict)
    selector: str = ROUND_ROBIN.name
    max_similarity: float | None = None

    def __post_init__(self) -> None:
        check_selector(self.method, self.selector, self.max_similarity)

    @property
    def by_task(self) -> bool:
        """Whether it is tasks that pick, by one list each, and not their queries."""
        return bool(self.targets) and get_selector(self.selector).one_list(len(self.targets))

    @property
    def options(self) -> dict[str, Any]:
        """What a key has only where it is not as by default."""
        given = {"selector": self.selector, "max_similarity": self.max_similarity}
        usual = {"selector": ROUND_ROBIN.name, "max_similarity": None}
        return {name: value for name, value in given.items() if value != usual[name]}


class Pipeline:
    """The steps up to a selection. They are laid out here; `compute` makes them.

    Args:
        settings: What methods need.
        pool: The step that makes `pool.parquet`.
        queries: For each task, the step that makes `queries.parquet`.
        store: Where artifacts are.
        executor: Where shards are computed; what they are does not depend on it.
        draws: How smaller pools are drawn from the whole, by name: size and seed.
        size: How many samples the pool has, roughly, as weights of steps while it is not made.
    """

    def __init__(
        self,
        settings: Settings,
        pool: Step,
        queries: Mapping[str, Step],
        store: Store,
        executor: Executor,
        draws: Mapping[str, Draw] | None = None,
        size: int = 1,
    ) -> None:
        budget = settings.encode.token_budget or token_budget()
        encode = settings.encode.model_copy(update={"token_budget": budget})
        self.settings = settings.model_copy(update={"encode": encode})
        self.pool, self.queries, self.store, self.executor = pool, queries, store, executor
        self.draws: Mapping[str, Draw] = {ALL: None, **(draws or {})}
        self.size = size
        self._made: int | None = None  # the size of the pool, once it is known
        self._keys: dict[Extractor, dict[str, Any]] = {}

    @cached_property
    def model(self) -> Step:
        """The language model."""
        given, downloads = self.settings.model, self.settings.downloads
        return steps.model.step(
            label=f"model {given.title}",
            weight=100,
            marks={"files": contents_of(given.path)},
            settings=given.model_copy(update={"title": "", "note": ""}),
            pinned={given.download: downloads[given.download]} if given.download else {},
            # Of a model that is there, nothing is random, and its features serve every seed.
            seed=None if given.path is not None else self.settings.seed,
        )

    def features(self, feature: str, task: str | None = None, pool: str = ALL) -> Step:
        """A feature of a pool's samples (`task` None) or of a task's queries.

        Where all pools share an extractor's features, those of the whole pool serve each. Of an extractor
        that makes them for each task apart, those of the pool's samples for a task.
        """
        extractor, name = split_feature(feature)
        maker = get_extractor(feature)
        pool = pool if maker.per_pool else ALL
        queries = task if not maker.per_task else None
        of = f"{queries} queries" if queries else f"{_pool_name(pool)}{f' for {task}' if task else ''}"
        samples = self.queries[queries] if queries else self.pool
        return steps.features.step(
            label=f"{extractor} features of {of}",
            weight=10 if queries else self.pool_size(pool),
            marks=self._marks(extractor),
            given={"settings": self.settings, "executor": self.executor},
            extractor=extractor,
            feature=name,
            model=self._model_of(maker),
            prepared=self.preparation(feature, pool, task) if maker.prepares else None,
            samples=self.store.file(samples, QUERIES if queries else POOL),
            queries=queries is not None,
            draw=None if queries else self.draws[pool],
            shard_size=self.settings.encode.shard_size,
        )

    def read_by(self, method: str, task: str | None = None, pool: str = ALL) -> dict[str, Step]:
        """The features that a method reads for all tasks (`task` None), and what it reads for one beside."""
        names = get_scorer(method).features
        apart = [each for each in names if get_extractor(each).per_task]
        if task is None:
            names = tuple(each for each in names if each not in apart)
        return {each: self.features(each, task, pool) for each in (apart if task and apart else names)}

    def preparation(self, feature: str, pool: str = ALL, task: str | None = None) -> Step:
        """What the extractor of a feature prepares before it makes features of samples of `pool`.

        For a task, where that matters.
        """
        extractor = split_feature(feature)[0]
        maker = get_extractor(feature)
        on = maker.prepare_pool(self.settings, pool)
        of = _pool_name(on) if on else f"{task} queries" if maker.per_task else ""
        # Only where they matter: others' keys have no such argument.
        beside: dict[str, Any] = {}
        if maker.per_task and task is not None:
            beside["task"] = self.store.file(self.queries[task], QUERIES)
        return steps.prepare.step(
            label=f"prepare {extractor}{of and f' on {of}'}",
            weight=100,
            marks=self._marks(extractor),
            given={"settings": self.settings},
            extractor=extractor,
            model=self._model_of(maker),
            pool=self.store.file(self.pool, POOL) if on else None,
            features={each: self.features(each) for each in maker.prepare_features},
            draw=self.draws[on] if on else None,
            **beside,
        )

    def _model_of(self, maker: Extractor) -> Step | None:
        """The language model; None where there is none, and an extractor uses none."""
        return None if self.settings.model == NO_MODEL and not maker.uses_model else self.model

    def _marks(self, extractor: str) -> dict[str, Any]:
        """What features depend on besides the model and the samples."""
        maker = get_extractor(extractor)
        if maker not in self._keys:  # that of a model in a folder looks at all its files
            self._keys[maker] = dict(maker.key(self.settings))
        return {
            "version": maker.version,
            "parameters": self._keys[maker],
            "plugin": digest_of(extractor),
            "device": device_kind(),
        }

    def selection(self, request: Request) -> Step:
        """The picks of a request."""
        scorer = get_scorer(request.method)
        of = "" if not request.targets else request.targets[0] if len(request.targets) == 1 else "all tasks"
        by = "" if request.selector == ROUND_ROBIN.name else f" by {request.selector}"
        return steps.select.step(
            label=f"select {request.method} {request.k} of {request.pool}{of and f' for {of}'}{by}",
            marks={"plugin": digest_of(request.method)},
            given={"executor": self.executor},
            method=request.method,
            pool=self.store.file(self.pool, POOL),
            features=self.read_by(request.method, None, request.pool),
            # A list, since tasks take turns in this order.
            queries=[self.read_by(request.method, task, request.pool) for task in request.targets],
            targets=request.targets,
            k=request.k,
            draw=self.draws[request.pool],
            seed=request.seed if scorer.seeded else None,
            limits=request.limits,
            **request.options,
        )

    def compute(self, wanted: Iterable[Step], until: float | None = None) -> None:
        """Make every step and all they rest on; what is there is checked, byte for byte, and kept.

        Other processes may be at the same steps (`executors.helpers`): what one of them is making is left to
        it, and taken up once it is done, or once that process has ended. With `until`, a time of
        `time.monotonic`, which all processes share, steps are made in the order in which they are wanted, and
        none is begun after it but what reads files that are not kept, such as the scores of a model.
        """
        laid_out = list(wanted)
        # Others have a name only once these are made.
        for first in dict.fromkeys(each for step in laid_out for each in step.unsettled):
            self.store.make(first)
        left = in_turn(laid_out) if until is None else in_order(laid_out)
        self.store.progress.plan(self.store.missing(left), self.store.has)
        # What is made in one call with steps that are there already waits for its own turn.
        groups: dict[tuple[str, bool], list[Step]] = {}
        readers: dict[str, set[str]] = {}
        for each in left:
            groups.setdefault((each.group, self.store.has(each)), []).append(each)
            for read in each.inputs:
                readers.setdefault(read.hash, set()).add(each.hash)

        def made(group: list[Step]) -> bool:
            over = until is not None and time.monotonic() > until
            if over and not any(each.transient and self.store.has_files(each) for each in group[0].inputs):
                return True
            if not self.store.try_make(group):
                return False
            for each in group:
                for read in each.inputs:
                    readers[read.hash].discard(each.hash)
                    if read.transient and not readers[read.hash]:
                        self.store.drop(read)
                # Made after all that read it, which were there, such as by another process.
                if each.transient and readers.get(each.hash) == set():
                    self.store.drop(each)
            return True

        passes, waiting = list(groups.values()), Waiting(self.store.progress.note)
        while passes:
            before, passes = len(passes), [group for group in passes if not made(group)]
            if len(passes) < before:
                waiting = Waiting(self.store.progress.note)
                continue
            self.store.progress.wait(passes[0])
            time.sleep(0.2)
            waiting.tell(self.store.locks(passes[0]))
        self.store.progress.clear()

    # Reading.

    def pool_size(self, name: str = ALL) -> int:
        """How many samples a pool has; of the whole pool an expectation, before it is made."""
        draw = self.draws[name]
        if draw is not None:
            return draw[0]
        if self._made is None and self.store.has(self.pool):
            # A user's pool says how many of its rows it kept.
            counts = self.store.manifest(self.pool)["counts"]
            self._made = int(counts["kept"] if "kept" in counts else counts["samples"])
        return self._made or self.size

    def pool_file(self, name: str = ALL) -> PoolFile:
        """A pool, which must have been made."""
        return steps.pool_file(self.store.path(self.pool), self.draws[name])

    def picks(self, request: Request) -> pa.Table:
        """The picks of a request, which must have been made: position, id, source, score, picked_by."""
        return steps.read_selection(self.store.path(self.selection(request)))

    def scoring_inputs(self, request: Request, task: str | None) -> ScoringInputs:
        """What a method reads to score a pool for a task; its features must have been made."""
        read = self.read_by(request.method, None, request.pool)
        beside = {} if task is None else self.read_by(request.method, task, request.pool)
        pool, queries = ({name: self.store.path(step) for name, step in e.items()} for e in (read, beside))
        return steps.scoring_inputs(request.method, self.pool_file(request.pool), pool, queries, request.seed)

    def lists(self, request: Request, task: str) -> Lists:
        """The lists by which a request picks for one of its tasks; its features must have been made."""
        inputs = self.scoring_inputs(request, task)
        ranker = self.executor.ranker(get_scorer(request.method), inputs)
        make = get_selector(request.selector).of(len(request.targets))
        return make(ranker, steps.rows_of(request.method, inputs))


def in_turn(wanted: Iterable[Step]) -> list[Step]:
    """The steps and all they rest on, in the order in which they are made.

    Features first: they take longest, and most of the rest waits for them.
    """
    late = ("select", "train", "evaluate", "measure")
    return sorted(in_order(wanted), key=lambda step: step.name in late)


def _pool_name(name: str) -> str:
    return "the pool" if name == ALL else f"the {name} pool"


def executor(name: str, plugins: Sequence[Path] = ()) -> Executor:
    """The executor that goes by a name: `local` or `ray`. `plugins`: files with methods of the user's."""
    if name == "local":
        return Local()
    from rdslib.pipeline.ray_executor import RayExecutor

    return RayExecutor(plugins)
