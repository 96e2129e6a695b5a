"""What a pool should not hold: samples that repeat an earlier one, and samples with words of a test set.

Each class takes the samples of a pool in order, one call each, and its answer depends on a sample and those
before it alone.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rdslib.data.chat import Sample
from rdslib.errors import needs
from rdslib.seeds import generator

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
# LSH has 16 bands of 8 hash values. It misses one pair in 20 of those that are just as similar as the
# threshold, and one in 8,000 at 0.9; with 9 bands of 13 it would miss three in five, and one in 14.
BANDS = 16
# Samples of the smallest part of an index that is sorted.
PART = 4096
NUMBER = np.uint64(2**32 - 1)


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

    Holds some 130 bytes for each sample that stays, and as much again for a moment; 516 are on disk.

    Args:
        folder: Where the file of hash values is, which has no name.
    """

    def __init__(self, folder: Path) -> None:
        needs("dedup", "datasketch")
        from datasketch import MinHash  # loads scipy

        self._positions = count()
        self._empty = MinHash(PERMUTATIONS, SEED)
        self._index = _Index()
        # Of each sample that stays its position and hash values, uint32 [1 + PERMUTATIONS].
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        size = (BANDS, PERMUTATIONS // BANDS)
        self._factors = generator(SEED, "bands").integers(2**64, size=size, dtype=np.uint64)

    def repeats(self, sample: Sample) -> Repeat | None:
        """Return the most similar of what the next sample repeats, the first of equals; None if nothing."""
        position = next(self._positions)
        minhash = self._empty.copy()
        minhash.update_batch(_shingles(sample))
        values = minhash.hashvalues.astype(np.uint32)
        # Multilinear hashing: the upper half is as good as random, and the lower half is left for numbers.
        keys = (values.reshape(self._factors.shape) * self._factors).sum(axis=1) & ~NUMBER
        if candidates := sorted(self._index.find(keys)):
            known = np.stack([self._read(each) for each in candidates])
            similarity = (known[:, 1:] == values).mean(axis=1)
            best = int(similarity.argmax())
            if similarity[best] >= THRESHOLD:
                return Repeat(int(known[best, 0]), float(similarity[best]))
        self._index.add(keys)
        self._file.write(np.append(np.uint32(position), values).tobytes())
        return None

    def _read(self, number: int) -> np.ndarray:
        size = 4 * (1 + PERMUTATIONS)
        return np.frombuffer(os.pread(self._file.fileno(), size, number * size), dtype=np.uint32)


class _Index:
    """The numbers of samples by the keys of their bands, in 8 bytes for each key.

    Keys are uint64 [BANDS] whose lower half is 0, where numbers are put. Samples that were added lately are
    in a dict, the others in sorted arrays, ever shorter ones; two that are as long become one.
    """

    def __init__(self) -> None:
        self._number = 0
        self._recent: dict[int, list[int]] = {}
        self._sorted: list[np.ndarray] = []

    def find(self, keys: np.ndarray) -> set[int]:
        """The numbers of the samples that have one of the keys."""
        recent = self._recent
        found = {entry for key in recent.keys() & keys.tolist() for entry in recent[key]}
        for entries in self._sorted:
            starts = np.searchsorted(entries, keys)
            there = entries.take(starts, mode="clip") & ~NUMBER == keys
            for key, start in zip(keys[there], starts[there], strict=True):
                found.update(entries[start : np.searchsorted(entries, key | NUMBER, "right")].tolist())
        return {entry & int(NUMBER) for entry in found}

    def add(self, keys: np.ndarray) -> None:
        """Add the next sample."""
        for key in keys.tolist():
            self._recent.setdefault(key, []).append(key | self._number)
        self._number += 1
        if self._number % PART:
            return
        self._sorted.append(np.array([*chain(*self._recent.values())], dtype=np.uint64))
        self._recent.clear()
        while len(self._sorted) > 1 and len(self._sorted[-2]) <= len(self._sorted[-1]):
            self._sorted.append(np.concatenate([self._sorted.pop(), self._sorted.pop()]))
        self._sorted[-1].sort()


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
