"""Which samples of a pool repeat an earlier one, told as the samples come.

Each class takes the samples in the order of the pool, one call each. The first stays: only what repeats
nothing can be repeated, so that whatever goes is a repeat of something kept. What is told of a sample depends
on it and those before it alone.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from datasketch import MinHash, MinHashLSH

from rdslib.chat import Sample
from rdslib.errors import UserError
from rdslib.pool import runs, text_key, words

SHINGLE = 5
PERMUTATIONS = 128
SEED = 1
THRESHOLD = 0.8
# What LSH is to avoid: false candidates, which cost a check, and missed ones, which stay. At a threshold of
# 0.8 it has 16 bands of 8, and misses one pair in 20 of those that are just so similar, and one in 8,000 at
# 0.9. With equal weights it would miss three in five, and one in 14.
WEIGHTS = (0.05, 0.95)


class Repeat(NamedTuple):
    """That a sample repeats the one at position `of`, and their similarity, 1 for equal texts."""

    of: int
    similarity: float


class ExactDuplicates:
    """Samples whose roles and contents are those of an earlier one, but for white space at their ends.

    Holds about 150 bytes for each sample that stays.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._first: dict[bytes, int] = {}

    def repeats(self, sample: Sample) -> Repeat | None:
        """What the next sample of the pool repeats; None if nothing."""
        position, self._seen = self._seen, self._seen + 1
        digest = hashlib.blake2b(_text(sample), digest_size=16).digest()
        first = self._first.setdefault(digest, position)
        return Repeat(first, 1.0) if first < position else None


class NearDuplicates:
    """Samples whose words are nearly those of an earlier one, exact duplicates among them.

    Similarity is the Jaccard index of the two sets of 5-word shingles, estimated by MinHash from 128
    permutations (give or take 0.035 at 0.8). Shingles are of all the messages, one after another, lower-cased
    and without punctuation; fewer than 5 words are one shingle, and so is a text without any. Pairs are found
    by LSH, which misses a few, and told only if their estimate is at least `threshold`.

    Holds about 7 kB for each sample that stays.
    """

    def __init__(self, threshold: float = THRESHOLD) -> None:
        """Raises UserError if `threshold` is not above 0 and at most 0.99, the most that LSH can tell."""
        if not 0 < threshold <= 0.99:
            raise UserError(
                f"near duplicates cannot be told by a similarity of {threshold}; give one from 0.01 to 0.99"
            )
        self.threshold = threshold
        self._seen = 0
        self._empty = MinHash(PERMUTATIONS, SEED)
        self._index = MinHashLSH(threshold, PERMUTATIONS, WEIGHTS)
        self._values: dict[int, np.ndarray] = {}

    def repeats(self, sample: Sample) -> Repeat | None:
        """The most similar of what the next sample repeats, the first of equals; None if nothing."""
        position, self._seen = self._seen, self._seen + 1
        minhash = self._empty.copy()
        minhash.update_batch(_shingles(sample))
        candidates = sorted(self._index.query(minhash))
        if candidates:
            values = np.stack([self._values[each] for each in candidates])
            similarity = (values == minhash.hashvalues).mean(axis=1)
            best = int(similarity.argmax())
            if similarity[best] >= self.threshold:
                return Repeat(candidates[best], float(similarity[best]))
        self._index.insert(position, minhash, check_duplication=False)
        self._values[position] = minhash.hashvalues
        return None


def _text(sample: Sample) -> bytes:
    """What makes two samples the same, as bytes: `repr` tells strings apart, and escapes what UTF-8 lacks."""
    return repr(text_key(sample)).encode()


def _shingles(sample: Sample) -> set[bytes]:
    said = [word for message in sample.messages for word in words(message["content"])]
    if not said:
        return {_text(sample)}
    return {" ".join(run).encode() for run in runs(said, min(SHINGLE, len(said)))}
