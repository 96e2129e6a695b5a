"""Fine-tuning of all weights, in three precisions: `python -m tests.bench.bench_train`.

Real samples of the `mini` pool and its real model. First the speed: a few updates in each precision, one
after the other, several times. Then the losses: the same updates in each precision, beside plain float32
training, and the loss on samples that nobody trained on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from rdslib.data.chat import Tokens
from rdslib.data.pool import PoolFile
from rdslib.methods.base import tokenize
from rdslib.models.encode import pad
from rdslib.models.loading import load_causal_lm, load_tokenizer
from rdslib.models.optimizer import MasterAdamW
from rdslib.models.train import IGNORE
from rdslib.pipeline.steps import model_folder
from rdslib.pipeline.study import Study
from tests.bench.report import report, spread

BATCH, RATE, WARM_UP, TIMED, REPETITIONS, UPDATES, HELD_OUT = 8, 5e-5, 1, 3, 3, 50, 200


def loss_of(model: PreTrainedModel, batch: list[Tokens], autocast: bool) -> torch.Tensor:
    labels = [[i if r else IGNORE for i, r in zip(each.ids, each.response, strict=True)] for each in batch]
    longest = max(map(len, labels))
    padded = torch.tensor([row + [IGNORE] * (longest - len(row)) for row in labels])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        return model(input_ids=pad([each.ids for each in batch], model.device), labels=padded).loss


class Way:
    """One precision: its model, and what updates it."""

    def __init__(self, name: str, folder: Path, seed: int = 0) -> None:
        self.name, self.autocast = name, name == "float32 under autocast"
        dtype = torch.float32 if name.startswith("float32") else torch.bfloat16
        self.model = load_causal_lm(folder, dtype=dtype).train()
        if dtype == torch.bfloat16:
            self.optimizer = MasterAdamW(self.model.parameters(), 1.0, seed, lr=RATE, weight_decay=0.0)
            if name.endswith("from the weights"):
                for weight, copy in zip(self.optimizer.weights, self.optimizer.copies, strict=True):
                    copy.copy_(weight.detach())
        else:
            self.optimizer = torch.optim.AdamW(self.model.parameters(), RATE, weight_decay=0.0, fused=True)

    def update(self, batch: list[Tokens]) -> float:
        loss = loss_of(self.model, batch, self.autocast)
        loss.backward()
        if not isinstance(self.optimizer, MasterAdamW):
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.model.zero_grad()
        return loss.item()


def batches(samples: list[Tokens], updates: int) -> Iterator[list[Tokens]]:
    order = np.random.default_rng(0).permutation(len(samples))[: updates * BATCH].reshape(updates, BATCH)
    return ([samples[i] for i in rows] for rows in order)


def main() -> None:
    study = Study.load("mini")
    study.compute([study.pipeline.model, *study.data_steps])
    folder = model_folder(study.store.path(study.pipeline.model))
    pool = PoolFile(study.store.path(study.pool) / "pool.parquet")
    samples = tokenize(load_tokenizer(folder), pool[:], study.experiment.train.max_length, False)
    samples, held_out = samples[:-HELD_OUT], samples[-HELD_OUT:]
    torch.set_num_threads(torch.get_num_threads() * 2)  # a training has the machine to itself

    copies, cast = "bfloat16 with float32 copies", "float32 under autocast"
    ways = [Way(name, folder) for name in (copies, cast, "float32")]
    speeds: dict[str, list[float]] = {way.name: [] for way in ways}
    for repetition in range(REPETITIONS):
        for way in ways:
            some = list(batches(samples, WARM_UP + TIMED))
            for batch in some[:WARM_UP]:
                way.update(batch)
            started = time.perf_counter()
            for batch in some[WARM_UP:]:
                way.update(batch)
            tokens = sum(len(each.ids) for batch in some[WARM_UP:] for each in batch)
            speeds[way.name].append(tokens / (time.perf_counter() - started))
        print(repetition, {name: round(values[-1]) for name, values in speeds.items()}, flush=True)
    ratios = {
        name: [a / b for a, b in zip(values, speeds[cast], strict=True)] for name, values in speeds.items()
    }
    del ways

    curves, outside = {}, {}
    for label, name, seed in (
        ("float32", "float32", 0),
        (cast, cast, 0),
        (copies, copies, 0),
        (f"{copies}, another seed", copies, 1),
        ("bfloat16 with copies that begin as the weights", "bfloat16 from the weights", 0),
    ):
        way = Way(name, folder, seed)
        curves[label] = np.array([way.update(batch) for batch in batches(samples, UPDATES)])
        with torch.no_grad():
            found = [
                loss_of(way.model.eval(), held_out[at : at + BATCH], way.autocast).item()
                for at in range(0, HELD_OUT, BATCH)
            ]
        outside[label] = float(np.mean(found))
        print(label, curves[label].mean(), outside[label], flush=True)
    rows = []
    for label, curve in curves.items():
        distance = np.abs(curve / curves["float32"] - 1)
        rows.append(
            [
                label,
                spread(speeds[label], "{:.0f}") if label in speeds else "",
                spread(ratios[label]) if label in ratios else "",
                f"{curve.mean():.3f}",
                f"{100 * np.median(distance):.1f}%",
                f"{outside[label]:.3f}",
            ]
        )
    report(
        "train",
        "Fine-tuning of all weights, by precision",
        [
            "precision", "tokens/s", "ratio to autocast", "mean loss",
            "median distance from float32, by update", "loss on samples held out",
        ],
        rows,
        f"SmolLM2-135M, batches of {BATCH} real samples, learning rate {RATE:g}, {torch.get_num_threads()} "
        f"threads. Speed: {TIMED} updates, {REPETITIONS} repetitions in turn: the median, and from where to "
        f"where. Losses: {UPDATES} updates on the same batches; held out are {HELD_OUT} samples.",
    )  # fmt: skip


if __name__ == "__main__":
    main()
