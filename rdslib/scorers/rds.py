"""RDS+: cosine similarity of position-weighted mean-pooled last hidden states (paper, section 2)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rdslib.features import read_all, read_shards
from rdslib.scorers.base import ScoringInputs
from rdslib.select import Block


class RDS:
    """RDS+: a sample's score for a query is the cosine of their embeddings."""

    name = "rds"
    needs_queries = True
    seeded = False
    features: tuple[str, ...] = ("hidden",)

    def blocks(self, inputs: ScoringInputs) -> Iterator[Block]:
        """A block a shard: float32 [queries, samples of the shard]."""
        assert inputs.pool is not None
        assert inputs.queries is not None
        queries = read_all(inputs.queries, "hidden").astype(np.float32)
        for start, rows in read_shards(inputs.pool, "hidden"):
            yield start, queries @ rows.astype(np.float32).T
