"""The pool on disk, as Parquet: written once, and read in parts, since it may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rdslib.chat import Sample

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
