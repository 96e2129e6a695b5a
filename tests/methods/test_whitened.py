"""Whitened states against scikit-learn's PCA, however the pool is cut up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from rdslib.methods import ScoringInputs, get_scorer, whitened
from rdslib.methods.whitened import FEATURE
from tests.methods.test_scorers import whole, write_feature

SAMPLES, HIDDEN = 160, 12


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """States of unit length with a large mean, of a few loud directions; in shards of two sizes."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("states")
    rows = rng.normal(size=(SAMPLES + 3, HIDDEN)) * np.geomspace(1, 0.05, HIDDEN) + 2
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    for size in (160, 37):
        write_feature(folder / str(size), "weighted_all", rows[:SAMPLES], size)
    write_feature(folder / "queries", "weighted_all", rows[SAMPLES:], 3)
    return folder, rows[:SAMPLES].astype(np.float64), rows[SAMPLES:].astype(np.float64)


def inputs(folder, size=37, kept=None, part=(0, 1)):
    only = {} if kept is None else {FEATURE: np.array(kept)}
    return ScoringInputs((), 0, {FEATURE: folder / str(size)}, {FEATURE: folder / "queries"}, only, part)


def naive(pool, queries, dimensions, fitted=None):
    pca = PCA(dimensions, whiten=True, svd_solver="full").fit(pool if fitted is None else fitted)
    ours, theirs = (
        each / np.linalg.norm(each, axis=1, keepdims=True) for each in map(pca.transform, (queries, pool))
    )
    return ours @ theirs.T


@pytest.mark.parametrize("size", [37, 160])
@pytest.mark.parametrize("dimensions", [1, 5, 12])
def test_scores_are_cosines_of_whitened_states(states, monkeypatch, size, dimensions):
    folder, pool, queries = states
    monkeypatch.setattr(whitened, "DIMENSIONS", dimensions)
    monkeypatch.setattr("rdslib.methods.whitened.TILE", 10)
    whitened._fit.cache_clear()
    scores = whole("rds_whitened", inputs(folder, size))
    np.testing.assert_allclose(scores, naive(pool, queries, dimensions), atol=2e-5)
    # The ranking is another than that of RDS+.
    assert (scores[0].argsort() != whole("rds", inputs(folder, size))[0].argsort()).any()


def test_the_fit_is_on_samples_from_all_over_the_pool(states, monkeypatch):
    folder, pool, queries = states
    monkeypatch.setattr(whitened, "SAMPLES", 64)
    whitened._fit.cache_clear()
    expected = naive(pool, queries, HIDDEN, pool[np.arange(64) * SAMPLES // 64])
    np.testing.assert_allclose(whole("rds_whitened", inputs(folder)), expected, atol=2e-5)
    whitened._fit.cache_clear()


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, SAMPLES - 1), min_size=60, unique=True).map(sorted))
def test_a_smaller_pool_has_a_fit_of_its_own(states, kept):
    folder, pool, queries = states
    scores = whole("rds_whitened", inputs(folder, kept=kept))
    np.testing.assert_allclose(
        scores, naive(pool[kept], queries, min(HIDDEN, len(kept) // 4)), rtol=0, atol=2e-4
    )


def test_every_part_of_a_pool_is_scored_by_the_fit_to_all_of_it(states):
    folder, _, _ = states
    blocks = get_scorer("rds_whitened").blocks
    whole_pool = dict(blocks(inputs(folder)))
    for part in range(3):
        whitened._fit.cache_clear()  # another process
        for start, block in blocks(inputs(folder, part=(part, 3))):
            assert (whole_pool.pop(start) == block).all()
    assert not whole_pool


def test_few_or_equal_samples_keep_few_directions(states, tmp_path):
    folder, pool, queries = states
    for count in (2, 9, 20):
        scores = whole("rds_whitened", inputs(folder, kept=range(count)))
        np.testing.assert_allclose(scores, naive(pool[:count], queries, max(1, count // 4)), atol=2e-4)
    write_feature(tmp_path / "37", "weighted_all", np.full((50, 4), 0.5, dtype=np.float16), 50)
    write_feature(tmp_path / "queries", "weighted_all", np.eye(4, dtype=np.float16), 50)
    assert not whole("rds_whitened", inputs(tmp_path)).any()
