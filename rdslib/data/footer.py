"""Files of Parquet whose own description is contradictory, found out before pyarrow ends the process."""

from __future__ import annotations

from contextlib import suppress
from mmap import ACCESS_READ, mmap
from typing import BinaryIO

import pyarrow.parquet as pq


class _Asked(Exception):
    """Data of a `_Footer` is asked for."""


class _Footer(mmap):
    """A file of Parquet without its data."""

    def read(self, size: int | None = None) -> bytes:
        raise _Asked


def check_metadata(stream: BinaryIO, metadata: pq.FileMetaData) -> None:
    """Raise what pyarrow does where what columns say of themselves is contradictory.

    As it begins to read rows it looks at that of each column, before any data. Where it is asked for it, by
    `RowGroupMetaData.column`, it ends the process.
    """
    file = _Footer(stream.fileno(), 0, access=ACCESS_READ)
    rows = pq.ParquetFile(file, metadata=metadata, buffer_size=2**12)  # read as it is needed, not in whole
    for group in range(metadata.num_row_groups):
        with suppress(_Asked):
            next(rows.iter_batches(1, row_groups=[group]), None)
