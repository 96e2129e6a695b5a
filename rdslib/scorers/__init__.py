"""Methods: each is a scorer, which turns what is known of the pool into score blocks.

A scorer says by what name it goes, which features of the samples it reads, and gives blocks `S[q, d]`
(higher is better; see `rdslib.select`). Those without queries have one row; balanced random has one row a
source. Add a method by writing a class with these members and registering it.
"""

from __future__ import annotations

from rdslib.errors import UserError
from rdslib.scorers.base import Scorer, ScoringInputs
from rdslib.scorers.random import BalancedRandom, Random
from rdslib.scorers.rds import RDS

__all__ = ["SCORERS", "Scorer", "ScoringInputs", "get_scorer"]

SCORERS: dict[str, Scorer] = {scorer.name: scorer for scorer in (Random(), BalancedRandom(), RDS())}


def get_scorer(name: str) -> Scorer:
    """The scorer that goes by a name; raises UserError with the names there are."""
    if name not in SCORERS:
        raise UserError(f"unknown method {name!r}; methods: {', '.join(sorted(SCORERS))}")
    return SCORERS[name]
