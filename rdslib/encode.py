"""One forward pass over samples, giving pooled last-layer hidden states (paper, section 2, RDS+).

Samples are packed into batches of similar length under a token budget. Which samples share a batch
follows from the shard's own samples and the budget alone, so an encoding does not depend on what was
interrupted, which worker ran, or how many there were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def pack(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Group positions into batches of similar length.

    Positions are sorted by (length, position), longest first, and cut into batches whose padded size
    (number x longest) is at most `token_budget`; a sample longer than that is a batch of its own.
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
    """Token ids padded on the right with 0: int64 [batch, longest].

    No mask goes with it: under causal attention a real token never sees what comes after it.
    """
    longest = max(len(row) for row in ids)
    padded = np.zeros((len(ids), longest), dtype=np.int64)
    for i, row in enumerate(ids):
        padded[i, : len(row)] = row
    return torch.from_numpy(padded).to(device)


def position_weights(lengths: torch.Tensor, longest: int) -> torch.Tensor:
    """RDS+ pooling weights w_i = i / (1 + ... + L) for i = 1..L, 0 on padding: float32 [batch, longest]."""
    at = torch.arange(1, longest + 1, device=lengths.device, dtype=torch.float32)[None, :]
    length = lengths[:, None].float()
    return torch.where(at <= length, 2 * at / (length * (length + 1)), torch.zeros_like(at))


@torch.inference_mode()
def encode(
    model: PreTrainedModel,
    ids: Sequence[Sequence[int]],
    token_budget: int,
    done: Callable[[list[int]], object] = lambda batch: None,
) -> np.ndarray:
    """RDS+ embeddings of tokenised samples: float32 [samples, hidden], each of length 1.

    `model` is a causal LM; its vocabulary head is not used. Pooling is done in float32. `done` is called
    with the positions of each batch that is through. Raises ValueError for a sample without tokens.
    """
    lengths = [len(row) for row in ids]
    if min(lengths, default=1) == 0:
        raise ValueError(f"sample {lengths.index(0)} has no tokens")
    backbone = model.base_model
    result = np.empty((len(ids), model.config.hidden_size), dtype=np.float32)
    for batch in pack(lengths, token_budget):
        tokens = pad([ids[i] for i in batch], model.device)
        hidden = backbone(input_ids=tokens, use_cache=False).last_hidden_state
        sizes = torch.tensor([lengths[i] for i in batch], device=model.device)
        weights = position_weights(sizes, tokens.shape[1])
        pooled = torch.einsum("bl,blh->bh", weights, hidden.float())
        result[batch] = torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()
        done(batch)
    return result


# Vocabulary logits are taken for this many positions at a time, so that memory does not grow with the batch.
LOGIT_ROWS = 1024


def nll(model: PreTrainedModel, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood, in nats, of `targets` (int64 [n]), each after its hidden state.

    `hidden`: last hidden states, float [n, hidden]. Returns float32 [n]; the softmax is taken in float32.
    """
    head = model.get_output_embeddings()
    parts = [
        torch.nn.functional.cross_entropy(head(rows).float(), wanted, reduction="none")
        for rows, wanted in zip(hidden.split(LOGIT_ROWS), targets.split(LOGIT_ROWS), strict=True)
    ]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)
