"""LESS's gradients in batches against one sample at a time: `python -m tests.bench.bench_less`.

Real samples of the `mini` pool through its real model, at all checkpoints of a warm-up with the profile's
parameters (on few samples: the time does not depend on it). Each repetition times both, one after the other.
One by one is what LESS's public code does: a batch of one, transformers' own loss, each matrix's `.grad`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from tqdm import tqdm

from rdslib.data.chat import Tokens
from rdslib.data.pool import PoolFile
from rdslib.methods.base import Preparation, tokenize
from rdslib.methods.less import LessGradients
from rdslib.models.gradients import load_checkpoints, lora_linears, per_sample_gradients
from rdslib.models.loading import load_causal_lm, load_tokenizer
from rdslib.models.projection import Projection
from rdslib.models.train import IGNORE
from rdslib.pipeline.steps import model_folder
from rdslib.pipeline.study import Study
from tests.bench.report import report, spread

# A shard in batches; of its samples every so many one by one, which are as long on average.
SHARD, EVERY, REPETITIONS = 128, 4, 3


def one_by_one(model: PeftModel, adapter: str, samples: list[Tokens]) -> torch.Tensor:
    """Gradients of each sample at an adapter: float32 [samples, parameters]."""
    model.set_adapter(adapter)
    weights = [linear.weight for linear in lora_linears(model, adapter)]
    found = []
    for sample in samples:
        labels = [i if r else IGNORE for i, r in zip(sample.ids, sample.response, strict=True)]
        model.zero_grad()
        model(input_ids=torch.tensor([sample.ids]), labels=torch.tensor([labels])).loss.backward()
        found.append(torch.cat([weight.grad.flatten() for weight in weights]))
    return torch.stack(found)


def main() -> None:
    study = Study.load("mini")
    study.compute([study.pipeline.model, *study.data_steps])
    settings, folder = study.pipeline.settings, model_folder(study.store.path(study.pipeline.model))
    pool = PoolFile(study.store.path(study.pool) / "pool.parquet")
    with tempfile.TemporaryDirectory() as out:
        few = Preparation(settings, folder, pool[:40], {}, Path(out), tqdm(disable=True), Path(out))
        LessGradients().prepare(few)
        model, checkpoints = load_checkpoints(load_causal_lm(folder), Path(out))
    adapters = [checkpoint.adapter for checkpoint in checkpoints]
    samples = tokenize(load_tokenizer(folder), pool[:: len(pool) // SHARD], settings.encode.max_length, False)
    few = samples[::EVERY]
    rows = []
    for some in (adapters[:1], adapters):
        alone, batched = [], []
        for repetition in range(REPETITIONS + 1):
            started = time.perf_counter()
            for adapter in some:
                one_by_one(model, adapter, few)
            between = time.perf_counter()
            for _ in per_sample_gradients(model, some, samples, settings.encode.token_budget):
                pass
            if repetition:  # the first warms up
                alone.append(len(few) / (between - started))
                batched.append(len(samples) / (time.perf_counter() - between))
        ratios = [a / b for a, b in zip(batched, alone, strict=True)]
        rows.append([len(some), spread(alone), spread(batched), spread(ratios)])
        print(*rows[-1], sep=" | ", flush=True)

    gradients = torch.randn(256, len(checkpoints[0].exp_avg))
    project = Projection(gradients.shape[1], settings.less.dimension, 0)
    times = []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        project(gradients)
        times.append(time.perf_counter() - started)
    lengths = [len(sample.ids) for sample in samples]
    report(
        "less",
        "LESS: gradients of samples in batches, and one by one",
        ["checkpoints", "one by one, samples/s", "in batches, samples/s", "ratio"],
        rows,
        f"{len(samples)} real samples of {np.mean(lengths):.0f} tokens on average ({len(few)} of them one by "
        f"one), {gradients.shape[1]:,} parameters, {torch.get_num_threads()} threads; {REPETITIONS} "
        "repetitions in turn: the median, and from where to where. Projection is apart: 256 gradients to "
        f"{settings.less.dimension:,} in {spread(times)} s.",
    )


if __name__ == "__main__":
    main()
