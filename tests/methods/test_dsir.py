"""DSIR against a plain reading of its definition, however the pool is cut up."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rdslib.data.chat import Sample, user_assistant
from rdslib.errors import UserError
from rdslib.methods import COST, Extraction, ScoringInputs, dsir, get_extractor, get_scorer
from rdslib.methods.dsir import BUCKETS, FEATURE, NONE, WORDS, hashed
from rdslib.params import NO_MODEL, Encode, Settings
from tests.methods.test_scorers import whole, write_feature

SETTINGS = Settings.model_construct(encode=Encode(max_length=60, shard_size=8), seed=1, model=NO_MODEL)
WORDS_OF = ["cat", "dog", "the", "a", "sum", "add", "12", "30", "+", "?", "Étude", "你好", "...", "it's"]


def ngrams(text):
    """As the paper has it: words and pairs of words, hashed."""
    words = re.findall(r"[^\W]+|[^\w\s]+", text.lower())
    grams = words + [" ".join(words[at : at + 2]) for at in range(len(words) - 1)]
    return Counter(int(hashlib.sha256(gram.encode()).hexdigest(), 16) % 10_000 for gram in grams)


def rows_of(samples):
    opened = get_extractor(FEATURE).open(Extraction(SETTINGS, None, None, ("hashed",), queries=False))
    made = opened.make(opened.read(samples), lambda batch: None)
    assert not made.rows[COST].any()
    return made.rows["hashed"]


def some(count, seed):
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS_OF, rng.integers(1, 30))) for _ in range(2 * count)]
    return [
        Sample(str(i), "s", user_assistant(*pair))
        for i, pair in enumerate(zip(texts[::2], texts[1::2], strict=True))
    ]


def text_of(sample):
    return " ".join(message["content"] for message in sample.messages)


def naive(pool, queries):
    ours, theirs = (sum((ngrams(text_of(s)) for s in those), Counter()) for those in (queries, pool))

    def probability(counts, gram):
        return counts[gram] / counts.total() + 1e-8

    return [
        sum(
            count * (math.log(probability(ours, gram)) - math.log(probability(theirs, gram)))
            for gram, count in ngrams(text_of(sample)).items()
        )
        for sample in pool
    ]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder, pool, queries = tmp_path_factory.mktemp("ngrams"), some(50, 0), some(3, 1)
    for size in (50, 17):
        write_feature(folder / str(size), "hashed", rows_of(pool), size)
    write_feature(folder / "queries", "hashed", rows_of(queries), 3)
    return folder, pool, queries


def inputs(folder, size=17, kept=None, part=(0, 1), seed=3):
    only = {} if kept is None else {FEATURE: np.array(kept)}
    return ScoringInputs((), seed, {FEATURE: folder / str(size)}, {FEATURE: folder / "queries"}, only, part)


@pytest.mark.parametrize("size", [17, 50])
def test_scores_are_log_importance_weights(written, monkeypatch, size):
    folder, pool, queries = written
    monkeypatch.setattr(dsir, "TILE", 7)
    monkeypatch.setattr(dsir, "_noise", lambda seed, start, count: 0)
    np.testing.assert_allclose(whole("dsir", inputs(folder, size))[0], naive(pool, queries), rtol=1e-9)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 49), min_size=1, unique=True).map(sorted))
def test_a_smaller_pool_is_compared_with_itself(written, kept):
    folder, pool, queries = written
    scores = whole("dsir", inputs(folder, kept=kept))[0] - dsir._noise(3, 0, len(kept))
    np.testing.assert_allclose(scores, naive([pool[i] for i in kept], queries), rtol=1e-9, atol=1e-9)


def test_every_part_has_the_scores_and_the_noise_of_the_whole(written):
    folder, _, _ = written
    expected = whole("dsir", inputs(folder))[0]
    assert not np.allclose(expected, whole("dsir", inputs(folder, seed=4))[0])
    for index in range(3):
        for start, block in get_scorer("dsir").blocks(inputs(folder, part=(index, 3))):
            assert (block[0] == expected[start : start + block.shape[1]]).all()
    np.testing.assert_array_equal(whole("dsir", inputs(folder, 50))[0], expected)


def test_the_noise_draws_in_proportion_to_the_weights():
    weights = np.array([1.0, 2.0, 5.0])
    draws = [np.argmax(np.log(weights) + dsir._noise(seed, 0, 3)) for seed in range(4000)]
    # Three standard deviations of a share of 0.625 are 0.023.
    np.testing.assert_allclose(np.bincount(draws) / 4000, weights / 8, atol=0.023)


@settings(deadline=None)
@example(" ".join(str(i) for i in range(WORDS + 50)))
@example("\ud800 lone")
@given(st.text(st.sampled_from("aB é你_1 \n.,?'"), max_size=60))
def test_ngrams_are_hashed_as_the_paper_has_them(text):
    found = hashed(text)
    cut = " ".join(re.findall(r"\w+|[^\w\s]+", text)[:WORDS])
    assert found.dtype == np.uint16
    assert len(found) <= 2 * WORDS - 1
    if "\ud800" not in text:
        assert Counter(found.tolist()) == ngrams(cut)
    assert found.max(initial=0) < BUCKETS == NONE


def test_a_sample_without_words_is_never_offered_and_such_queries_are_an_error(written, tmp_path):
    _, pool, _ = written
    empty = Sample("none", "s", user_assistant(" ", "\n"))
    write_feature(tmp_path / "17", "hashed", rows_of([pool[0], empty]), 17)
    write_feature(tmp_path / "queries", "hashed", rows_of(pool[:1]), 17)
    assert np.isfinite(whole("dsir", inputs(tmp_path))[0]).tolist() == [True, False]
    write_feature(tmp_path / "queries", "hashed", rows_of([empty]), 17)
    with pytest.raises(UserError, match="dsir: the queries have no words"):
        whole("dsir", inputs(tmp_path))
