"""What all features of the one pass cost, against the NLL alone: `python -m tests.bench.bench_one_pass`.

Real samples of the `mini` pool through its real model. Each repetition times both, one after the other.
"""

from __future__ import annotations

import time

from rdslib.chat import tokenize_chat
from rdslib.encode import FEATURES, encode
from rdslib.models import load_causal_lm, load_tokenizer
from rdslib.stages import model_folder
from rdslib.study import Study

SAMPLES, REPETITIONS = 96, 3


def main() -> None:
    study = Study.load("mini")
    study.compute([study.model, study.data])
    folder = model_folder(study.store.path(study.model))
    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    messages = [list(row) for row in study.pool_table()["messages"]]
    samples = tokenize_chat(tokenizer, messages[:: len(messages) // SAMPLES], 1024)
    tokens = sum(len(sample.ids) for sample in samples)
    budget = study.experiment.encode.token_budget

    def seconds(wanted: tuple[str, ...]) -> float:
        started = time.perf_counter()
        encode(model, samples, wanted, budget)
        return time.perf_counter() - started

    seconds(FEATURES)  # warm up
    print(f"{len(samples)} samples, {tokens} tokens; seconds of: hidden alone, NLL alone, all features")
    ratios = []
    for _ in range(REPETITIONS):
        hidden, nll, everything = seconds(("weighted_all",)), seconds(("nll",)), seconds(FEATURES)
        ratios.append(everything / nll)
        print(f"{hidden:8.2f} {nll:8.2f} {everything:8.2f}   all / NLL alone: {ratios[-1]:.3f}")
    ratios.sort()
    print(f"ratio: median {ratios[len(ratios) // 2]:.3f}, from {ratios[0]:.3f} to {ratios[-1]:.3f}")


if __name__ == "__main__":
    main()
