"""Random generators that follow from a seed and from what they are used for."""

from __future__ import annotations

import numpy as np


def generator(seed: int, *names: str) -> np.random.Generator:
    """Return a generator apart for each use of one seed, named by `names`."""
    words = [int.from_bytes(name.encode(), "big") for name in names]
    return np.random.default_rng([seed, *words])
