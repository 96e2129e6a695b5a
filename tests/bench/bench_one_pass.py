"""What all features of the one pass cost, against the NLL alone: `python -m tests.bench.bench_one_pass`.

Real samples of the `mini` pool through its real model. Each repetition times both, one after the other.
"""

from __future__ import annotations

import time

import torch

from rdslib.data.chat import tokenize_chat
from rdslib.models.encode import FEATURES, encode
from rdslib.models.loading import load_causal_lm, load_tokenizer
from rdslib.pipeline.steps import model_folder
from rdslib.pipeline.study import Study
from tests.bench.report import report, spread

SAMPLES, REPETITIONS = 96, 3


def main() -> None:
    study = Study.load("mini")
    study.compute([study.pipeline.model, *study.data_steps])
    folder = model_folder(study.store.path(study.pipeline.model))
    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    messages = [list(row) for row in study.pool_table()["messages"]]
    samples = tokenize_chat(tokenizer, messages[:: len(messages) // SAMPLES], 1024)
    tokens = sum(len(sample.ids) for sample in samples)
    budget = study.pipeline.settings.encode.token_budget

    def seconds(wanted: tuple[str, ...]) -> float:
        started = time.perf_counter()
        encode(model, samples, wanted, budget)
        return time.perf_counter() - started

    seconds(FEATURES)  # warm up
    cases = {"RDS+ alone": ("weighted_all",), "NLL alone": ("nll",), f"all {len(FEATURES)}": FEATURES}
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(REPETITIONS):
        for name, wanted in cases.items():
            times[name].append(seconds(wanted))
    rows = [
        [name, spread(each), spread([a / b for a, b in zip(each, times["NLL alone"], strict=True)])]
        for name, each in times.items()
    ]
    report(
        "one_pass",
        "Many features from one pass",
        ["features", "seconds", "times NLL alone"],
        rows,
        f"{len(samples)} real samples, {tokens:,} tokens, {torch.get_num_threads()} threads; {REPETITIONS} "
        "repetitions in turn: the median, and from where to where.",
    )


if __name__ == "__main__":
    main()
