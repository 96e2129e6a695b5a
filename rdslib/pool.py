"""The pool D: read from its sources, de-duplicated, and cleared of what the tests contain."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rdslib.chat import Sample
from rdslib.errors import UserError
from rdslib.fetch import Archives
from rdslib.params import Pool, Source
from rdslib.readers import READERS, parse_jsonl
from rdslib.seeds import generator

# A pool sample that shares this many words in a row with a test sample is taken to contain it.
NGRAM = 13

Stats = dict[str, dict[str, int]]


def wanted_members(pool: Pool) -> list[tuple[str, str]]:
    """The (download, pattern) pairs that `build_pool` reads, for `Archives.prepare`."""
    return [(s.download, pattern) for s in pool.sources if s.download is not None for pattern in s.members]


def build_pool(
    pool: Pool, archives: Archives, seed: int, held_out: Sequence[Sample]
) -> tuple[list[Sample], Stats]:
    """The pool's samples, source by source as the profile lists them, and what was dropped from each.

    Of each source, `samples` rows are drawn with a generator of their own from those that are short
    enough; then exact duplicates go (paper, section 3; the first stays), and samples that share a
    13-word sequence with a message of `held_out`, the test samples. The statistics are, by source:
    read, too_long, drawn, duplicate, contaminated, kept. Raises UserError for an unknown reader, a
    source with too few rows, or an id that comes twice.
    """
    test_grams = {gram for sample in held_out for gram in ngrams(sample)}
    kept: list[Sample] = []
    stats: Stats = {}
    seen: set[tuple[tuple[str, str], ...]] = set()
    ids: set[str] = set()
    for source in pool.sources:
        drawn, counts = _draw(source, archives, pool.max_chars, seed)
        for sample in drawn:
            key = text_key(sample)
            if key in seen:
                counts["duplicate"] += 1
                continue
            seen.add(key)
            if not test_grams.isdisjoint(ngrams(sample)):
                counts["contaminated"] += 1
                continue
            if sample.id in ids:
                raise UserError(f"pool source {source.name!r}: the id {sample.id!r} comes twice; rename it")
            ids.add(sample.id)
            kept.append(sample)
            counts["kept"] += 1
        stats[source.name] = counts
    return kept, stats


def _draw(
    source: Source, archives: Archives, max_chars: int, seed: int
) -> tuple[list[Sample], dict[str, int]]:
    """`source.samples` of the short enough rows, in the order of the file, and the counts so far."""
    reader = READERS.get(source.reader)
    if reader is None:
        raise UserError(
            f"pool source {source.name!r}: unknown reader {source.reader!r}; use one of {', '.join(READERS)}"
        )
    if source.download is None and not source.reader.startswith("made_up"):
        raise UserError(f"pool source {source.name!r}: the reader {source.reader} needs a download; name one")
    rows = list(reader(archives, source))
    short = [sample for sample in rows if _length(sample) <= max_chars]
    if len(short) < source.samples:
        raise UserError(
            f"pool source {source.name!r}: {source.samples} samples are asked for, but it has {len(short)} "
            f"of at most {max_chars} characters; lower samples or raise max_chars"
        )
    rng = generator(seed, "pool", source.name)
    positions = np.sort(rng.choice(len(short), size=source.samples, replace=False))
    counts = {"read": len(rows), "too_long": len(rows) - len(short), "drawn": len(positions)}
    return [short[at] for at in positions], {**counts, "duplicate": 0, "contaminated": 0, "kept": 0}


def _length(sample: Sample) -> int:
    return sum(len(message["content"]) for message in sample.messages)


def text_key(sample: Sample) -> tuple[tuple[str, str], ...]:
    """What makes two samples the same: their (role, stripped content) pairs."""
    return tuple((message["role"], message["content"].strip()) for message in sample.messages)


def ngrams(sample: Sample) -> Iterator[tuple[str, ...]]:
    """The runs of 13 lower-cased words within each message."""
    for message in sample.messages:
        yield from runs(words(message["content"]), NGRAM)


def words(text: str) -> list[str]:
    """The words of a text, lower-cased: runs of letters, digits and underscores."""
    return re.findall(r"\w+", text.lower())


def runs(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """The runs of `n` words; none if there are fewer."""
    return zip(*(words[at:] for at in range(n)), strict=False)


def subset(n_total: int, size: int, seed: int) -> np.ndarray:
    """`size` of the positions 0 .. n_total - 1, drawn without replacement and sorted. [size], int64.

    Raises UserError if there are not that many.
    """
    if size > n_total:
        raise UserError(f"a pool of {size} samples cannot be drawn from {n_total}; lower its size")
    rng = generator(seed, "subset")
    return np.sort(rng.choice(n_total, size=size, replace=False))


def read_jsonl(path: Path, default_source: str | None = None) -> list[Sample]:
    """A user's own pool or queries: a JSONL of Tulu messages.

    Each line is `{"messages": [{"role", "content"}, ...]}` with an optional `id` (by default the row
    number) and `source` or `dataset` (by default `default_source`, else the file's stem). Raises
    UserError, naming the file and line, for whatever cannot be used.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give a JSONL file")
    try:
        with path.open("rb") as file:
            samples = list(parse_jsonl(file, str(path), default_source or path.stem))
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; check the path") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    if not samples:
        raise UserError(f"{path}: holds no samples; write one JSON object with messages on each line")
    return samples
