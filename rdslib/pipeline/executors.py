"""Where shards are computed: in this process, or (`rdslib.pipeline.ray_executor`) on a Ray cluster.

An executor makes features of shards, and ranks a pool by a method's scores. What comes out is the same
whatever the executor, sample by sample.

Beside that, more processes on this machine can compute steps (`helpers`). The store's locks are all that they
share: each goes through the same steps in the same order, makes what nobody else is making, and passes over
the rest. So any number of them ends in the same artifacts, and one that is killed costs no more than its
step.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

from rdslib.data.chat import Sample
from rdslib.methods import Extracted, Extraction, Extractor, Scorer, ScoringInputs
from rdslib.methods.blocks import blocks_of
from rdslib.selection.topk import Ranker, over

# (start, samples) of each shard that is to be made, made as they are asked for.
Shards = Iterator[tuple[int, Sequence[Sample]]]
# Called with how many more samples are through.
Done = Callable[[int], object]


class Executor(Protocol):
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
            read = ((start, reader.submit(extract.read, samples)) for start, samples in shards)
            for (start, tokens), _ in itertools.pairwise(itertools.chain(read, [(0, Future[Any]())])):
                yield start, extract.make(tokens.result(), lambda batch: done(len(batch)))

    def ranker(self, scorer: Scorer, inputs: ScoringInputs) -> Ranker:
        """Ranks blocks as they are made."""
        return over(lambda: blocks_of(scorer, inputs))


@contextmanager
def helpers(arguments: Sequence[str], count: int) -> Iterator[None]:
    """Run `count` processes `rds ARGUMENTS` in the meantime.

    They end when this process does, however it ends: each reads from a pipe that then breaks.
    """
    command = [sys.executable, "-P", "-m", "rdslib.cli", *arguments]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
