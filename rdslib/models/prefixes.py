"""Forward passes over texts that begin alike: the tokens that they begin with are computed once.

Few-shot prompts of one task share their exemplars. The keys and values of a shared prefix are kept while the
rest of each text passes: under causal attention they are what a pass over the whole text would give.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from rdslib.models.cache import LayerCache, layers_below_lora
from rdslib.models.device import device
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
            first = pad([ids[members[0]][:prefix]], device())
            model.base_model(input_ids=first, past_key_values=cache, use_cache=True)
        rests = [ids[i][prefix:] for i in members]
        for batch in pack([len(rest) + prefix // PART for rest in rests], token_budget):
            rows = pad([rests[i] for i in batch], device())
            with nullcontext() if layers is None else layers.over(model):
                passed = model.base_model(input_ids=rows, past_key_values=cache, use_cache=bool(prefix))
            yield [members[i] for i in batch], prefix, passed.last_hidden_state.to(rows.device)


@dataclass
class _Branch:
    """The texts that have their first `depth` tokens in common: some that part there, and further branches.

    Attributes:
        depth: How many tokens.
        parts: Positions of texts, and branches.
        apart: The most saved without a group here, for each worth of a text that is in no group yet.
        grouped: The most saved with one, which takes all those texts.
    """

    depth: int
    parts: list[int | _Branch] = field(default_factory=list)
    apart: np.ndarray = field(default_factory=lambda: np.zeros(0))
    grouped: float = 0

    def close(self, worth: np.ndarray) -> None:
        """Weigh a group here, when all parts are known; `worth` has the depths of all branches, ascending."""
        texts = [worth for part in self.parts if isinstance(part, int)]
        below = [np.maximum(part.apart, part.grouped) for part in self.parts if isinstance(part, _Branch)]
        self.apart = np.sum([*texts, *below], axis=0)
        self.grouped = self.apart[np.searchsorted(worth, self.depth)] - self.depth - PASS


def groups(ids: Sequence[Sequence[int]], shareable: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Group texts by the tokens that they begin with, so that as few as possible are computed.

    A group of n texts whose first p tokens are the same, all of them `shareable`, saves (n - 1) p tokens, and
    costs `PASS`. Each group has p and the positions of its texts; those that are better off alone are the
    group whose p is 0.

    A group takes all texts below its branch that no longer prefix has taken, since each saves as many tokens
    as the group is deep: whether to form it depends on no more than how deep the next group above lies.
    """
    if not ids:
        return []
    order = sorted(range(len(ids)), key=lambda i: (ids[i][: shareable[i]], i))
    beginnings = [ids[i][: shareable[i]] for i in order]
    common = [_in_common(one, other) for one, other in itertools.pairwise(beginnings)]
    worth = np.unique([0, *common])
    root = _Branch(0)
    path = [root]
    for i, depth in zip(order, [*common, -1], strict=True):
        part: int | _Branch = i
        while path and path[-1].depth > depth:
            path[-1].parts.append(part)
            path[-1].close(worth)
            part = path.pop()
        if path and path[-1].depth == depth:
            path[-1].parts.append(part)
        elif path:
            path.append(_Branch(depth, [part]))
    found: list[tuple[int, list[int]]] = []
    alone: list[int] = []
    left: list[tuple[int | _Branch, int, list[int]]] = [(root, 0, alone)]
    while left:
        part, above, members = left.pop()
        if isinstance(part, int):
            members.append(part)
            continue
        if part.grouped > part.apart[np.searchsorted(worth, above)]:
            above, members = part.depth, []
            found.append((above, members))
        left += [(each, above, members) for each in reversed(part.parts)]
    return [*found, *([(0, sorted(alone))] if alone else [])]


def _in_common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with in common."""
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return sum(1 for _ in same)


def _can_share(model: PreTrainedModel) -> bool:
    """Whether all that later tokens take of earlier ones is keys and values."""
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    takes = "past_key_values" in inspect.signature(model.base_model.forward).parameters
    return takes and not model._is_stateful and kinds <= {DynamicLayer, DynamicSlidingWindowLayer}
