"""The pool: built from its sources, written as Parquet, and read as samples are asked for."""

from __future__ import annotations

import fnmatch
import gzip
import itertools
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rdslib.data.archives import Archives
from rdslib.data.chat import Sample
from rdslib.data.dedup import NGRAM, Contamination, ExactDuplicates, NearDuplicates
from rdslib.data.sources import READERS
from rdslib.errors import UserError, reason_of
from rdslib.params import Pool, Source
from rdslib.seeds import generator

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SCHEMA = pa.schema([("id", pa.string()), ("source", pa.string()), ("messages", MESSAGES)])

# What readers of sources raise at data of another kind.
MALFORMED = (
    *(ValueError, LookupError, TypeError, AttributeError, RecursionError),
    *(EOFError, gzip.BadGzipFile, zlib.error),
)
# Samples of a row group, the least that can be read, and the characters after which it is written earlier.
GROUP, GROUP_CHARS = 4096, 2**25


def wanted_members(pool: Pool) -> list[tuple[str, str]]:
    """Return the (download, pattern) pairs that `build_pool` reads, for `Archives.prepare`."""
    return [(s.download, pattern) for s in pool.sources if s.download is not None for pattern in s.members]


def build_pool(
    pool: Pool, archives: Archives, seed: int, held_out: Sequence[Sample], stats: dict[str, dict[str, int]]
) -> Iterator[Sample]:
    """Build the pool D, source by source as the profile lists them.

    Of each source, `samples` rows are drawn, each source with its generator, from those that are short
    enough; all rows, if it says what is `published` of them. Then exact duplicates go (paper, section 3; the
    first stays), or near ones if the profile says so, and samples that share 13 words in a row with a message
    of the test samples, `held_out`. `stats` is filled, by source, with the counts read, too_long, drawn,
    duplicate, contaminated and kept.

    Yields:
        The samples, as they are read.

    Raises:
        UserError: A reader is unknown, a source has too few rows, or an id comes twice.
    """
    contamination = Contamination(held_out, shortest=NGRAM) if held_out else None
    duplicates = NearDuplicates(Path(tempfile.gettempdir())) if pool.near_duplicates else ExactDuplicates()
    ids = set[str]()
    for source in pool.sources:
        names = ("read", "too_long", "drawn", "duplicate", "contaminated", "kept")
        counts = stats[source.name] = dict.fromkeys(names, 0)
        for sample in _draw(source, archives, pool.max_chars, seed, counts):
            if duplicates.repeats(sample):
                counts["duplicate"] += 1
            elif contamination is not None and contamination.found(sample):
                counts["contaminated"] += 1
            elif sample.id in ids:
                raise UserError(f"pool source {source.name!r}: the id {sample.id!r} comes twice; rename it")
            else:
                ids.add(sample.id)
                counts["kept"] += 1
                yield sample


def _draw(
    source: Source, archives: Archives, max_chars: int | None, seed: int, counts: dict[str, int]
) -> Iterator[Sample]:
    """`source.samples` of the short enough rows, in the order of the file; or all of these as they come."""
    reader = READERS.get(source.reader)
    if reader is None:
        raise UserError(
            f"pool source {source.name!r}: unknown reader {source.reader!r}; use one of {', '.join(READERS)}"
        )
    if source.download is None and not source.reader.startswith("made_up"):
        raise UserError(f"pool source {source.name!r}: the reader {source.reader} needs a download; name one")

    def read() -> Iterator[Sample]:
        try:
            yield from reader(archives, source)
        except MALFORMED as error:
            raise UserError(
                f"pool source {source.name!r}: {source.download} is not what {source.reader} reads "
                f"({reason_of(error)}); name its reader, or correct the download"
            ) from error

    def short() -> Iterator[Sample]:
        for row in read():
            counts["read"] += 1
            if max_chars is None or sum(len(message["content"]) for message in row.messages) <= max_chars:
                yield row
            else:
                counts["too_long"] += 1

    if source.published is not None:
        for row in short():
            counts["drawn"] += 1
            yield row
        return
    rows = list(short())
    if len(rows) < source.samples:
        limit = "" if max_chars is None else f" of at most {max_chars} characters"
        raise UserError(
            f"pool source {source.name!r}: {source.samples} samples are asked for, but it has {len(rows)}"
            f"{limit}; lower samples or raise max_chars"
        )
    rng = generator(seed, "pool", source.name)
    positions = np.sort(rng.choice(len(rows), size=source.samples, replace=False))
    counts["drawn"] = len(positions)
    yield from (rows[at] for at in positions)


def differences(found: Mapping[str, int], published: Mapping[str, int]) -> list[str]:
    """Say where the samples of a pool, by source, are not as many as is published of them.

    A published source is a pattern, such as `science*`; a source that matches several counts for the first.
    """
    counts = dict.fromkeys(published, 0)
    others: dict[str, int] = {}
    for source, count in found.items():
        name = next((each for each in published if fnmatch.fnmatchcase(source, each)), None)
        (others if name is None else counts)[name or source] = count + counts.get(name or source, 0)
    lines = [
        f"{name}: {counts[name]:,} samples, {count:,} are published ({counts[name] - count:+,})"
        for name, count in published.items()
        if counts[name] != count
    ]
    lines += [
        f"{name}: {count:,} samples, of a source that is not published" for name, count in others.items()
    ]
    if lines:
        total, of = sum(found.values()), sum(published.values())
        fewer = "; budgets over that must be lowered" if total < of else ""
        lines.append(f"all: {total:,} samples, {of:,} are published ({total - of:+,}){fewer}")
    return lines


def subset(n_total: int, size: int, seed: int) -> np.ndarray:
    """Draw a smaller pool: `size` of the positions 0 .. n_total - 1, sorted, int64; UserError if too few."""
    if size > n_total:
        raise UserError(f"a pool of {size} samples cannot be drawn from {n_total}; lower its size")
    return np.sort(generator(seed, "subset").choice(n_total, size=size, replace=False))


def to_table(samples: Iterable[Sample]) -> pa.Table:
    """Make an Arrow table of samples: id, source, messages."""
    return pa.Table.from_pylist([vars(sample) for sample in samples], schema=SCHEMA)


def from_rows(rows: Iterable[dict[str, Any]]) -> list[Sample]:
    """Make samples of the rows of such a table."""
    return [Sample(**row) for row in rows]


def write_pool(samples: Iterable[Sample], path: Path) -> None:
    """Write samples as Parquet: id, source, messages, a row group at a time. The same give the same bytes."""
    rows = iter(samples)
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as file:
        while group := list(itertools.islice(rows, GROUP)):
            file.write_table(to_table(group), GROUP)


class PoolWriter:
    """Writes a pool sample by sample, to be closed at the end, with a file of what else is kept of each.

    `path` is read by `PoolFile`. `extra_path` holds, by position, the columns of `extra`, as text.
    """

    def __init__(self, path: Path, extra_path: Path, extra: Sequence[str]) -> None:
        self._extra = pa.schema([(name, pa.string()) for name in extra])
        self._file = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self._extra_file = pq.ParquetWriter(extra_path, self._extra, compression="zstd")
        self._rows: list[tuple[Sample, dict[str, str]]] = []
        self._size = 0

    def add(self, sample: Sample, *extra: str) -> None:
        """Write the next sample."""
        self._rows.append((sample, dict(zip(self._extra.names, extra, strict=True))))
        self._size += sum(map(len, extra)) + sum(len(message["content"]) for message in sample.messages)
        if len(self._rows) == GROUP or self._size >= GROUP_CHARS:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        if self._rows:
            self._flush()
        self._file.close()
        self._extra_file.close()

    def _flush(self) -> None:
        samples, extra = zip(*self._rows, strict=True)
        self._file.write_table(to_table(samples), GROUP)
        self._extra_file.write_table(pa.Table.from_pylist(extra, schema=self._extra), GROUP)
        self._rows.clear()
        self._size = 0


class Rows:
    """The rows of a Parquet file, as dicts: read by position, a row group at a time."""

    def __init__(self, path: Path) -> None:
        self.file = pq.ParquetFile(path)
        metadata = self.file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        # The position of each row group's first row.
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        # The row group that was read last: neighbours are mostly asked for one after another.
        self._last: tuple[int, list[dict[str, Any]]] = (-1, [])

    def take(self, positions: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """Return the rows at some positions, in that order."""
        wanted = np.asarray(positions, dtype=np.int64)
        groups = np.searchsorted(self._starts, wanted, side="right") - 1
        found: dict[int, dict[str, Any]] = {}
        for group in np.unique(groups).tolist():
            if group != self._last[0]:
                self._last = (group, self.file.read_row_group(group).to_pylist())
            first, rows = int(self._starts[group]), self._last[1]
            found |= {at: rows[at - first] for at in wanted[groups == group].tolist()}
        return [found[at] for at in wanted.tolist()]


def rows_at(path: Path, positions: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
    """Read the rows of a Parquet file at some positions, in that order."""
    return Rows(path).take(positions)


class PoolFile(Sequence[Sample]):
    """A pool that `write_pool` has written, or those of its samples at the positions `kept`.

    Samples are read as they are asked for; the length, ids and sources are had without reading messages.
    `kept` (int64, sorted, or None for all) says where in the file the samples lie.
    """

    def __init__(self, path: Path, kept: np.ndarray | None = None) -> None:
        self.kept = kept
        self._rows = Rows(path)

    def __len__(self) -> int:
        return int(self._rows.file.metadata.num_rows) if self.kept is None else len(self.kept)

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
        """The id of each sample."""
        return self._column("id")

    @cached_property
    def sources(self) -> list[str]:
        """The source of each sample; equal ones are one string in memory."""
        coded = self._column("source").combine_chunks().dictionary_encode()
        return np.array(coded.dictionary.to_pylist(), dtype=object)[coded.indices.to_numpy()].tolist()

    def _column(self, name: str) -> pa.ChunkedArray:
        column = self._rows.file.read(columns=[name]).column(name)
        return column if self.kept is None else column.take(pa.array(self.kept))

    def take(self, positions: Sequence[int] | np.ndarray) -> list[Sample]:
        """Return the samples at some positions, in that order."""
        rows = np.asarray(positions, dtype=np.int64)
        return from_rows(self._rows.take(rows if self.kept is None else self.kept[rows]))
