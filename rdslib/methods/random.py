"""Random selection: uniform over samples, or even over sources (paper, section 2, baselines)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rdslib.methods.base import Scorer, ScoringInputs
from rdslib.models.flops import CostModel
from rdslib.seeds import generator
from rdslib.selection.topk import Block

# The source of answers such as the model's name, as the paper and the published pool call it.
HARD_CODED = ("hardcoded", "hard_coded")


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
        count as one (paper, section 2); a selection of the whole pool has it as well.
        """
        sources = np.array(["science" if s.startswith("science.") else s for s in inputs.sources])
        names, counts = np.unique(sources, return_counts=True)
        scores = generator(inputs.seed, self.name).random(len(sources))
        left_out = np.isin(names, HARD_CODED)
        if left_out.any() and not left_out.all():
            # Behind all of the source that is the last to run out.
            last = names[~left_out][counts[~left_out].argmax()]
            scores = np.where(np.isin(sources, HARD_CODED), scores - 1, scores)
            sources = np.where(np.isin(sources, HARD_CODED), last, sources)
            names = names[~left_out]
        yield 0, np.where(sources[None, :] == names[:, None], scores[None, :], -np.inf)
