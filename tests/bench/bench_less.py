"""LESS's gradients in batches against one sample at a time: `python -m tests.bench.bench_less`.

Real samples of the `mini` pool through its real model, at all checkpoints of a warm-up with the profile's
parameters (on few samples: what was learnt costs nothing). Each repetition times both, one after the other.
One at a time is what LESS's public code does: a batch of one, transformers' own loss, each matrix's `.grad`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from peft import PeftModel
from tqdm import tqdm

from rdslib.chat import Tokens
from rdslib.gradients import load_checkpoints, lora_linears, per_sample_gradients
from rdslib.models import load_causal_lm, load_tokenizer
from rdslib.pool import read_pool
from rdslib.projection import Projection
from rdslib.scorers.base import Preparation
from rdslib.scorers.less import LessGradients
from rdslib.scorers.lm import tokenize
from rdslib.stages import model_folder
from rdslib.study import Study
from rdslib.train import IGNORE

SAMPLES, REPETITIONS = 64, 5


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
    study.compute([study.model, study.data])
    experiment, folder = study.experiment, model_folder(study.store.path(study.model))
    pool = read_pool(study.store.path(study.data) / "pool.parquet")
    with tempfile.TemporaryDirectory() as out:
        few = Preparation(experiment, folder, pool[:40], {}, Path(out), tqdm(disable=True))
        LessGradients().prepare(few)
        model, checkpoints = load_checkpoints(load_causal_lm(folder), Path(out))
    adapters = [checkpoint.adapter for checkpoint in checkpoints]
    picked = pool[:: len(pool) // SAMPLES]
    samples = tokenize(load_tokenizer(folder), picked, experiment.encode.max_length, False)
    print(f"{len(samples)} samples of {sum(len(s.ids) for s in samples)} tokens, {len(adapters)} checkpoints")

    def seconds_one_by_one(adapters: list[str]) -> float:
        started = time.perf_counter()
        for adapter in adapters:
            one_by_one(model, adapter, samples)
        return time.perf_counter() - started

    def seconds_batched(adapters: list[str]) -> float:
        started = time.perf_counter()
        for _ in per_sample_gradients(model, adapters, samples, experiment.encode.token_budget):
            pass
        return time.perf_counter() - started

    for some in (adapters[:1], adapters):
        ratios = []
        for repetition in range(REPETITIONS + 1):
            alone, batched = seconds_one_by_one(some), seconds_batched(some)
            if repetition:  # the first warms up
                ratios.append(alone / batched)
                print(f"samples/s at {len(some)} checkpoints: one by one {len(samples) / alone:6.2f}, batched "
                      f"{len(samples) / batched:6.2f}, ratio {ratios[-1]:.2f}")  # fmt: skip
        ratios.sort()
        print(f"ratio: median {ratios[len(ratios) // 2]:.2f}, from {ratios[0]:.2f} to {ratios[-1]:.2f}")

    gradients = torch.randn(256, len(checkpoints[0].exp_avg))
    project = Projection(gradients.shape[1], experiment.less.dimension, 0)
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        project(gradients)
        print(f"{tuple(gradients.shape)} to {project.dimension}: {time.perf_counter() - started:.2f} s")


if __name__ == "__main__":
    main()
