"""Encoding against one sample at a time with logits: `python -m tests.bench.bench_encode`.

Real texts of the `mini` profile through its real model: short ones (the pool) and long ones (BBH's queries).
One at a time is what the reference does: a batch of one, an attention mask, vocabulary logits, all hidden
states. The rest is ours, with one thing changed at a time. The share is that of this machine's own rate of
bfloat16 matrix products, measured in the same run, which 2 x non-embedding parameters x tokens/s come to.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from rdslib.data.chat import Tokens
from rdslib.data.pool import PoolFile
from rdslib.methods.base import tokenize
from rdslib.models.device import compute_dtype, device
from rdslib.models.encode import encode, pack, pad
from rdslib.models.loading import load_causal_lm, load_tokenizer, non_embedding_parameters
from rdslib.pipeline.steps import model_folder
from rdslib.pipeline.study import Study
from tests.bench.report import report, spread

TOKENS, REPETITIONS = 6_000, 3


def one_by_one(model: PreTrainedModel, samples: list[Tokens]) -> None:
    with torch.inference_mode():
        for sample in samples:
            ids = torch.tensor([sample.ids], device=model.device)
            model(
                input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True, use_cache=False
            ).hidden_states[-1].float().cpu()


def ours(budget: int, *features: str) -> Callable[[PreTrainedModel, list[Tokens]], None]:
    def run(model: PreTrainedModel, samples: list[Tokens]) -> None:
        encode(model, samples, features or ("weighted_all",), budget)

    return run


def padded(budget: int, masked: bool, sort: bool) -> Callable[[PreTrainedModel, list[Tokens]], None]:
    """The forward pass alone, with an attention mask or with batches of samples as they come."""

    def run(model: PreTrainedModel, samples: list[Tokens]) -> None:
        lengths = [len(sample.ids) for sample in samples]
        batches = list(pack(lengths, budget))
        if not sort:
            size = -(-len(samples) // len(batches))
            batches = [list(range(at, min(at + size, len(samples)))) for at in range(0, len(samples), size)]
        with torch.inference_mode():
            for batch in batches:
                ids = pad([samples[i].ids for i in batch], model.device)
                ends = torch.tensor([lengths[i] for i in batch], device=model.device)
                mask = torch.arange(ids.shape[1], device=model.device)[None] < ends[:, None]
                found = model.base_model(
                    input_ids=ids, attention_mask=mask.long() if masked else None, use_cache=False
                )
                found.last_hidden_state.float().cpu()

    return run


def wait() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()


def product_rate() -> float:
    """FLOP/s of products of square matrices in the model's dtype: the best of some sizes and tries."""
    best = 0.0
    for size in (1024, 2048, 4096) if device().type == "cpu" else (4096, 8192):
        a = torch.randn(size, size, device=device()).to(compute_dtype())
        b = torch.randn(size, size, device=device()).to(compute_dtype())
        for _ in range(4):
            wait()
            started = time.perf_counter()
            a @ b
            wait()
            best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def main() -> None:
    study = Study.load("mini")
    torch.set_num_threads(torch.get_num_threads() * 2)  # all cores for this one process
    study.compute([study.pipeline.model, *study.data_steps])
    folder = model_folder(study.store.path(study.pipeline.model))
    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    parameters = non_embedding_parameters(model)
    budget = study.pipeline.settings.encode.token_budget
    pool = PoolFile(study.store.path(study.pool) / "pool.parquet")
    texts = {"short": pool[:], "long": study.task_data("BBH").queries}
    ways = {
        "one at a time, with logits": one_by_one,
        f"ours ({budget:,} tokens a batch)": ours(budget),
        "with NLL as well": ours(budget, "weighted_all", "nll"),
        "512 tokens a batch": ours(512),
        "4,096 tokens a batch": ours(4096),
        "with an attention mask": padded(budget, True, True),
        "batches as samples come": padded(budget, False, False),
    }
    rows = []
    for kind, samples in texts.items():
        tokens = tokenize(tokenizer, samples, 2048, False)
        total = sum(len(each.ids) for each in tokens)
        some = tokens[:: max(1, total // TOKENS)]
        total = sum(len(each.ids) for each in some)
        rates: dict[str, list[float]] = {way: [] for way in ways}
        shares: dict[str, list[float]] = {way: [] for way in ways}
        for repetition in range(REPETITIONS + 1):
            machine = product_rate()
            for way, run in ways.items():
                wait()
                started = time.perf_counter()
                run(model, some)
                wait()
                if repetition:  # the first warms up
                    rates[way].append(total / (time.perf_counter() - started))
                    shares[way].append(2 * parameters * rates[way][-1] / machine)
        base = rates["one at a time, with logits"]
        for way, each in rates.items():
            ratios = [a / b for a, b in zip(each, base, strict=True)]
            share = spread([100 * value for value in shares[way]], "{:.0f}")
            length = f"{kind}: {total / len(some):.0f} tokens"
            rows.append([length, way, spread(each, "{:,.0f}"), spread(ratios), share])
            print(*rows[-1], sep=" | ", flush=True)
    report(
        f"encoding_{device().type}",
        f"Encoding on {'a processor' if device().type == 'cpu' else 'a GPU'}",
        ["texts, mean length", "how", "tokens/s", "times one at a time", "% of the machine's rate"],
        rows,
        f"{study.experiment.model.title}, {compute_dtype()}, {torch.get_num_threads()} threads, "
        f"{REPETITIONS} repetitions: the median, and from where to where. The products alone reached "
        f"{machine / 1e9:,.0f} GFLOP/s in the last of them. A share of 100% would leave no time for "
        "attention, norms, activations, or padding.",
    )


if __name__ == "__main__":
    main()
