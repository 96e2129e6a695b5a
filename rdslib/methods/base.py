"""What a method is made of: a scorer, and the extractors of the features that it reads.

A *feature* is named `extractor.feature`, such as `lm.nll`: one row a sample, in shards on disk. An
*extractor* makes features out of samples, sometimes with a model that it has prepared first; a *scorer*
makes score blocks out of features. Everything else (shards, resuming, selection, training, figures) is
the study's. To add a method, subclass `Scorer` in a file of yours, subclass `Extractor` too if no feature
that there is will do, and name the file under `plugins` in a profile.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from rdslib.data.chat import Sample, Tokens, tokenize_chat, tokenize_query
from rdslib.data.template import tokenize_by_template
from rdslib.errors import UserError
from rdslib.methods.features import read_all, read_shards, split_feature
from rdslib.models.flops import CostModel, one_pass_flops
from rdslib.params import Settings, Train
from rdslib.selection.topk import Block

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from rdslib.models.launch import Bar

# Scores are made for up to this many samples at a time, whatever the size of a shard.
TILE = 8192

# The FLOPs that each sample took, float64 [samples]: a feature that every extractor gives.
COST = "cost"


# Changes vectors, float [n, ...], into those that are compared, float [n, ...].
Change = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class ScoringInputs:
    """What a scorer may read: the source of each pool sample, and the folders of features, by name.

    Attributes:
        kept: By feature, which rows of the shards are the pool's (int64, sorted), where they were made for
            a larger pool.
        part: (i, n): of every n shards the i-th, from 0, where a pool is scored in several places.
    """

    sources: Sequence[str]
    seed: int
    pool_folders: Mapping[str, Path] = field(default_factory=dict)
    query_folders: Mapping[str, Path] = field(default_factory=dict)
    kept: Mapping[str, np.ndarray] = field(default_factory=dict)
    part: tuple[int, int] = (0, 1)

    def pool(self, feature: str) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (start, rows) of each shard of the pool, in order, memory-mapped."""
        kept = self.kept.get(feature)
        _, name = split_feature(feature)
        self._check(feature, self.pool_folders)
        for start, rows in read_shards(self.pool_folders[feature], name, self.part):
            if kept is None:
                yield start, rows
                continue
            first, end = np.searchsorted(kept, [start, start + len(rows)])
            if end > first:
                yield int(first), rows[kept[first:end] - start]

    def queries(self, feature: str) -> np.ndarray:
        """Read the feature of all query samples of the target task: [queries, ...]."""
        _, name = split_feature(feature)
        self._check(feature, self.query_folders)
        return read_all(self.query_folders[feature], name)

    @staticmethod
    def _check(feature: str, folders: Mapping[str, Path]) -> None:
        if feature not in folders:
            raise UserError(
                f"a method reads {feature}, which it does not ask for; add it to its features "
                f"(there are {', '.join(folders) or 'none'})"
            )

    def rows(self, feature: str, positions: np.ndarray) -> np.ndarray:
        """Read the rows of a feature at some positions of the pool: [samples, ...], in their order."""
        order = np.argsort(positions, kind="stable")
        wanted, parts = positions[order], []
        for start, shard in self.pool(feature):
            first, end = np.searchsorted(wanted, [start, start + len(shard)])
            if end > first:
                parts.append(np.asarray(shard[wanted[first:end] - start]))
        found = np.concatenate(parts)
        rows = np.empty_like(found)
        rows[order] = found
        return rows


class Scorer(ABC):
    """A selection method: score blocks `S[q, d]`, higher is better (see `rdslib.selection.topk`).

    Those without queries give one row; balanced random gives one row a source. A sample at minus infinity
    is never offered.

    Attributes:
        title: What figures call it; where it is empty, `register` puts the name there.
        colour: What figures draw it in, as `#RRGGBB`; None for one that follows from the name.
        needs_queries: Whether the scores depend on the target task's query samples.
        needs_response: Whether a query must have a response; without, a prompt alone will do.
        features: What it reads, of pool samples and (if it needs queries) of query samples.
        vector: The one of these that is a vector, by which samples can be compared; None if none is.
        by_shard: Whether a shard's block follows from that shard (`ScoringInputs.pool`) and the queries
            alone, so that shards can be scored in different places.
        skip: The share of the pool, from the best score down, that is passed over before the first pick.
        joins_queries: Whether all queries of a task make one row together, rather than one each.
    """

    name: str
    title: str = ""
    colour: str | None = None
    needs_queries: bool = False
    joins_queries: bool = False
    needs_response: bool = False
    seeded: bool = False
    features: tuple[str, ...] = ()
    vector: str | None = None
    by_shard: bool = False
    skip: float = 0.0

    @abstractmethod
    def blocks(self, inputs: ScoringInputs) -> Iterator[Block]:
        """Yield score blocks that cover every pool position, or those of `inputs.part`, once."""

    def paper_flops(self, pool_size: int, samples: int, cost: CostModel) -> float:
        """FLOPs of selecting `samples` of `pool_size`, by the paper's Appendix E; NaN without a formula."""
        return math.nan

    def change(self, inputs: ScoringInputs) -> Change:
        """Say how its `vector` is changed before samples are compared by it; by default not at all."""
        return lambda rows: rows


def of_one_pass(pool_size: int, samples: int, cost: CostModel) -> float:
    """FLOPs of selecting by one forward pass of the language model over the pool."""
    return one_pass_flops(pool_size, cost)


class OfFeature(Scorer):
    """A method that reads one feature. `formula` is its `paper_flops`; scores above `limit` never rank.

    `fit` gives, for what there is to score, how the feature's vectors are changed before they are compared.
    """

    by_shard = True

    def __init__(
        self,
        name: str,
        feature: str,
        title: str = "",
        colour: str | None = None,
        needs_response: bool = False,
        formula: Callable[[int, int, CostModel], float] | None = None,
        skip: float = 0.0,
        limit: float = math.inf,
        fit: Callable[[ScoringInputs], Change] = lambda inputs: lambda rows: rows,
    ) -> None:
        self.name, self.features, self.title, self.colour = name, (feature,), title, colour
        self.needs_response, self.skip, self.limit, self._formula = needs_response, skip, limit, formula
        self._fit = fit

    def change(self, inputs: ScoringInputs) -> Change:
        """As `fit` gives it."""
        return self._fit(inputs)

    def paper_flops(self, pool_size: int, samples: int, cost: CostModel) -> float:
        """FLOPs by the formula, if there is one."""
        return self._formula(pool_size, samples, cost) if self._formula else math.nan


class InnerProduct(OfFeature):
    """A method whose score is the inner product of a query's feature with a pool sample's.

    Both have length 1 in the methods here, so that it is the cosine. A pool sample whose row is all zero
    has no such feature (no response to pool over, say) and is never offered.
    """

    needs_queries = True

    @property
    def vector(self) -> str:  # type: ignore[override]
        """The feature."""
        return self.features[0]

    def blocks(self, inputs: ScoringInputs) -> Iterator[Block]:
        """Yield blocks of up to `TILE` samples of a shard: float32 [queries, samples]."""
        (feature,) = self.features
        queries = inputs.queries(feature).astype(np.float32)
        if (empty := np.flatnonzero(~queries.any(axis=1))).size:
            raise UserError(
                f"{self.name}: query {empty[0]} has no {feature}, so that every sample would score the same; "
                "leave it out, or take another method"
            )
        change = self.change(inputs)
        queries = change(queries)
        for start, shard in inputs.pool(feature):
            for first in range(0, len(shard), TILE):
                rows = shard[first : first + TILE].astype(np.float32)
                scores = queries @ change(rows).T
                scores[:, ~rows.any(axis=1)] = -np.inf
                yield start + first, scores


class Highest(OfFeature):
    """A method whose score is a feature of one number; a sample that has none (NaN) is never offered."""

    def blocks(self, inputs: ScoringInputs) -> Iterator[Block]:
        """Yield a block a shard, of one row."""
        (feature,) = self.features
        for start, rows in inputs.pool(feature):
            yield start, np.where(rows <= self.limit, rows, -np.inf)[None, :]


@dataclass(frozen=True)
class Preparation:
    """What an extractor may read when it prepares.

    The folder of the language model; the pool samples that it prepares on, if any (or, `per_task`, a task's
    queries), and for these the rows of its `prepare_features`, by name; the empty folder `out` to write into;
    and where downloads are kept.
    """

    settings: Settings
    model: Path
    samples: Sequence[Sample]
    features: Mapping[str, np.ndarray]
    out: Path
    bar: Bar
    downloads: Path


@dataclass(frozen=True)
class Extraction:
    """What an extractor may read when it makes features of pool samples, or of queries.

    The folder of the language model; the one that its `prepare` has filled, if it prepares anything; and the
    features that are `wanted`, without the extractor's name.
    """

    settings: Settings
    model: Path
    prepared: Path | None
    wanted: tuple[str, ...]
    queries: bool


@dataclass(frozen=True)
class Extracted:
    """Features of some samples: rows by name, [samples, ...], with `COST`; and counts, summed over shards."""

    rows: Mapping[str, np.ndarray]
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Extract:
    """Makes features of some samples, in two parts.

    `read` turns samples into what the model takes, on another thread while the model is busy. `make` turns
    that into features, and calls the function that it is given with the positions of each batch that is done.
    """

    read: Callable[[Sequence[Sample]], Any]
    make: Callable[[Any, Callable[[Sequence[int]], object]], Extracted]


@dataclass(frozen=True)
class ModelUse:
    """How an extractor uses the language model, from which `rds plan` computes its cost.

    Attributes:
        operations: FLOPs a parameter and token: `FORWARD` or `TRAINING`.
        row_bytes: Bytes of the wanted features of one sample, without `COST`.
        layers: How many layers' activations are in memory at once.
        logits: Whether vocabulary logits are taken.
    """

    operations: int
    row_bytes: int
    layers: int = 1
    logits: bool = False


class Extractor(ABC):
    """Makes features out of samples.

    A new one needs `name` and `open` alone. `rds plan` then measures it on a few samples; `model_use` and
    the methods after it are for those whose cost follows from the language model's tokens, or whose
    preparation takes long.

    Attributes:
        name: The part of a feature's name before the dot.
        version: To be raised when what it writes changes for the same parameters.
        prepares: Whether there is something to prepare (a model to train, say), once for all samples.
        prepare_features: Features of other extractors that `prepare` reads.
        per_pool: Whether features are made for each pool apart: they depend on the pool that a sample is
            in, or cost too much to be made for a whole pool where a smaller one is asked for. Else those of
            the whole pool serve every smaller one.
        per_task: Whether features of pool samples, and none of queries, are made for each task apart, and
            `prepare` reads its queries. They are `per_pool` too.
        uses_model: Whether features depend on the language model; without, there need be none.
        packages: The extra, and the packages of it, without which nothing can be made.
        sees: The fields of a sample that its features depend on. They are not made again of a sample for
            which another pool, or other queries, have had them made.
    """

    name: str
    version: int = 1
    uses_model: bool = True
    packages: tuple[str, ...] = ()
    sees: tuple[str, ...] = ("id", "source", "messages")
    prepares: bool = False
    prepare_features: tuple[str, ...] = ()
    per_pool: bool = False
    per_task: bool = False

    def key(self, settings: Settings) -> Mapping[str, Any]:
        """Return the parameters on which the prepared model and the features depend."""
        return {}

    def prepare_pool(self, settings: Settings, pool: str) -> str | None:
        """Name the pool whose samples `prepare` reads, where features of `pool` are wanted; None if none."""
        return None

    def prepare(self, given: Preparation) -> Mapping[str, Any]:
        """Fill the folder `given.out`, and return counts, `flops` among them."""
        raise NotImplementedError

    @abstractmethod
    def open(self, given: Extraction) -> Extract:
        """Load what is needed; what is then made of a sample must not depend on which come with it."""

    def cost_model(
        self, base: CostModel, settings: Settings, counts: Mapping[str, Any], pool_size: int
    ) -> CostModel:
        """Put into the paper's formula what was prepared: the counts, and the size of the pool, 0 if none."""
        return base

    def model_use(
        self, settings: Settings, wanted: Sequence[str], config: PretrainedConfig
    ) -> ModelUse | None:
        """Say how the wanted features use the language model; None if that is known by measuring alone."""
        return None

    def tokens(
        self, settings: Settings, tokenizer: PreTrainedTokenizerBase, samples: Sequence[Sample], queries: bool
    ) -> np.ndarray:
        """Count the tokens of each sample that pass through the language model: float64 [samples]."""
        return token_counts(tokenizer, samples, settings.encode.max_length, queries)

    def trains_on(self, settings: Settings, pool_size: int) -> tuple[int, Train] | None:
        """Say on how many samples of a pool (or, `per_task`, of queries) `prepare` trains a model, and how.

        None if on none. Where all of it is trained, the folder that `prepare` fills is that of a model.
        """
        return None


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    samples: Sequence[Sample],
    max_length: int,
    queries: bool,
    template: str = "tulu",
    spans: bool = True,
) -> list[Tokens]:
    """Turn pool samples, or query samples, into tokens (paper, section 4).

    `template` is that of `Encode`; without `spans` nobody needs to know which tokens are a response's.
    """
    conversations = [sample.messages for sample in samples]
    if template == "model":
        return tokenize_by_template(tokenizer, conversations, max_length, queries, spans)
    how = tokenize_query if queries else tokenize_chat
    return how(tokenizer, conversations, max_length)


def token_counts(
    tokenizer: PreTrainedTokenizerBase, samples: Sequence[Sample], max_length: int, queries: bool
) -> np.ndarray:
    """Count the tokens of each sample, as far as it is not cut: float64 [samples]."""
    tokens = tokenize(tokenizer, samples, max_length, queries) if samples else []
    return np.array([len(each.ids) for each in tokens], dtype=np.float64)


def how_encoded(settings: Settings) -> dict[str, Any]:
    """Return what features of a language model depend on, beside the model: a part of extractors' keys."""
    return {"encode": settings.encode.key, "seed": settings.seed}


def lacking(method: str) -> NoReturn:
    """Raise UserError: the profile has no parameters of a method."""
    raise UserError(
        f"the method {method!r} needs parameters; add `{method}` (with `train`) to the profile's experiment"
    )
