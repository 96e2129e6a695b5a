"""The language model that a process has in memory, so that runs that follow each other need not load it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from peft import PeftModel

from rdslib.frozen import FrozenLayers
from rdslib.models import load_causal_lm, load_tokenizer
from rdslib.train import is_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Resident:
    """A language model, as it is or with the LoRA matrices of one run at a time.

    A run that trained all weights has a model of its own, which then stays until another is asked for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(folder)
        # What the layers below the LoRA matrices made of test samples, for all runs.
        self.frozen = FrozenLayers()
        self._base: PreTrainedModel | None = None
        self._adapted: PeftModel | None = None
        self._trained: Path | None = None
        self._whole: PreTrainedModel | None = None

    def base(self) -> PreTrainedModel:
        """The model as it is."""
        if self._adapted is not None:
            self._adapted.unload()
            self._adapted = None
        self._whole = self._trained = None
        if self._base is None:
            self._base = load_causal_lm(self.folder)
        return self._base

    def trained(self, run: Path) -> PreTrainedModel:
        """The model that a run has left, ready to evaluate."""
        if run != self._trained:
            base = self.base()
            if is_adapter(run):
                # LoRA matrices stay apart from the bfloat16 weights, whose precision would lose most of them.
                self._adapted = PeftModel.from_pretrained(base, str(run))
            else:
                self._base = None
                self._whole = load_causal_lm(run)
            self._trained = run
        if self._adapted is None:
            assert self._whole is not None
            return self._whole
        return cast("PreTrainedModel", self._adapted.get_base_model()).eval()

    def forget(self) -> None:
        """Give the memory back."""
        self._base = self._adapted = self._whole = self._trained = None
