"""Gradients of LoRA matrices, sample by sample, and the warm-up checkpoints they are taken at (LESS).

Paper, section 2. A *checkpoint* is an adapter of the model (LoRA matrices) with the Adam moments and the
learning rate that it was trained with.

The gradients of a batch come from one backward pass: that of a matrix W, in y = W x, is for each sample the
sum over its tokens of the outer product of y's gradient with x, and both are at hand as the pass goes by.
No two samples share a token, so nothing mixes. What lies below the lowest layer with LoRA is the same at
every checkpoint, and is computed once for all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.nn import Linear
from transformers import PreTrainedModel, TrainerCallback

from rdslib.data.chat import Tokens
from rdslib.files import write_json
from rdslib.models.cache import LayerCache
from rdslib.models.device import device
from rdslib.models.encode import logits, pack, pad
from rdslib.models.loading import load_adapter, running
from rdslib.models.train import save

# Adam's, with which the checkpoints are trained and the gradients of pool samples preconditioned.
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
# Vocabulary logits, and their gradients, are taken for this many positions at a time.
LOGIT_ROWS = 256


@dataclass(frozen=True)
class Checkpoint:
    """An adapter's name, the mean learning rate of its epoch, and Adam's moments: float32 [parameters]."""

    adapter: str
    learning_rate: float
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor

    def adam(self, gradients: torch.Tensor) -> torch.Tensor:
        """Return what Adam's next step would follow, were each row its gradient: float32 [n, parameters].

        As in LESS's public code, the moments are not corrected for bias, and epsilon is in the root.
        """
        average = BETA1 * self.exp_avg + (1 - BETA1) * gradients
        square = BETA2 * self.exp_avg_sq + (1 - BETA2) * gradients**2
        return average / torch.sqrt(square + EPSILON)


class SaveCheckpoints(TrainerCallback):
    """Writes a checkpoint after each epoch of a training: `epoch-1`, `epoch-2`, ... in a folder.

    Each is a peft adapter with `moments.safetensors`, which has `exp_avg` and `exp_avg_sq`, float32
    [parameters], and `learning_rate.json`, the mean over the epoch's updates.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # The mean of each epoch so far.
        self.learning_rates: list[float] = []
        self._rates: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the learning rate of an update."""
        self._rates += kwargs["lr_scheduler"].get_last_lr()[:1]

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the checkpoint."""
        self.learning_rates.append(sum(self._rates) / len(self._rates))
        self._rates = []
        folder = self.folder / f"epoch-{len(self.learning_rates)}"
        model, states = kwargs["model"], kwargs["optimizer"].state
        save(model, folder)
        weights = [linear.weight for linear in lora_linears(model, "default")]
        moments = {
            name: torch.cat([states[weight][name].flatten() for weight in weights]).cpu()
            for name in ("exp_avg", "exp_avg_sq")
        }
        save_file(moments, folder / "moments.safetensors")
        write_json(folder / "learning_rate.json", self.learning_rates[-1])


def load_checkpoints(base: PreTrainedModel, folder: Path) -> tuple[PeftModel, list[Checkpoint]]:
    """Load the model with all checkpoints of `folder` as its adapters, in order of training."""
    names = [f"epoch-{epoch + 1}" for epoch in range(len(list(folder.glob("epoch-*"))))]
    model = load_adapter(base, folder / names[0], names[0])
    for name in names[1:]:
        load_adapter(model, folder / name, name)
    checkpoints = []
    for name in names:
        moments = load_file(folder / name / "moments.safetensors", device=str(device()))
        rate = float(json.loads((folder / name / "learning_rate.json").read_text()))
        checkpoints.append(Checkpoint(name, rate, moments["exp_avg"], moments["exp_avg_sq"]))
    return model, checkpoints


def lora_linears(model: PeftModel, adapter: str) -> list[Linear]:
    """List an adapter's LoRA matrices, layer by layer, A before B.

    Their weights, each flattened row by row, are what `[parameters]` means throughout.
    """
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, Linear) and ".lora_" in name and name.endswith(f".{adapter}")
    ]


def per_sample_gradients(
    model: PeftModel,
    adapters: Sequence[str],
    samples: Sequence[Tokens],
    token_budget: int,
    done: Callable[[Sequence[int]], object] = lambda batch: None,
) -> Iterator[tuple[int, list[int], torch.Tensor]]:
    """Take the gradient of each sample's loss at each adapter, without dropout (LESS).

    The loss is the mean NLL of the response tokens; a sample without one has a gradient of zero. Yields the
    adapter's place in `adapters`, the positions of a batch, and its gradients, float32 [batch, parameters].
    """
    model.eval().requires_grad_(False)
    base = cast("PreTrainedModel", model.get_base_model())
    ends = [max((i for i, scored in enumerate(s.response) if scored), default=0) for s in samples]
    # The last token that is scored is only predicted, and what comes after it does not matter.
    lengths = [max(1, end) for end in ends]
    for batch in pack(lengths, token_budget):
        ids = pad([samples[i].ids[: lengths[i]] for i in batch], device())
        scored = [
            (row, at, samples[i].ids[at])
            for row, i in enumerate(batch)
            for at in range(1, ends[i] + 1)
            if samples[i].response[at]
        ]
        rows, places, targets = torch.tensor(scored, dtype=torch.int64, device=device()).reshape(-1, 3).T
        layers = LayerCache()
        weights = 1 / torch.bincount(rows, minlength=len(batch))[rows].float()
        with layers.over(base):
            for place, adapter in enumerate(adapters):
                # The method of the base, which took this argument before the model's took it.
                model.base_model.set_adapter(adapter, inference_mode=True)  # type: ignore[operator]
                with running(base.config.name_or_path):
                    found = _gradients(model, adapter, ids, rows, places - 1, targets, weights)
                    if not torch.isfinite(found).all():
                        raise RuntimeError("a sample's gradient is no number: NaN or infinite")
                yield place, batch, found
        done(batch)


def _gradients(
    model: PeftModel,
    adapter: str,
    ids: torch.Tensor,
    rows: torch.Tensor,
    places: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """Gradients of a batch's samples: float32 [batch, parameters].

    `ids`: int64 [batch, longest]. After the token at `rows[k], places[k]` comes `targets[k]`, whose NLL
    counts `weights[k]` in its sample's loss: all [scored].
    """
    linears = lora_linears(model, adapter)
    found: dict[Linear, torch.Tensor] = {}

    def note(linear: Linear, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        (x,) = inputs
        # No weight takes part in the backward pass, so that it starts at the lowest layers' outputs.
        if not output.requires_grad:
            output.requires_grad_()
        output.register_hook(lambda g: found.update({linear: torch.bmm(g.mT, x.detach())}))

    hooks = [linear.register_forward_hook(note) for linear in linears]
    try:
        base = cast("PreTrainedModel", model.get_base_model())
        hidden = base.base_model(input_ids=ids, use_cache=False).last_hidden_state.to(ids.device)
    finally:
        for hook in hooks:
            hook.remove()
    upstream = torch.zeros_like(hidden)
    for part in torch.arange(len(rows), device=rows.device).split(LOGIT_ROWS):
        states = hidden.detach()[rows[part], places[part]]
        slopes = weights[part, None] * nll_slopes(base, states, targets[part])
        upstream[rows[part], places[part]] = slopes.to(upstream.dtype)
    hidden.backward(upstream)
    return torch.cat([found[linear].flatten(1).to(ids.device) for linear in linears], dim=1).float()


@torch.no_grad()
def nll_slopes(model: PreTrainedModel, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Differentiate the NLL of each of `targets` (int64 [n]) by the hidden state before it: [n, hidden].

    That of a softmax: the probabilities, with 1 taken off at the target, through the vocabulary head. They
    are taken in float32 and changed in place: autograd, with more copies of them, takes a fifth longer. It is
    left to models that do more than that after their last layer, or have their head in another place.
    """
    head = cast("Linear", model.get_output_embeddings())
    apart = head.weight.device != hidden.device
    if apart or not torch.equal(logits(model, hidden[:1]), head(hidden[None, :1])[0]):
        with torch.enable_grad():
            states = hidden.detach().requires_grad_()
            nll = torch.nn.functional.cross_entropy(logits(model, states).float(), targets, reduction="sum")
            return torch.autograd.grad(nll, states)[0]
    probabilities = torch.softmax(head(hidden), dim=-1, dtype=torch.float32)
    probabilities[torch.arange(len(targets)), targets] -= 1
    return probabilities.to(hidden.dtype) @ head.weight
