"""KNN-uniform and KNN-KDE: each query spreads its mass over its nearest samples (TSDS, arXiv 2410.11303).

The two are closed forms of an optimal transport from queries to samples. Each of M queries has the mass 1/M.
With *KNN-uniform* it gives the same to each of its K nearest samples; with *KNN-KDE* a sample takes less the
denser the samples lie around it, so that near duplicates share what one alone would get. How far it goes is
the same for all queries: it goes on for as long as

    alpha / C * (what transporting the mass that far costs, over all queries) < (1 - alpha) * M

with distances 1 - score, alpha = 0.01 and C = 5 (those of arXiv 2602.14696, which runs both selectors beside
round-robin), and not beyond the `NEAREST` nearest, a tenth of the pool (as in TSDS's code), or `PAIRS` over
all queries. With KNN-KDE that is `DENSE_PAIRS`, since each of these samples is compared with each: it goes
less far with more than 13 queries. The density of a sample is the sum over all nearest samples of any query,
itself among them, of

    max(0, 1 - D^2 / sigma^2),   D^2 = 2 (1 - cosine),   sigma = 0.75

What is ours: TSDS then draws samples by their mass, with replacement; here those of the largest mass are
picked, highest first, as in 2602.14696, and nothing is drawn. Ties, of which KNN-uniform has many, go to the
largest score of a query that gives the sample mass, then to the smaller position. Samples without mass come
after all others, by the largest score of any query. All queries stop together where the first has no more
within these bounds; TSDS lays what is left on the last sample of a query. Densities are exact, where TSDS
searches approximately and adds up 1,000 neighbours at most.

Memory: the nearest samples of all queries and, with KNN-KDE, their vectors; the pool is gone through twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rdslib.selection.base import Lists, Rows, Selector, highest
from rdslib.selection.topk import Ranked, Ranker

NEAREST, SHARE, PAIRS, DENSE_PAIRS = 5_000, 10, 2**22, 2**16
ALPHA, C, SIGMA = 0.01, 5.0, 0.75
# Vectors that are compared at a time.
TILE = 4096


def spread(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mass that queries give to samples: float64 [queries, nearest], 1 in all.

    Args:
        scores: Of each query's nearest samples, best first: float64 [queries, nearest].
        weights: How much these take, relative to one another: 1, or one over the density. Same shape.
    """
    reached = weights.cumsum(axis=1)
    # Only differences of distances count.
    distances = scores[:, :1] - scores
    costs = distances[:, 1:] * reached[:, :-1] - (distances * weights).cumsum(axis=1)[:, :-1]
    stops = reached[:, :-1].ravel()
    order = np.argsort(stops, kind="stable")
    total = np.diff(costs, axis=1, prepend=0.0).ravel()[order].cumsum()
    enough = np.flatnonzero(ALPHA / C * total >= (1 - ALPHA) * len(scores))[:1]
    far = min([reached[:, -1].min(), *stops[order][enough]])
    return np.clip(far - (reached - weights), 0.0, weights) / (far * len(scores))


def densities(vectors: np.ndarray) -> np.ndarray:
    """How dense vectors lie around each of them: float64 [samples], 1 for one that is alone."""
    found = np.zeros(len(vectors))
    tiles = [slice(at, at + TILE) for at in range(0, len(vectors), TILE)]
    for number, here in enumerate(tiles):
        ours = unit(vectors[here])
        for there in tiles[number:]:
            squared = 2 - 2 * ours @ unit(vectors[there]).T
            kernel = np.maximum(0, 1 - squared / SIGMA**2)
            found[here] += kernel.sum(axis=1)
            if there != here:
                found[there] += kernel.sum(axis=0)
    # Products of equal vectors differ in their last digits, which are to decide nothing. A vector that is all
    # zero is near none, not even itself.
    return np.maximum(found, 1).round(4)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1, float64; one that is all zero stays so."""
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(wide / np.where(lengths > 0, lengths, 1))


@dataclass(frozen=True)
class _ByMass:
    """Ranks a pool by mass: `places` (int64, sorted) have some, and the `ranks` that follow from it."""

    places: np.ndarray
    mass: np.ndarray
    ranks: np.ndarray

    def reduce(self, start: int, block: np.ndarray) -> np.ndarray:
        """Ranks, which are above all scores, and of samples without mass the largest score."""
        row = highest(start, block).astype(np.float64)
        first, end = np.searchsorted(self.places, [start, start + block.shape[1]])
        row[0, self.places[first:end] - start] = self.ranks[first:end]
        return row

    def shown(self, ranked: Ranked) -> Ranked:
        """The mass, in place of what stands for it."""
        at = np.searchsorted(self.places, ranked.positions).clip(max=len(self.places) - 1)
        return Ranked(np.where(self.places[at] == ranked.positions, self.mass[at], 0.0), ranked.positions)


def _nearest(ranker: Ranker, pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores (float64) and positions of each query's nearest samples: [queries, nearest] both."""
    ranking = ranker(NEAREST, None, None)
    lists = found = ranking.lists()
    depth = max(1, min(NEAREST, ranking.samples // SHARE, pairs // max(1, len(lists))))
    reached = ranking.depth
    # A ranker that holds less is asked again.
    while reached < depth and any(each.scores.size == ranking.depth for each in found):
        after = [each if each.scores.size == ranking.depth else each.cut(0) for each in found]
        ranking = ranker(depth, None, after)
        found, reached = ranking.lists(), reached + ranking.depth
        lists = [_joined(*both) for both in zip(lists, found, strict=True)]
    depth = min([depth, *(each.scores.size for each in lists if each.scores.size)])
    lists = [each.cut(depth) for each in lists if each.scores.size]
    scores = np.array([each.scores for each in lists], dtype=np.float64).reshape(-1, depth)
    return scores, np.array([each.positions for each in lists], dtype=np.int64).reshape(-1, depth)


def _joined(first: Ranked, then: Ranked) -> Ranked:
    return Ranked(
        np.concatenate([first.scores, then.scores]), np.concatenate([first.positions, then.positions])
    )


def _lists(ranker: Ranker, rows: Rows | None) -> Lists:
    scores, positions = _nearest(ranker, PAIRS if rows is None else DENSE_PAIRS)
    if not scores.size:  # nothing is offered
        return Lists(ranker, highest)
    if not np.abs(scores).max() < 2**50:
        raise ValueError("scores are too large to tell distances by")
    places, at = np.unique(positions, return_inverse=True)
    at = at.reshape(positions.shape)
    weights = np.ones_like(scores) if rows is None else 1 / densities(rows(places))[at]
    given = spread(scores, weights)
    mass = np.bincount(at.ravel(), given.ravel(), len(places)).round(12)
    best = np.full(len(places), -np.inf)
    np.maximum.at(best, at[given > 0], scores[given > 0])
    some = np.flatnonzero(mass > 0)
    order = some[np.lexsort((places[some], -best[some], -mass[some]))]
    ranks = np.empty(len(places))
    ranks[order] = np.ceil(scores.max()) + np.arange(len(order), 0, -1)
    by_mass = _ByMass(places[some], mass[some], ranks[some])
    return Lists(ranker, by_mass.reduce, by_mass.shown)


def _uniform(ranker: Ranker, rows: Rows | None) -> Lists:
    return _lists(ranker, None)


BY = "the mass that its queries give"
KNN_UNIFORM = Selector(
    "knn_uniform",
    "Each query's mass spread evenly over its nearest samples, the most mass first.",
    BY,
    _uniform,
)
KNN_KDE = Selector(
    "knn_kde",
    "The same, but samples that lie densely, such as near duplicates, take less.",
    BY,
    _lists,
    vectors=True,
)
