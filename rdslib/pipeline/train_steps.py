"""The steps from a selection to scores.

select -> train -> evaluate, measure
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from rdslib.params import Train
from rdslib.pipeline.step import step
from rdslib.pipeline.steps import give_back_memory, model_folder, pool_file, read_selection
from rdslib.pipeline.store import Work
from rdslib.tasks import base as tasks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rdslib.models.cache import ModelCache

# Tokens that a prompt and its response take, roughly: as many as go into a batch are generated at a time.
RESPONSE = 256
SCORES = "scores.parquet"


@functools.lru_cache(maxsize=1)
def _cached(folder: Path, device_map: str | None) -> ModelCache:
    """The language model, which stays in memory from one training or evaluation to the next."""
    from rdslib.models.cache import ModelCache

    return ModelCache(folder, device_map)


@step(version=1)
def train(
    work: Work,
    model: Path,
    pool: Path,
    selection: Path,
    settings: Train,
    seed: int,
    device_map: str | None,
) -> dict[str, Any]:
    """Fine-tune the model on a selection."""
    from rdslib.models.train import train as fine_tune

    picked = pool_file(pool).take(read_selection(selection)["position"].to_numpy())
    folder = model_folder(model)
    cache = _cached(folder, device_map)
    if settings.method == "full":
        cache.forget()
    base = cache.base() if settings.method == "lora" else None
    try:
        with work.progress.bar(work.label, 0, "token") as bar:
            return fine_tune(folder, picked, settings, seed, work.path, bar, base=base)
    finally:
        give_back_memory()


def _model_of(
    model: Path, trained: Path | None, device_map: str | None
) -> tuple[ModelCache, PreTrainedModel]:
    """The model that a run has left, or the one that there was before it, and what keeps it in memory."""
    cache = _cached(model_folder(model), device_map)
    return cache, cache.base() if trained is None else cache.trained(trained)


@step(version=3, record=SCORES)
def evaluate(
    work: Work,
    model: Path,
    trained: Path | None,
    task: Path,
    form: Mapping[str, Any] | None,
    max_length: int,
    token_budget: int,
    device_map: str | None,
    queries: bool = False,
) -> dict[str, Any]:
    """Score test samples, or a task's `queries`: `scores.parquet` has bits, bytes and correctness of each.

    They are asked as a protocol does (`harness.form`), or by themselves.
    """
    from rdslib.evaluation import harness, likelihood

    asked = tasks.read_task(task)
    samples = (
        [tasks.TaskSample(**vars(each), subtask="") for each in asked.queries] if queries else asked.test
    )
    cache, tuned = _model_of(model, trained, device_map)
    questions = harness.questions(form, samples, cache.tokenizer) if form else likelihood.bare(samples)
    with work.progress.bar(work.label, len(samples), "sample") as bar:
        scores = likelihood.evaluate(
            tuned,
            cache.tokenizer,
            questions,
            max_length,
            token_budget,
            lambda batch: bar.update(len(batch)),
            cache.layers,
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
    pq.write_table(table, work.path / SCORES)
    return {"samples": len(samples)}


@step(version=1)
def measure(
    work: Work,
    model: Path,
    trained: Path | None,
    task: Path,
    protocol: str,
    max_length: int,
    token_budget: int,
    max_response: int,
    seed: int,
    device_map: str | None,
    engine: str,
) -> dict[str, Any]:
    """Run a protocol: `measured.parquet` has the prompt, the responses and the score of each test sample."""
    from rdslib.evaluation import harness
    from rdslib.models.train import merge

    samples = tasks.read_task(task).test
    batch, longest = max(1, token_budget // RESPONSE), max_response or None
    asked: PreTrainedModel | Path
    with tempfile.TemporaryDirectory(dir=work.path, prefix="tmp-") as scratch:
        if engine == "vllm":
            cache = _cached(model_folder(model), device_map)
            cache.forget()
            asked = cache.folder if trained is None else Path(scratch, "model")
            if trained is not None:
                merge(cache.folder, trained, asked)
        else:
            cache, asked = _model_of(model, trained, device_map)
        measured = harness.measure(
            asked, cache.tokenizer, protocol, samples, max_length, batch, seed, longest
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
