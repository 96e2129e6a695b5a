"""What a scorer is given, and what it must be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rdslib.select import Block


@dataclass(frozen=True)
class ScoringInputs:
    """What a scorer may read.

    `sources`: the source of each pool sample, by position. `seed`: for what is random in a method.
    `pool`, `queries`: folders of feature shards, as `rdslib.features` reads them, for scorers that name
    `features`.
    """

    sources: Sequence[str]
    seed: int
    pool: Path | None = None
    queries: Path | None = None


class Scorer(Protocol):
    """A selection method."""

    name: str
    # Whether the scores depend on the target task's query samples.
    needs_queries: bool
    # Whether they depend on the seed.
    seeded: bool
    # Which features of pool samples (and of query samples) the method reads.
    features: tuple[str, ...]

    def blocks(self, inputs: ScoringInputs) -> Iterator[Block]:
        """Score blocks that cover every pool position once."""
        ...
