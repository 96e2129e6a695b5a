"""AdamW for a bfloat16 model: the weights that it updates are float32, those that it multiplies are not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class MasterAdamW(torch.optim.AdamW):
    """AdamW over float32 copies of a model's bfloat16 weights.

    A bfloat16 weight has 8 bits of precision and would lose most updates of fine-tuning. So each update is
    added to a float32 copy, and the weight becomes that copy, rounded. Gradients are summed over
    micro-batches in float32 too, and clipped here, since after the backward pass the weights have none.

    The weights of a published model are bfloat16 numbers exactly: a copy that began there would have to move
    by half the distance to the next such number before its weight moved at all, which at usual learning rates
    takes many updates. So a copy begins at a random place of the range that rounds to its weight; then of
    weights that have to move by a tenth of a step, a tenth do, from the first update on.

    Args:
        weights: The model's parameters; those that need no gradient are left as they are.
        max_norm: Gradients are scaled down to this norm.
        seed: For where in its range a copy begins.
        options: AdamW's own.
    """

    def __init__(
        self, weights: Iterable[torch.nn.Parameter], max_norm: float, seed: int, **options: Any
    ) -> None:
        self.weights: list[torch.Tensor] = [each for each in weights if each.requires_grad]
        generator = torch.Generator().manual_seed(seed)
        self.copies: list[torch.Tensor] = [
            within_rounding(weight.detach(), generator) for weight in self.weights
        ]
        self.max_norm = max_norm
        super().__init__(self.copies, fused=True, **options)
        for weight, copy in zip(self.weights, self.copies, strict=True):
            weight.register_post_accumulate_grad_hook(_adds_to(copy))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the copies by the gradients that were summed, and round the weights to them."""
        torch.nn.utils.clip_grad_norm_(self.copies, self.max_norm)
        super().step(closure)
        torch._foreach_copy_(self.weights, self.copies)
        for copy in self.copies:
            copy.grad = None


def _adds_to(copy: torch.Tensor) -> Callable[[torch.Tensor], None]:
    def add(weight: torch.Tensor) -> None:
        assert weight.grad is not None
        if copy.grad is None:
            copy.grad = weight.grad.float()
        else:
            copy.grad += weight.grad
        weight.grad = None

    return add


def within_rounding(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Float32 numbers drawn from all that round to the bfloat16 numbers of `weight`."""
    copy = weight.float()
    # A bfloat16 number is the upper half of a float32: less than half of what the lower half counts.
    offset = torch.randint(-(2**15) + 1, 2**15, copy.shape, dtype=torch.int32, generator=generator)
    copy.view(torch.int32).add_(offset.to(copy.device) * (weight != 0))
    return copy
