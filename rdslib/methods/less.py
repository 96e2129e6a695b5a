"""LESS: how much a step on a sample would lower the queries' loss, by their gradients (paper, section 2).

The model is warmed up by LoRA training on a share of the pool. At each epoch's checkpoint, a pool sample's
gradient as Adam would follow it, and a query's plain gradient, are projected to few dimensions. A score is
the sum over checkpoints of the cosine of the two, weighted with the epoch's mean learning rate.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdslib.data.chat import Sample, Tokens
from rdslib.errors import UserError
from rdslib.methods.base import (
    COST,
    Extract,
    Extracted,
    Extraction,
    Extractor,
    InnerProduct,
    ModelUse,
    Preparation,
    how_encoded,
    lacking,
    tokenize,
)  # fmt: skip
from rdslib.models.flops import TRAINING, CostModel, training_flops
from rdslib.params import Less, Settings, Train
from rdslib.seeds import generator

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

# Gradients are gathered up to this many numbers, 256 MiB, before they are projected together.
GATHERED = 2**26


def _formula(pool_size: int, samples: int, cost: CostModel) -> float:
    """Count the warm-up as a second fine-tuning, then a pass with gradients at three checkpoints."""
    passed = cost.parameters * cost.tokens_per_sample * pool_size
    return training_flops(samples, cost) + 3 * TRAINING * passed


LESS = InnerProduct("less", "less.gradient", "LESS", "#D55E00", needs_response=True, formula=_formula)


class LessGradients(Extractor):
    """`less.gradient`: float16 [samples, checkpoints x dimension], of length 1.

    One part a checkpoint, whose length is the root of the checkpoint's weight, so that the inner product of
    two rows is the weighted sum. Zero for a sample without a response, which has no gradient.
    """

    name = "less"
    sees = ("messages",)
    version = 2
    prepares = True
    per_pool = True

    def key(self, settings: Settings) -> Mapping[str, Any]:
        """Return how the model is warmed up, how samples are cut and batched, and the seed."""
        return {"less": _params(settings).model_dump(mode="json"), **how_encoded(settings)}

    def prepare_pool(self, settings: Settings, pool: str) -> str | None:
        """Warm up on each pool apart."""
        return pool

    def prepare(self, given: Preparation) -> Mapping[str, Any]:
        """Warm the model up on a random share of the pool, and keep a checkpoint of each epoch."""
        from rdslib.models.gradients import SaveCheckpoints
        from rdslib.models.loading import load_causal_lm, non_embedding_parameters
        from rdslib.models.train import train

        params, seed = _params(given.settings), given.settings.seed
        base = load_causal_lm(given.model, device_map=given.settings.model.device_map)
        parameters = non_embedding_parameters(base)
        share = max(1, round(params.warmup_share * len(given.samples)))
        drawn = generator(seed, "less warm-up").choice(len(given.samples), share, replace=False)
        samples = [given.samples[i] for i in sorted(drawn)]
        # The trained model itself is the last epoch's, which is kept already.
        with tempfile.TemporaryDirectory(dir=given.out, prefix="tmp-") as scratch:
            saving = SaveCheckpoints(given.out)
            counts = train(
                given.model, samples, params.train, seed, Path(scratch), given.bar, [saving], base=base
            )
        if not any(saving.learning_rates):
            raise UserError("less.train: the learning rate is 0 throughout; lower warmup_ratio")
        tokens = counts["training_tokens"]
        return {**counts, "tokens": tokens, "flops": TRAINING * parameters * tokens}

    def open(self, given: Extraction) -> Extract:
        """Load the checkpoints."""
        import torch

        from rdslib.models.gradients import load_checkpoints, per_sample_gradients
        from rdslib.models.loading import load_causal_lm, load_tokenizer, non_embedding_parameters
        from rdslib.models.projection import Projection

        assert given.prepared is not None
        base = load_causal_lm(given.model, device_map=given.settings.model.device_map)
        tokenizer = load_tokenizer(given.model)
        parameters = non_embedding_parameters(base)
        model, checkpoints = load_checkpoints(base, given.prepared)
        adapters = [checkpoint.adapter for checkpoint in checkpoints]
        rates = np.array([checkpoint.learning_rate for checkpoint in checkpoints])
        roots = np.sqrt(rates / rates.sum())
        encode, dimension = given.settings.encode, _params(given.settings).dimension
        project = Projection(len(checkpoints[0].exp_avg), dimension, given.settings.seed)

        def read(samples: Sequence[Sample]) -> list[Tokens]:
            return tokenize(tokenizer, samples, encode.max_length, given.queries)

        def make(tokens: Sequence[Tokens], done: Callable[[Sequence[int]], object]) -> Extracted:
            result = np.zeros((len(tokens), len(checkpoints), dimension), dtype=np.float16)
            gathered: list[tuple[list[int], int, torch.Tensor]] = []

            def project_gathered() -> None:
                """Project what is gathered: the signs are made once for all of it."""
                rows = project(torch.cat([gradients for _, _, gradients in gathered]))
                rows = torch.nn.functional.normalize(rows, dim=1).cpu()
                parts = rows.split([len(positions) for positions, _, _ in gathered])
                for (positions, place, _), part in zip(gathered, parts, strict=True):
                    result[positions, place] = roots[place] * part.numpy()
                gathered.clear()

            found = per_sample_gradients(model, adapters, tokens, encode.token_budget, done)
            for place, positions, gradients in found:
                if not given.queries:
                    # Adam's step goes on without a gradient, but no such sample is to be offered.
                    trained_on = gradients.any(dim=1, keepdim=True)
                    gradients = checkpoints[place].adam(gradients) * trained_on
                gathered.append((positions, place, gradients))
                if sum(each.numel() for _, _, each in gathered) >= GATHERED:
                    project_gathered()
            if gathered:
                project_gathered()
            lengths = np.array([len(row.ids) for row in tokens], dtype=np.float64) * len(checkpoints)
            cost: np.ndarray = TRAINING * parameters * lengths
            rows = {"gradient": result.reshape(len(tokens), -1), COST: cost}
            return Extracted(rows, {"tokens": int(lengths.sum())})

        return Extract(read, make)

    def model_use(self, settings: Settings, wanted: Sequence[str], config: PretrainedConfig) -> ModelUse:
        """A forward and a backward pass at each checkpoint, down to the lowest LoRA matrices."""
        params = _params(settings)
        return ModelUse(
            TRAINING,
            row_bytes=2 * params.train.epochs * params.dimension,
            layers=params.train.lora_layers or config.num_hidden_layers,
            logits=True,
        )

    def tokens(
        self, settings: Settings, tokenizer: PreTrainedTokenizerBase, samples: Sequence[Sample], queries: bool
    ) -> np.ndarray:
        """Count the tokens of each sample at all checkpoints: float64 [samples]."""
        return super().tokens(settings, tokenizer, samples, queries) * _params(settings).train.epochs

    def trains_on(self, settings: Settings, pool_size: int) -> tuple[int, Train]:
        """A share of the pool."""
        params = _params(settings)
        return max(1, round(params.warmup_share * pool_size)), params.train


def _params(settings: Settings) -> Less:
    """The parameters of LESS; raises UserError if there are none, or not for LoRA matrices."""
    params = settings.less or lacking("less")
    if params.train.method != "lora":
        raise UserError("less.train.method: LESS takes the gradients of LoRA matrices; set it to lora")
    return params
