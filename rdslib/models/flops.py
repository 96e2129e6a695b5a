"""What a run costs, in floating-point operations.

Two counts live here. The *paper's* (its Appendix E) is a formula of the number of samples, and gives
Figure 1's and Figure 3's x-axis. The *measured* one uses the tokens that one of our runs really saw.
Both take 2 operations a parameter and token for a forward pass, and 6 for a training step.
"""

from __future__ import annotations

from dataclasses import dataclass

FORWARD = 2
TRAINING = 6


@dataclass(frozen=True)
class CostModel:
    """The numbers that the paper's formulas rest on; the defaults are the paper's."""

    parameters: float = 8e9
    # Embed (GTR) encodes the pool with a smaller model of its own, and so does Embed (MiniLM).
    embedder_parameters: float = 110e6
    # Every sample counts as a full context, however short it is.
    tokens_per_sample: int = 2_048
    epochs: int = 2
    # IFD first encodes this many samples to pick from, then trains once over these few.
    ifd_encoded: int = 200_000
    ifd_trained: int = 1_000


PAPER = CostModel()


def training_flops(samples: int, cost: CostModel = PAPER) -> float:
    """FLOPs of fine-tuning on `samples` samples, all epochs (Appendix E)."""
    return TRAINING * cost.parameters * cost.tokens_per_sample * samples * cost.epochs


def selection_flops(method: str, pool_size: int, samples: int, cost: CostModel = PAPER) -> float:
    """FLOPs of selecting `samples` of `pool_size` with a method, by its registry key (Appendix E).

    `samples` matters to LESS alone, whose warm-up the paper counts as a second fine-tuning.
    Raises ValueError for a method whose cost the paper does not give.
    """
    sample = cost.parameters * cost.tokens_per_sample
    one_pass = FORWARD * sample * pool_size
    if method in ("random", "random_balanced"):
        return 0.0
    if method in ("top_ppl", "mid_ppl", "embed_nv") or method == "rds" or method.startswith("rds_"):
        return one_pass
    if method in ("embed_gtr", "embed_minilm"):
        return FORWARD * cost.embedder_parameters * cost.tokens_per_sample * pool_size
    if method == "less":
        return training_flops(samples, cost) + 3 * TRAINING * sample * pool_size
    if method == "ifd":
        warm_up = FORWARD * sample * cost.ifd_encoded + TRAINING * sample * cost.ifd_trained
        return warm_up + one_pass
    raise ValueError(f"the paper gives no cost for the method {method!r}")


def total_flops(method: str, samples: int, pool_size: int, cost: CostModel = PAPER) -> float:
    """FLOPs of selecting `samples` of `pool_size` and fine-tuning on them (Appendix E)."""
    return training_flops(samples, cost) + selection_flops(method, pool_size, samples, cost)
