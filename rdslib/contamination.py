"""Whether a sample contains something of test sets that must not be trained on.

Words are lower-cased runs of letters, digits and underscores, as for the study's own pool (`rdslib.pool`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from rdslib.chat import Sample
from rdslib.pool import NGRAM, runs, words

# A shorter text is found by chance too often (Brown et al. 2020, appendix C, take the same).
SHORTEST = 8


class Match(NamedTuple):
    """What a sample shares with a test sample: `words`, in a row, as one string."""

    test: Sample
    words: str


class Contamination:
    """Finds samples with `n` words in a row of a message of a test sample.

    A user message of a test sample that is shorter, but has `SHORTEST` words, is found whole. Short responses
    and system messages are not looked for: what a refusal says, say, is in many samples.

    Holds the test samples, and about 100 bytes for each of their n-grams.
    """

    def __init__(self, tests: Iterable[Sample], n: int = NGRAM) -> None:
        """Raises ValueError if `n` is less than 1."""
        if n < 1:
            raise ValueError(f"n-grams of {n} words are asked for; ask for at least 1")
        self.n = n
        self._tests = list(tests)
        # Of each n-gram's 8-byte hash the first test sample that has it; an n-gram itself would take several
        # times the memory. Of two with the same hash, a chance of one in a million among millions, the second
        # is lost.
        self._first: dict[int, int] = {}
        lengths: set[int] = set()
        for index, test in enumerate(self._tests):
            for gram in _wanted(test, n):
                self._first.setdefault(hash(gram), index)
                lengths.add(len(gram))
        self._lengths = sorted(lengths, reverse=True)

    def found(self, sample: Sample) -> Match | None:
        """The longest run that `sample` shares, the first of equals, with the first test sample that has it.

        None if it shares none.
        """
        messages = [words(message["content"]) for message in sample.messages]
        for length in self._lengths:
            for message in messages:
                for gram in runs(message, length):
                    index = self._first.get(hash(gram))
                    if index is not None and gram in _wanted(self._tests[index], self.n):
                        return Match(self._tests[index], " ".join(gram))
        return None


def _wanted(test: Sample, n: int) -> Iterator[tuple[str, ...]]:
    """The runs of words to look for, of one test sample."""
    for message in test.messages:
        said = words(message["content"])
        yield from runs(said, n)
        if message["role"] == "user" and SHORTEST <= len(said) < n:
            yield tuple(said)
