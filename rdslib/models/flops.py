"""What a run costs, in floating-point operations.

The *paper's* count (its Appendix E) is a formula of the number of samples, and gives Figure 1's and Figure
3's x-axis; that of a selection is its method's (`Scorer.paper_flops`). The *measured* one uses the tokens
that one of our runs really saw.
Both take 2 operations a parameter and token for a forward pass, and 6 for a training step.
"""

from __future__ import annotations

from dataclasses import dataclass

FORWARD = 2
TRAINING = 6


@dataclass(frozen=True)
class CostModel:
    """The numbers that the paper's formulas rest on; the defaults are the paper's.

    Attributes:
        parameters: N, the language model's.
        embedder_parameters: Those of the smaller model that Embed (GTR) and (MiniLM) encode the pool with.
        tokens_per_sample: Every sample counts as a full context, however short it is.
        epochs: Of training on a selection.
        ifd_encoded: How many samples IFD first encodes to pick from.
        ifd_trained: How many of these it then trains on, once.
    """

    parameters: float = 8e9
    embedder_parameters: float = 110e6
    tokens_per_sample: int = 2_048
    epochs: int = 2
    ifd_encoded: int = 200_000
    ifd_trained: int = 1_000


PAPER = CostModel()


def training_flops(samples: int, cost: CostModel = PAPER) -> float:
    """FLOPs of fine-tuning on `samples` samples, all epochs (Appendix E)."""
    return TRAINING * cost.parameters * cost.tokens_per_sample * samples * cost.epochs


def one_pass_flops(samples: int, cost: CostModel = PAPER) -> float:
    """FLOPs of one forward pass of the language model over `samples` samples (Appendix E)."""
    return FORWARD * cost.parameters * cost.tokens_per_sample * samples
