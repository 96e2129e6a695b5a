"""Limits per source against a naive walk that counts, pick by pick."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rdslib.selection.quota import per_source, quotas, within
from rdslib.selection.round_robin import round_robin, round_robin_tasks, window
from rdslib.selection.topk import over


def naive_walk(scores, k, sources, allowed, skip=0):
    """The picks, and every offer up to the last of them as (position, list); `skip` of the first list."""
    orders = [sorted(np.flatnonzero(row > -np.inf), key=lambda d: (-row[d], d))[skip:] for row in scores]
    picks, offers, given_by = [], [], Counter()
    for rank in range(len(scores[0])):
        for q, order in enumerate(orders):
            if rank >= len(order):
                continue
            d = int(order[rank])
            offers.append((d, q))
            if d not in picks and given_by[sources[d]] < allowed[sources[d]]:
                picks.append(d)
                given_by[sources[d]] += 1
                if len(picks) == k:
                    return picks, offers
    return picks, offers


def naive_quotas(counts, k, most, balance):
    """One sample at a time: to the source that has the fewest so far and has more, the first of those."""
    room = [n if most is None else min(n, most) for n in counts]
    if not balance:
        return room
    given_to = [0] * len(room)
    for _ in range(k):
        given_to[min((have, s) for s, have in enumerate(given_to) if have < room[s])[1]] += 1
    return given_to


def in_blocks(scores, size, seed, held):
    starts = np.random.default_rng(seed).permutation(np.arange(0, scores.shape[1], size))
    return over(lambda: ((int(start), scores[:, start : start + size]) for start in starts), held)


@st.composite
def pools(draw, lists=(1, 4)):
    """Scores with many ties and some that are never offered, sources by letter, and what to ask for."""
    n = draw(st.integers(1, 40))
    shape = (draw(st.integers(*lists)), n)
    scores = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 6))).astype(np.float32) / 7
    if draw(st.booleans()):
        scores[draw(hnp.arrays(np.bool_, shape, elements=st.booleans()))] = -np.inf
    sources = draw(st.lists(st.sampled_from("abcd"), min_size=n, max_size=n))
    k = draw(st.integers(1, n))
    most = draw(st.none() | st.integers(1, n))
    return scores, sources, k, most, draw(st.booleans())


def expected(scores, sources, k, most, balance, skip=0):
    """The naive picks and offers; None where there are not enough."""
    outside = set(np.flatnonzero((scores == -np.inf).all(axis=0)).tolist())
    if skip:
        order = sorted(np.flatnonzero(scores[0] > -np.inf), key=lambda d: (-scores[0][d], d))
        outside |= set(map(int, order[:skip]))
    names = list(dict.fromkeys(sources))
    counts = [sum(s == name and d not in outside for d, s in enumerate(sources)) for name in names]
    if sum(n if most is None else min(n, most) for n in counts) < k:
        return None
    allowed = dict(zip(names, naive_quotas(counts, k, most, balance), strict=True))
    return naive_walk(scores, k, sources, allowed, skip)


def check(select, wanted, scores, smaller=False):
    """What `select` gives is what the naive walk gave; an error where that found too few."""
    if wanted is None:
        with pytest.raises(ValueError, match="to choose from"):
            select()
        return
    found = select()
    picks, offers = wanted
    takers = [next(q for d, q in offers if d == pick) for pick in picks]
    assert found.indices.tolist() == picks
    assert found.picked_by.tolist() == takers
    if smaller:
        assert found.scores.tolist() == [min(scores[q, d] for d, q in offers if d == pick) for pick in picks]
    else:
        assert found.scores.tolist() == [scores[q, d] for d, q in zip(picks, takers, strict=True)]


@settings(max_examples=150, deadline=None)
@given(pools(), st.integers(1, 40), st.integers(1, 300))
def test_round_robin_equals_a_walk_that_counts(pool, size, held):
    scores, sources, k, most, balance = pool
    ranker = in_blocks(scores, size, k, held)
    check(lambda: round_robin(ranker, k, per_source(sources, k, most, balance)), expected(*pool), scores)


@settings(max_examples=150, deadline=None)
@given(pools(), st.integers(1, 40), st.data())
def test_round_robin_over_tasks_equals_a_walk_that_counts(pool, size, data):
    scores, sources, k, most, balance = pool
    # Two queries a task: the task's scores are the maximum.
    rankers = [in_blocks(np.stack([row, row - 1]), size, k, data.draw(st.integers(1, 40))) for row in scores]
    check(
        lambda: round_robin_tasks(rankers, k, per_source(sources, k, most, balance)),
        expected(*pool),
        scores,
        smaller=True,
    )


@settings(max_examples=150, deadline=None)
@given(pools(lists=(1, 1)), st.integers(0, 20))
def test_a_window_equals_a_walk_that_counts(pool, skip):
    scores, sources, k, most, balance = pool
    ranker = in_blocks(scores, 7, 0, 1000)
    wanted = expected(*pool, skip)
    check(lambda: window(ranker, k, skip, per_source(sources, k, most, balance)), wanted, scores)


@settings(max_examples=100, deadline=None)
@given(pools(lists=(1, 1)), st.integers(0, 20), st.integers(1, 10))
def test_a_window_may_be_longer_than_what_is_held(pool, skip, held):
    scores, sources, k, _, _ = pool
    wanted = expected(scores, sources, k, None, False, skip)
    check(lambda: window(in_blocks(scores, 7, 0, held), k, skip), wanted, scores)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.data())
def test_balanced_quotas_are_what_giving_one_by_one_comes_to(counts, data):
    most = data.draw(st.none() | st.integers(1, 12))
    total = sum(n if most is None else min(n, most) for n in counts)
    k = data.draw(st.integers(0, total))
    assert quotas(np.array(counts), k, most, balance=True).tolist() == naive_quotas(counts, k, most, True)


def test_a_turn_is_spent_on_a_sample_of_a_full_source():
    # Both queries' best are of "a", which has room for one: the second query's turn is lost.
    scores = np.array([[3.0, 2.0, 1.0, 0.0], [2.0, 3.0, 0.0, 1.0]], dtype=np.float32)
    found = round_robin(over(lambda: [(0, scores)]), 2, per_source("aabb", 2, most=1))
    assert found.indices.tolist() == [0, 2]
    assert found.picked_by.tolist() == [0, 0]


def test_what_does_not_divide_goes_to_the_first_sources_that_have_more():
    assert quotas(np.array([1, 9, 9, 9]), 9, balance=True).tolist() == [1, 3, 3, 2]


def test_a_source_without_room_gives_nothing():
    scores = np.array([[3.0, 2.0, 1.0]], dtype=np.float32)
    of, allowed = np.array([0, 1, 1]), np.array([0, 2])
    for select in (round_robin, lambda ranker, k, limit: round_robin_tasks([ranker], k, limit)):
        found = select(over(lambda: [(0, scores)]), 2, lambda outside: within(of, allowed))
        assert found.indices.tolist() == [1, 2]


def test_a_deep_walk_goes_through_the_pool_a_few_times():
    # All but the last of 10,000 samples are of one source, and are better than it.
    scores, passes = np.arange(10_000, 0, -1, dtype=np.float32)[None], []

    def blocks():
        passes.append(len(passes))
        yield 0, scores

    found = round_robin(over(blocks), 2, per_source("a" * 9_999 + "b", 2, balance=True))
    assert found.indices.tolist() == [0, 9_999]
    assert len(passes) == 6  # 2 + 16 + 128 + 1,024 + 8,192 + 65,536 ranks


@pytest.mark.parametrize(
    ("k", "most", "message"),
    [
        (5, 2, "5 samples are asked for, but there are only 3 to choose from with at most 2 of a source"),
        (5, None, "5 samples are asked for, but there are only 4 to choose from$"),
        (1, 0, "only 0 to choose from with at most 0 of a source"),
    ],
)
def test_too_few_are_named_before_anything_is_ranked(k, most, message):
    for balance in (False, True):
        with pytest.raises(ValueError, match=message):
            per_source("aaab", k, most, balance)
