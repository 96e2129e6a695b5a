"""DSIR: samples whose words and pairs of words are likelier among the queries than in the pool; no model.

Xie, Santurkar, Ma and Liang, *Data Selection for Language Models via Importance Resampling*, NeurIPS 2023,
arXiv 2302.03169. Numbers are those of its package `data-selection`, which is not used: it reads files by
itself, counts them anew for each set of queries, and draws without a seed.

Hashed n-grams are kept, rather than counts: a row of 10,000 counts would take more than RDS+'s state. So they
are made once, in shards, for any queries and any pool drawn from a larger one.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from rdslib.data.chat import Sample
from rdslib.errors import UserError
from rdslib.methods.base import COST, Extract, Extracted, Extraction, Extractor, Scorer, ScoringInputs
from rdslib.models.flops import CostModel
from rdslib.seeds import generator
from rdslib.selection.topk import Block

BUCKETS = 10_000
# Of a sample the first words are read (ours: the package reads all): 4 KiB a sample, with their pairs.
WORDS = 1_024
# Where a row has no more n-grams.
NONE = BUCKETS
# Added to both probabilities, so that each has a logarithm.
LEAST = 1e-8
FEATURE = "ngrams.hashed"
# Rows are counted and scored this many at a time: some 16 MiB of their numbers.
TILE = 1024


def bucket(ngram: str) -> int:
    """Hash words, joined by spaces, to a number below `BUCKETS`, the same on every machine."""
    return int.from_bytes(hashlib.sha256(ngram.encode("utf-8", "surrogatepass")).digest(), "big") % BUCKETS


def hashed(text: str) -> np.ndarray:
    """Hash the words of a text, in lower case, and its pairs of words: uint16 [up to 2 * WORDS - 1].

    A run of letters and digits is a word, and so is a run of other signs.
    """
    words = [each[0] for each in itertools.islice(re.finditer(r"\w+|[^\w\s]+", text.lower()), WORDS)]
    return np.array([*map(bucket, words), *map(bucket, map(" ".join, itertools.pairwise(words)))], np.uint16)


class HashedNgrams(Extractor):
    """`ngrams.hashed`: the hashed n-grams of all turns, uint16 [samples, 2 * WORDS - 1], then `NONE`."""

    name = "ngrams"
    sees = ("messages",)
    uses_model = False

    def open(self, given: Extraction) -> Extract:
        """Load nothing."""

        def read(samples: Sequence[Sample]) -> list[str]:
            return ["\n".join(message["content"] for message in sample.messages) for sample in samples]

        def make(texts: Sequence[str], done: Callable[[Sequence[int]], object]) -> Extracted:
            rows = np.full((len(texts), 2 * WORDS - 1), NONE, dtype=np.uint16)
            for number, text in enumerate(texts):
                found = hashed(text)
                rows[number, : len(found)] = found
                done([number])
            return Extracted({"hashed": rows, COST: np.zeros(len(rows))}, {"tokens": 0})

        return Extract(read, make)


class Dsir(Scorer):
    """The logarithm of a sample's importance weight, with noise by which the best k are a weighted draw.

    The weight is the product, over a sample's n-grams, of how likely their bucket is in the queries over how
    likely it is in the pool. With Gumbel noise, the best k are drawn without replacement in proportion to it.
    An n-gram that no query has costs a sample much, so that with few queries the shortest samples score best.
    """

    name = "dsir"
    title = "DSIR"
    colour = "#117733"
    needs_queries = joins_queries = True
    seeded = True
    features = (FEATURE,)
    by_shard = True

    def paper_flops(self, pool_size: int, samples: int, cost: CostModel) -> float:
        """Nothing: no model is used (a count of ours)."""
        return 0.0

    def blocks(self, inputs: ScoringInputs) -> Iterator[Block]:
        """Yield blocks of one row; a sample without a word is never offered."""
        kept = inputs.kept.get(FEATURE)
        pool = _counts(inputs.pool_folders[FEATURE], None if kept is None else kept.tobytes())
        queries = counted([inputs.queries(FEATURE)])
        if not queries.any():
            raise UserError("dsir: the queries have no words; give some that have")
        ratio = np.zeros(BUCKETS + 1)
        ratio[:NONE] = np.log(queries / queries.sum() + LEAST) - np.log(pool / max(pool.sum(), 1) + LEAST)
        for start, shard in inputs.pool(FEATURE):
            for first in range(0, len(shard), TILE):
                rows = shard[first : first + TILE]
                scores = ratio[rows].sum(axis=1) + _noise(inputs.seed, start + first, len(rows))
                scores[rows[:, 0] == NONE] = -np.inf
                yield start + first, scores[None, :]


def counted(shards: Iterator[np.ndarray] | Sequence[np.ndarray]) -> np.ndarray:
    """Count the n-grams of rows by bucket: int64 [BUCKETS]."""
    counts = np.zeros(BUCKETS + 1, dtype=np.int64)
    for shard in shards:
        for first in range(0, len(shard), TILE):
            counts += np.bincount(shard[first : first + TILE].ravel(), minlength=BUCKETS + 1)
    return counts[:NONE]


@functools.lru_cache(maxsize=4)  # once for all tasks
def _counts(folder: Path, kept: bytes | None) -> np.ndarray:
    """Count the n-grams of a whole pool. `kept` has the int64 numbers of `ScoringInputs.kept`."""
    only = {} if kept is None else {FEATURE: np.frombuffer(kept, dtype=np.int64)}
    return counted(rows for _, rows in ScoringInputs((), 0, {FEATURE: folder}, kept=only).pool(FEATURE))


def _noise(seed: int, start: int, count: int) -> np.ndarray:
    """Draw the Gumbel noise of the samples from position `start` on, the same however a pool is cut up."""
    draws = generator(seed, "dsir")
    draws.bit_generator.advance(start)  # type: ignore[attr-defined]  # PCG64 can, and takes one step a number
    return -np.log(-np.log1p(-np.maximum(draws.random(count), 2.0**-54)))


DSIR, NGRAMS = Dsir(), HashedNgrams()
