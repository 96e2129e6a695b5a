"""Top-PPL and Mid-PPL: the mean token NLL of a sample under the base model (paper, section 2)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rdslib.methods.base import Scorer, ScoringInputs
from rdslib.models.flops import CostModel, one_pass_flops
from rdslib.selection.topk import Block


class Perplexity(Scorer):
    """Samples by the NLL of their whole text, highest first; perplexity is its exponential."""

    features = ("lm.nll",)
    by_shard = True

    def __init__(self, name: str, title: str, colour: str, skip: float) -> None:
        self.name = name
        self.title = title
        self.colour = colour
        self.skip = skip

    def paper_flops(self, pool_size: int, samples: int, cost: CostModel) -> float:
        """One forward pass over the pool."""
        return one_pass_flops(pool_size, cost)

    def blocks(self, inputs: ScoringInputs) -> Iterator[Block]:
        """Yield a block a shard, of one row; a sample of one token has no NLL and is never offered."""
        for start, rows in inputs.pool("lm.nll"):
            yield start, np.where(np.isnan(rows), -np.inf, rows)[None, :]


TOP_PPL = Perplexity("top_ppl", "Top-PPL", "#E69F00", skip=0.0)
# From the 33rd percentile of the ranking on.
MID_PPL = Perplexity("mid_ppl", "Mid-PPL", "#A89200", skip=0.33)
