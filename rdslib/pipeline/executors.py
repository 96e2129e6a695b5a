"""Where shards are computed: in this process, or (`rdslib.pipeline.ray_executor`) on a Ray cluster.

An engine makes features of shards, and ranks a pool by a method's scores. What comes out is the same
whatever the engine, sample by sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from rdslib.data.chat import Sample
from rdslib.methods import Extracted, Extraction, Extractor, Scorer, ScoringInputs
from rdslib.selection.topk import Ranker, over

# (start, samples) of each shard that is to be made, made as they are asked for.
Shards = Iterator[tuple[int, Sequence[Sample]]]
# Called with how many more samples are through.
Done = Callable[[int], object]


class Engine(Protocol):
    """What can compute shards."""

    def extract(
        self, extractor: Extractor, given: Extraction, shards: Shards, done: Done
    ) -> Iterator[tuple[int, Extracted]]:
        """The start and the features of each shard, in any order."""

    def ranker(self, scorer: Scorer, inputs: ScoringInputs) -> Ranker:
        """What ranks the pool of `inputs` by the method's scores."""


class Local:
    """One shard after another, in this process."""

    def extract(
        self, extractor: Extractor, given: Extraction, shards: Shards, done: Done
    ) -> Iterator[tuple[int, Extracted]]:
        """Features in order of shards; a shard is read while the model is busy with the one before."""
        extract = extractor.open(given)
        with ThreadPoolExecutor(1) as reader:
            before: tuple[int, Future[Any]] | None = None
            for start, samples in shards:
                now = (start, reader.submit(extract.read, samples))
                if before:
                    yield before[0], extract.make(before[1].result(), lambda batch: done(len(batch)))
                before = now
            if before:
                yield before[0], extract.make(before[1].result(), lambda batch: done(len(batch)))

    def ranker(self, scorer: Scorer, inputs: ScoringInputs) -> Ranker:
        """Ranks blocks as they are made."""
        return over(lambda: scorer.blocks(inputs))
