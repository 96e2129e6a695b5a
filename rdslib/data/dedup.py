"""What a pool should not hold: samples that repeat an earlier one, and samples with words of a test set.

Each class takes the samples of a pool in order, one call each, and its answer depends on a sample and those
before it alone.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import count
from typing import NamedTuple

import numpy as np

from rdslib.data.chat import Sample
from rdslib.errors import needs

# A sample that shares this many words in a row with a test sample is taken to contain it.
NGRAM = 13
# A question of fewer words is found by chance too often (Brown et al. 2020, appendix C, take the same).
SHORTEST = 8

# Scripts without spaces between words: of Chinese and Japanese, and of Thai, Lao, Burmese and Khmer.
CJK = (
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff"
)
SOUTH_EAST_ASIAN = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9ff\uaa60-\uaa7f"
# A letter of these is a word of its own, but counts as a part of one: in a corpus of translations there are
# 1.6 Chinese letters to an English word, and 4.2 Thai ones. Elsewhere a word is a run of letters and digits.
WORD = re.compile(rf"[^\W{CJK}{SOUTH_EAST_ASIAN}]+|(?=\w)[{CJK}{SOUTH_EAST_ASIAN}]")
PARTS = [(re.compile(f"[{CJK}]"), 5 / 8), (re.compile(f"[{SOUTH_EAST_ASIAN}]"), 1 / 4)]
NO_SPACE = re.compile(f"(?<=[{CJK}{SOUTH_EAST_ASIAN}]) (?=[{CJK}{SOUTH_EAST_ASIAN}])")

SHINGLE = 5
PERMUTATIONS = 128
SEED = 1
THRESHOLD = 0.8
# What LSH is to avoid: false candidates, which cost a check, and missed ones, which stay. At a threshold of
# 0.8 it has 16 bands of 8, and misses one pair in 20 of those that are just so similar, and one in 8,000 at
# 0.9. With equal weights it would miss three in five, and one in 14.
WEIGHTS = (0.05, 0.95)


def text_key(sample: Sample) -> tuple[tuple[str, str], ...]:
    """Return what makes two samples the same: their (role, stripped content) pairs."""
    return tuple((message["role"], message["content"].strip()) for message in sample.messages)


def words(text: str) -> list[str]:
    """Return the words of a text, lower-cased: runs of letters, digits and underscores.

    In scripts without spaces between words each letter is returned by itself.
    """
    return WORD.findall(text.lower())


def count_words(words: Sequence[str]) -> float:
    """Return how many words there are, where a letter of a script without spaces is a part of one."""
    return sum(_parts(words))


def runs(words: Sequence[str], n: float) -> Iterator[tuple[str, ...]]:
    """Iterate over the runs of `n` words, or the least that is more; there are none if there are fewer."""
    if not _has_parts(words):
        return zip(*(words[at:] for at in range(math.ceil(n))), strict=False)
    before = np.cumsum([0, *_parts(words)])
    ends = np.searchsorted(before, before[:-1] + n).tolist()
    return (tuple(words[start:end]) for start, end in enumerate(ends) if end <= len(words))


def _has_parts(words: Sequence[str]) -> bool:
    return max(words, default="") >= SOUTH_EAST_ASIAN[0]  # the first of these letters


def _parts(words: Sequence[str]) -> list[float]:
    """What each counts as."""
    return [_part(word[0]) for word in words] if _has_parts(words) else [1] * len(words)


@cache
def _part(letter: str) -> float:
    """What a word counts as that begins with a letter."""
    return next((part for letters, part in PARTS if letters.match(letter)), 1)


class Repeat(NamedTuple):
    """The position of the sample that another one repeats, and their similarity, 1 for equal texts."""

    of: int
    similarity: float


class ExactDuplicates:
    """Finds samples whose roles and contents are those of an earlier one, but for white space at their ends.

    Holds about 150 bytes for each sample that stays.
    """

    def __init__(self) -> None:
        self._positions = count()
        self._first: dict[bytes, int] = {}

    def repeats(self, sample: Sample) -> Repeat | None:
        """Return what the next sample of the pool repeats; None if nothing."""
        position = next(self._positions)
        digest = hashlib.blake2b(_text(sample), digest_size=16).digest()
        first = self._first.setdefault(digest, position)
        return Repeat(first, 1.0) if first < position else None


class NearDuplicates:
    """Finds samples whose words are nearly those of an earlier one, exact duplicates among them.

    Similarity is the Jaccard index of the two sets of 5-word shingles, estimated by MinHash from 128
    permutations (give or take 0.035 at 0.8). Shingles are of all the messages, one after another, lower-cased
    and without punctuation; fewer than 5 words are one shingle, and so is a text without any. Pairs are found
    by LSH, which misses a few, and count only if their estimate is at least 0.8. What repeats an earlier
    sample cannot be repeated, so that whatever goes is like something that stays.

    Holds about 7 kB for each sample that stays.
    """

    def __init__(self) -> None:
        needs("dedup", "datasketch")
        from datasketch import MinHash, MinHashLSH  # loads scipy

        self._positions = count()
        self._empty = MinHash(PERMUTATIONS, SEED)
        self._index = MinHashLSH(THRESHOLD, PERMUTATIONS, WEIGHTS)
        self._values: dict[int, np.ndarray] = {}

    def repeats(self, sample: Sample) -> Repeat | None:
        """Return the most similar of what the next sample repeats, the first of equals; None if nothing."""
        position = next(self._positions)
        minhash = self._empty.copy()
        minhash.update_batch(_shingles(sample))
        candidates = sorted(self._index.query(minhash))
        if candidates:
            values = np.stack([self._values[each] for each in candidates])
            similarity = (values == minhash.hashvalues).mean(axis=1)
            best = int(similarity.argmax())
            if similarity[best] >= THRESHOLD:
                return Repeat(candidates[best], float(similarity[best]))
        self._index.insert(position, minhash, check_duplication=False)
        self._values[position] = minhash.hashvalues
        return None


def _text(sample: Sample) -> bytes:
    """What makes two samples the same, as bytes: `repr` keeps strings apart, and escapes what UTF-8 lacks."""
    return repr(text_key(sample)).encode()


def _shingles(sample: Sample) -> set[bytes]:
    found = [word for message in sample.messages for word in words(message["content"])]
    if not found:
        return {_text(sample)}
    return {" ".join(run).encode() for run in runs(found, min(SHINGLE, count_words(found)))}


class Match(NamedTuple):
    """What a sample shares with a test sample: `words`, in a row, as one string."""

    test: Sample
    words: str


class Contamination:
    """Finds samples with `n` words in a row of a message of a test sample.

    A user message of a test sample that is shorter, but has `shortest` words, is found whole. Short responses
    and system messages are not looked for: what a refusal says, say, is in many samples.

    Holds the test samples, and about 100 bytes for each of their n-grams.
    """

    def __init__(self, tests: Iterable[Sample], n: int = NGRAM, shortest: int = SHORTEST) -> None:
        self._n, self._shortest = n, shortest
        self._tests = list(tests)
        # Of each n-gram's 8-byte hash the first test sample that has it; an n-gram itself would take several
        # times the memory. Of two with the same hash, one in a million among millions, the second is lost.
        self._first: dict[int, int] = {}
        lengths: set[float] = set()
        for index, test in enumerate(self._tests):
            for length, gram in self._wanted(test):
                self._first.setdefault(hash(gram), index)
                lengths.add(length)
        self._lengths = sorted(lengths, reverse=True)

    def found(self, sample: Sample) -> Match | None:
        """Return the longest run that `sample` shares, and the first test sample with it; None if none."""
        messages = [words(message["content"]) for message in sample.messages]
        for length in self._lengths:
            for message in messages:
                for gram in runs(message, length):
                    index = self._first.get(hash(gram))
                    if index is not None and (length, gram) in self._wanted(self._tests[index]):
                        return Match(self._tests[index], NO_SPACE.sub("", " ".join(gram)))
        return None

    def _wanted(self, test: Sample) -> Iterator[tuple[float, tuple[str, ...]]]:
        """The runs of words to look for, of one test sample, each with how many words are looked for."""
        for message in test.messages:
            found = words(message["content"])
            yield from ((self._n, run) for run in runs(found, self._n))
            if message["role"] == "user" and self._shortest <= (length := count_words(found)) < self._n:
                yield length, tuple(found)
