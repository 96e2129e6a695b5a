"""Target-aligned loss drop: how much less a sample surprises a model that has trained on the queries.

Yang, He and Cheng, *Let the Target Select for Itself: Data Selection via Target-Aligned Paths*,
arXiv 2605.09404. The model is fine-tuned briefly, with little capacity, on the queries of a task; the score
is by what share that lowers the mean NLL of a pool sample's whole text. How long, and with what capacity, is
a parameter (`LossDrop`): the paper's numbers are not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rdslib.data.chat import Sample, Tokens
from rdslib.methods.base import (
    COST,
    Extract,
    Extracted,
    Extraction,
    Extractor,
    ModelUse,
    Preparation,
    Scorer,
    ScoringInputs,
    how_encoded,
    lacking,
    tokenize,
)  # fmt: skip
from rdslib.models.flops import FORWARD, TRAINING, CostModel, one_pass_flops
from rdslib.params import LossDrop, Settings, Train
from rdslib.selection.topk import Block

if TYPE_CHECKING:
    from transformers import PretrainedConfig

BEFORE, AFTER = "lm.nll", "loss_drop.nll"


class TargetLossDrop(Scorer):
    """1 - after / before, of a sample's mean NLL; a sample of one token has none, and is never offered."""

    name = "loss_drop"
    title = "Loss drop"
    colour = "#661100"
    needs_queries = joins_queries = needs_response = True
    features = (BEFORE, AFTER)

    def paper_flops(self, pool_size: int, samples: int, cost: CostModel) -> float:
        """Two forward passes; training on a few queries is little beside them (a count of ours)."""
        return 2 * one_pass_flops(pool_size, cost)

    def blocks(self, inputs: ScoringInputs) -> Iterator[Block]:
        """Yield a block a shard, of one row."""
        # The shards of the two may end at other samples.
        before = np.concatenate([rows for _, rows in inputs.pool(BEFORE)])
        for start, after in inputs.pool(AFTER):
            first = before[start : start + len(after)]
            drop = 1 - np.divide(after, first, out=np.full(len(after), np.nan), where=first > 0)
            yield start, np.where(np.isnan(drop), -np.inf, drop)[None, :]


class TrainedOnQueries(Extractor):
    """`loss_drop.nll`: as `lm.nll`, by a model that was trained on the queries of a task."""

    name = "loss_drop"
    sees = ("messages",)
    per_pool = per_task = True
    prepares = True

    def key(self, settings: Settings) -> Mapping[str, Any]:
        """Return how the model is trained, and how samples are cut and batched."""
        return {"loss_drop": _params(settings).model_dump(mode="json"), **how_encoded(settings)}

    def prepare(self, given: Preparation) -> Mapping[str, Any]:
        """Train on the queries; return the counts of training, with the FLOPs."""
        from rdslib.models.loading import load_causal_lm, non_embedding_parameters
        from rdslib.models.train import train

        params, seed = _params(given.settings).train, given.settings.seed
        base = load_causal_lm(given.model, device_map=given.settings.model.device_map)
        parameters = non_embedding_parameters(base)
        lora = base if params.method == "lora" else None
        counts = train(given.model, given.samples, params, seed, given.out, given.bar, base=lora)
        tokens = counts["training_tokens"]
        return {**counts, "tokens": tokens, "flops": TRAINING * parameters * tokens}

    def open(self, given: Extraction) -> Extract:
        """Load the trained model."""
        from rdslib.models.cache import ModelCache
        from rdslib.models.encode import encode
        from rdslib.models.loading import non_embedding_parameters

        assert given.prepared is not None
        cache, params = ModelCache(given.model, given.settings.model.device_map), given.settings.encode
        parameters = non_embedding_parameters(cache.base())
        model, tokenizer = cache.trained(given.prepared), cache.tokenizer

        def read(samples: Sequence[Sample]) -> list[Tokens]:
            return tokenize(tokenizer, samples, params.max_length, given.queries, spans=False)

        def make(tokens: Sequence[Tokens], done: Callable[[Sequence[int]], object]) -> Extracted:
            lengths = np.array([len(row.ids) for row in tokens], dtype=np.float64)
            rows = encode(model, tokens, given.wanted, params.token_budget, done)
            return Extracted({**rows, COST: FORWARD * parameters * lengths}, {"tokens": int(lengths.sum())})

        return Extract(read, make)

    def model_use(self, settings: Settings, wanted: Sequence[str], config: PretrainedConfig) -> ModelUse:
        """One forward pass."""
        return ModelUse(FORWARD, row_bytes=4, logits=True)

    def trains_on(self, settings: Settings, pool_size: int) -> tuple[int, Train]:
        """All queries."""
        return pool_size, _params(settings).train


def _params(settings: Settings) -> LossDrop:
    """The parameters of the loss drop; raises UserError if the profile has none."""
    return settings.loss_drop or lacking("loss_drop")


LOSS_DROP = TargetLossDrop()
