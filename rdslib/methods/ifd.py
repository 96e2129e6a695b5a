"""IFD: how little a sample's prompt helps with its response (paper, section 2).

A *pre-experienced* model, the base model trained for an epoch on a few samples of each cluster of prompts,
reads every response twice. IFD is its mean NLL given the prompt over its mean NLL alone.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rdslib.data.chat import Sample, Tokens, tokenize_chat
from rdslib.methods.base import (
    COST,
    Extract,
    Extracted,
    Extraction,
    Extractor,
    Highest,
    ModelUse,
    Preparation,
    how_encoded,
    lacking,
    tokenize,
)  # fmt: skip
from rdslib.models.flops import FORWARD, TRAINING, CostModel, one_pass_flops
from rdslib.params import Ifd, Settings, Train
from rdslib.seeds import generator

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

# Conversations, and their assistant turns alone: the position of each turn's sample, and the turn.
_Read = tuple[list[Tokens], np.ndarray, list[Tokens]]


def _formula(pool_size: int, samples: int, cost: CostModel) -> float:
    """Encode samples to pick from, train on some of them, and pass over the pool once."""
    trained = TRAINING * cost.parameters * cost.tokens_per_sample * cost.ifd_trained
    return one_pass_flops(cost.ifd_encoded, cost) + trained + one_pass_flops(pool_size, cost)


# Above 1 the prompt only hinders.
IFD = Highest("ifd", "ifd.ratio", title="IFD", colour="#CC79A7", formula=_formula, limit=1.0)


class PreExperienced(Extractor):
    """`ifd.ratio`: IFD under the pre-experienced model, float32 [samples].

    Given the prompt: the response tokens of the conversation as it is tokenised for the pool, each turn
    after all before it. Alone: each assistant turn as a conversation by itself, whose role header stands
    before it in both readings, so that both score the same tokens, its first among them (Cherry LLM's code
    scores the first after Llama's beginning-of-sequence token). Both are means over all turns' tokens. NaN
    for a sample whose prompt fills the context, or which has no response.
    """

    name = "ifd"
    sees = ("messages",)
    version = 2
    packages = ("study", "sklearn")
    per_pool = True
    prepares = True
    # The prompts to cluster: means of the base model's last hidden states, float16, of length 1.
    prepare_features = ("lm.uniform_prompt",)

    def key(self, settings: Settings) -> Mapping[str, Any]:
        """Return how the model is trained, and how samples are cut and batched."""
        return {"ifd": _params(settings).model_dump(mode="json"), **how_encoded(settings)}

    def prepare_pool(self, settings: Settings, pool: str) -> str | None:
        """Name one pool for all: the model is the same wherever it is used."""
        return _params(settings).pool

    def prepare(self, given: Preparation) -> Mapping[str, Any]:
        """Train the pre-experienced model; return the counts of training, with the FLOPs."""
        from rdslib.models.loading import load_causal_lm, non_embedding_parameters
        from rdslib.models.train import train

        params, seed = _params(given.settings), given.settings.seed
        (feature,) = self.prepare_features
        picked = near_centres(given.features[feature], params.clusters, params.per_cluster, seed)
        placed = given.settings.model.device_map
        parameters = non_embedding_parameters(load_causal_lm(given.model, device_map=placed))
        samples = [given.samples[i] for i in picked]
        counts = train(given.model, samples, params.train, seed, given.out, given.bar)
        tokens = counts["training_tokens"]
        return {**counts, "tokens": tokens, "flops": TRAINING * parameters * tokens}

    def open(self, given: Extraction) -> Extract:
        """Load the pre-experienced model."""
        from rdslib.models.cache import ModelCache
        from rdslib.models.encode import mean_nll
        from rdslib.models.loading import non_embedding_parameters

        assert given.prepared is not None
        cache = ModelCache(given.model, given.settings.model.device_map)
        model, tokenizer = cache.trained(given.prepared), cache.tokenizer
        cut, budget = given.settings.encode.max_length, given.settings.encode.token_budget
        parameters = non_embedding_parameters(model)

        def read(samples: Sequence[Sample]) -> _Read:
            whole = tokenize_chat(tokenizer, [sample.messages for sample in samples], cut)
            return whole, *turns_alone(tokenizer, samples, whole, cut)

        def make(tokens: _Read, done: Callable[[Sequence[int]], object]) -> Extracted:
            whole, owners, turns = tokens
            prompted = mean_nll(model, [t.ids for t in whole], [t.response for t in whole], budget, done)
            each = mean_nll(model, [t.ids for t in turns], [t.response for t in turns], budget)
            lengths = np.array([sum(t.response) for t in turns])
            scored = np.bincount(owners, lengths, len(whole))
            alone = np.full(len(whole), np.nan)
            np.divide(np.bincount(owners, each * lengths, len(whole)), scored, out=alone, where=scored > 0)
            ratio = (prompted / alone).astype(np.float32)
            passed = _both(*tokens)
            counts = {
                "tokens": int(passed.sum()),
                "no_response": int(np.isnan(ratio).sum()),
                "above_one": int((ratio > 1).sum()),
            }
            return Extracted({"ratio": ratio, COST: FORWARD * parameters * passed}, counts)

        return Extract(read, make)

    def cost_model(
        self, base: CostModel, settings: Settings, counts: Mapping[str, Any], pool_size: int
    ) -> CostModel:
        """Put in how many samples were encoded to pick from, and how many were to be picked."""
        params = _params(settings)
        return replace(base, ifd_encoded=pool_size, ifd_trained=params.clusters * params.per_cluster)

    def model_use(self, settings: Settings, wanted: Sequence[str], config: PretrainedConfig) -> ModelUse:
        """Two forward passes, of which `tokens` counts both."""
        return ModelUse(FORWARD, row_bytes=4, logits=True)

    def tokens(
        self, settings: Settings, tokenizer: PreTrainedTokenizerBase, samples: Sequence[Sample], queries: bool
    ) -> np.ndarray:
        """Count the tokens of a conversation and of its assistant turns: float64 [samples]."""
        cut = settings.encode.max_length
        whole = tokenize(tokenizer, samples, cut, queries)
        return _both(whole, *turns_alone(tokenizer, samples, whole, cut))

    def trains_on(self, settings: Settings, pool_size: int) -> tuple[int, Train]:
        """A few samples of each cluster."""
        params = _params(settings)
        return min(pool_size, params.clusters * params.per_cluster), params.train


def _both(whole: Sequence[Tokens], owners: np.ndarray, turns: Sequence[Tokens]) -> np.ndarray:
    """Count the tokens of conversations and of their turns alone: float64 [samples]."""
    alone = np.bincount(owners, [len(t.ids) for t in turns], len(whole))
    return np.array([len(t.ids) for t in whole]) + alone


def _params(settings: Settings) -> Ifd:
    """The parameters of IFD; raises UserError if the profile has none."""
    return settings.ifd or lacking("ifd")


def near_centres(prompts: np.ndarray, clusters: int, per_cluster: int, seed: int) -> list[int]:
    """Find the positions, in order, of the `per_cluster` rows nearest to the centre of each cluster.

    k-means is seeded, and has at most as many clusters as there are rows; of equally near rows of a cluster
    the first is taken. `prompts`: float [samples, hidden]; a row of zeros has no prompt and is left out.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    at = np.flatnonzero(prompts.any(axis=1))
    if len(at) == 0:
        return []
    rows = prompts[at].astype(np.float32)
    state = int(generator(seed, "clusters").integers(2**32))
    means = KMeans(n_clusters=min(clusters, len(at)), n_init=10, random_state=state)
    with warnings.catch_warnings():
        # Where fewer prompts differ than there are clusters, some clusters stay empty.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = means.fit_predict(rows)
    picked: list[int] = []
    for cluster, centre in enumerate(means.cluster_centers_):
        members = np.flatnonzero(labels == cluster)
        distances = np.linalg.norm(rows[members] - centre, axis=1)
        picked += at[members[np.argsort(distances, kind="stable")[:per_cluster]]].tolist()
    return sorted(picked)


def turns_alone(
    tokenizer: PreTrainedTokenizerBase, samples: Sequence[Sample], whole: Sequence[Tokens], max_length: int
) -> tuple[np.ndarray, list[Tokens]]:
    """Tokenise each assistant turn of samples as a conversation by itself.

    Turns are kept as far as `whole`, the samples as tokenised for the pool, has them: what is cut off there
    is not scored here either. Returns the position of each turn's sample (int64 [turns]), and the turns.
    """
    owners, apart, lengths = [], [], []
    for position, (sample, tokens) in enumerate(zip(samples, whole, strict=True)):
        turns = [message for message in sample.messages if message["role"] == "assistant"]
        # A turn is a run of response tokens: it has its end-of-sequence token at least, and the next one's
        # header lies between them. A cut sample has fewer runs than turns.
        runs = [len(list(run)) for scored, run in itertools.groupby(tokens.response) if scored]
        for turn, length in zip(turns, runs, strict=False):
            owners.append(position)
            apart.append([turn])
            lengths.append(length)
    kept = []
    tokenized = tokenize_chat(tokenizer, apart, max_length) if apart else []
    for tokens, length in zip(tokenized, lengths, strict=True):
        end = tokens.first_response[0] + length
        kept.append(Tokens(tokens.ids[:end], tokens.response[:end], tokens.prompt))
    return np.array(owners, dtype=np.int64), kept
