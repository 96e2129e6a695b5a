"""The steps from data to a selection: what each makes, of what.

    task, pool -> prepare, features -> select

Every function is a step (`rdslib.pipeline.step`): its arguments are the key of what it makes, apart from
those that `Pipeline` and `Study` give beside the key.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rdslib.data.archives import Archives
from rdslib.data.chat import Sample
from rdslib.data.download import cache_dir
from rdslib.data.pool import PoolFile, build_pool, differences, subset, wanted_members, write_pool
from rdslib.errors import UserError
from rdslib.files import read_table
from rdslib.methods import COST, Extracted, Extraction, Preparation, ScoringInputs, get_extractor, get_scorer
from rdslib.methods import features as shards
from rdslib.params import Download, Model, Pool, Settings, Task
from rdslib.pipeline.executors import Executor
from rdslib.pipeline.reuse import DIGEST, Part, Todo
from rdslib.pipeline.step import step
from rdslib.pipeline.store import Work
from rdslib.seeds import generator
from rdslib.selection import get_selector, quota, round_robin
from rdslib.selection.apart import apart
from rdslib.selection.base import Rows
from rdslib.selection.round_robin import ROUND_ROBIN
from rdslib.selection.topk import Ranker
from rdslib.tasks import base as tasks

# A smaller pool: how many samples it has, and the seed with which they are drawn. None: the whole pool.
Draw = tuple[int, int] | None

# The file of a pool's artifact that has its samples.
POOL = "pool.parquet"

# Torch and transformers are imported where a model runs, so that drawing a figure needs neither.


@step(version=1)
def model(work: Work, settings: Model, pinned: Mapping[str, Download], seed: int | None) -> dict[str, Any]:
    """Make a plain model folder: converted from a download, random, or a pointer to the user's model.

    `pinned` has the download, if the model is in one.
    """
    from rdslib.models import folder, loading

    if settings.path is not None and settings.path.lower().endswith(".gguf"):
        loading.convert_gguf(Path(settings.path), work.path)
    elif settings.path is not None:
        folder.point_to(settings.path, work.path)
    elif settings.random is not None:
        assert seed is not None
        loading.make_random(settings.random, seed, work.path)
    else:
        assert settings.download is not None
        assert settings.member is not None
        archives = Archives(pinned, cache_dir())
        with work.progress.bar(work.label, 1, "model") as bar:
            # Within the folder that is being made, where the store sweeps up what a killed run leaves.
            with tempfile.TemporaryDirectory(dir=work.path, prefix="tmp-") as scratch:
                file = Path(scratch, "model.gguf")
                file.write_bytes(archives.members(settings.download, [settings.member])[settings.member])
                loading.convert_gguf(file, work.path)
            bar.update()
    loaded = loading.load_causal_lm(model_folder(work.path), device_map=settings.device_map)
    return {"non_embedding_parameters": loading.non_embedding_parameters(loaded)}


def model_folder(artifact: Path | None) -> Path:
    """Where the model of a model artifact is; nowhere if there is none, for methods that use none."""
    from rdslib.models.folder import pointed

    return Path(os.devnull) if artifact is None else pointed(artifact)


# The file of a selection's artifact.
SELECTION = "selection.parquet"


@step(version=3)
def task(work: Work, settings: Task, pinned: Mapping[str, Download], seed: int) -> dict[str, Any]:
    """Read the query and test samples of a task."""
    archives = Archives(pinned, cache_dir())
    data = tasks.build_task(settings, archives, seed)
    tasks.write_task(data, work.path)
    for note in archives.notes:
        work.progress.note(note)
    return {"queries": len(data.queries), "test": len(data.test), "note": data.note}


# The source of each sample of a pool, by itself.
SOURCES = "sources.parquet"


@step(version=2, record=SOURCES)
def pool(
    work: Work, settings: Pool, pinned: Mapping[str, Download], tests: Sequence[Path], seed: int
) -> dict[str, Any]:
    """Read the pool, and leave out what the tasks' test samples hold."""
    archives = Archives(pinned, cache_dir())
    counts: dict[str, dict[str, int]] = {}
    sources: list[str] = []
    by_source: dict[str, Counter[str]] = {each.name: Counter() for each in settings.sources}
    with work.progress.bar(work.label, sum(each.samples for each in settings.sources), "sample") as bar:
        archives.prepare(wanted_members(settings))
        held_out = [sample for folder in tests for sample in tasks.read_task(folder).test]

        def kept() -> Iterator[Sample]:
            for sample in build_pool(settings, archives, seed, held_out, counts):
                sources.append(sys.intern(sample.source))
                by_source[next(reversed(counts))][sample.source] += 1
                bar.update()
                yield sample

        write_pool(kept(), work.path / POOL)
        table = pa.table({"source": pa.array(sources).dictionary_encode()})
        pq.write_table(table, work.path / SOURCES, compression="zstd")
    for note in archives.notes:
        work.progress.note(note)
    for source in settings.sources:
        for each in differences(by_source[source.name], source.published) if source.published else ():
            work.progress.note(f"pool source {source.name!r}: {each}")
    return {"samples": len(sources), "sources": counts}


@step(version=1)
def cost(work: Work, features: Path, draw: Sequence[int] | None) -> dict[str, Any]:
    """Add up the FLOPs of a feature's samples, or of those of a smaller pool."""
    found = shards.read_all(features, COST)
    return {"flops": float((found if draw is None else found[subset(len(found), *draw)]).sum())}


@step(version=1)
def prepare(
    work: Work,
    extractor: str,
    model: Path | None,
    pool: Path | None,
    features: Mapping[str, Path],
    draw: Sequence[int] | None,
    settings: Settings,
    task: Path | None = None,
) -> dict[str, Any]:
    """Prepare what an extractor needs before it makes features, such as a model trained on pool samples.

    Or on the queries of a `task`.
    """
    maker = get_extractor(extractor)
    samples: Sequence[Sample] = tasks.read_queries(task) if task is not None else []
    rows: dict[str, np.ndarray] = {}
    if pool is not None:
        samples = drawn = pool_file(pool, draw)
        for feature, folder in features.items():
            found = shards.read_all(folder, shards.split_feature(feature)[1])
            rows[feature] = found if drawn.kept is None else found[drawn.kept]
    try:
        with work.progress.bar(work.label, 0, "token") as bar:
            given = Preparation(settings, model_folder(model), samples, rows, work.path, bar, cache_dir())
            return dict(maker.prepare(given))
    finally:
        give_back_memory()


@step(version=1, joined_by="feature")
def features(
    works: Mapping[str, Work],
    extractor: str,
    model: Path | None,
    prepared: Path | None,
    samples: Path,
    queries: bool,
    draw: Sequence[int] | None,
    shard_size: int,
    settings: Settings,
    executor: Executor,
) -> dict[str, dict[str, Any]]:
    """Make features of a pool's samples or of a task's queries, shard by shard, all in one pass.

    Each feature is an artifact with the FLOPs of every sample (`COST`) beside it, and a digest of what the
    extractor saw of it. Samples that another artifact has are not passed through the model again: the counts
    say how many were `encoded`, and how many `reused`.
    """
    rows: Sequence[Sample]
    rows = tasks.read_queries(samples) if queries else pool_file(samples, draw)
    maker = get_extractor(extractor)
    given = Extraction(settings, model_folder(model), prepared, tuple(works), queries)
    # A shard that any feature lacks is made again, of all.
    starts = [
        start
        for start in range(0, len(rows), shard_size)
        if any(_shard_key(start) not in work.shards for work in works.values())
    ]
    todo = Todo(works, rows, starts, shard_size, maker.sees)
    first = next(iter(works.values()))
    with first.progress.bar(first.label, len(rows), "sample", len(rows) - todo.new) as bar:
        for part in todo.known:
            _write_shard(works, part, None)
        # Nothing is loaded where nothing is left to make.
        asked = ((number, todo.samples(number)) for number in range(len(todo.passes)))
        for number, made in executor.extract(maker, given, asked, bar.update) if todo.passes else ():
            for part in todo.passes[number]:
                _write_shard(works, part, made)
    counts: dict[str, Counter[str]] = {feature: Counter() for feature in works}
    for feature, work in works.items():
        for shard in work.shards.values():
            counts[feature].update(shard["counts"])
    return {feature: dict(total) for feature, total in counts.items()}


def _write_shard(works: Mapping[str, Work], part: Part, made: Extracted | None) -> None:
    """Keep one shard of each feature that lacks it, of what was `made` in its pass and of what was known."""
    for feature, work in works.items():

        def write(folder: Path, feature: str = feature) -> None:
            for name in (feature, COST, DIGEST):
                rows = part.digests if name == DIGEST else part.rows(feature, name, made)
                shards.write(folder / shards.shard_name(name, part.start), rows)

        if _shard_key(part.start) not in work.shards:
            # What was counted of a pass goes with its first shard.
            counted = made.counts if made is not None and part.offset == 0 else {}
            counts = {"samples": len(part.digests), "encoded": len(part.new), "reused": len(part.old)}
            work.shard(_shard_key(part.start), {**counts, **counted}, write)


def _shard_key(start: int) -> str:
    return f"{start:09d}"


def pool_file(pool: Path, draw: Sequence[int] | None = None) -> PoolFile:
    """The pool of an artifact, or a smaller one drawn from it."""
    whole = PoolFile(pool / POOL)
    return whole if draw is None else PoolFile(pool / POOL, subset(len(whole), *draw))


@step(version=1, record=SELECTION)
def select(
    work: Work,
    method: str,
    pool: Path,
    features: Mapping[str, Path],
    queries: Sequence[Mapping[str, Path]],
    targets: Sequence[str],
    k: int,
    draw: Sequence[int] | None,
    seed: int | None,
    limits: Mapping[str, Any],
    executor: Executor,
    selector: str = ROUND_ROBIN.name,
    max_similarity: float | None = None,
) -> dict[str, Any]:
    """Select `k` samples: position, id, source, score and picked_by of each, in order of picking.

    By the `selector`, where there are queries; several tasks take turns. Without queries: by score, from the
    method's percentile on. `limits` are `quota.per_source`'s, if any; no pick's cosine with an earlier one
    exceeds `max_similarity`. The count `never_offered` is of the samples that the method passes over whatever
    the budget is.
    """
    scorer, samples = get_scorer(method), pool_file(pool, draw)
    try:
        inputs = [scoring_inputs(method, samples, features, found, seed) for found in queries or [{}]]
        rankers = [executor.ranker(scorer, each) for each in inputs]
        picked = choose(method, inputs[0], rankers, k, limits, selector, max_similarity)
    except ValueError as error:
        limit = "" if max_similarity is None else f" with --max-similarity {max_similarity}"
        raise UserError(f"{work.label}: {error}{limit}; ask for fewer") from error
    table = pa.table(
        {
            "position": picked.indices if samples.kept is None else samples.kept[picked.indices],
            "id": samples.ids.take(pa.array(picked.indices)),
            "source": [samples.sources[i] for i in picked.indices],
            "score": picked.scores,
            "picked_by": picked_by(picked, method, targets, selector),
        }
    )
    pq.write_table(table, work.path / SELECTION)
    return {"samples": k, "never_offered": picked.refused}


@step(version=1)
def quantile(work: Work, order: Path, part: int, parts: int, k: int, seed: int) -> dict[str, Any]:
    """Draw `k` samples of the `part`-th of `parts` equal parts of a selection, and keep their order."""
    picks = read_selection(order)
    places = np.array_split(np.arange(len(picks)), parts)[part - 1]
    drawn = generator(seed, "quantile", str(part)).choice(places, k, replace=False)
    pq.write_table(picks.take(np.sort(drawn)), work.path / SELECTION)
    return {"samples": k}


def choose(
    method: str,
    inputs: ScoringInputs,
    rankers: Sequence[Ranker],
    k: int,
    limits: Mapping[str, Any],
    selector: str,
    max_similarity: float | None,
) -> round_robin.Selection:
    """Pick `k` samples as `select` says, by the rankers of tasks; `inputs` are those of the first of them.

    Raises:
        ValueError: There are fewer to choose from.
    """
    scorer = get_scorer(method)
    limit = quota.per_source(inputs.sources, k, **limits) if limits else None
    rows = rows_of(method, inputs)
    if max_similarity is not None:
        assert rows is not None  # see `check_selector`
        limit = apart(rows, max_similarity, limit)
    passed_over = int(scorer.skip * len(inputs.sources))
    return round_robin.choose(rankers, k, passed_over, limit, get_selector(selector), rows)


def rows_of(method: str, inputs: ScoringInputs) -> Rows | None:
    """What reads the vectors of samples, if the method compares such."""
    scorer = get_scorer(method)
    if (vector := scorer.vector) is None:
        return None
    return lambda positions: scorer.change(inputs)(inputs.rows(vector, positions))


def scoring_inputs(
    method: str,
    samples: PoolFile,
    features: Mapping[str, Path],
    queries: Mapping[str, Path],
    seed: int | None,
) -> ScoringInputs:
    """What a method reads to score a pool for one task, from the folders of features by name.

    What is made for a task apart is of the pool's samples.
    """
    apart = {each: folder for each, folder in queries.items() if get_extractor(each).per_task}
    features = {**features, **apart}
    shared = [] if samples.kept is None else [f for f in features if not get_extractor(f).per_pool]
    kept = {feature: samples.kept for feature in shared if samples.kept is not None}
    return ScoringInputs(samples.sources, seed or 0, features, queries, kept)


def picked_by(
    picked: round_robin.Selection, method: str, tasks: Sequence[str], selector: str = ROUND_ROBIN.name
) -> list[str]:
    """What picked each sample: a task by its name, or a query by its number; nothing where a window did."""
    if tasks and get_selector(selector).one_list(len(tasks)):
        return [tasks[i] for i in picked.picked_by]
    return ["" if get_scorer(method).skip else str(i) for i in picked.picked_by]


def read_selection(artifact: Path) -> pa.Table:
    """The picks of a selection artifact, in order of picking."""
    return read_table(artifact / SELECTION)


def give_back_memory() -> None:
    """Free what a trainer leaves: its objects refer to one another, and glibc holds on to what was freed."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
