"""A limit on how like one another picks may be: `--max-similarity`.

Whether a sample may be picked follows from what has been picked before it, so that the walk goes on as
without it, and a sample that is too like an earlier pick is passed over like one that was taken.
"""

from __future__ import annotations

import numpy as np

from rdslib.selection.base import Rows
from rdslib.selection.knn import TILE, unit
from rdslib.selection.round_robin import Allow, Limit

# Offers that are compared with one another at a time; by how much a cosine must exceed the bound.
OFFERS, MARGIN = 1024, 1e-9


def apart(rows: Rows, most: float, limit: Limit | None = None) -> Limit:
    """The limit that no pick's cosine with an earlier pick exceeds `most`, beside another `limit`.

    Holds the vectors of the picks, as they are stored. A vector that is all zero is like no other.
    """

    def both(outside: np.ndarray) -> Allow:
        return _Apart(rows, most, limit(outside) if limit else None)

    return both


class _Apart:
    def __init__(self, rows: Rows, most: float, allow: Allow | None) -> None:
        self.rows, self.most, self.allow = rows, most, allow
        # The vectors of the picks, part by part.
        self.picked: list[np.ndarray] = []

    def __call__(self, picks: np.ndarray, offers: np.ndarray) -> np.ndarray:
        _, first = np.unique(offers, return_index=True)
        new = offers[np.sort(first)]
        new = new[~np.isin(new, picks)]
        taken = picks
        for at in range(0, len(new), OFFERS):
            taken = np.concatenate([taken, self._taken(taken, new[at : at + OFFERS])])
        return np.isin(offers, taken)

    def _taken(self, picks: np.ndarray, offers: np.ndarray) -> np.ndarray:
        """Which of the next offers are picked, each of them once."""
        vectors = self.rows(offers)
        ours = unit(vectors)
        far = np.ones(len(offers), dtype=bool)
        for part in self.picked:
            for start in range(0, len(part), TILE):
                far &= ~self._like(ours, unit(part[start : start + TILE])).any(axis=1)
        like = self._like(ours, ours)
        kept: list[int] = []
        for at in np.flatnonzero(far).tolist():
            if far[at] and self._allowed(picks, offers[kept], offers[at]):
                kept.append(at)
                far &= ~like[at]
        self.picked.append(vectors[kept])
        return offers[kept]

    def _allowed(self, picks: np.ndarray, more: np.ndarray, offer: np.int64) -> bool:
        return self.allow is None or bool(self.allow(np.concatenate([picks, more]), np.array([offer]))[0])

    def _like(self, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        return np.asarray(ours @ theirs.T > self.most + MARGIN)
