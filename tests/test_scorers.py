"""Scorers: the registry, and each method against its definition."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from rdslib import features
from rdslib.errors import UserError
from rdslib.scorers import SCORERS, ScoringInputs, get_scorer
from rdslib.select import round_robin

SOURCES = ["a"] * 50 + ["b"] * 30 + ["c"] * 5 + ["hardcoded"] * 10 + ["science.x"] * 4 + ["science.y"] * 4


def pick(method, k, seed=0, sources=SOURCES):
    return round_robin(get_scorer(method).blocks(ScoringInputs(sources, seed)), k)


def test_unknown_method_is_told():
    with pytest.raises(UserError, match=r"unknown method 'rsd'; methods: .*rds"):
        get_scorer("rsd")


def test_every_scorer_goes_by_its_name():
    assert all(name == scorer.name for name, scorer in SCORERS.items())


def test_random_is_seeded_and_without_repeats():
    first, again, other = pick("random", 40), pick("random", 40), pick("random", 40, seed=1)
    assert first.indices.tolist() == again.indices.tolist()
    assert first.indices.tolist() != other.indices.tolist()
    assert len(set(first.indices.tolist())) == 40


def test_random_is_uniform():
    counts = Counter(i for seed in range(600) for i in pick("random", 5, seed, ["a"] * 20).indices.tolist())
    # 600 draws of 5 of 20: 150 each; 5 standard deviations are 53.
    assert all(abs(counts[i] - 150) < 53 for i in range(20))


def test_balanced_takes_alike_from_each_source_and_hands_on_what_is_short():
    def names(k):
        picks = pick("random_balanced", k).indices
        return Counter(SOURCES[i].split(".")[0] for i in picks)

    assert names(20) == {"a": 5, "b": 5, "c": 5, "science": 5}
    # c has 5 and science 8: their shares go to a and b.
    assert names(43) == {"a": 15, "b": 15, "c": 5, "science": 8}
    assert names(93) == {"a": 50, "b": 30, "c": 5, "science": 8}


def test_rds_scores_are_cosines(tmp_path):
    rng = np.random.default_rng(0)
    pool, queries = tmp_path / "pool", tmp_path / "queries"
    rows = rng.normal(size=(25, 6)).astype(np.float32)
    wanted = rng.normal(size=(3, 6)).astype(np.float32)
    for folder, vectors, size in ((pool, rows, 10), (queries, wanted, 3)):
        folder.mkdir()
        unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
        for start in range(0, len(unit), size):
            features.write(folder / features.shard_name("hidden", start), unit[start : start + size])
    inputs = ScoringInputs(["a"] * 25, 0, pool, queries)
    blocks = list(get_scorer("rds").blocks(inputs))
    assert [start for start, _ in blocks] == [0, 10, 20]
    scores = np.concatenate([block for _, block in blocks], axis=1)
    expected = [[np.dot(q, d) / np.linalg.norm(q) / np.linalg.norm(d) for d in rows] for q in wanted]
    np.testing.assert_allclose(scores, expected, atol=2e-3)
