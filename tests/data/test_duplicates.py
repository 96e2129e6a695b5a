"""Exact and near duplicates, as a pool streams by."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

from rdslib.data import dedup
from rdslib.data.chat import Sample, user_assistant
from rdslib.data.dedup import PERMUTATIONS, SEED, THRESHOLD, ExactDuplicates, NearDuplicates, Repeat, text_key
from tests.killing import WITH_TESTS

FOLDER = Path(tempfile.gettempdir())


def sample(prompt: str, response: str = "") -> Sample:
    return Sample("", "s", user_assistant(prompt, response))


def shingles(text: str) -> set[bytes]:
    words = text.split()
    return {" ".join(words[at : at + 5]).encode() for at in range(len(words) - 4)}


def estimate(one: str, other: str) -> float:
    hashes = [MinHash(PERMUTATIONS, SEED) for _ in range(2)]
    for minhash, text in zip(hashes, (one, other), strict=True):
        minhash.update_batch(shingles(text))
    return hashes[0].jaccard(hashes[1])


def changed(text: str, times: int, seed: int) -> str:
    """The text with so many of its words replaced by new ones."""
    rng, words = random.Random(seed), text.split()
    for at in rng.sample(range(len(words)), times):
        words[at] = f"new{rng.random()}".replace(".", "")
    return " ".join(words)


def text_of(seed: int, words: int = 300) -> str:
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(5000)}" for _ in range(words))


def found_in(pool: list[str]) -> list[Repeat | None]:
    seen = NearDuplicates(FOLDER)
    return [seen.repeats(sample(text)) for text in pool]


texts = st.sampled_from(["a", "b", " a", "a'", "a', 'b", "", "\ud800"])


@given(st.lists(st.tuples(texts, texts), max_size=20))
def test_exact_duplicates_are_equal_text_keys(pairs: list[tuple[str, str]]) -> None:
    seen, pool = ExactDuplicates(), [sample(*pair) for pair in pairs]
    keys = [text_key(each) for each in pool]
    for position, each in enumerate(pool):
        first = keys.index(keys[position])
        assert seen.repeats(each) == (None if first == position else Repeat(first, 1.0))


def test_roles_count_for_exact_duplicates_and_not_for_near_ones() -> None:
    one = Sample("", "s", [{"role": "user", "content": "a b c"}])
    other = Sample("", "s", [{"role": "assistant", "content": "A, b: c."}])
    exact, near = ExactDuplicates(), NearDuplicates(FOLDER)
    assert [seen.repeats(one) for seen in (exact, near)] == [None, None]
    assert [seen.repeats(other) for seen in (exact, near)] == [None, Repeat(0, 1.0)]


@pytest.mark.parametrize("seed", range(20))
def test_a_few_changed_words_make_a_near_duplicate_and_many_do_not(seed: int) -> None:
    text = text_of(seed)
    # 2 words of 300 are in 10 shingles of 296, so the similarity is 0.93; 30 are in over 100.
    pool = [text_of(1000 + seed), text, changed(text, 2, seed), changed(text, 30, seed)]
    assert found_in(pool) == [None, None, Repeat(1, estimate(text, pool[2])), None]


@pytest.mark.slow
def test_only_what_is_estimated_at_the_threshold_or_above_is_found() -> None:
    dropped = candidates = 0
    for seed in range(150):
        text = text_of(seed, 200)
        other = changed(text, 6, seed)
        similarity = estimate(text, other)
        first, found = found_in([text, other])
        assert first is None
        assert found in (None, Repeat(0, similarity))
        dropped += found is not None
        candidates += similarity >= THRESHOLD
        assert found is None or similarity >= THRESHOLD
    # A similarity of 0.74: some are estimated above, and LSH offers over half of those below as well.
    assert 0.8 * candidates <= dropped <= candidates
    assert 10 < candidates < 75


def test_what_is_dropped_cannot_be_repeated() -> None:
    # Each is 2 words from the one before: the last are near some that were dropped, but not the first.
    chain = [text_of(0)]
    for step in range(12):
        chain.append(changed(chain[-1], 2, step))
    found = found_in(chain)
    kept = [at for at, each in enumerate(found) if each is None]
    assert len(kept) > 1
    for at, each in enumerate(found):
        if each is not None:
            assert each.of in kept
            assert each == max(
                (Repeat(other, estimate(chain[at], chain[other])) for other in kept if other < at),
                key=lambda repeat: repeat.similarity,
            )
    assert any(each is not None and each.of > 0 for each in found)


def test_the_most_similar_is_found_and_the_first_of_equals() -> None:
    def three(seed: int) -> tuple[str, str, str]:
        text = text_of(seed)
        return text, changed(text, 6, seed), changed(text, 6, seed + 1000)

    text, one, other = next(
        each
        for each in map(three, range(1000))
        if estimate(each[0], each[1]) == estimate(each[0], each[2]) >= 0.85
        and estimate(each[1], each[2]) < THRESHOLD - 0.05
    )
    # Positions 1 and 8: a set has 8 first.
    pool = [text_of(2000), one, *(text_of(2001 + at) for at in range(6)), other, text]
    assert found_in(pool) == [None] * 9 + [Repeat(1, estimate(text, one))]


def test_messages_are_read_as_one_text() -> None:
    text, seen = text_of(0), NearDuplicates(FOLDER)
    words = text.split()
    assert seen.repeats(sample(text)) is None
    assert seen.repeats(sample(" ".join(words[:150]), " ".join(words[150:]))) == Repeat(0, 1.0)


@pytest.mark.parametrize("text", ["one", "one two three four", "?!", "\ud800"])
def test_a_short_text_repeats_only_its_equal(text: str) -> None:
    others = ["one two", "one two three", "one two three four five", "!?", "two one", "..."]
    assert found_in([*others, text, text]) == [None] * 7 + [Repeat(6, 1.0)]


def plainly(pool: list[str]) -> list[Repeat | None]:
    """What samples repeat by an index that holds everything."""
    index, minhashes, found = MinHashLSH(THRESHOLD, PERMUTATIONS, params=(16, 8)), [], []
    for at, text in enumerate(pool):
        minhashes.append(MinHash(PERMUTATIONS, SEED))
        minhashes[at].update_batch(shingles(text))
        repeats = [
            Repeat(each, minhashes[at].jaccard(minhashes[each])) for each in index.query(minhashes[at])
        ]
        best = min(repeats, key=lambda each: (-each.similarity, each.of), default=None)
        found.append(best if best and best.similarity >= THRESHOLD else None)
        if found[at] is None:
            index.insert(at, minhashes[at])
    return found


@pytest.mark.parametrize("part", [1, 3, dedup.PART])
@settings(max_examples=30, deadline=None)
@given(edits=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=1, max_size=25))
def test_pairs_are_those_of_an_index_that_holds_everything(part: int, edits: list[tuple[int, int]]) -> None:
    pool: list[str] = [text_of(0, 150)]
    for seed, (last, times) in enumerate(edits):
        pool.append(changed(pool[-1 if last else 0], times, seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedup, "PART", part)
        assert found_in(pool) == plainly(pool)


def test_hash_values_leave_no_file(tmp_path: Path) -> None:
    seen = NearDuplicates(tmp_path)
    assert seen.repeats(sample("a")) is None
    assert list(tmp_path.iterdir()) == []
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        del seen
        gc.collect()
    assert found == [], "it is closed"


@pytest.mark.slow
def test_samples_that_stay_take_little_memory() -> None:
    code = (
        "import sys, pathlib\n"
        "from rdslib.data.chat import Sample\n"
        "from rdslib.data.dedup import NearDuplicates\n"
        "from tests.memory import peak\n"
        "seen = NearDuplicates(pathlib.Path(sys.argv[1]))\n"
        "for row in range(int(sys.argv[2])):\n"
        "    seen.repeats(Sample('', 's', [{'role': 'user', 'content': f'row {row}'}]))\n"
        "print(peak())\n"
    )

    environment = {**os.environ, **WITH_TESTS}

    def peak(rows: int) -> int:
        call = [sys.executable, "-c", code, str(FOLDER), str(rows)]
        return int(subprocess.run(call, capture_output=True, check=True, env=environment).stdout)

    # With 24 MB of samples that were added lately, whatever the number. It was 600 MB.
    assert peak(100_000) - peak(1) < 24e6 + 300 * 100_000
