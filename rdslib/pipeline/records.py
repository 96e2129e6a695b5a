"""Records: what a study measured, as one small file from which any machine draws its figures again.

A row is an artifact: its step, its hash, its manifest (key, counts, seconds) as JSON, and of an evaluation
the scores by test sample, of a selection the picks, each in a column named by the file that holds them.
`take` puts rows into a store as artifacts without their other files: with them figures are drawn, analysed
and verified without a model, and what several machines computed is put together. What needs files that did
not travel has them made again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rdslib.errors import UserError, reason_of
from rdslib.files import read_table, write_whole
from rdslib.models.device import device_kind
from rdslib.pipeline.step import Step, hash_of, in_order
from rdslib.pipeline.store import Store

NAME = "records.parquet"
FIXED = ("step", "hash", "manifest")
# Of the file: the kind of device that its artifacts were made on, which is a part of their keys.
DEVICE = "rdslib.device"
FOLDER, FILE = re.compile(r"[a-z_]+"), re.compile(r"[a-z_]+\.parquet")


def write(store: Store, steps: Iterable[Step], path: Path) -> None:
    """Write the records of some steps, and of all that they rest on, which must have been made.

    A file that differs in how long steps took alone is left as it is.
    """
    laid_out = in_order(steps)
    columns: dict[str, Any] = {
        "step": [each.name for each in laid_out],
        "hash": [each.hash for each in laid_out],
        # As it is written, not in order of keys: the order of counts is one of sources.
        "manifest": [json.dumps(store.manifest(each)) for each in laid_out],
    }
    for name in sorted({each.record for each in laid_out if each.record is not None}):
        columns[name] = _nested(
            [read_table(store.path(each) / name) if each.record == name else None for each in laid_out]
        )
    table = pa.table(columns).replace_schema_metadata({DEVICE: device_kind()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data = sink.getvalue()
    if not path.is_file() or _untimed(path) != _untimed(pa.BufferReader(data)):
        write_whole(path, data.to_pybytes())


def _untimed(file: Path | pa.BufferReader) -> str | None:
    """All that a file of records holds, without the seconds of its steps; None if it cannot be read."""
    try:
        table = read_table(file)
        rows = table.to_pylist()
        for row in rows:
            row["manifest"] = {**json.loads(row["manifest"]), "seconds": None}
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None
    return repr([table.schema.metadata, table.schema, rows])  # of which NaN is NaN


def those_there(store: Store, steps: Iterable[Step]) -> list[Step]:
    """Of some steps those that have been made, with all that they rest on."""
    return [each for each in steps if not store.missing([each])]


def _nested(tables: Sequence[pa.Table | None]) -> pa.Array:
    """Tables as lists of rows: list of struct [tables], null for none."""
    there = [table for table in tables if table is not None]
    # Scores of some methods are float32.
    whole = pa.concat_tables(there, promote_options="permissive").combine_chunks()
    values = whole.to_struct_array().combine_chunks()
    offsets = np.cumsum([0, *(0 if table is None else len(table) for table in tables)])
    mask = pa.array([table is None for table in tables])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, mask=mask)


def take(store: Store, path: Path) -> str:
    """Put records into a store, where the artifacts are not there.

    Returns:
        The kind of device that they were made on (see `device.recorded_on`).

    Raises:
        UserError: The file cannot be read, or is of no records.
    """
    try:
        table = read_table(path)
        kind = (table.schema.metadata or {}).get(DEVICE.encode(), b"").decode()
        # A file may come from anybody: names are looked at before they are those of folders and files.
        if not {*FIXED} <= {*table.column_names} or not kind:
            raise ValueError(f"has no {', '.join((*FIXED, DEVICE))}")
        tables = [name for name in table.column_names if name not in FIXED]
        for row in range(len(table)):
            step, digest, text = (table[name][row].as_py() for name in FIXED)
            manifest = json.loads(text)
            if not FOLDER.fullmatch(step) or (manifest.get("step"), hash_of(manifest)) != (step, digest):
                raise ValueError(f"row {row}: its key is not that of {step}/{digest}")
            files = {}
            for name in tables:
                if FILE.fullmatch(name) and table[name][row].is_valid:
                    files[name] = pa.Table.from_struct_array(table[name][row].values)
            store.take(step, digest, manifest, files)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, pa.ArrowException) as error:
        raise UserError(
            f"{path}: is no file of records ({reason_of(error)}); give one that a run has written"
        ) from error
    return kind
