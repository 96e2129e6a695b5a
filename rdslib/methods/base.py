"""What a method is made of: a scorer, and the extractors of the features that it reads.

A *feature* is named `extractor.feature`, such as `lm.nll`: one row a sample, in shards on disk. An
*extractor* makes features out of samples, sometimes with a model that it has prepared first; a *scorer*
makes score blocks out of features. Everything else (shards, resuming, selection, training, figures) is
the study's. To add a method, subclass `Scorer` in a file of your own, subclass `Extractor` too if no
feature that there is will do, and name the file under `plugins` in a profile.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdslib.data.chat import Sample
from rdslib.methods.features import read_all, read_shards
from rdslib.params import Settings
from rdslib.selection.topk import Block

if TYPE_CHECKING:
    from tqdm import tqdm

# Scores are made for up to this many samples at a time, whatever the size of a shard.
TILE = 8192

# The FLOPs that each sample took, float64 [samples]: a feature that every extractor gives.
COST = "cost"


@dataclass(frozen=True)
class ScoringInputs:
    """What a scorer may read. Positions are those of the pool that is selected from.

    `sources`: the source of each pool sample, by position. `seed`: for what is random in a method.
    `pool_folders`, `query_folders`: where the shards of each feature lie. `kept`, by feature: which rows
    of the shards are the pool's (int64, sorted), where they were made for a larger pool. `part`, (i, n): of
    every n shards the i-th, from 0, where the blocks of a pool are made in several places.
    """

    sources: Sequence[str]
    seed: int
    pool_folders: Mapping[str, Path] = field(default_factory=dict)
    query_folders: Mapping[str, Path] = field(default_factory=dict)
    kept: Mapping[str, np.ndarray] = field(default_factory=dict)
    part: tuple[int, int] = (0, 1)

    def pool(self, feature: str) -> Iterator[tuple[int, np.ndarray]]:
        """(start, rows) of each shard of the pool, in order, memory-mapped."""
        kept = self.kept.get(feature)
        for start, rows in read_shards(self.pool_folders[feature], feature.partition(".")[2], self.part):
            if kept is None:
                yield start, rows
                continue
            first, end = np.searchsorted(kept, [start, start + len(rows)])
            if end > first:
                yield int(first), rows[kept[first:end] - start]

    def queries(self, feature: str) -> np.ndarray:
        """The feature of all query samples of the target task: [queries, ...]."""
        return read_all(self.query_folders[feature], feature.partition(".")[2])


class Scorer(ABC):
    """A selection method: score blocks `S[q, d]`, higher is better (see `rdslib.selection.topk`).

    Those without queries give one row; balanced random gives one row a source. A sample at minus infinity
    is never offered.
    """

    # What it goes by, in profiles, tables and commands.
    name: str
    # Whether the scores depend on the target task's query samples.
    needs_queries: bool = False
    # Whether a query must have a response; without, a prompt alone will do.
    needs_response: bool = False
    # Whether they depend on the seed.
    seeded: bool = False
    # The features that it reads, of pool samples and (if it needs queries) of query samples.
    features: tuple[str, ...] = ()
    # Whether a shard's block follows from that shard (`ScoringInputs.pool`) and the queries alone: then the
    # blocks of different shards can be made in different places.
    by_shard: bool = False
    # The share of the pool, from the best score down, that is passed over before the first pick.
    skip: float = 0.0

    @abstractmethod
    def blocks(self, inputs: ScoringInputs) -> Iterator[Block]:
        """Score blocks that cover every pool position, or those of `inputs.part`, once."""


class InnerProduct(Scorer):
    """A method whose score is the inner product of a query's feature with a pool sample's.

    Both have length 1 in the methods here, so that it is the cosine. A pool sample whose row is all zero
    has no such feature (no response to pool over, say) and is never offered.
    """

    needs_queries = True
    by_shard = True

    def __init__(self, name: str, feature: str, needs_response: bool = False) -> None:
        self.name = name
        self.features = (feature,)
        self.needs_response = needs_response

    def blocks(self, inputs: ScoringInputs) -> Iterator[Block]:
        """Blocks of up to `TILE` samples of a shard: float32 [queries, samples]."""
        (feature,) = self.features
        queries = inputs.queries(feature).astype(np.float32)
        for start, shard in inputs.pool(feature):
            for first in range(0, len(shard), TILE):
                rows = shard[first : first + TILE].astype(np.float32)
                scores = queries @ rows.T
                scores[:, ~rows.any(axis=1)] = -np.inf
                yield start + first, scores


@dataclass(frozen=True)
class Preparation:
    """What an extractor may read when it prepares.

    `model`: the folder of the language model. `samples`: those of the pool that it prepares on (empty if
    it needs none). `features`: rows of its `prepare_features`, by name, for these samples.
    `out`: the empty folder to write into. `bar`: a progress bar, in samples.
    """

    settings: Settings
    model: Path
    samples: Sequence[Sample]
    features: Mapping[str, np.ndarray]
    out: Path
    bar: tqdm[Any]


@dataclass(frozen=True)
class Extraction:
    """What an extractor may read when it makes features.

    `prepared`: the folder that its `prepare` has filled. `wanted`: the features asked for, without the
    extractor's name. `queries`: whether the samples are queries rather than pool samples.
    """

    settings: Settings
    model: Path
    prepared: Path | None
    wanted: tuple[str, ...]
    queries: bool


@dataclass(frozen=True)
class Extracted:
    """Features of some samples: `rows` by feature, each [samples, ...], with `COST` among them, and
    `counts` for the manifest (tokens, what was dropped, ...), which are summed over shards."""

    rows: Mapping[str, np.ndarray]
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Extract:
    """Makes features of some samples, in two parts.

    `read` turns samples into what the model takes (tokens); it runs on a thread of its own, while the model
    is busy with the samples before. `make` turns that into features; the function that it is given is to be
    called with the positions of each batch that is through.
    """

    read: Callable[[Sequence[Sample]], Any]
    make: Callable[[Any, Callable[[Sequence[int]], object]], Extracted]


class Extractor(ABC):
    """Makes features out of samples."""

    # The part of a feature's name before the dot.
    name: str
    # To be raised when what it writes changes for the same parameters.
    version: int = 1
    # Whether there is something to prepare (a model to train or to unpack), once for all samples.
    prepares: bool = False
    # Features of other extractors that `prepare` reads.
    prepare_features: tuple[str, ...] = ()
    # Whether each pool has its own features of a sample; they are then extracted for each pool apart.
    per_pool: bool = False

    def key(self, settings: Settings) -> Mapping[str, Any]:
        """The parameters on which the prepared model and the features depend."""
        return {}

    def prepare_pool(self, settings: Settings, pool: str) -> str | None:
        """Which pool it prepares on when samples of `pool` are to be had; None if on none."""
        return None

    def prepare(self, given: Preparation) -> Mapping[str, Any]:
        """Fill the folder `given.out`, and return counts, `flops` among them."""
        raise NotImplementedError

    @abstractmethod
    def open(self, given: Extraction) -> Extract:
        """Load what is needed, once, and return what makes features.

        What it makes of a sample must not depend on which samples come with it.
        """
