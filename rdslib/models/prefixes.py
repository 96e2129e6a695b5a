"""Forward passes over texts that begin alike: the tokens that they begin with are computed once.

Few-shot prompts of one task share their exemplars. The keys and values of a shared prefix are kept while the
rest of each text passes: under causal attention they are what a pass over the whole text would give.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from rdslib.models.cache import LayerCache, layers_below_lora
from rdslib.models.encode import pack, pad

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What one more pass costs, in tokens: a prefix that saves fewer does not pay.
PASS = 64
# A token of a prefix takes memory in every row of a batch, as much as a part of a token that is computed.
PART = 16


class _Prefix(DynamicLayer):
    """Keeps the keys and values of the first pass, and puts them before those of each row that follows."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.keys is None or self.values is None:
            return super().update(key_states, value_states)
        rows = len(key_states), -1, -1, -1
        return (
            torch.cat([self.keys.expand(rows), key_states], dim=-2),
            torch.cat([self.values.expand(rows), value_states], dim=-2),
        )


def forward(
    model: PreTrainedModel,
    ids: Sequence[Sequence[int]],
    shareable: Sequence[int],
    token_budget: int,
    layers: LayerCache | None = None,
) -> Iterator[tuple[list[int], int, torch.Tensor]]:
    """Pass texts through the model in batches; of each, the first `shareable` tokens may be passed over.

    `layers` keeps what the layers below a model's adapters make of whole texts: where there are such layers,
    nothing is passed over.

    Yields:
        The positions of a batch, how many tokens of each were passed over, and the last hidden states of
        those that follow: [batch, longest, hidden].
    """
    kept = layers is not None and layers_below_lora(model)
    for prefix, members in groups(ids, shareable if _can_share(model) and not kept else [0] * len(ids)):
        cache = Cache(layer_class_to_replicate=_Prefix) if prefix else None
        if prefix:
            first = pad([ids[members[0]][:prefix]], model.device)
            model.base_model(input_ids=first, past_key_values=cache, use_cache=True)
        rests = [ids[i][prefix:] for i in members]
        for batch in pack([len(rest) + prefix // PART for rest in rests], token_budget):
            rows = pad([rests[i] for i in batch], model.device)
            with nullcontext() if layers is None else layers.over(model):
                passed = model.base_model(input_ids=rows, past_key_values=cache, use_cache=bool(prefix))
            yield [members[i] for i in batch], prefix, passed.last_hidden_state


def groups(ids: Sequence[Sequence[int]], shareable: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Group texts by the tokens that they begin with, so that as few as possible are computed.

    A group of n texts whose first p tokens are the same, all of them `shareable`, saves (n - 1) p tokens, and
    costs `PASS`. Each group has p and the positions of its texts; those that are better off alone are the
    group whose p is 0.
    """
    order = sorted(range(len(ids)), key=lambda i: (ids[i][: shareable[i]], i))
    beginnings = [ids[i][: shareable[i]] for i in order]
    # Of the texts before each end in this order: the most that is saved, and where the last group starts.
    best, starts = np.zeros(len(ids) + 1), np.full(len(ids) + 1, -1)
    # How many tokens the texts from each start to the end have in common.
    common = np.full(len(ids), np.iinfo(np.int64).max)
    for end in range(2, len(ids) + 1):
        two = _in_common(beginnings[end - 2], beginnings[end - 1])
        common[: end - 1] = np.minimum(common[: end - 1], two)
        saved = best[: end - 1] + np.arange(end - 1, 0, -1) * common[: end - 1] - PASS
        start = int(saved.argmax())
        best[end] = best[end - 1]
        if saved[start] > best[end]:
            best[end], starts[end] = saved[start], start
    found, alone, end = [], [], len(ids)
    while end:
        if (start := int(starts[end])) < 0:
            end -= 1
            alone.append(order[end])
        else:
            prefix = _in_common(beginnings[start], beginnings[end - 1])
            found.append((prefix, order[start:end]))
            end = start
    return [*found[::-1], *([(0, sorted(alone))] if alone else [])]


def _in_common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with in common."""
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return sum(1 for _ in same)


def _can_share(model: PreTrainedModel) -> bool:
    """Whether all that later tokens take of earlier ones is keys and values."""
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    takes = "past_key_values" in inspect.signature(model.base_model.forward).parameters
    return takes and not model._is_stateful and kinds <= {DynamicLayer, DynamicSlidingWindowLayer}
