"""Contamination by n-grams, against a naive reading and what a reader would expect."""

from __future__ import annotations

import random
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdslib.data import dedup as contamination
from rdslib.data.chat import Sample, user_assistant
from rdslib.data.dedup import NGRAM, SHORTEST, Contamination, NearDuplicates, count_words, runs, words

LONG = " ".join(f"word{i}" for i in range(20))


def asked(text: str, response: str = "ok", name: str = "0") -> Sample:
    return Sample(name, "test", user_assistant(text, response))


def spaced(text: str) -> list[str]:
    """The words of a text in a script with spaces."""
    return re.findall(r"\w+", text.lower())


def grams(sample: Sample) -> list[tuple[str, ...]]:
    found = [spaced(message["content"]) for message in sample.messages]
    return [tuple(each[at : at + NGRAM]) for each in found for at in range(len(each) - NGRAM + 1)]


# Latin, Cyrillic, Arabic, Korean and Hindi, whose vowel signs part words.
SCRIPTS = [
    ["a", "B", "c"],
    ["Да", "é", "İ"],
    ["هذا", "نص", "قصير"],
    ["이것은", "한", "짧은"],
    ["यह", "एक", "छोटा"],
]
few_words = st.sampled_from(SCRIPTS).flatmap(
    lambda some: st.lists(st.sampled_from(some), min_size=NGRAM, max_size=30).map(" ".join)
)
# Where a word of English is 1.6 letters, and where it is 4: Chinese, Japanese; Thai, Lao, Burmese, Khmer.
LETTERS = {
    "Chinese": (8 / 5, "的一是在不了有和人这中大为上个国我以要他"),
    "Japanese": (8 / 5, "のにはをたがでてとしれさアイウーンｱ日本語"),
    "Thai": (4, "กขคงจชซดตถทนบปผพมยรลวสหอา"),
    "Lao": (4, "ກຂຄງຈຊຍດຕຖທນບປຜພມຢຣລວສຫອາ"),
    "Burmese": (4, "ကခဂငစဆဇညတထဒနပဖဗမယရလဝသဟအ"),
    "Khmer": (4, "កខគងចឆជញដតថទនបផពមយរលវសហអ"),
}


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


@given(st.text(st.characters(max_codepoint=0xDFF) | st.sampled_from("한국어 ελ, გა 𐍈ह्")))
def test_words_of_scripts_with_spaces_are_as_they_always_were(text: str) -> None:
    found = words(text)
    assert found == spaced(text)
    assert count_words(found) == len(found)
    for n in (1, 5, NGRAM):
        assert list(runs(found, n)) == [tuple(found[at : at + n]) for at in range(len(found) - n + 1)]


def test_letters_of_scripts_without_spaces_are_words_that_count_less() -> None:
    found = words("用PyTorch2训练\u3000模型。OK 々 กิน ไป")
    assert found == ["用", "pytorch2", "训", "练", "模", "型", "ok", "々", "ก", "น", "ไ", "ป"]
    assert count_words(found) == 6 * 5 / 8 + 2 + 4 / 4
    assert list(runs(found[:4], 2)) == [("用", "pytorch2", "训"), ("pytorch2", "训", "练")]


@given(
    st.lists(st.sampled_from(["字", "か", "ก", "ខ", "word", "слово"]), max_size=30),
    st.sampled_from([1, 2.5, 5]),
)
def test_runs_of_mixed_scripts_are_the_shortest_that_are_long_enough(some: list[str], n: float) -> None:
    whole = [
        [tuple(some[at:end]) for end in range(at + 1, len(some) + 1) if count_words(some[at:end]) >= n]
        for at in range(len(some))
    ]
    assert list(runs(some, n)) == [each[0] for each in whole if each]


def written(language: str, count: float, seed: int) -> str:
    """A text of so many words."""
    share, letters = LETTERS[language]
    return "".join(random.Random(seed).choices(letters, k=round(count * share)))


@pytest.mark.parametrize("language", LETTERS)
def test_texts_without_spaces_are_found(language: str) -> None:
    passages = [written(language, 100, seed) for seed in range(20)]
    tests = Contamination([asked("x", each, name=str(at)) for at, each in enumerate(passages)])
    around = written(language, 30, 100)
    for at, each in enumerate(passages):
        part = each[len(each) // 2 :][: round(15 * LETTERS[language][0])]
        match = tests.found(asked("x", f"{around}{part}。{around}"))
        assert match is not None
        assert match.test.id == str(at)
        assert match.words in each  # without spaces
        assert tests.found(asked("x", around + part[: len(part) // 2])) is None

    question = written(language, 9, 200)
    assert Contamination([asked(question)]).found(asked(f"{around}。{question}。")) is not None
    assert Contamination([asked(question[: len(question) // 2])]).found(asked(question)) is None


@pytest.mark.parametrize("language", LETTERS)
def test_near_copies_of_texts_without_spaces_are_found(language: str) -> None:
    seen = NearDuplicates(Path(tempfile.gettempdir()))
    texts = [written(language, 200, seed) for seed in range(20)]
    assert not any(seen.repeats(asked(text)) for text in texts)
    for at, text in enumerate(texts):
        half = len(text) // 2
        found = seen.repeats(asked(f"{text[:half]}{written(language, 1, at)}。{text[half + 4 :]}"))
        assert found is not None
        assert found.of == at
    assert not any(seen.repeats(asked(written(language, 200, seed))) for seed in range(100, 110))
