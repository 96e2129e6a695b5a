"""Top-PPL and Mid-PPL: samples by the mean token NLL of their whole text (paper, section 2)."""

from __future__ import annotations

from rdslib.methods.base import Highest, of_one_pass

# Perplexity is the exponential of NLL, which a sample of one token has not.
TOP_PPL = Highest("top_ppl", "lm.nll", title="Top-PPL", colour="#E69F00", formula=of_one_pass)
# From the 33rd percentile of the ranking on.
MID_PPL = Highest("mid_ppl", "lm.nll", title="Mid-PPL", colour="#A89200", formula=of_one_pass, skip=0.33)
