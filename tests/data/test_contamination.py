"""Contamination by n-grams, against a naive reading and what a reader would expect."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdslib.data import dedup as contamination
from rdslib.data.chat import Sample, user_assistant
from rdslib.data.dedup import NGRAM, SHORTEST, Contamination, runs, words

LONG = " ".join(f"word{i}" for i in range(20))


def asked(text: str, response: str = "ok", name: str = "0") -> Sample:
    return Sample(name, "test", user_assistant(text, response))


def grams(sample: Sample) -> list[tuple[str, ...]]:
    return [gram for message in sample.messages for gram in runs(words(message["content"]), NGRAM)]


few_words = st.lists(st.sampled_from(["a", "B", "c"]), min_size=NGRAM, max_size=30).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(st.lists(few_words, max_size=4), few_words, few_words)
def test_long_texts_are_found_by_the_rule_of_the_pool(tests: list[str], prompt: str, response: str) -> None:
    held_out = [asked(text, name=str(at)) for at, text in enumerate(tests)]
    sample = asked(prompt, response)
    tested = [set(grams(test)) for test in held_out]
    shared = [gram for gram in grams(sample) if any(gram in each for each in tested)]
    match = Contamination(held_out).found(sample)
    if not shared:
        assert match is None
        return
    assert match is not None
    assert match.words == " ".join(shared[0])
    assert match.test is next(test for test, each in zip(held_out, tested, strict=True) if shared[0] in each)


def first_words(count: int) -> str:
    return " ".join(LONG.split()[:count])


@pytest.mark.parametrize(
    ("n", "sample", "expected"),
    [
        (NGRAM, asked("x", f"So: {LONG.upper().replace(' ', ', ')}!"), first_words(NGRAM)),
        (NGRAM, asked(first_words(NGRAM)), first_words(NGRAM)),
        # A run that goes over two messages is none.
        (NGRAM, asked(first_words(6), " ".join(LONG.split()[6:NGRAM])), None),
        (5, asked("x " + first_words(4)), None),
        (4, asked("x " + first_words(4)), first_words(4)),
    ],
)
def test_n_words_of_one_message_in_any_case_and_punctuation(
    n: int, sample: Sample, expected: str | None
) -> None:
    match = Contamination([asked(LONG)], n=n).found(sample)
    assert (match and match.words) == expected


@pytest.mark.parametrize("length", range(SHORTEST - 1, NGRAM))
def test_a_short_question_is_found_whole(length: int) -> None:
    question = first_words(length)
    tests = Contamination([asked("something else", name="a"), asked(question, name="b")])
    match = tests.found(asked(f"Tell me: {question}?"))
    if length < SHORTEST:
        assert match is None
    else:
        assert match is not None
        assert (match.test.id, match.words) == ("b", question)
        assert tests.found(asked(first_words(length - 1))) is None


def test_short_responses_and_system_messages_are_not_looked_for() -> None:
    refusal = "I am sorry but I cannot help you with that"
    test = Sample("0", "test", [{"role": "system", "content": refusal}, *user_assistant("x", refusal)])
    assert Contamination([test]).found(asked("y", refusal)) is None
    assert Contamination([asked(refusal)]).found(asked("y", refusal)) is not None


def test_the_longest_match_is_found() -> None:
    tests = Contamination([asked(first_words(SHORTEST), name="short"), asked(LONG, name="long")])
    match = tests.found(asked(first_words(SHORTEST), LONG))
    assert match is not None
    assert match.test.id == "long"


def test_an_equal_hash_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contamination, "hash", lambda gram: 0, raising=False)
    tests = Contamination([asked(LONG)])
    assert tests.found(asked(LONG)) is not None
    assert tests.found(asked(" ".join(f"other{i}" for i in range(20)))) is None
