"""The folds against a naive reading of the definition, to the last index."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rdslib.selection.round_robin import round_robin, round_robin_tasks, window
from rdslib.selection.topk import Ranking, over


def naive_walk(scores, k):
    """Lists, one offer a turn: returns picks, all offers made as (position, list), in order."""
    order = [sorted(range(len(row)), key=lambda d: (-row[d], d)) for row in scores]
    picks, offers = [], []
    for rank in range(len(scores[0])):
        for q, row in enumerate(scores):
            d = order[q][rank]
            if row[d] == -np.inf:
                continue
            offers.append((d, q))
            if d not in picks:
                picks.append(d)
                if len(picks) == k:
                    return picks, offers
    return picks, offers


def in_blocks(scores, size, seed, **held):
    """A ranker of the columns in blocks of `size`, in a shuffled order."""
    starts = np.random.default_rng(seed).permutation(np.arange(0, scores.shape[1], size))
    return over(lambda: ((int(start), scores[:, start : start + size]) for start in starts), **held)


def score_arrays():
    """Small arrays with many ties, in the dtypes that scores come in."""
    shapes = st.tuples(st.integers(1, 5), st.integers(1, 40))
    arrays = shapes.flatmap(lambda shape: hnp.arrays(np.int64, shape, elements=st.integers(0, 6)))
    return st.builds(
        lambda a, t: a.astype(t) / 7, arrays, st.sampled_from([np.float16, np.float32, np.float64])
    )


@settings(max_examples=150, deadline=None)
@given(score_arrays(), st.data())
def test_round_robin_equals_the_definition(scores, data):
    k = data.draw(st.integers(1, scores.shape[1]))
    size = data.draw(st.integers(1, scores.shape[1]))
    # Where fewer ranks are held than the walk is deep, it goes through the blocks again.
    held = data.draw(st.integers(1, 2 * scores.size))
    found = round_robin(in_blocks(scores, size, k, held=held), k)
    picks, offers = naive_walk(scores, k)
    takers = [next(q for d, q in offers if d == pick) for pick in picks]
    assert found.indices.tolist() == picks
    assert found.picked_by.tolist() == takers
    assert found.scores.tolist() == [scores[q, d] for d, q in zip(picks, takers, strict=True)]


@settings(max_examples=150, deadline=None)
@given(st.lists(score_arrays(), min_size=1, max_size=4), st.data())
def test_round_robin_over_tasks_equals_the_definition(tasks, data):
    n = min(task.shape[1] for task in tasks)
    tasks = [task[:, :n] for task in tasks]
    k = data.draw(st.integers(1, n))
    size = data.draw(st.integers(1, n))
    found = round_robin_tasks(
        [in_blocks(task, size, k, held=data.draw(st.integers(1, n))) for task in tasks], k
    )
    best = [task.max(axis=0).astype(np.float64) for task in tasks]
    picks, offers = naive_walk(best, k)
    assert found.indices.tolist() == picks
    # A sample that several tasks offered keeps the smaller score.
    lowest = [min(best[t][d] for d, t in offers if d == pick) for pick in picks]
    assert found.scores.tolist() == lowest


@settings(max_examples=150, deadline=None)
@given(score_arrays(), st.data())
def test_a_window_is_a_slice_of_the_ranking(scores, data):
    scores = scores[:1]
    n = scores.shape[1]
    k = data.draw(st.integers(1, n))
    skip = data.draw(st.integers(0, n))
    ranking = sorted(range(n), key=lambda d: (-scores[0, d], d))
    if skip + k > n:
        with pytest.raises(ValueError, match=f"only {n - skip} to choose from"):
            window(in_blocks(scores, 7, 0), k, skip)
        return
    found = window(in_blocks(scores, 7, 0), k, skip)
    assert found.indices.tolist() == ranking[skip : skip + k]
    assert found.scores.tolist() == scores[0, ranking[skip : skip + k]].tolist()


@settings(max_examples=100, deadline=None)
@given(score_arrays(), st.data())
def test_rankings_of_parts_merge_into_that_of_the_whole(scores, data):
    depth = data.draw(st.integers(1, scores.shape[1]))
    owner = np.array(
        data.draw(st.lists(st.integers(0, 2), min_size=scores.shape[1], max_size=scores.shape[1]))
    )
    parts = [Ranking(depth) for _ in range(3)]
    for at in range(scores.shape[1]):
        parts[owner[at]].add(at, scores[:, at : at + 1])
    for part in parts[1:]:
        parts[0].merge(part)
    for ranked, row in zip(parts[0].lists(), scores, strict=False):
        order = sorted(range(len(row)), key=lambda d: (-row[d], d))[:depth]
        assert ranked.positions.tolist() == order
        assert ranked.scores.tolist() == row[order].tolist()


def test_samples_that_no_query_offers_are_counted():
    first = np.array([[1.0, -np.inf, 0.5, -np.inf], [1.0, 2.0, 0.5, -np.inf]])
    second = np.array([[1.0, -np.inf, 0.5, 3.0]])
    assert round_robin(over(lambda: [(0, first)]), 2).refused == 1
    both = round_robin_tasks([over(lambda: [(0, first)]), over(lambda: [(0, second)])], 2)
    assert both.refused == 0


def test_a_window_has_one_ranking():
    with pytest.raises(ValueError, match="a window needs one"):
        window(over(lambda: [(0, np.ones((2, 3)))]), 1, 0)


def test_ties_go_to_the_smaller_position():
    assert round_robin(over(lambda: [(0, np.zeros((2, 4)))]), 3).indices.tolist() == [0, 1, 2]


def test_a_turn_is_spent_on_a_taken_sample():
    # Both want sample 0; the second query's turn is lost, so the first query picks again.
    scores = np.array([[3.0, 2.0, 1.0], [3.0, 0.0, 2.0]])
    assert round_robin(over(lambda: [(0, scores)]), 3).picked_by.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("blocks", "k", "message"),
    [
        ([(0, np.ones((1, 3)))], 4, "only 3 to choose from"),
        ([(0, np.array([[1.0, -np.inf]]))], 2, "only 1 to choose from"),
        ([], 1, "only 0 to choose from"),
        ([(0, np.ones((1, 3)))], 0, "at least 1"),
        ([(0, np.array([[1.0, np.nan]]))], 1, "NaN"),
        ([(0, np.ones((1, 2))), (2, np.ones((2, 2)))], 1, "the first had 1"),
        ([(0, np.ones(3))], 1, r"must be \[queries, samples\]"),
    ],
)
def test_bad_arguments_are_named(blocks, k, message):
    with pytest.raises(ValueError, match=message):
        round_robin(over(lambda: blocks), k)
