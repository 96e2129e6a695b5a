"""Encoding against one sample at a time with logits: `python -m tests.bench.bench_encode`.

Real texts of the `mini` profile through its real model: short ones (the pool) and long ones (BBH's queries).
One at a time is what the reference does: a batch of one, an attention mask, vocabulary logits, all hidden
states. The rest is ours, with one thing changed at a time. The share is that of this machine's rate of
bfloat16 matrix products, measured beside it, which 2 x non-embedding parameters x tokens/s come to.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from rdslib.data.chat import Tokens
from rdslib.methods.base import tokenize
from rdslib.models.device import compute_dtype, device
from rdslib.models.encode import FEATURES, encode, pack, pad
from rdslib.models.loading import load_causal_lm, load_tokenizer, non_embedding_parameters
from tests.bench.report import mini, ratios, report, seconds, spread

TOKENS, REPETITIONS = 6_000, 3
RDS = ["weighted_all"]


@torch.inference_mode()
def one_by_one(model: PreTrainedModel, samples: list[Tokens]) -> None:
    for sample in samples:
        ids = torch.tensor([sample.ids], device=model.device)
        mask = torch.ones_like(ids)
        found = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        found.hidden_states[-1].float().cpu()


@torch.inference_mode()
def padded(model: PreTrainedModel, samples: list[Tokens], budget: int, masked: bool, sort: bool) -> None:
    """The forward pass alone, with an attention mask or with batches of samples as they come."""
    lengths = [len(sample.ids) for sample in samples]
    batches = list(pack(lengths, budget))
    if not sort:
        size = -(-len(samples) // len(batches))
        batches = [list(range(at, min(at + size, len(samples)))) for at in range(0, len(samples), size)]
    for batch in batches:
        ids = pad([samples[i].ids for i in batch], model.device)
        ends = torch.tensor([lengths[i] for i in batch], device=model.device)
        mask = torch.arange(ids.shape[1], device=model.device)[None] < ends[:, None]
        given = mask.long() if masked else None
        model.base_model(input_ids=ids, attention_mask=given, use_cache=False).last_hidden_state.float().cpu()


def product_rate() -> float:
    """FLOP/s of products of square matrices in the model's dtype: the best of some sizes and tries."""
    best = 0.0
    for size in (1024, 2048, 4096) if device().type == "cpu" else (4096, 8192):
        a, b = (torch.randn(size, size, device=device()).to(compute_dtype()) for _ in "ab")
        times = seconds({"product": lambda a=a, b=b: a @ b}, 4)["product"]
        best = max(best, 2 * size**3 / min(times))
    return best


def main() -> None:
    study, folder, pool = mini()
    torch.set_num_threads(torch.get_num_threads() * 2)  # all cores for this one process
    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    budget = study.pipeline.settings.encode.token_budget
    rows, threads = [], f"{torch.get_num_threads()} threads, {REPETITIONS} repetitions in turn"
    for kind, samples in {"short": pool[:], "long": study.task_data("BBH").queries}.items():
        tokens = tokenize(tokenizer, samples, 2048, False)
        some = tokens[:: max(1, sum(len(each.ids) for each in tokens) // TOKENS)]
        total = sum(len(each.ids) for each in some)
        ways = {
            "one at a time, with logits": lambda s=some: one_by_one(model, s),
            f"ours ({budget:,} tokens a batch)": lambda s=some: encode(model, s, RDS, budget),
            "with NLL as well": lambda s=some: encode(model, s, [*RDS, "nll"], budget),
            "512 tokens a batch": lambda s=some: encode(model, s, RDS, 512),
            "4,096 tokens a batch": lambda s=some: encode(model, s, RDS, 4096),
            "with an attention mask": lambda s=some: padded(model, s, budget, True, True),
            "batches as samples come": lambda s=some: padded(model, s, budget, False, False),
        }
        found, machine = seconds(ways, REPETITIONS), product_rate()
        alone = found["one at a time, with logits"]
        for way, times in found.items():
            rates = [total / each for each in times]
            share = [200 * non_embedding_parameters(model) * rate / machine for rate in rates]
            length = f"{kind}: {total / len(some):.0f} tokens"
            faster = spread(ratios(alone, times))
            rows.append([length, way, spread(rates, "{:,.0f}"), faster, spread(share, "{:.0f}")])
        if kind == "short":
            one_pass(model, some, budget, f"{len(some)} real samples, {total:,} tokens, {threads}")
    report(
        f"encoding_{device().type}",
        f"Encoding on {'a processor' if device().type == 'cpu' else 'a GPU'}",
        ["texts, mean length", "how", "tokens/s", "times one at a time", "% of the machine's rate"],
        rows,
        f"{study.experiment.model.title}, {compute_dtype()}, {threads}: the median, and from where to where. "
        f"The products alone reached {machine / 1e9:,.0f} GFLOP/s. A share of 100% would leave no time for "
        "attention, norms, activations, or padding.",
    )


def one_pass(model: PreTrainedModel, samples: list[Tokens], budget: int, notes: str) -> None:
    """What all features of the one pass cost, against the NLL alone."""
    cases = {"RDS+ alone": RDS, "NLL alone": ["nll"], f"all {len(FEATURES)}": FEATURES}
    ways = {name: lambda each=each: encode(model, samples, each, budget) for name, each in cases.items()}
    times = seconds(ways, REPETITIONS)
    rows = [[name, spread(each), spread(ratios(each, times["NLL alone"]))] for name, each in times.items()]
    columns = ["features", "seconds", "times NLL alone"]
    notes += ": the median, and from where to where."
    report("one_pass", "Many features from one pass", columns, rows, notes)


if __name__ == "__main__":
    main()
