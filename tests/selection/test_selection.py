"""Selection against a naive walk, pick by pick, and limits per source against one that counts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rdslib.selection.quota import per_source, quotas, within
from rdslib.selection.round_robin import choose
from rdslib.selection.topk import Ranking, over


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


def ranker(scores, size=7, seed=0, **held):
    """A ranker of the columns in blocks of `size`, in a shuffled order."""
    starts = np.random.default_rng(seed).permutation(np.arange(0, scores.shape[1], size))
    return over(lambda: ((int(start), scores[:, start : start + size]) for start in starts), **held)


def whole(*rows):
    """A ranker of one block."""
    return over(lambda: [(0, np.array(rows))])


@st.composite
def cases(draw, lists=(1, 5)):
    """Scores with many ties and some that are never offered, sources by letter, and what to ask for.

    The last is the limits on sources (`most` and `balance`), or None.
    """
    n = draw(st.integers(1, 40))
    shape = (draw(st.integers(*lists)), n)
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    scores = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 6))).astype(dtype) / 7
    if draw(st.booleans()):
        scores[draw(hnp.arrays(np.bool_, shape, elements=st.booleans()))] = -np.inf
    sources = draw(st.lists(st.sampled_from("abcd"), min_size=n, max_size=n))
    limits = draw(st.none() | st.tuples(st.none() | st.integers(1, n), st.booleans()))
    return scores, draw(st.integers(1, n)), sources, limits


def expected(scores, k, sources, limits, skip=0):
    """The naive picks and offers; None where there are not enough."""
    outside = set(np.flatnonzero((scores == -np.inf).all(axis=0)).tolist())
    if skip:
        order = sorted(np.flatnonzero(scores[0] > -np.inf), key=lambda d: (-scores[0][d], d))
        outside |= set(map(int, order[:skip]))
    names = list(dict.fromkeys(sources))
    counts = [sum(s == name and d not in outside for d, s in enumerate(sources)) for name in names]
    most, balance = limits or (None, False)
    if sum(n if most is None else min(n, most) for n in counts) < k:
        return None
    allowed = dict(zip(names, naive_quotas(counts, k, most, balance), strict=True))
    return naive_walk(scores, k, sources, allowed, skip)


def check(rankers, case, skip=0):
    """What `choose` gives is what the naive walk gave; an error where that found too few."""
    scores, k, sources, limits = case
    wanted = expected(*case, skip)

    def select():
        return choose(rankers, k, skip, per_source(sources, k, *limits) if limits else None)

    if wanted is None:
        with pytest.raises(ValueError, match="to choose from"):
            select()
        return
    found = select()
    picks, offers = wanted
    takers = [next(q for d, q in offers if d == pick) for pick in picks]
    assert found.indices.tolist() == picks
    assert found.picked_by.tolist() == takers
    if len(rankers) > 1:
        assert found.scores.tolist() == [min(scores[q, d] for d, q in offers if d == pick) for pick in picks]
    else:
        assert found.scores.tolist() == [scores[q, d] for d, q in zip(picks, takers, strict=True)]
    assert found.refused == (scores == -np.inf).all(axis=0).sum()


@settings(max_examples=300, deadline=None)
@given(cases(), st.integers(1, 40), st.integers(1, 300))
def test_round_robin_equals_the_definition(case, size, held):
    # Where fewer ranks are held than the walk is deep, it goes through the blocks again.
    check([ranker(case[0], size, case[1], held=held)], case)


@settings(max_examples=300, deadline=None)
@given(cases(lists=(2, 5)), st.integers(1, 40), st.data())
def test_round_robin_over_tasks_equals_the_definition(case, size, data):
    # Three queries a task, that of the highest score another for each sample: its scores are the maximum.
    below = hnp.arrays(np.int64, (3, case[0].shape[1]), elements=st.integers(0, 1))
    rankers = []
    for row in case[0]:
        steps = data.draw(below)
        steps[0, steps.all(axis=0)] = 0
        rankers.append(
            ranker((row - steps).astype(row.dtype), size, case[1], held=data.draw(st.integers(1, 40)))
        )
    check(rankers, case)


@settings(max_examples=300, deadline=None)
@given(cases(lists=(1, 1)), st.integers(0, 20))
def test_a_window_is_a_slice_of_the_ranking(case, skip):
    check([ranker(case[0])], case, skip)


@settings(max_examples=100, deadline=None)
@given(cases(lists=(1, 1)), st.integers(0, 20), st.integers(1, 10))
def test_a_window_may_be_longer_than_what_is_held(case, skip, held):
    check([ranker(case[0], held=held)], (*case[:3], None), skip)


@settings(max_examples=100, deadline=None)
@given(cases(), st.data())
def test_rankings_of_parts_merge_into_that_of_the_whole(case, data):
    scores, depth, *_ = case
    n = scores.shape[1]
    owner = data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    parts = [Ranking(depth) for _ in range(3)]
    for at in range(n):
        parts[owner[at]].add(at, scores[:, at : at + 1])
    for part in parts[1:]:
        parts[0].merge(part)
    for ranked, row in zip(parts[0].lists(), scores, strict=False):
        order = sorted(np.flatnonzero(row > -np.inf).tolist(), key=lambda d: (-row[d], d))[:depth]
        assert ranked.positions.tolist() == order
        assert ranked.scores.tolist() == row[order].tolist()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.data())
def test_balanced_quotas_are_what_giving_one_by_one_comes_to(counts, data):
    most = data.draw(st.none() | st.integers(1, 12))
    total = sum(n if most is None else min(n, most) for n in counts)
    k = data.draw(st.integers(0, total))
    assert quotas(np.array(counts), k, most, balance=True).tolist() == naive_quotas(counts, k, most, True)
    assert quotas(np.array([1, 9, 9, 9]), 9, balance=True).tolist() == [1, 3, 3, 2]


def test_turns_are_spent_and_ties_go_to_the_smaller_position():
    assert choose([whole([0.0] * 4, [0.0] * 4)], 3).indices.tolist() == [0, 1, 2]
    # Both want sample 0; the second query's turn is lost, so the first query picks again.
    assert choose([whole([3.0, 2.0, 1.0], [3.0, 0.0, 2.0])], 3).picked_by.tolist() == [0, 0, 1]
    # Both queries' best are of "a", which has room for one: the second query's turn is lost.
    scores = [3.0, 2.0, 1.0, 0.0], [2.0, 3.0, 0.0, 1.0]
    found = choose([whole(*scores)], 2, limit=per_source("aabb", 2, most=1))
    assert found.indices.tolist() == [0, 2]
    assert found.picked_by.tolist() == [0, 0]


def test_a_source_without_room_gives_nothing():
    allow = within(np.array([0, 1, 1]), np.array([0, 2]))
    for tasks in (1, 2):
        found = choose([whole([3.0, 2.0, 1.0])] * tasks, 2, limit=lambda outside: allow)
        assert found.indices.tolist() == [1, 2]


def test_a_deep_walk_goes_through_the_pool_a_few_times():
    # All but the last of 10,000 samples are of one source, and are better than it.
    scores, passes = np.arange(10_000, 0, -1, dtype=np.float32)[None], []

    def blocks():
        passes.append(len(passes))
        yield 0, scores

    found = choose([over(blocks)], 2, limit=per_source("a" * 9_999 + "b", 2, balance=True))
    assert found.indices.tolist() == [0, 9_999]
    assert len(passes) == 6  # 2 + 16 + 128 + 1,024 + 8,192 + 65,536 ranks


@pytest.mark.parametrize(
    ("blocks", "k", "skip", "message"),
    [
        ([(0, np.ones((1, 3)))], 4, 0, "only 3 to choose from"),
        ([(0, np.array([[1.0, -np.inf]]))], 2, 0, "only 1 to choose from"),
        ([], 1, 0, "only 0 to choose from"),
        ([(0, np.ones((1, 3)))], 0, 0, "at least 1"),
        ([(0, np.array([[1.0, np.nan]]))], 1, 0, "NaN"),
        ([(0, np.ones((1, 2))), (2, np.ones((2, 2)))], 1, 0, "the first had 1"),
        ([(0, np.ones(3))], 1, 0, r"must be \[queries, samples\]"),
        ([(0, np.ones((2, 3)))], 1, 1, "a window needs one"),
    ],
)
def test_bad_arguments_are_named(blocks, k, skip, message):
    with pytest.raises(ValueError, match=message):
        choose([over(lambda: blocks)], k, skip)


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
