"""RDS+ over the last layers (CRDS-R): their states, each projected to a part of a row by random signs.

Shu and others, *On Representation Redundancy in Large-Scale Instruction Tuning Data Selection*,
arXiv 2602.13773. The states come from the pass that RDS+'s come from (`rdslib.models.encode`).
"""

from __future__ import annotations

from rdslib.methods.base import InnerProduct, of_one_pass

# The last 18 layers. One forward pass, as RDS+ (a count of ours).
RDS_LAYERS = InnerProduct(
    "rds_layers", "lm.layers_all", title="RDS+, last layers", colour="#6699CC", formula=of_one_pass
)
