"""Features of the language model as it is: pooled hidden states and NLL, from one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rdslib.data.chat import Sample, Tokens
from rdslib.methods.base import COST, Extract, Extracted, Extraction, Extractor, ModelUse, tokenize
from rdslib.models.flops import FORWARD
from rdslib.params import Settings

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def loaded(given: Extraction) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, int]:
    """Load the language model: it, its tokenizer, and the FLOPs of a token that passes through it."""
    from rdslib.models.loading import load_causal_lm, load_tokenizer, non_embedding_parameters

    placed = given.settings.model
    model = load_causal_lm(given.model, None, placed.device_map, placed.load_in_8bit)
    return model, load_tokenizer(given.model), FORWARD * non_embedding_parameters(model)


class LanguageModel(Extractor):
    """`lm.<pooling>_<span>`: float16 [samples, hidden], of length 1; `lm.nll`: float32 [samples], in nats.

    And `lm.layers_all`: float16 [samples, up to hidden], of length 1, of the last layers. See
    `rdslib.models.encode`.
    """

    name = "lm"
    sees = ("messages",)
    version = 2

    def key(self, settings: Settings) -> Mapping[str, Any]:
        """Return how samples are cut and batched."""
        return settings.encode.key

    def open(self, given: Extraction) -> Extract:
        """Load the language model."""
        from rdslib.models.encode import encode

        model, tokenizer, flops = loaded(given)
        params = given.settings.encode
        # Of the others only the whole text matters.
        spans = any(not name.endswith("_all") and name != "nll" for name in given.wanted)

        def read(samples: Sequence[Sample]) -> list[Tokens]:
            return tokenize(tokenizer, samples, params.max_length, given.queries, params.template, spans)

        def make(tokens: Sequence[Tokens], done: Callable[[Sequence[int]], object]) -> Extracted:
            made = encode(model, tokens, given.wanted, params.token_budget, done)
            lengths = np.array([len(row.ids) for row in tokens])
            rows = {name: each if name == "nll" else each.astype(np.float16) for name, each in made.items()}
            rows[COST] = flops * lengths.astype(np.float64)
            return Extracted(rows, {"tokens": int(lengths.sum())})

        return Extract(read, make)

    def tokens(
        self, settings: Settings, tokenizer: PreTrainedTokenizerBase, samples: Sequence[Sample], queries: bool
    ) -> np.ndarray:
        """Count the tokens of each sample: float64 [samples]."""
        params = settings.encode
        found = tokenize(tokenizer, samples, params.max_length, queries, params.template, spans=False)
        return np.array([len(each.ids) for each in found], dtype=np.float64)

    def model_use(self, settings: Settings, wanted: Sequence[str], config: PretrainedConfig) -> ModelUse:
        """One forward pass; NLL alone needs vocabulary logits."""
        from rdslib.models.encode import LAYERED, layers_of

        layers = layers_of(config)
        sizes = {"nll": 4, LAYERED: 2 * layers * (config.hidden_size // layers)}
        row_bytes = sum(sizes.get(name, 2 * config.hidden_size) for name in wanted)
        # The states of all layers take about as much as what is at work in two.
        return ModelUse(FORWARD, row_bytes, layers=3 if LAYERED in wanted else 1, logits="nll" in wanted)
