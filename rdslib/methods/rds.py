"""RDS+ and its ablations: cosine similarity of pooled last hidden states (paper, section 2, Table 6)."""

from __future__ import annotations

from rdslib.methods.base import InnerProduct
from rdslib.models.flops import CostModel, one_pass_flops


class HiddenStates(InnerProduct):
    """Samples by the cosine of their pooled hidden states with a query's."""

    def paper_flops(self, pool_size: int, samples: int, cost: CostModel) -> float:
        """One forward pass over the pool."""
        return one_pass_flops(pool_size, cost)


# A mean over all tokens of prompt and response in which later ones weigh more.
RDS = HiddenStates("rds", "lm.weighted_all", title="RDS+", colour="#0072B2")

# The last token is the end-of-sequence token. The spans are pooled from the same forward pass as the whole,
# so that a response's states know its prompt (the reference code passes each span through by itself).
ABLATIONS = (
    HiddenStates("rds_eos", "lm.last_all", title="RDS+, EOS token only"),
    HiddenStates("rds_uniform", "lm.uniform_all", title="RDS+, uniform mean-pool"),
    HiddenStates("rds_prompt", "lm.weighted_prompt", title="RDS+, prompt only"),
    HiddenStates("rds_label", "lm.weighted_response", needs_response=True, title="RDS+, label only"),
)
