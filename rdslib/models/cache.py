"""What stays in memory from one run to the next: a model, and what its untrained layers make of a batch.

The layers below the lowest one that has LoRA matrices are the same under every adapter, and so is what they
make of a batch: it is computed once, and taken from memory when the same batch passes again under another
adapter. No number changes by that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import PeftModel

from rdslib.models.encode import forward_of
from rdslib.models.loading import load_adapter, load_causal_lm, load_tokenizer
from rdslib.models.train import is_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LIMIT = 2**28  # bytes


class LayerCache:
    """Keeps the hidden states that the layers below the adapters gave for a batch of token ids.

    Only for models that share these layers' weights. The oldest are forgotten beyond `LIMIT` bytes.
    """

    def __init__(self) -> None:
        self._kept: dict[bytes, torch.Tensor] = {}
        self._bytes = 0

    @contextmanager
    def over(self, model: PreTrainedModel) -> Iterator[None]:
        """Use what is kept in the forward passes of `model`, a causal LM with adapters, in this context."""
        layers = layers_below_lora(model)
        if not layers:
            yield
            return
        key = b""

        def note(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            nonlocal key
            ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
            key = repr((tuple(ids.shape), len(layers))).encode() + ids.cpu().numpy().tobytes()

        def passing(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
            return lambda states, *args, **kw: states if key in self._kept else forward(states, *args, **kw)

        def last(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
            def remembered(states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
                if key not in self._kept:
                    made = forward(states, *args, **kwargs)
                    if not isinstance(made, torch.Tensor):  # older transformers: a tuple, of some families
                        return made
                    self._keep(key, made)
                return self._kept[key]

            return remembered

        hook = model.base_model.register_forward_pre_hook(note, with_kwargs=True)
        try:
            with forward_of(layers, lambda layer, way: (last if layer is layers[-1] else passing)(way)):
                yield
        finally:
            hook.remove()

    def _keep(self, key: bytes, states: torch.Tensor) -> None:
        self._kept[key] = states
        self._bytes += states.nbytes
        for old in list(self._kept):
            if self._bytes <= LIMIT or old == key:
                break
            self._bytes -= self._kept.pop(old).nbytes


def layers_below_lora(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the layers below the lowest one that has LoRA matrices; none where no layer has any."""
    for layers in model.modules():
        if isinstance(layers, torch.nn.ModuleList):
            adapted = [any(".lora_" in name for name, _ in layer.named_modules()) for layer in layers]
            if True in adapted:
                return list(layers)[: adapted.index(True)]
    return []


class ModelCache:
    """A language model, as it is or with the LoRA matrices of one run at a time.

    A run that trained all weights has a model to itself, which then stays until another is asked for.
    """

    def __init__(self, folder: Path, device_map: str | None = None) -> None:
        self.folder, self.device_map = folder, device_map
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(folder)
        # What the layers below the LoRA matrices made of test samples, for all runs.
        self.layers = LayerCache()
        self.forget()

    def forget(self) -> None:
        """Give the memory back."""
        self._base: PreTrainedModel | None = None
        self._adapted: PeftModel | None = None
        self._current: tuple[Path, PreTrainedModel] | None = None

    def base(self) -> PreTrainedModel:
        """Return the model as it is."""
        if self._adapted is not None:
            self._adapted.unload()
        self._adapted = self._current = None
        if self._base is None:
            self._base = load_causal_lm(self.folder, device_map=self.device_map)
        return self._base

    def trained(self, run: Path) -> PreTrainedModel:
        """Return the model that a run has left, ready to evaluate."""
        if self._current is None or self._current[0] != run:
            if is_adapter(run):
                # LoRA matrices stay apart from the bfloat16 weights, whose precision would lose most of them.
                self._adapted = load_adapter(self.base(), run)
                adapted = cast("PreTrainedModel", self._adapted.get_base_model())
                self._current = run, adapted.eval()
            else:
                self.forget()
                self._current = run, load_causal_lm(run, device_map=self.device_map)
        return self._current[1]
