"""Doubly greedy: the largest score of any query, highest first (the reference's `max`)."""

from __future__ import annotations

from rdslib.selection.base import Selector, by_max

# Several tasks take turns by their best queries with round-robin too: there the two select the same.
MAX = Selector(
    "max", "The largest score of any query, highest first: doubly greedy.", "its best query", by_max
)
