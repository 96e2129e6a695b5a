"""The pool D: read from its sources, de-duplicated, and cleared of what the tests contain."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rdslib.data.chat import Sample
from rdslib.data.download import Archives
from rdslib.data.sources import READERS, parse_jsonl
from rdslib.errors import UserError
from rdslib.params import Pool, Source
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


MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SCHEMA = pa.schema([("id", pa.string()), ("source", pa.string()), ("messages", MESSAGES)])

# Samples of a row group: the least that can be read.
GROUP = 4096


def to_table(samples: Sequence[Sample]) -> pa.Table:
    """Samples as an Arrow table of id, source and messages."""
    columns = {
        "id": [sample.id for sample in samples],
        "source": [sample.source for sample in samples],
        "messages": [sample.messages for sample in samples],
    }
    return pa.table(columns, schema=SCHEMA)


def from_rows(rows: Iterable[dict[str, Any]]) -> list[Sample]:
    """Samples from the rows of such a table."""
    return [Sample(row["id"], row["source"], row["messages"]) for row in rows]


def write_pool(samples: Sequence[Sample], path: Path) -> None:
    """Write samples as Parquet with the columns id, source, messages."""
    pq.write_table(to_table(samples), path, compression="zstd", row_group_size=GROUP)


class PoolWriter:
    """Writes a pool sample by sample, to be closed at the end, with a file of what else is kept of each.

    `path` is read by `PoolFile`. `extra_path` holds, by position, the columns of `extra`, as text.
    """

    def __init__(self, path: Path, extra_path: Path, extra: Sequence[str]) -> None:
        self._schemas = (SCHEMA, pa.schema([(name, pa.string()) for name in extra]))
        self._files = [
            pq.ParquetWriter(each, schema, compression="zstd")
            for each, schema in zip((path, extra_path), self._schemas, strict=True)
        ]
        self._rows: tuple[list[Any], list[Any]] = ([], [])

    def add(self, sample: Sample, *extra: str) -> None:
        """The next sample."""
        self._rows[0].append((sample.id, sample.source, sample.messages))
        self._rows[1].append(extra)
        if len(self._rows[0]) == GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        if self._rows[0]:
            self._flush()
        for file in self._files:
            file.close()

    def _flush(self) -> None:
        for file, rows, schema in zip(self._files, self._rows, self._schemas, strict=True):
            columns = dict(zip(schema.names, zip(*rows, strict=True), strict=True))
            file.write_table(pa.table(columns, schema=schema), row_group_size=GROUP)
            rows.clear()


def rows_at(path: Path, positions: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
    """The rows of a Parquet file at some positions, in that order; a row group is read at a time."""
    file = pq.ParquetFile(path)
    metadata = file.metadata
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    ends = np.cumsum(sizes, dtype=np.int64)
    wanted = np.asarray(positions, dtype=np.int64)
    groups = np.searchsorted(ends, wanted, side="right")
    found: dict[int, dict[str, Any]] = {}
    for group in np.unique(groups).tolist():
        inside = wanted[groups == group]
        rows = file.read_row_group(group).take(pa.array(inside - (ends[group] - sizes[group]))).to_pylist()
        found |= dict(zip(inside.tolist(), rows, strict=True))
    return [found[row] for row in wanted.tolist()]


class PoolFile(Sequence[Sample]):
    """A pool that `write_pool` has written, or those of its samples at the positions `kept`.

    A sequence whose samples are read as they are asked for, a row group at a time. `kept` (int64, sorted, or
    None for all) says where in the file they lie.
    """

    def __init__(self, path: Path, kept: np.ndarray | None = None) -> None:
        self.kept = kept
        self._file = pq.ParquetFile(path)
        metadata = self._file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        # The row group that was read last, and its rows: neighbours are mostly asked for one after another.
        self._last: tuple[int, list[Sample]] = (-1, [])

    def __len__(self) -> int:
        return int(self._starts[-1]) if self.kept is None else len(self.kept)

    @overload
    def __getitem__(self, at: int) -> Sample: ...
    @overload
    def __getitem__(self, at: slice) -> list[Sample]: ...
    def __getitem__(self, at: int | slice) -> Sample | list[Sample]:
        if isinstance(at, slice):
            return self.take(range(*at.indices(len(self))))
        return self.take([range(len(self))[at]])[0]

    @cached_property
    def ids(self) -> pa.ChunkedArray:
        """Of each sample, its id."""
        return self._column("id")

    @cached_property
    def sources(self) -> list[str]:
        """Of each sample, its source; equal ones are one string in memory."""
        coded = self._column("source").combine_chunks().dictionary_encode()
        return np.array(coded.dictionary.to_pylist(), dtype=object)[coded.indices.to_numpy()].tolist()

    def _column(self, name: str) -> pa.ChunkedArray:
        column = self._file.read(columns=[name]).column(name)
        return column if self.kept is None else column.take(pa.array(self.kept))

    def take(self, positions: Sequence[int] | np.ndarray) -> list[Sample]:
        """The samples at some positions, in that order."""
        rows = np.asarray(positions, dtype=np.int64)
        if self.kept is not None:
            rows = self.kept[rows]
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        found: dict[int, Sample] = {}
        for group in np.unique(groups).tolist():
            if group != self._last[0]:
                self._last = (group, from_rows(self._file.read_row_group(group).to_pylist()))
            first, read = int(self._starts[group]), self._last[1]
            found |= {row: read[row - first] for row in rows[groups == group].tolist()}
        return [found[row] for row in rows.tolist()]
