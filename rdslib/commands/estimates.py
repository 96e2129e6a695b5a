"""Totals that are estimated from a sample, and the parts of a plan."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rdslib.data.chat import Sample, format_chat
from rdslib.seeds import generator

# Rows of the pool that are looked at.
SAMPLE = 512


class Total(NamedTuple):
    """A number between two others: an estimate in its 95% interval, or a measurement in its range."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Total:
        """All three, scaled."""
        return Total(*(float(factor * each) for each in self))


NOTHING = Total(0, 0, 0)


def exactly(value: float) -> Total:
    """A number that is known."""
    return Total(value, value, value)


def added(totals: Iterable[Total]) -> Total:
    """The sum; the ends are added as they are, which is a wider interval than independence would give."""
    return Total(*(math.fsum(ends) for ends in zip(NOTHING, *totals, strict=True)))


@dataclass(frozen=True)
class Part:
    """A piece of the work; None is not known.

    `there`: it is done already, and its seconds are what it took. `rate`: tokens a second, as measured.
    """

    name: str
    tokens: Total | None = None
    flops: Total | None = None
    seconds: Total | None = None
    rate: Total | None = None
    there: bool = False


def together(name: str, parts: Sequence[Part], there: bool = False) -> Part:
    """Parts as one; what is not known of one of them is not known of it."""

    def total(each: list[Total | None]) -> Total | None:
        known = [one for one in each if one is not None]
        return added(known) if len(known) == len(each) else None

    return Part(
        name,
        total([part.tokens for part in parts]),
        total([part.flops for part in parts]),
        total([part.seconds for part in parts]),
        there=there,
    )


def taken(manifest: Mapping[str, Any]) -> Part:
    """What a step that exists took."""
    counts = manifest["counts"]
    tokens = counts.get("tokens", counts.get("training_tokens", 0))
    return Part("", exactly(tokens), None, exactly(manifest["seconds"]), there=True)


def estimate_total(found: np.ndarray, sizes: np.ndarray, all_sizes: np.ndarray, limit: float) -> Total:
    """The total over all rows of what is known of a random sample of them: a ratio estimate.

    `found`: of each sampled row, float [n]; `sizes`: their characters, [n]; `all_sizes`: those of all rows,
    [N]. What is found is roughly in proportion to the characters, up to `limit` of them, where rows are cut.
    The 95% interval is that of the residuals, with Student's t, and is empty if all rows are in the sample.
    """
    n, rows = len(found), len(all_sizes)
    if n == rows:
        return exactly(float(found.sum()))
    from scipy.stats import t

    counted = np.minimum(sizes, limit)
    ratio = found.sum() / counted.sum()
    value = float(ratio * np.minimum(all_sizes, limit).sum())
    spread = float(np.std(found - ratio * counted, ddof=1)) * math.sqrt((1 - n / rows) / n)
    error = float(t.ppf(0.975, n - 1)) * rows * spread
    return Total(value, max(0.0, value - error), value + error)


class Reservoir:
    """The characters of each row of a pool (4 bytes a row), and a random sample of the rows."""

    def __init__(self, seed: int) -> None:
        self.sizes = array("I")
        self.rows: list[tuple[int, Any]] = []
        self._rng = generator(seed, "plan")

    def add(self, sample: Sample, row: Any) -> None:
        """The next row, by its sample."""
        size, seen = len(format_chat(sample.messages, "")), len(self.sizes)
        self.sizes.append(size)
        if len(self.rows) < SAMPLE:
            self.rows.append((size, row))
        elif (at := int(self._rng.integers(seen + 1))) < SAMPLE:
            self.rows[at] = (size, row)

    def drawn(self) -> tuple[np.ndarray, list[Any]]:
        """Characters (int64 [n]) and rows of the sample in random order, so that its first are one too."""
        order = self._rng.permutation(len(self.rows)).tolist()
        return np.array([self.rows[i][0] for i in order]), [self.rows[i][1] for i in order]
