"""States of a sample's prompt or response alone, passed through the model by itself (paper, Table 6).

In the pass over a whole sample a response's states know its prompt; here they do not, as in the paper's code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rdslib.data.chat import Message, Sample, Tokens, first_tokens, format_chat
from rdslib.methods.base import COST, Extract, Extracted, Extraction, Extractor, ModelUse
from rdslib.methods.lm import loaded
from rdslib.models.flops import FORWARD
from rdslib.params import Settings

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

POOLING = "weighted_all"


class Span(Extractor):
    """`<name>.weighted_all`: float16 [samples, hidden], of length 1; zeros where a sample has no such span.

    `text(messages, eos, query)` gives the span as the model sees it, with its end-of-sequence token.
    """

    sees = ("messages",)
    per_pool = True

    def __init__(self, name: str, text: Callable[[Sequence[Message], str, bool], str]) -> None:
        self.name, self.text = name, text

    def key(self, settings: Settings) -> Mapping[str, Any]:
        """Return how spans are cut and batched."""
        return settings.encode.key

    def open(self, given: Extraction) -> Extract:
        """Load the language model."""
        from rdslib.models.encode import encode

        model, tokenizer, flops = loaded(given)
        params = given.settings.encode

        def read(samples: Sequence[Sample]) -> list[list[int]]:
            return self._ids(given.settings, tokenizer, samples, given.queries)

        def make(ids: Sequence[Sequence[int]], done: Callable[[Sequence[int]], object]) -> Extracted:
            there = [at for at, row in enumerate(ids) if row]
            tokens = [Tokens(list(ids[at]), [], 0) for at in there]
            found = encode(
                model, tokens, [POOLING], params.token_budget, lambda batch: done([there[i] for i in batch])
            )
            done([at for at, row in enumerate(ids) if not row])
            rows = np.zeros((len(ids), found[POOLING].shape[1]), dtype=np.float16)
            rows[there] = found[POOLING]
            lengths = np.array([len(row) for row in ids], dtype=np.float64)
            return Extracted({POOLING: rows, COST: flops * lengths}, {"tokens": int(lengths.sum())})

        return Extract(read, make)

    def _ids(
        self, settings: Settings, tokenizer: PreTrainedTokenizerBase, samples: Sequence[Sample], query: bool
    ) -> list[list[int]]:
        texts = [self.text(sample.messages, str(tokenizer.eos_token), query) for sample in samples]
        most = min(settings.encode.max_length, tokenizer.model_max_length)
        found = first_tokens(tokenizer, texts, most)
        return [ids if text else [] for text, (ids, _) in zip(texts, found, strict=True)]

    def model_use(self, settings: Settings, wanted: Sequence[str], config: PretrainedConfig) -> ModelUse:
        """One forward pass."""
        return ModelUse(FORWARD, 2 * config.hidden_size, logits=False)

    def tokens(
        self, settings: Settings, tokenizer: PreTrainedTokenizerBase, samples: Sequence[Sample], queries: bool
    ) -> np.ndarray:
        """Count the tokens of each sample's span: float64 [samples]."""
        ids = self._ids(settings, tokenizer, samples, queries)
        return np.array([len(row) for row in ids], dtype=np.float64)


def _prompt(messages: Sequence[Message], eos: str, query: bool) -> str:
    """The first turn, or the first two where the first is the system's."""
    return format_chat(messages[: 2 if messages[0]["role"] == "system" else 1], "") + eos


def _label(messages: Sequence[Message], eos: str, query: bool) -> str:
    """The first response, of a pool's sample with its header; empty where there is none."""
    for message in messages:
        if message["role"] == "assistant":
            return ("" if query else "<|assistant|>\n") + message["content"].strip() + eos
    return ""


PROMPT, LABEL = Span("prompt", _prompt), Span("label", _label)
