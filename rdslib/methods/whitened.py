"""RDS+ on whitened states (CRDS-W): no direction of the states weighs more than another.

Shu and others, *On Representation Redundancy in Large-Scale Instruction Tuning Data Selection*,
arXiv 2602.13773. RDS+'s states are centred, and reduced by PCA with whitening; the score is the cosine.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from rdslib.methods.base import TILE, Change, InnerProduct, ScoringInputs, of_one_pass

FEATURE = "lm.weighted_all"
# How many directions are kept, and from how many samples at most they are found, as in the authors' code.
DIMENSIONS, SAMPLES = 512, 500_000
# With fewer samples to a direction, those that vary least are but noise, which whitening makes as long as
# the others. The authors' smallest pool has far more.
SAMPLES_A_DIMENSION = 4


def whitening(inputs: ScoringInputs) -> Change:
    """Fit the change of states to the pool that is scored, whatever part of it that is."""
    kept = inputs.kept.get(FEATURE)
    mean, matrix = _fit(inputs.pool_folders[FEATURE], None if kept is None else kept.tobytes())

    def change(rows: np.ndarray) -> np.ndarray:
        white = (rows - mean) @ matrix
        return white / np.maximum(np.linalg.norm(white, axis=1, keepdims=True), 1e-12)

    return change


@functools.lru_cache(maxsize=4)  # a selection for several tasks asks once a task, and again to go deeper
def _fit(folder: Path, kept: bytes | None) -> tuple[np.ndarray, np.ndarray]:
    """Find the mean (float32 [hidden]) of a pool's states, and what whitens them (float32 [hidden, kept]).

    From samples at even distances over the pool, of which a tile is held at a time. `kept` has the int64
    numbers of `ScoringInputs.kept`.
    """
    only = {} if kept is None else {FEATURE: np.frombuffer(kept, dtype=np.int64)}
    inputs = ScoringInputs((), 0, {FEATURE: folder}, kept=only)
    size = len(only[FEATURE]) if only else sum(len(rows) for _, rows in inputs.pool(FEATURE))
    count = min(size, SAMPLES)
    wanted = np.arange(count) * size // count
    total: np.ndarray = np.zeros(1)
    products: np.ndarray = np.zeros((1, 1))
    for start, shard in inputs.pool(FEATURE):
        first, end = np.searchsorted(wanted, [start, start + len(shard)])
        for at in range(first, end, TILE):
            rows = shard[wanted[at : min(at + TILE, end)] - start].astype(np.float64)
            total, products = total + rows.sum(axis=0), products + rows.T @ rows
    mean: np.ndarray = total / count
    values, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))
    # Directions in which nothing varies (there are some if samples are few) cannot be whitened.
    varying = int((values > values[-1] * 1e-10).sum())
    best = slice(-1, -1 - min(DIMENSIONS, max(1, count // SAMPLES_A_DIMENSION), varying), -1)
    matrix: np.ndarray = vectors[:, best] / np.sqrt(values[best])
    return mean.astype(np.float32), matrix.astype(np.float32)


# One forward pass, as RDS+: to fit costs less than to pass one more sample of 2,048 tokens (a count of ours).
RDS_WHITENED = InnerProduct(
    "rds_whitened", FEATURE, title="RDS+, whitened", colour="#332288", formula=of_one_pass, fit=whitening
)
