"""Rows of a user's data, from files, folders, the hub and tables in memory, of any size.

Records come from somewhere (`read_records`, `records_in_memory`); `rows_of` makes rows of them. Nothing is
skipped in silence: every record becomes a row or is rejected with a reason.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa

from rdslib.data.chat import Message, Sample
from rdslib.data.containers import (
    BATCH,
    Found,
    Part,
    batches_of,
    kind_of,
    may_escape,
    read_file,
    unusable,
)
from rdslib.data.download import hub_commit
from rdslib.data.formats import FORMS, to_messages
from rdslib.data.inputs import Input, find_input
from rdslib.data.streams import called
from rdslib.data.values import plain
from rdslib.errors import UserError, reason_of

if TYPE_CHECKING:
    import datasets
    import pandas as pd

    Table: TypeAlias = (
        pd.DataFrame
        | pa.Table
        | datasets.Dataset
        | datasets.IterableDataset
        | Mapping[str, Sequence[Any]]
        | Iterable[Mapping[str, Any]]
    )

OnError = Literal["stop", "quarantine"]
Record: TypeAlias = tuple[Part, Found]

# The bits of a number within a part of the input.
_BITS = 48


def records_of(part: Part, found: Iterable[Found]) -> Iterator[Record]:
    """Go through the records of a part; an empty one is a record without a number."""
    empty = True
    for each in found:
        empty = False
        yield part, each
    if empty:
        yield part, Found(None, None, None, "holds no samples; fill or remove it")


def read_records(given: Input) -> Iterator[Record]:
    """Read the records of an input's files, or of a data set of the hub, one after another.

    Raises:
        UserError: A file cannot be read to its end, or the data set cannot be had.
    """
    if given.split is not None:
        part = Part(given.name, f"{given.name}: row ", "", given.name)
        yield from records_of(part, _read_hub(given.name, given.split))
    for path in given.files:
        name = given.name if given.kept else str(path)
        file = path.relative_to(given.folder).as_posix() if given.folder else path.name
        with called(path, name):
            part, found = read_file(path)
            part = part._replace(name=name, before=part.before.replace(str(path), name), file=file)
            yield from records_of(part, found)


def _read_hub(name: str, split: str) -> Iterator[Found]:
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    try:
        for number, value in enumerate(load_dataset(name, split=split, streaming=True), start=1):
            yield Found(number, plain(value))
    except Exception as error:  # of the hub's client, the network or a file format
        hub_commit(name)  # which says what to do where the hub refuses
        reason = f"cannot be read from the hub ({reason_of(error)})"
        raise UserError(
            f"{name}: the split {split!r} {reason}; check the split and the connection"
        ) from error


def records_in_memory(name: str, table: Table) -> Iterator[Record]:
    """Take the records of a table in memory, as JSON would hold them: null cells are missing fields.

    Errors name the table's fourth row `name[3]`. An iterable is of mappings, and gone through once.

    Raises:
        UserError: The table, at once, or a row, when it comes, is of no such kind.
    """
    part = Part(name, f"{name}[", "]", name)
    return records_of(part, _read_rows(part, _table_rows(name, table)))


def _read_rows(part: Part, rows: Iterable[Any]) -> Iterator[Found]:
    for number, row in enumerate(rows):
        where = part.place(number)
        if not isinstance(row, Mapping):
            raise UserError(f"{where}: is of type {type(row).__name__}; give rows as dicts")
        try:
            value = plain(row)
            text = json.dumps(value)
        except (TypeError, ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else reason_of(error)
            raise UserError(f"{where}: cannot be written as JSON ({reason}); correct it") from error
        yield Found(number, value, text, unusable(value, may_escape(text)))


def _table_rows(name: str, table: Table) -> Iterable[Any]:
    import datasets
    import pandas as pd

    if isinstance(table, pd.DataFrame | pa.Table):
        columns = list(table.columns if isinstance(table, pd.DataFrame) else table.column_names)
        if len(set(columns)) < len(columns) or not all(isinstance(column, str) for column in columns):
            raise UserError(
                f"{name}: has columns with the same name, or with one that is no text; rename them"
            )
        if isinstance(table, pa.Table):
            return (row for batch in table.to_batches(BATCH) for row in batch.to_pylist())
        return (dict(zip(columns, row, strict=True)) for row in table.itertuples(index=False, name=None))
    if isinstance(table, datasets.Dataset | datasets.IterableDataset):
        return table.with_format(None)
    splits = (datasets.DatasetDict, datasets.IterableDatasetDict)
    if isinstance(table, Mapping) and not isinstance(table, splits):
        columns = list(table.values())
        if not all(isinstance(column, list | tuple | np.ndarray | pd.Series) for column in columns):
            raise UserError(f"{name}: is a dict with values that are no lists; give a list for each column")
        if len({len(column) for column in columns}) > 1:
            raise UserError(f"{name}: is a dict of lists of different lengths; give each as many values")
        return (dict(zip(table, row, strict=True)) for row in zip(*columns, strict=True))
    if isinstance(table, splits) or not isinstance(table, Iterable):
        raise UserError(
            f"{name}: is of type {type(table).__name__}; give a DataFrame, a pyarrow table, one split of a "
            f"data set, a list of dicts, a dict of lists or a path"
        )
    return table


def take_rows(given: Input, numbers: Sequence[int]) -> pa.Table | None:
    """Take rows of an input of Parquet or Arrow, by their numbers and in that order, with their types.

    None for an input of other kinds. Raises UserError where its files do not make one table.
    """
    if given.split is not None or not all(kind_of(path) in (".parquet", ".arrow") for path in given.files):
        return None
    wanted = np.unique(np.asarray(numbers, dtype=np.int64))
    found, start = [], 0
    for batch in (batch for path in given.files for batch in batches_of(path)):
        first, last = np.searchsorted(wanted, [start, start + len(batch)])
        if first < last:
            found.append(pa.Table.from_batches([batch.take(pa.array(wanted[first:last] - start))]))
        start += len(batch)
    try:
        table = pa.concat_tables(found, promote_options="permissive")
    except pa.ArrowException as error:
        reason = reason_of(error)
        raise UserError(f"{given.name}: its files do not make one table ({reason}); write .jsonl") from error
    return table.take(pa.array(np.searchsorted(wanted, numbers)))


def digest_of(records: Iterable[Record]) -> str:
    """Hash records in memory, in their order: the SHA-256 of a JSONL file of them, in hexadecimal."""
    digest = hashlib.sha256()
    for _, found in records:
        if found.number is not None:
            digest.update(f"{json.dumps(found.value)}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Row:
    """One usable row.

    Its `number` is its position among the records of its input, from 0; its `id` the record's, or else the
    number; `record` all its fields as they were read; `where` names its file and line, or table and position.
    """

    number: int
    id: str
    source: str
    messages: list[Message]
    record: dict[str, Any]
    task: str | None
    where: str

    @property
    def sample(self) -> Sample:
        """The row as a sample."""
        return Sample(self.id, self.source, self.messages)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that cannot be used: where, why, and its text, or None where that cannot be had or held."""

    where: str
    reason: str
    raw: str | None


class _Ids:
    """Which ids are taken. Given ones are kept as hashes, with their places: about 100 bytes each."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._starts: list[int] = []  # of each part, its first row
        self._given: dict[int, int] = {}
        # Of each row so far, whether its number is its id.
        self._numbered = bytearray()

    def take(self, given: str | None, row: int, part: Part, number: int | None) -> str:
        """Return the id of the newest row: with its file's name, if a row of an earlier file has the same.

        Raises ValueError if a row of its own file has it.
        """
        if not self._parts or self._parts[-1] is not part:
            self._parts.append(part)
            self._starts.append(row)
        self._numbered.extend(bytes(row + 1 - len(self._numbered)))
        here, name, who = len(self._parts) - 1, str(row) if given is None else given, ""
        for each in (name, f"{part.file}:{name}"):
            holder = self._holder(each, row)
            if holder is None:
                if each == str(row) and given is None:
                    self._numbered[row] = 1
                else:
                    self._given[hash(each)] = here << _BITS | (number or 0)
                return each
            there, who = holder
            if there == here:
                break
        if given is None:
            raise ValueError(f"has no id, and its row number is the id {name!r}{who}; give it one")
        raise ValueError(f"has the id {given[:60]!r}{who}; ids must be unique in a file")

    def _holder(self, name: str, row: int) -> tuple[int, str] | None:
        """The position of the part that has an id already, and which row of it that is; None if none has."""
        as_number = int(name) if len(name) < 16 and name.isdecimal() else row
        if as_number < row and str(as_number) == name and self._numbered[as_number]:
            return bisect_right(self._starts, as_number) - 1, ", the number of a row without an id"
        place = self._given.get(hash(name))
        if place is None:
            return None
        part = self._parts[place >> _BITS]
        return place >> _BITS, f" of {part.place(place & (1 << _BITS) - 1)}"


def rows_of(
    records: Iterable[Record],
    form: str | None = None,
    on_error: OnError = "stop",
    queries: bool = False,
    check: bool = True,
) -> Iterator[Row | Rejected]:
    """Make rows of the records of one input: each one is either a `Row` or `Rejected`.

    Without one of `formats.FORMS` each record's fields say its form. With `queries`, a prompt without a
    response is good, and a record's `task` is read. `check` is that of `formats.to_messages`. A file that
    holds nothing counts as a bad record.

    Raises:
        UserError: The form is unknown, or, with `on_error="stop"`, a record cannot be used.
    """
    if form is not None and form not in FORMS:
        raise UserError(f"--format {form}: is unknown; use one of {', '.join(FORMS)}")
    ids = _Ids()
    at = 0
    for part, (number, value, raw, reason) in records:
        where = part.place(number)
        row: Row | None = None
        if reason is None:
            try:
                messages = to_messages(value, form, queries, check)
                source = _name(value, "source") or _name(value, "dataset") or part.source
                task = _name(value, "task") if queries else None
                name = ids.take(_name(value, "id"), at, part, number)
                row = Row(at, name, source, messages, value, task, where)
            except ValueError as error:
                cure = "" if "; " in str(error) else "; correct or remove it"
                reason = f"this sample {error}{cure}"
        if reason is not None and on_error == "stop":
            raise UserError(f"{where}: {reason}")
        if raw is None and row is None and value is not None:
            with suppress(RecursionError):
                raw = json.dumps(value, default=str)
        yield row or Rejected(where, reason or "", raw)
        at += number is not None


def read_rows(
    name: str | Path, form: str | None = None, on_error: OnError = "stop", queries: bool = False
) -> Iterator[Row | Rejected]:
    """Read the rows of an input, as `rows_of` makes them of its records."""
    return rows_of(read_records(find_input(name)), form, on_error, queries)


def _name(record: Mapping[str, Any], key: str) -> str | None:
    """A name under a key, or None where there is none; raises ValueError for what is no name."""
    value = record.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"has the field {key} of type {type(value).__name__}; it must be text or a number")
    # Where some rows have none, tables make floats of whole numbers.
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return str(int(value) if whole else value)
