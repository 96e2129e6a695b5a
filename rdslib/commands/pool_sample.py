"""Totals over a pool, with intervals, from a random sample of it."""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from rdslib.data.chat import Sample, format_chat
from rdslib.methods import EXTRACTORS
from rdslib.pipeline.reuse import digests_of
from rdslib.seeds import generator

# Rows of the pool that are looked at.
SAMPLE = 512
# A number and its two ends (float64 [3]): an estimate in its 95% interval, or a measurement in its range.
# The ends of a sum are the sums of the ends, which is wider than independence would give.
Total = np.ndarray


def exactly(value: float) -> Total:
    """A number that is known."""
    return np.full(3, float(value))


NOTHING, UNKNOWN = exactly(0), exactly(math.nan)


class PoolSample(NamedTuple):
    """A random sample of a pool in random order, and what is known of every row.

    Attributes:
        at: The rows that are sampled, int64 [n].
        all_sizes: The characters of every row, float64 [N].
        digests: Of every row, by the fields that they are of, uint8 [N, 16].
    """

    samples: list[Sample]
    at: np.ndarray
    all_sizes: np.ndarray
    digests: Mapping[tuple[str, ...], np.ndarray]

    @property
    def sizes(self) -> np.ndarray:
        """The characters of the sampled rows, float64 [n]."""
        return self.all_sizes[self.at]


def sample_pool(samples: Iterable[Sample], seed: int) -> PoolSample:
    """Draw a sample from a pool, which is gone through once."""
    rng, found = generator(seed, "plan"), array("I")
    digests = {maker.sees: bytearray() for maker in EXTRACTORS.values()}

    def drawn() -> Iterator[tuple[float, int, Sample]]:
        for sample in samples:
            found.append(len(format_chat(sample.messages, "")))
            for sees, digest in digests.items():
                digest += digests_of([sample], sees).tobytes()
            yield rng.random(), len(found) - 1, sample

    kept = heapq.nlargest(SAMPLE, drawn())
    return PoolSample(
        [sample for _, _, sample in kept],
        np.array([at for _, at, _ in kept], dtype=np.int64),
        np.array(found, dtype=np.float64),
        {sees: np.frombuffer(each, dtype=np.uint8).reshape(-1, 16) for sees, each in digests.items()},
    )


def estimate_total(found: np.ndarray, counted: np.ndarray, all_counted: np.ndarray) -> Total:
    """Estimate the total of what is `found` of a random sample, by its ratio to what is `counted` of all.

    The interval is that of the residuals, with Student's t to first order; nothing if all rows are sampled.
    """
    n, rows = len(found), len(all_counted)
    if n == rows:
        return exactly(found.sum())
    ratio = found.sum() / counted.sum()
    spread = np.std(found - ratio * counted, ddof=1) * np.sqrt((1 - n / rows) / n)
    error = (1.96 + 2.37 / (n - 1)) * rows * spread
    return ratio * all_counted.sum() + np.array([0, -error, error])
