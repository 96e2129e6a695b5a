"""Scorers: each method against its definition."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rdslib.errors import UserError
from rdslib.methods import ScoringInputs, features, get_scorer
from rdslib.selection.round_robin import choose
from rdslib.selection.topk import over

SOURCES = (
    ["a"] * 50
    + ["b"] * 30
    + ["c"] * 5
    + ["hardcoded"] * 6
    + ["hard_coded"] * 4
    + ["science.x"] * 4
    + ["science.y"] * 4
)


def pick(method, k, seed=0, sources=SOURCES):
    return choose([over(lambda: get_scorer(method).blocks(ScoringInputs(sources, seed)))], k)


def test_random_is_seeded_and_without_repeats():
    first, again, other = (pick("random", 40, seed).indices.tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert len(set(first)) == 40


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
    # What is left out comes when nothing else is left: the whole pool can be asked for.
    assert names(103) == {"a": 50, "b": 30, "c": 5, "science": 8, "hardcoded": 6, "hard_coded": 4}


def write_feature(folder, name, rows, size):
    folder.mkdir(exist_ok=True)
    for start in range(0, len(rows), size):
        features.write(folder / features.shard_name(name, start), rows[start : start + size])


def whole(method, inputs):
    return np.concatenate([block for _, block in get_scorer(method).blocks(inputs)], axis=1)


@pytest.mark.parametrize(
    ("method", "feature"),
    [
        ("rds", "lm.weighted_all"),
        ("rds_eos", "lm.last_all"),
        ("rds_uniform", "lm.uniform_all"),
        ("rds_prompt", "prompt.weighted_all"),
        ("rds_label", "label.weighted_all"),
        ("rds_layers", "lm.layers_all"),
    ],
)
def test_rds_scores_are_cosines(tmp_path, method, feature):
    rng = np.random.default_rng(0)
    pool, queries = tmp_path / "pool", tmp_path / "queries"
    rows = rng.normal(size=(25, 6)).astype(np.float32)
    wanted = rng.normal(size=(3, 6)).astype(np.float32)
    for folder, vectors, size in ((pool, rows, 10), (queries, wanted, 3)):
        unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
        unit[4:5] = 0  # a sample of the pool without the span
        write_feature(folder, feature.split(".")[1], unit, size)
    inputs = ScoringInputs(["a"] * 25, 0, {feature: pool}, {feature: queries})
    assert [start for start, _ in get_scorer(method).blocks(inputs)] == [0, 10, 20]
    expected = [[np.dot(q, d) / np.linalg.norm(q) / np.linalg.norm(d) for d in rows] for q in wanted]
    scores = whole(method, inputs)
    others = [i for i in range(25) if i != 4]
    np.testing.assert_allclose(scores[:, others], np.array(expected)[:, others], atol=2e-3)
    assert (scores[:, 4] == -np.inf).all()


def test_a_query_without_the_feature_is_an_error_and_no_ranking(tmp_path):
    rows = np.eye(3, dtype=np.float16)
    write_feature(tmp_path / "pool", "weighted_all", rows, 3)
    write_feature(tmp_path / "queries", "weighted_all", rows * [[1], [0], [1]], 3)
    name = "label.weighted_all"
    inputs = ScoringInputs(["a"] * 3, 0, {name: tmp_path / "pool"}, {name: tmp_path / "queries"})
    with pytest.raises(UserError, match=f"^rds_label: query 1 has no {name}, so that every sample would"):
        whole("rds_label", inputs)


def test_a_feature_is_read_from_its_shards_alone(tmp_path):
    for name, value in (("emb", 1), ("emb-large", 2), ("emb-000000000", 3), ("my.emb", 4)):
        write_feature(tmp_path, name, np.full(5, value), 2)
    for name, value in (("emb", 1), ("emb-large", 2), ("my.emb", 4)):
        assert features.read_all(tmp_path, name).tolist() == [value] * 5
        assert [start for start, _ in features.read_shards(tmp_path, name)] == [0, 2, 4]


def test_top_and_mid_ppl_are_slices_of_one_ranking(tmp_path):
    nll = np.random.default_rng(1).normal(3, 1, size=100).astype(np.float32)
    nll[7] = np.nan  # a sample of one token
    write_feature(tmp_path / "pool", "nll", nll, 30)
    inputs = ScoringInputs(["a"] * 100, 0, {"lm.nll": tmp_path / "pool"})
    ranking = sorted((i for i in range(100) if i != 7), key=lambda i: -nll[i])
    top, mid = get_scorer("top_ppl"), get_scorer("mid_ppl")
    assert choose([over(lambda: top.blocks(inputs))], 10).indices.tolist() == ranking[:10]
    assert (top.skip, mid.skip) == (0, 0.33)
    assert choose([over(lambda: mid.blocks(inputs))], 10, 33).indices.tolist() == ranking[33:43]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 39), min_size=1, unique=True).map(sorted), st.integers(1, 40))
def test_a_smaller_pool_reads_its_own_rows_of_the_whole_pools_features(tmp_path, kept, size):
    folder = tmp_path / str(size)
    rows = np.arange(40, dtype=np.float32)
    write_feature(folder, "nll", rows, size)
    inputs = ScoringInputs(["a"] * len(kept), 0, {"lm.nll": folder}, {}, {"lm.nll": np.array(kept)})
    blocks = list(inputs.pool("lm.nll"))
    assert np.concatenate([found for _, found in blocks]).tolist() == kept
    assert [start for start, _ in blocks] == [0, *np.cumsum([len(found) for _, found in blocks])[:-1]]
