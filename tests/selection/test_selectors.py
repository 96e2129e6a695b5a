"""Each selector, and the limit on similarity, against a naive version on the whole table of scores."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rdslib.errors import UserError
from rdslib.selection import SELECTORS, get_selector, knn
from rdslib.selection.apart import apart
from rdslib.selection.quota import per_source
from rdslib.selection.round_robin import choose
from rdslib.selection.topk import over
from tests.selection.test_selection import cases, ranker

BY_ONE_LIST = [name for name, each in SELECTORS.items() if each.one_list(1)]


def naive_max(scores, vectors):
    """(key, score) of each sample; None for what is never offered."""
    best = scores.max(axis=0)
    return [None if s == -np.inf else ((-s,), s) for s in best]


def naive_mean(scores, vectors):
    means = [float(np.sum([float(s) for s in column])) / len(column) for column in scores.T]
    return [None if m == -np.inf else ((-m,), m) for m in means]


def naive_knn(scores, vectors):
    """Mass goes to one sample after another, a step at a time, for as long as the rule allows."""
    queries, n = scores.shape
    pairs = knn.PAIRS if vectors is None else knn.DENSE_PAIRS
    near = [sorted(np.flatnonzero(row > -np.inf).tolist(), key=lambda d: (-row[d], d)) for row in scores]
    near = [row for row in near if row]
    if not near:
        return [None] * n
    depth = min([max(1, min(knn.NEAREST, n // knn.SHARE, pairs // queries)), *map(len, near)])
    near = [row[:depth] for row in near]
    rows = [row for row in scores if (row > -np.inf).any()]
    some = sorted({d for row in near for d in row})
    weight = dict.fromkeys(some, 1.0)
    if vectors is not None:
        ours = [vectors[d] / max(np.linalg.norm(vectors[d]), 1e-300) for d in some]
        for d, a in zip(some, ours, strict=True):
            density = sum(max(0.0, 1 - (2 - 2 * float(a @ b)) / knn.SIGMA**2) for b in ours)
            weight[d] = 1 / round(density, 4)
    far = min(sum(weight[d] for d in row) for row in near)
    stops = sorted(sum(weight[d] for d in row[: at + 1]) for row in near for at in range(depth - 1))
    for stop in stops:
        total = 0.0
        for row, score in zip(near, rows, strict=True):
            reached = 0.0
            cost = 0.0
            for at in range(depth - 1):
                reached += weight[row[at]]
                if reached <= stop + 1e-12:
                    gaps = [float(score[d]) - float(score[row[at + 1]]) for d in row[: at + 1]]
                    cost = sum(gap * weight[d] for gap, d in zip(gaps, row, strict=False))
            total += cost
        if knn.ALPHA / knn.C * total >= (1 - knn.ALPHA) * len(near) - 1e-9:
            far = min(far, stop)
            break
    mass, best = dict.fromkeys(some, 0.0), dict.fromkeys(some, -np.inf)
    for row, score in zip(near, rows, strict=True):
        left = far
        for d in row:
            given_here = min(left, weight[d])
            if given_here > 1e-12:
                mass[d] += given_here / far / len(near)
                best[d] = max(best[d], score[d])
            left -= given_here
    found = []
    for d, s in enumerate(scores.max(axis=0)):
        m = round(mass.get(d, 0.0), 12)
        found.append(None if s == -np.inf else ((-m, -best[d] if m else -s), m))
    return found


NAIVE = {
    "max": naive_max,
    "mean": naive_mean,
    "knn_uniform": lambda scores, vectors: naive_knn(scores, None),
    "knn_kde": naive_knn,
}


def naive_order(selector, scores, vectors):
    """Positions in order, and the score of each."""
    with np.errstate(invalid="ignore"):
        keys = NAIVE[selector](scores, vectors)
    order = sorted((d for d, key in enumerate(keys) if key), key=lambda d: (keys[d][0], d))
    return order, [None if key is None else key[1] for key in keys]


@pytest.fixture(autouse=True)
def _small_pools(monkeypatch):
    """A rule that ends within pools of a few samples, whose scores are from 0 to 1."""
    for name, value in {"SHARE": 2, "ALPHA": 0.9, "C": 2.0, "DENSE_PAIRS": 40, "TILE": 5}.items():
        monkeypatch.setattr(knn, name, value)


def test_every_selector_has_a_naive_version():
    assert NAIVE.keys() == set(BY_ONE_LIST)
    with pytest.raises(UserError, match="unknown selector 'min'; selectors: round_robin, max, mean, knn_"):
        get_selector("min")


def parted(scores, size, seed, held):
    """A ranker of two parts of the blocks, each ranked elsewhere, as on a cluster."""
    blocks = [(start, scores[:, start : start + size]) for start in range(0, scores.shape[1], size)]
    parts = [part for part in (blocks[::2], blocks[1::2]) if part]

    def ranked(k, reduce, after):
        first, *others = (
            over(lambda part=part: part, max(1, held // 2))(k, pickle.loads(pickle.dumps(reduce)), after)
            for part in parts
        )
        for each in others:
            first.merge(each)
        return first

    return ranked


def vectors_of(data, n):
    """Vectors of which some are equal, and none is all zero."""
    drawn = data.draw(hnp.arrays(np.int64, (n, 3), elements=st.integers(-2, 2)))
    drawn[~drawn.any(axis=1)] = 1
    return drawn.astype(np.float16)


@pytest.mark.parametrize("selector", BY_ONE_LIST)
@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(1, 40), st.integers(1, 300), st.data())
def test_one_task_by_one_list_equals_the_definition(selector, case, size, held, data):
    scores, k, sources, limits = case
    vectors = vectors_of(data, scores.shape[1])
    order, shown = naive_order(selector, scores, vectors.astype(np.float64))
    allowed = np.ones(scores.shape[1], dtype=bool)
    if limits:
        limits = (limits[0], False)  # balanced quotas are of what is offered, as in test_selection
    taken = []
    for d in order:
        full = limits and limits[0] and sum(sources[each] == sources[d] for each in taken) >= limits[0]
        if allowed[d] and not full and len(taken) < k:
            taken.append(d)
    rankers = [data.draw(st.sampled_from([ranker, parted]))(scores, size, 1, held=held)]

    def select():
        limit = per_source(sources, k, *limits) if limits else None
        return choose(rankers, k, 0, limit, get_selector(selector), lambda at: vectors[at])

    if len(taken) < k:
        with pytest.raises(ValueError, match="to choose from"):
            select()
        return
    found = select()
    assert found.indices.tolist() == taken
    assert set(found.picked_by.tolist()) == {0}
    assert found.scores.tolist() == pytest.approx([float(shown[d]) for d in taken], abs=1e-11)


@pytest.mark.parametrize("selector", BY_ONE_LIST)
@settings(max_examples=50, deadline=None)
@given(cases(lists=(4, 6)), st.integers(1, 40), st.integers(1, 300), st.data())
def test_several_tasks_take_turns_each_by_its_list(selector, case, size, held, data):
    scores, k, _, _ = case
    vectors = vectors_of(data, scores.shape[1])
    tasks = [scores[:2], scores[2:]]
    orders = [naive_order(selector, each, vectors.astype(np.float64)) for each in tasks]
    walk = [
        (order[rank], task)
        for rank in range(scores.shape[1])
        for task, (order, _) in enumerate(orders)
        if rank < len(order)
    ]
    picks = list(dict.fromkeys(d for d, _ in walk))[:k]
    rankers = [ranker(each, size, 1, held=held) for each in tasks]
    if len(picks) < k:
        with pytest.raises(ValueError, match="to choose from"):
            choose(rankers, k, selector=get_selector(selector), rows=lambda at: vectors[at])
        return
    found = choose(rankers, k, selector=get_selector(selector), rows=lambda at: vectors[at])
    assert found.indices.tolist() == picks
    until = next(i for i, (d, _) in enumerate(walk) if d == picks[-1]) + 1
    takers = [next(task for d, task in walk if d == pick) for pick in picks]
    assert found.picked_by.tolist() == takers
    offered = [[float(orders[task][1][d]) for d, task in walk[:until] if d == pick] for pick in picks]
    assert found.scores.tolist() == pytest.approx([min(each) for each in offered], abs=1e-11)


def test_near_duplicates_share_what_one_alone_would_get():
    scores = np.array([[0.9, 0.9, 0.9, 0.8, 0.1, 0.0, 0.0, 0.0]])
    vectors = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [1, 1], [1, 1], [1, 1], [1, 1]], dtype=np.float16)
    uniform, kde = (
        choose([ranker(scores)], 4, selector=get_selector(name), rows=lambda at: vectors[at])
        for name in ("knn_uniform", "knn_kde")
    )
    assert uniform.indices.tolist() == [0, 1, 2, 3]
    assert kde.indices.tolist() == [3, 0, 1, 2]
    assert kde.scores.tolist() == pytest.approx([1 / 2, 1 / 6, 1 / 6, 1 / 6])
    assert knn.densities(vectors[:4]).tolist() == [3, 3, 3, 1]


def test_scores_that_tell_no_distance_are_named():
    with pytest.raises(ValueError, match="too large to tell distances by"):
        choose([ranker(np.array([[1.0, np.inf]]))], 1, selector=get_selector("knn_uniform"))


def naive_apart(walk, k, vectors, most, sources, per):
    picks = []
    for d in walk:
        own = vectors[d].astype(np.float64)

        def cosine(other, own=own):
            lengths = np.linalg.norm(own) * np.linalg.norm(other)
            return float(own @ other) / lengths if lengths else 0.0

        full = per is not None and sum(sources[each] == sources[d] for each in picks) >= per
        like = any(cosine(vectors[each].astype(np.float64)) > most + 1e-9 for each in picks)
        if d not in picks and not full and not like and len(picks) < k:
            picks.append(d)
    return picks


@settings(max_examples=200, deadline=None)
@given(cases(), st.integers(1, 40), st.integers(1, 300), st.sampled_from([0.0, 0.5, 0.8, 1.0]), st.data())
def test_no_pick_is_too_like_an_earlier_one(case, size, held, most, data):
    scores, k, sources, limits = case
    vectors = vectors_of(data, scores.shape[1])
    vectors[:2] = data.draw(st.sampled_from([0, 1]))
    per = limits[0] if limits else None
    orders = [sorted(np.flatnonzero(row > -np.inf).tolist(), key=lambda d: (-row[d], d)) for row in scores]
    walk = [order[rank] for rank in range(scores.shape[1]) for order in orders if rank < len(order)]
    picks = naive_apart(walk, k, vectors, most, sources, per)

    def select():
        limit = per_source(sources, k, per) if per else None
        return choose([ranker(scores, size, 1, held=held)], k, 0, apart(lambda at: vectors[at], most, limit))

    if len(picks) < k:
        with pytest.raises(ValueError, match="to choose from"):
            select()
        return
    assert select().indices.tolist() == picks


def test_offers_are_compared_across_parts(monkeypatch):
    monkeypatch.setattr("rdslib.selection.apart.OFFERS", 3)
    monkeypatch.setattr("rdslib.selection.apart.TILE", 2)
    rng = np.random.default_rng(0)
    scores = rng.random((2, 60))
    vectors = rng.standard_normal((60, 3)).astype(np.float16)
    order = [np.argsort(-row, kind="stable").tolist() for row in scores]
    walk = [order[q][rank] for rank in range(60) for q in range(2)]
    expected = naive_apart(walk, 8, vectors, 0.7, None, None)
    assert len(expected) == 8
    found = choose([ranker(scores)], 8, limit=apart(lambda at: vectors[at], 0.7))
    assert found.indices.tolist() == expected
