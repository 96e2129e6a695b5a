"""One forward pass over samples: pooled last hidden states (RDS+) and token NLL (perplexity) together.

Samples are packed into batches of similar length under a token budget. Which samples share a batch
follows from the shard's samples and the budget alone, so an encoding does not depend on what was
interrupted, which worker ran, or how many there were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutputWithPast

from rdslib.data.chat import Tokens
from rdslib.models.loading import running

if TYPE_CHECKING:
    from transformers import PreTrainedModel

POOLINGS = ("weighted", "uniform", "last")
SPANS = ("all", "prompt", "response")
# Means of hidden states, by name: how tokens are weighed, and over which of them.
POOLED = {f"{pooling}_{span}": (pooling, span) for span in SPANS for pooling in POOLINGS}
# What `encode` can give: these, and the NLL of the whole text.
FEATURES = (*POOLED, "nll")


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


def pad(ids: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """Pad token ids on the right with 0: int64 [batch, longest].

    No mask goes with it: under causal attention a real token never sees what comes after it.
    """
    longest = max(len(row) for row in ids)
    padded = np.zeros((len(ids), longest), dtype=np.int64)
    for i, row in enumerate(ids):
        padded[i, : len(row)] = row
    return torch.from_numpy(padded).to(device)


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
        span is empty. `nll`: the mean NLL of the tokens from the second on, in nats, float32 [samples]; NaN
        for a sample of one token.
    """
    for name in wanted:
        if name not in FEATURES:
            raise ValueError(f"there is no feature {name!r}; there are {', '.join(FEATURES)}")
    pooled = [name for name in wanted if name != "nll"]
    width = model.get_output_embeddings().weight.shape[1]  # which may be less than the layers'
    result = {name: np.zeros((len(samples), width), dtype=np.float32) for name in pooled}
    if "nll" in wanted:
        result["nll"] = np.full(len(samples), np.nan, dtype=np.float32)
    for batch, tokens, hidden in forward(model, [s.ids for s in samples], token_budget):
        states = hidden.float()
        for name in pooled:
            pooling, span = POOLED[name]
            ends = torch.tensor([_span(samples[i], span) for i in batch], device=hidden.device)
            weights = pooling_weights(ends[:, 0], ends[:, 1], hidden.shape[1], pooling)
            rows = torch.bmm(weights[:, None], states)[:, 0]
            result[name][batch] = torch.nn.functional.normalize(rows, dim=-1).cpu().numpy()
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
        for batch, tokens, hidden in forward(model, ids, token_budget):
            result[batch] = batch_nll(model, tokens, hidden, [scored[i] for i in batch])
            done(batch)
    return result


def forward(
    model: PreTrainedModel, ids: Sequence[Sequence[int]], token_budget: int
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Pass samples through the model in packed batches.

    Yields positions of a batch, its tokens (int64 [batch, longest]) and its last hidden states
    ([batch, longest, hidden]).

    Raises:
        ValueError: A sample has no tokens.
        UserError: The model cannot compute it, or gives no numbers.
    """
    lengths = [len(row) for row in ids]
    if min(lengths, default=1) == 0:
        raise ValueError(f"sample {lengths.index(0)} has no tokens")
    for batch in pack(lengths, token_budget):
        with running(model.config.name_or_path):
            tokens = pad([ids[i] for i in batch], model.device)
            hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
            if not torch.isfinite(hidden).all():
                raise RuntimeError(f"what it gives in {hidden.dtype} is no number: NaN or infinite")
        yield batch, tokens, hidden


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
    layers.forward = lambda *args, **kwargs: given
    try:
        ids = torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device)
        found: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
    finally:
        del layers.forward
    return found
