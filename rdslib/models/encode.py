"""One forward pass over samples: pooled last hidden states (RDS+) and token NLL (perplexity) together.

Samples are packed into batches of similar length under a token budget. Which samples share a batch
follows from the shard's samples and the budget alone, so an encoding does not depend on what was
interrupted, which worker ran, or how many there were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutputWithPast

from rdslib.data.chat import Tokens
from rdslib.errors import UserError
from rdslib.models.device import device
from rdslib.models.loading import running
from rdslib.models.projection import random_signs

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

POOLINGS = ("weighted", "uniform", "last")
SPANS = ("all", "prompt", "response")
# Means of hidden states, by name: how tokens are weighed, and over which of them.
POOLED = {f"{pooling}_{span}": (pooling, span) for span in SPANS for pooling in POOLINGS}
# Weighted means of the states of the last layers, this many (CRDS-R), or all where a model has fewer.
LAYERED, LAYERS = "layers_all", 18
# What `encode` can give: these, and the NLL of the whole text.
FEATURES = (*POOLED, LAYERED, "nll")


def pack(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Group positions into batches of similar length.

    Positions are sorted by (length, position), longest first, and cut into batches whose padded size
    (number x longest) is at most `token_budget`; a sample longer than that is a batch by itself.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    for position in order:
        # The first of a batch is its longest.
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= token_budget:
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches


def pad(ids: Sequence[Sequence[int]], place: torch.device) -> torch.Tensor:
    """Pad token ids on the right with 0: int64 [batch, longest].

    No mask goes with it: under causal attention a real token never sees what comes after it.
    """
    longest = max(len(row) for row in ids)
    padded = np.zeros((len(ids), longest), dtype=np.int64)
    for i, row in enumerate(ids):
        padded[i, : len(row)] = row
    return torch.from_numpy(padded).to(place)


def _span(tokens: Tokens, span: str) -> tuple[int, int]:
    """Where a span of a sample lies: [start, end) in tokens."""
    if span == "all":
        return 0, len(tokens.ids)
    return (0, tokens.prompt) if span == "prompt" else tokens.first_response


def pooling_weights(starts: torch.Tensor, ends: torch.Tensor, longest: int, pooling: str) -> torch.Tensor:
    """Weigh the tokens of spans (paper, section 2): float32 [batch, longest], summing to 1 over a span.

    The span of a row is [start, end), int64 [batch]; an empty one has zeros alone. The weight of the i-th of
    its L tokens, counted from 1, is i / (1 + ... + L) (`weighted`, RDS+), 1 / L (`uniform`), or 1 for i = L
    and else 0 (`last`).
    """
    at = torch.arange(longest, device=starts.device)[None, :]
    place = (at - starts[:, None] + 1).float()
    length = (ends - starts)[:, None].float()
    if pooling == "weighted":
        weights = 2 * place / (length * (length + 1))
    elif pooling == "uniform":
        weights = (1 / length).expand(-1, longest)
    else:
        weights = (place == length).float()
    inside = (at >= starts[:, None]) & (at < ends[:, None])
    return torch.where(inside, weights, torch.zeros_like(weights))


@torch.inference_mode()
def encode(
    model: PreTrainedModel,
    samples: Sequence[Tokens],
    wanted: Sequence[str],
    token_budget: int,
    done: Callable[[Sequence[int]], object] = lambda batch: None,
) -> dict[str, np.ndarray]:
    """Make features of tokenised samples, all from one forward pass.

    Pooling is done in float32. The vocabulary head is used for `nll` alone. `token_budget` has the tokens of
    a batch, padding included; `done` is called with the positions of each batch that is through.

    Returns:
        Of `POOLED`: the pooled last hidden state, float32 [samples, hidden], of length 1, or zero where the
        span is empty. `LAYERED`: the weighted mean of the whole text in each of the last layers, projected to
        a part of a row by random signs, float32 [samples, layers x (hidden // layers)], of length 1; the
        signs are the same for every seed. `nll`: the mean NLL of the tokens from the second on, in nats,
        float32 [samples]; NaN for a sample of one token.
    """
    for name in wanted:
        if name not in FEATURES:
            raise UserError(f"lm.{name}: there is no such feature; there are {', '.join(FEATURES)}")
    pooled = [name for name in wanted if name in POOLED]
    width = model.get_output_embeddings().weight.shape[1]  # which may be less than the layers'
    result = {name: np.zeros((len(samples), width), dtype=np.float32) for name in pooled}
    if "nll" in wanted:
        result["nll"] = np.full(len(samples), np.nan, dtype=np.float32)
    layers = layers_of(model.config) if LAYERED in wanted else 1
    if LAYERED in wanted:
        result[LAYERED] = np.zeros((len(samples), layers * (width // layers)), dtype=np.float32)
    signs: list[torch.Tensor] = []
    for batch, tokens, hidden, below in forward(model, [s.ids for s in samples], token_budget, layers):
        states = hidden.float()
        for name in pooled:
            pooling, span = POOLED[name]
            ends = torch.tensor([_span(samples[i], span) for i in batch], device=hidden.device)
            weights = pooling_weights(ends[:, 0], ends[:, 1], hidden.shape[1], pooling)
            rows = torch.bmm(weights[:, None], states)[:, 0]
            result[name][batch] = torch.nn.functional.normalize(rows, dim=-1).cpu().numpy()
        if LAYERED in wanted:
            every = [*below, hidden]
            widths = [each.shape[-1] for each in every]
            signs = signs or [
                random_signs(number, each, width // layers, hidden.device)
                for number, each in enumerate(widths)
            ]
            ends = torch.tensor([len(samples[i].ids) for i in batch], device=hidden.device)
            weights = pooling_weights(torch.zeros_like(ends), ends, hidden.shape[1], "weighted")[:, None]
            parts = [
                torch.bmm(weights, each.float())[:, 0] @ of for each, of in zip(every, signs, strict=True)
            ]
            rows = torch.nn.functional.normalize(torch.cat(parts, dim=-1), dim=-1)
            result[LAYERED][batch] = rows.cpu().numpy()
        if "nll" in wanted:
            scored = [[True] * len(samples[i].ids) for i in batch]
            result["nll"][batch] = batch_nll(model, tokens, hidden, scored)
        done(batch)
    return result


def mean_nll(
    model: PreTrainedModel,
    ids: Sequence[Sequence[int]],
    scored: Sequence[Sequence[bool]],
    token_budget: int,
    done: Callable[[Sequence[int]], object] = lambda batch: None,
) -> np.ndarray:
    """Take the mean NLL, in nats, of the tokens of each sample that are `scored`: float32 [samples].

    A sample's first token has nothing before it and is never scored; NaN where no other is.
    """
    result = np.full(len(ids), np.nan, dtype=np.float32)
    with torch.inference_mode():
        for batch, tokens, hidden, _ in forward(model, ids, token_budget):
            result[batch] = batch_nll(model, tokens, hidden, [scored[i] for i in batch])
            done(batch)
    return result


def forward(
    model: PreTrainedModel, ids: Sequence[Sequence[int]], token_budget: int, layers: int = 1
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor, list[torch.Tensor]]]:
    """Pass samples through the model in packed batches.

    Yields positions of a batch, its tokens (int64 [batch, longest]), its last hidden states
    ([batch, longest, hidden]), and those of the `layers` - 1 layers below, the last of them last.

    Raises:
        ValueError: A sample has no tokens.
        UserError: The model cannot compute it, or gives no numbers.
    """
    lengths = [len(row) for row in ids]
    if min(lengths, default=1) == 0:
        raise ValueError(f"sample {lengths.index(0)} has no tokens")
    for batch in pack(lengths, token_budget):
        with running(model.config.name_or_path):
            tokens = pad([ids[i] for i in batch], device())
            made = model.base_model(input_ids=tokens, use_cache=False, output_hidden_states=layers > 1)
            hidden = made.last_hidden_state.to(tokens.device)
            if not torch.isfinite(hidden).all():
                raise RuntimeError(f"what it gives in {hidden.dtype} is no number: NaN or infinite")
        below = made.hidden_states[-layers:-1] if layers > 1 else ()
        yield batch, tokens, hidden, [each.to(tokens.device) for each in below]


def layers_of(config: PretrainedConfig) -> int:
    """Return of how many layers `LAYERED` has the states."""
    return int(min(LAYERS, config.get_text_config().num_hidden_layers))


def batch_nll(
    model: PreTrainedModel, tokens: torch.Tensor, hidden: torch.Tensor, scored: Sequence[Sequence[bool]]
) -> np.ndarray:
    """Take the mean NLL of each row's scored tokens: float32 [batch]; NaN where there is none."""
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    for position, flags in enumerate(scored):
        mask[position, : len(flags)] = torch.tensor(flags, dtype=torch.bool)
    mask[:, 0] = False
    mask = mask.to(tokens.device)
    row, at = mask.nonzero(as_tuple=True)
    losses = nll(model, hidden[row, at - 1], tokens[row, at])
    sums = torch.zeros(len(tokens), device=losses.device, dtype=torch.float64).index_add_(
        0, row, losses.double()
    )
    return (sums / mask.sum(dim=1)).float().cpu().numpy()


def logit_rows(device: str) -> int:
    """Return for how many positions vocabulary logits are taken at a time, so that memory is bounded.

    On a processor they stay in its caches: a quarter faster than 1,024, and the same to the last bit.
    """
    return 64 if device.startswith("cpu") else 1024


def nll(model: PreTrainedModel, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Take the NLL, in nats, of tokens (int64 [n]), given the last hidden state before each: float32 [n]."""
    size = logit_rows(hidden.device.type)
    parts = [
        torch.nn.functional.cross_entropy(logits(model, rows).float(), wanted, reduction="none")
        for rows, wanted in zip(hidden.split(size), targets.split(size), strict=True)
        if len(rows)
    ]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


class _Given(BaseModelOutputWithPast):
    """Last hidden states, and none of all else that some models look for beside them."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


def logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Turn last hidden states ([n, hidden]) into logits ([n, vocabulary]) as the model does itself.

    Some scale them, or hold them below a limit, after the vocabulary head. So the model's forward pass is
    called, with these states in place of what its layers would give.
    """
    layers = model.get_decoder()
    given = _Given(last_hidden_state=hidden[None])
    with forward_of([layers], lambda module, forward: lambda *args, **kwargs: given):
        ids = torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device)
        found: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return found


Forward = Callable[..., Any]


@contextmanager
def forward_of(
    modules: Sequence[torch.nn.Module], change: Callable[[torch.nn.Module, Forward], Forward]
) -> Iterator[None]:
    """Have modules pass forward in another way, made of their own, in this context."""
    # A module that accelerate has placed has a method of its own.
    before = [module.__dict__.get("forward") for module in modules]
    for module in modules:
        module.forward = change(module, module.forward)
    try:
        yield
    finally:
        for module, method in zip(modules, before, strict=True):
            del module.forward
            if method is not None:
                module.forward = method
