"""RDS+ and its ablations: cosine similarity of pooled last hidden states (paper, section 2, Table 6)."""

from __future__ import annotations

from rdslib.methods.base import OnePass

# A mean over all tokens of prompt and response in which later ones weigh more.
RDS = OnePass("rds", "lm.weighted_all", title="RDS+", colour="#0072B2")

# The last token is the end-of-sequence token. The spans are pooled from the same forward pass as the whole,
# so that a response's states know its prompt (the reference code passes each span through by itself).
ABLATIONS = (
    OnePass("rds_eos", "lm.last_all", title="RDS+, EOS token only"),
    OnePass("rds_uniform", "lm.uniform_all", title="RDS+, uniform mean-pool"),
    OnePass("rds_prompt", "lm.weighted_prompt", title="RDS+, prompt only"),
    OnePass("rds_label", "lm.weighted_response", needs_response=True, title="RDS+, label only"),
)
