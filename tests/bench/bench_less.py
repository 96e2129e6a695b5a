"""LESS's gradients in batches against one sample at a time: `python -m tests.bench.bench_less`.

Real samples of the `mini` pool through its real model, at all checkpoints of a warm-up with the profile's
parameters (on few samples: the time does not depend on it). One by one is what LESS's public code does: a
batch of one, transformers' loss, each matrix's `.grad`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from tqdm import tqdm

from rdslib.data.chat import Tokens
from rdslib.methods.base import Preparation, tokenize
from rdslib.methods.less import LessGradients
from rdslib.models.gradients import load_checkpoints, lora_linears, per_sample_gradients
from rdslib.models.loading import load_causal_lm, load_tokenizer
from rdslib.models.projection import Projection
from rdslib.models.train import IGNORE
from tests.bench.report import mini, ratios, report, seconds, spread

# A shard in batches; of its samples every so many one by one, which are as long on average.
SHARD, EVERY, REPETITIONS = 128, 4, 3


def one_by_one(model: PeftModel, adapters: list[str], samples: list[Tokens]) -> None:
    """Gradients of each sample at each adapter, together: float32 [parameters]."""
    for adapter in adapters:
        model.set_adapter(adapter)
        weights = [linear.weight for linear in lora_linears(model, adapter)]
        for sample in samples:
            labels = [i if r else IGNORE for i, r in zip(sample.ids, sample.response, strict=True)]
            model.zero_grad()
            model(input_ids=torch.tensor([sample.ids]), labels=torch.tensor([labels])).loss.backward()
            torch.cat([weight.grad.flatten() for weight in weights])


def main() -> None:
    study, folder, pool = mini()
    settings = study.pipeline.settings
    budget = settings.encode.token_budget
    with tempfile.TemporaryDirectory() as out:
        warm_up = Preparation(settings, folder, pool[:40], {}, Path(out), tqdm(disable=True), Path(out))
        LessGradients().prepare(warm_up)
        model, checkpoints = load_checkpoints(load_causal_lm(folder), Path(out))
    adapters = [checkpoint.adapter for checkpoint in checkpoints]
    samples = tokenize(load_tokenizer(folder), pool[:: len(pool) // SHARD], settings.encode.max_length, False)
    few = samples[::EVERY]
    rows = []
    for some in (adapters[:1], adapters):
        ways = {
            "alone": lambda some=some: one_by_one(model, some, few),
            "batched": lambda some=some: list(per_sample_gradients(model, some, samples, budget)),
        }
        times = seconds(ways, REPETITIONS)
        alone = [len(few) / each for each in times["alone"]]
        batched = [len(samples) / each for each in times["batched"]]
        rows.append([len(some), spread(alone), spread(batched), spread(ratios(batched, alone))])

    length = np.mean([len(each.ids) for each in samples])
    gradients = torch.randn(256, len(checkpoints[0].exp_avg))
    project = Projection(gradients.shape[1], settings.less.dimension, 0)
    times = seconds({"projection": lambda: project(gradients)}, REPETITIONS)["projection"]
    report(
        "less",
        "LESS: gradients of samples in batches, and one by one",
        ["checkpoints", "one by one, samples/s", "in batches, samples/s", "ratio"],
        rows,
        f"{len(samples)} real samples of {length:.0f} tokens on average ({len(few)} of them one by one), "
        f"{gradients.shape[1]:,} parameters, {torch.get_num_threads()} threads; {REPETITIONS} repetitions in "
        "turn: the median, and from where to where. Projection is apart: 256 gradients to "
        f"{settings.less.dimension:,} in {spread(times)} s.",
    )


if __name__ == "__main__":
    main()
