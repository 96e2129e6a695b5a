"""RDS+ and its ablations: cosine similarity of pooled last hidden states (paper, section 2, Table 6)."""

from __future__ import annotations

from rdslib.methods.base import InnerProduct, of_one_pass

# A mean over all tokens of prompt and response in which later ones weigh more.
RDS = InnerProduct("rds", "lm.weighted_all", title="RDS+", colour="#0072B2", formula=of_one_pass)

# The last token is the end-of-sequence token. Prompts and labels have passes of their own.
ABLATIONS = (
    InnerProduct("rds_eos", "lm.last_all", title="RDS+, EOS token only", formula=of_one_pass),
    InnerProduct("rds_uniform", "lm.uniform_all", title="RDS+, uniform mean-pool", formula=of_one_pass),
    InnerProduct("rds_prompt", "prompt.weighted_all", title="RDS+, prompt only", formula=of_one_pass),
    InnerProduct(
        "rds_label",
        "label.weighted_all",
        needs_response=True,
        title="RDS+, label only",
        formula=of_one_pass,
    ),
)
