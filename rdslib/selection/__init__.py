"""Picking from score blocks: a selector says how, by the scores of many queries.

`SELECTORS` holds what there is, by name.
"""

from __future__ import annotations

from rdslib.errors import unknown
from rdslib.selection.base import Selector
from rdslib.selection.greedy import MAX
from rdslib.selection.knn import KNN_KDE, KNN_UNIFORM
from rdslib.selection.mean import MEAN
from rdslib.selection.round_robin import ROUND_ROBIN

SELECTORS: dict[str, Selector] = {each.name: each for each in (ROUND_ROBIN, MAX, MEAN, KNN_UNIFORM, KNN_KDE)}


def get_selector(name: str) -> Selector:
    """Return the selector that goes by a name; raises UserError with the names there are."""
    if name not in SELECTORS:
        raise unknown("selector", name, SELECTORS)
    return SELECTORS[name]
