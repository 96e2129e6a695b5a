"""Random selection: uniform over samples, or even over sources (paper, section 2, baselines)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rdslib.methods.base import Scorer, ScoringInputs
from rdslib.models.flops import CostModel
from rdslib.seeds import generator
from rdslib.selection.topk import Block


class Random(Scorer):
    """Random (unbal.): every sample has the same chance."""

    name = "random"
    title = "Random (unbal.)"
    colour = "#8C8C8C"
    seeded = True

    def paper_flops(self, pool_size: int, samples: int, cost: CostModel) -> float:
        """Nothing."""
        return 0.0

    def blocks(self, inputs: ScoringInputs) -> Iterator[Block]:
        """Yield one block of one row: a uniform random score a sample."""
        yield 0, generator(inputs.seed, self.name).random((1, len(inputs.sources)))


class BalancedRandom(Scorer):
    """Random (bal.): even over sources; a source that runs out hands its share to the others."""

    name = "random_balanced"
    title = "Random (bal.)"
    colour = "#4D4D4D"
    seeded = True

    def paper_flops(self, pool_size: int, samples: int, cost: CostModel) -> float:
        """Nothing."""
        return 0.0

    def blocks(self, inputs: ScoringInputs) -> Iterator[Block]:
        """Yield one block with a row a source, in order of name: a source offers its samples in random order.

        Round-robin over these rows takes the same number from each source until one has no more. The
        "hardcoded" source ("hard_coded" in the published pool) is left out, and the sources named `science.*`
        count as one (paper, section 2).
        """
        sources = np.array(["science" if s.startswith("science.") else s for s in inputs.sources])
        names = [name for name in sorted(set(sources.tolist())) if name not in ("hardcoded", "hard_coded")]
        scores = generator(inputs.seed, self.name).random(len(sources))
        yield 0, np.where(sources[None, :] == np.array(names)[:, None], scores[None, :], -np.inf)
