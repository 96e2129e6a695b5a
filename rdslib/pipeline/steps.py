"""What each stage of the study does: from the folders of its inputs to the files of its artifact.

    data -> prepare, encode -> select -> train -> evaluate

Each function builds one step (`rdslib.pipeline.store`) and returns its counts. How the steps hang together,
and which there are, is `rdslib.pipeline.study`'s to say.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rdslib.data import download as fetch
from rdslib.data import pool
from rdslib.data.chat import Sample
from rdslib.data.pool import PoolFile, write_pool
from rdslib.errors import UserError
from rdslib.files import write_json
from rdslib.methods import (
    COST,
    Extracted,
    Extraction,
    Extractor,
    Preparation,
    Scorer,
    ScoringInputs,
    features,
    get_extractor,
)
from rdslib.params import Download, Evaluate, Experiment, Model, Train
from rdslib.pipeline.executors import Engine
from rdslib.pipeline.store import Work
from rdslib.selection import quota
from rdslib.selection import round_robin as selectors
from rdslib.tasks import base as tasks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rdslib.models.cache import ModelCache

# A smaller pool: how many samples it has, and the seed with which they are drawn. None: the whole pool.
Draw = tuple[int, int] | None

# Tokens that a prompt and its response take, roughly: as many as go into a batch are generated at a time.
RESPONSE = 256

# Torch and transformers are imported where a model runs, so that drawing a figure needs neither.


def build_model(work: Work, model: Model, downloads: dict[str, Download], seed: int) -> dict[str, Any]:
    """A plain model folder: converted from a download, random, or a pointer to the user's own."""
    from rdslib.models import loading as models

    if model.path is not None and model.path.lower().endswith(".gguf"):
        models.convert_gguf(Path(model.path), work.path)
    elif model.path is not None:
        write_json(work.path / "pointer.json", {"path": model.path})
    elif model.random is not None:
        models.make_random(model.random, seed, work.path)
    else:
        assert model.download is not None
        assert model.member is not None
        archives = fetch.Archives(downloads, fetch.cache_dir())
        with work.progress.bar(work.label, 1, "model") as bar:
            # Within the folder that is being built, where the store sweeps up what a killed run leaves.
            with tempfile.TemporaryDirectory(dir=work.path, prefix="tmp-") as scratch:
                file = Path(scratch, "model.gguf")
                file.write_bytes(archives.members(model.download, [model.member])[model.member])
                models.convert_gguf(file, work.path)
            bar.update()
    loaded = models.load_causal_lm(model_folder(work.path))
    return {"non_embedding_parameters": models.non_embedding_parameters(loaded)}


def model_folder(artifact: Path) -> Path:
    """Where the model of a model artifact is."""
    pointer = artifact / "pointer.json"
    return Path(json.loads(pointer.read_text())["path"]) if pointer.is_file() else artifact


def build_data(work: Work, experiment: Experiment) -> dict[str, Any]:
    """The tasks' query and test samples, and the pool without what the tests hold."""
    archives = fetch.Archives(experiment.downloads, fetch.cache_dir())
    with work.progress.bar(work.label, len(experiment.tasks) + 1, "part") as bar:
        archives.prepare(pool.wanted_members(experiment.pool) + tasks.wanted_members(experiment.tasks))
        held_out: list[Any] = []
        for task in experiment.tasks:
            data = tasks.build_task(task, archives, experiment.seed)
            folder = work.path / "tasks" / task.name
            folder.mkdir(parents=True, exist_ok=True)
            tasks.write_task(data, folder)
            held_out += data.test
            bar.update()
        samples, counts = pool.build_pool(experiment.pool, archives, experiment.seed, held_out)
        write_pool(samples, work.path / "pool.parquet")
        bar.update()
    return {"samples": len(samples), "sources": counts}


def task_folder(data: Path, task: str) -> Path:
    """Where the data artifact keeps a task."""
    return data / "tasks" / task


@functools.lru_cache(maxsize=1)
def _resident(folder: Path) -> ModelCache:
    """The language model, which stays in memory from one training or evaluation to the next."""
    from rdslib.models.cache import ModelCache

    return ModelCache(folder)


def build_preparation(
    work: Work, extractor: Extractor, experiment: Experiment, on_pool: bool, draw: Draw
) -> dict[str, Any]:
    """What an extractor needs before it makes features, such as a model trained on samples of the pool."""
    samples: Sequence[Sample] = []
    rows: dict[str, np.ndarray] = {}
    if on_pool:
        samples = drawn = _pool(work.inputs["data"], draw)
        for feature in extractor.prepare_features:
            found = features.read_all(work.inputs[f"pool {feature}"], feature.partition(".")[2])
            rows[feature] = found if drawn.kept is None else found[drawn.kept]
    model = model_folder(work.inputs["model"])
    try:
        with work.progress.bar(work.label, 0, "token") as bar:
            given = Preparation(experiment, model, samples, rows, work.path, bar, fetch.cache_dir())
            return dict(extractor.prepare(given))
    finally:
        _give_back_memory()


def build_features(
    work: Work,
    extractor: Extractor,
    experiment: Experiment,
    wanted: Sequence[str],
    task: str | None,
    draw: Draw,
    engine: Engine,
) -> dict[str, Any]:
    """Features, shard by shard, of a pool (`task` None) or of a task's queries."""
    data = work.inputs["data"]
    samples: Sequence[Sample]
    samples = _pool(data, draw) if task is None else tasks.read_task(task_folder(data, task)).queries
    model = model_folder(work.inputs["model"])
    given = Extraction(
        experiment, model, work.inputs.get("prepared"), tuple(wanted), queries=task is not None
    )
    size = experiment.encode.shard_size
    starts = [start for start in range(0, len(samples), size) if _shard_key(start) not in work.shards]
    there = len(samples) - sum(min(size, len(samples) - start) for start in starts)
    with work.progress.bar(work.label, len(samples), "sample", there) as bar:
        # Nothing is loaded where nothing is left to make.
        shards = ((start, samples[start : start + size]) for start in starts)
        for start, made in engine.extract(extractor, given, shards, bar.update) if starts else ():

            def write(folder: Path, start: int = start, made: Extracted = made) -> None:
                for name, rows in made.rows.items():
                    features.write(folder / features.shard_name(name, start), rows)

            work.shard(_shard_key(start), {"samples": len(made.rows[COST]), **made.counts}, write)
    totals: Counter[str] = Counter()
    for shard in work.shards.values():
        totals.update(shard["counts"])
    return dict(totals)


def _shard_key(start: int) -> str:
    return f"{start:09d}"


def _pool(data: Path, draw: Draw) -> PoolFile:
    """The pool, or a smaller one drawn from it."""
    path = data / "pool.parquet"
    return PoolFile(path) if draw is None else PoolFile(path, pool.subset(len(PoolFile(path)), *draw))


def build_selection(
    work: Work,
    scorer: Scorer,
    k: int,
    draw: Draw,
    targets: Sequence[str],
    seed: int,
    engine: Engine,
    limits: Mapping[str, Any],
) -> dict[str, Any]:
    """`selection.parquet`: position, id, source, score and taker of each pick, in order of picking.

    One target: round-robin over queries; several: over tasks; without queries: by score, from the
    method's percentile on. `seed` is the method's own; `limits` are `quota.per_source`'s, if any. The count
    `never_offered` is of the samples that the method passes over whatever the budget is.
    """
    samples = _pool(work.inputs["data"], draw)

    try:
        limit = quota.per_source(samples.sources, k, **limits) if limits else None
        inputs = [scoring_inputs(work.inputs, scorer, samples, seed, each) for each in targets or (None,)]
        rankers = [engine.ranker(scorer, each) for each in inputs]
        picked = selectors.choose(rankers, k, int(scorer.skip * len(samples)), limit)
    except ValueError as error:
        raise UserError(f"{work.label}: {error}; ask for fewer") from error
    table = pa.table(
        {
            "position": picked.indices if samples.kept is None else samples.kept[picked.indices],
            "id": samples.ids.take(pa.array(picked.indices)),
            "source": [samples.sources[i] for i in picked.indices],
            "score": picked.scores,
            "taker": takers_of(picked, scorer, targets),
        }
    )
    pq.write_table(table, work.path / "selection.parquet")
    return {"samples": k, "never_offered": picked.refused}


def scoring_inputs(
    inputs: Mapping[str, Path], scorer: Scorer, samples: PoolFile, seed: int, target: str | None
) -> ScoringInputs:
    """What a method reads to score a pool for a target, from the folders of a selection's inputs."""
    return ScoringInputs(
        samples.sources,
        seed,
        {feature: inputs[f"pool {feature}"] for feature in scorer.features},
        {feature: inputs[f"queries {target} {feature}"] for feature in scorer.features if target},
        {}
        if samples.kept is None
        else {f: samples.kept for f in scorer.features if not get_extractor(f).per_pool},
    )


def takers_of(picked: selectors.Selection, scorer: Scorer, targets: Sequence[str]) -> list[str]:
    """What took each pick: a task by its name, or a query by its number; nothing where a window did."""
    if len(targets) > 1:
        return [targets[i] for i in picked.takers]
    return ["" if scorer.skip else str(i) for i in picked.takers]


def read_selection(artifact: Path) -> pa.Table:
    """The picks of a selection artifact, in order of picking."""
    return pq.read_table(artifact / "selection.parquet")


def build_training(work: Work, params: Train, seed: int) -> dict[str, Any]:
    """The model fine-tuned on a selection."""
    from rdslib.models.train import train

    picked = _pool(work.inputs["data"], None).take(
        read_selection(work.inputs["selection"])["position"].to_numpy()
    )
    folder = model_folder(work.inputs["model"])
    resident = _resident(folder)
    if params.method == "full":
        resident.forget()
    base = resident.base() if params.method == "lora" else None
    try:
        with work.progress.bar(work.label, 0, "token") as bar:
            return train(folder, picked, params, seed, work.path, bar, base=base)
    finally:
        _give_back_memory()


def _give_back_memory() -> None:
    """Free what a trainer leaves: its objects refer to one another, and glibc holds on to what was freed."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def _run_model(work: Work) -> tuple[ModelCache, PreTrainedModel]:
    """The model that a run has left, or the one that there was before it, and what keeps it in memory."""
    resident = _resident(model_folder(work.inputs["model"]))
    trained = work.inputs.get("trained")
    return resident, resident.base() if trained is None else resident.trained(trained)


def build_evaluation(work: Work, params: Evaluate, task: str) -> dict[str, Any]:
    """`scores.parquet`: bits, bytes and correctness of each test sample of a task."""
    from rdslib.evaluation.likelihood import evaluate

    samples = tasks.read_task(task_folder(work.inputs["data"], task)).test
    resident, model = _run_model(work)
    with work.progress.bar(work.label, len(samples), "sample") as bar:
        scores = evaluate(
            model,
            resident.tokenizer,
            samples,
            params.max_length,
            params.token_budget,
            lambda batch: bar.update(len(batch)),
            resident.layers,
        )
    table = pa.table(
        {
            "id": [s.id for s in samples],
            "subtask": [s.subtask for s in samples],
            "bits": scores.bits,
            "bytes": scores.bytes,
            "correct": scores.correct,
        }
    )
    pq.write_table(table, work.path / "scores.parquet")
    return {"samples": len(samples)}


def build_measurement(work: Work, params: Evaluate, task: str, protocol: str, seed: int) -> dict[str, Any]:
    """`measured.parquet`: of each test sample what was asked, what the model responded, and its score."""
    from rdslib.evaluation.harness import measure

    samples = tasks.read_task(task_folder(work.inputs["data"], task)).test
    resident, model = _run_model(work)
    measured = measure(
        model,
        resident.tokenizer,
        protocol,
        samples,
        params.max_length,
        max(1, params.token_budget // RESPONSE),
        seed,
        params.max_response or None,
    )
    table = pa.table(
        {
            "id": [s.id for s in samples],
            "subtask": [s.subtask for s in samples],
            "score": measured.scores,
            "prompt": measured.prompts,
            "responses": measured.responses,
        }
    )
    pq.write_table(table, work.path / "measured.parquet", compression="zstd")
    return {"samples": len(samples), "metric": measured.metric}
