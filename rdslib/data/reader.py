"""A user's own data, row by row: files, folders of files and data sets of the hub, of any size.

Nothing is skipped in silence: every row is either read or rejected with a reason, and a file that cannot be
read to its end is an error.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rdslib.data.chat import Message
from rdslib.data.containers import KINDS, READERS, Found, kind_of, reason_of
from rdslib.data.formats import FORMS, to_messages
from rdslib.errors import UserError

# `org/name`, or `org/name:split`.
_HUB = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?::([\w.-]+))?")
# A place is the number of a part of the input and, in so many bits, a number within it.
_PLACE = 48


@dataclass(frozen=True)
class Input:
    """What a user's path or name stands for.

    `files` are read in this order; `ignored` is what else a folder has: hidden files, links to folders and
    files of other kinds. A data set of the hub has a `split`, and no files.
    """

    name: str
    files: tuple[Path, ...] = ()
    ignored: tuple[Path, ...] = ()
    split: str | None = None


def find_input(name: str | Path) -> Input:
    """What a path or a name stands for: a file, a folder of files, or `org/name[:split]` of the hub.

    A folder's files are found in its subfolders too, and are in the order of their names. Raises UserError if
    there is no such thing, or if nothing in it can be read.
    """
    path = Path(name)
    try:
        if path.is_dir():
            return _find_files(path)
        exists = path.exists()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({reason_of(error)}); check the path and its rights"
        ) from error
    hub = _HUB.fullmatch(str(name))
    if exists:
        if kind_of(path) is None:
            raise UserError(f"{path}: is of no known kind; give {KINDS}")
        return Input(str(name), (path,))
    if hub is None or kind_of(path) is not None:
        raise UserError(f"{path}: there is no such file or folder; check the path")
    return Input(hub[1], split=hub[2] or "train")


def _find_files(folder: Path) -> Input:
    def fail(error: OSError) -> None:
        raise error

    files: list[Path] = []
    ignored: list[Path] = []
    for root, folders, names in os.walk(folder, onerror=fail):
        here = Path(root)
        # Links to folders may lead round in a circle.
        skipped = [name for name in folders if name.startswith(".") or (here / name).is_symlink()]
        folders[:] = [name for name in folders if name not in skipped]
        ignored += [here / name for name in skipped]
        for path in (here / name for name in names):
            usable = kind_of(path) is not None and not path.name.startswith(".")
            (files if usable else ignored).append(path)
    if not files:
        raise UserError(f"{folder}: holds no data; give a folder with {KINDS}")
    return Input(str(folder), tuple(sorted(files)), tuple(sorted(ignored)))


def _read_hub(name: str, split: str) -> Iterator[Found]:
    from datasets import load_dataset

    try:
        rows = load_dataset(name, split=split, streaming=True)
        for number, record in enumerate(rows, start=1):
            yield Found(number, record)
    except Exception as error:  # of the hub's client, the network or a file format
        raise UserError(
            f"{name}: is no file or folder, and the split {split!r} of that name cannot be read from the hub "
            f"({reason_of(error)}); check the name, the split and the connection"
        ) from error


@dataclass(frozen=True, slots=True)
class Row:
    """One usable row.

    `id` is unique within the input: the record's own, or else the row's number, from 0, across the whole
    input. `source` names where the row came from, and `task` the task that a query is for. `record` is the
    row as it was read, with all its fields. `where` names the file and the line.
    """

    id: str
    source: str
    messages: list[Message]
    record: dict[str, Any]
    task: str | None
    where: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that cannot be used: where, why, and its text, or None where that cannot be had or held."""

    where: str
    reason: str
    raw: str | None


class _Part(NamedTuple):
    """A file, or a data set of the hub. `prefix` and a number name a place in it."""

    name: str
    prefix: str
    source: str
    found: Iterator[Found]


def _parts(given: Input) -> Iterator[_Part]:
    if given.split is not None:
        yield _Part(given.name, f"{given.name}: row ", given.name, _read_hub(given.name, given.split))
    for path in given.files:
        kind = kind_of(path)
        assert kind is not None
        stem = path.name[: path.name.lower().rindex(kind)]
        separator, found = READERS[kind](path)
        yield _Part(str(path), f"{path}{separator}", stem, found)


@dataclass
class _Ids:
    """Which ids are taken. Given ones are kept as hashes, with their places: about 100 bytes each."""

    prefixes: list[str] = field(default_factory=list)
    given: dict[int, int] = field(default_factory=dict)
    # Of each row so far, whether its number is its id.
    numbered: bytearray = field(default_factory=bytearray)

    def take(self, given: str | None, number: int) -> str:
        """The newest row's id, at a number in the newest part. Raises ValueError if it is taken."""
        row = len(self.numbered) - 1
        if given is None:
            name = str(row)
            if hash(name) in self.given:
                there = self._where(self.given[hash(name)])
                raise ValueError(f"has no id, and its row number is the id {name!r} of {there}; give it one")
            self.numbered[row] = 1
            return name
        if _is_number(given) and int(given) < row and self.numbered[int(given)]:
            raise ValueError(f"has the id {given!r}, the number of a row without an id; ids must be unique")
        place = len(self.prefixes) - 1 << _PLACE | number
        first = self.given.setdefault(hash(given), place)
        if first != place:
            raise ValueError(f"has the id {given[:60]!r} of {self._where(first)}; ids must be unique")
        return given

    def _where(self, place: int) -> str:
        return f"{self.prefixes[place >> _PLACE]}{place & (1 << _PLACE) - 1}"


def _is_number(name: str) -> bool:
    """Whether a row number is written like this."""
    return len(name) < 16 and name.isdecimal() and str(int(name)) == name


def read_rows(
    given: Input | Path | str,
    form: str | None = None,
    on_error: Literal["stop", "quarantine"] = "stop",
    queries: bool = False,
) -> Iterator[Row | Rejected]:
    """The rows of an input, one after another: each one is either a `Row` or `Rejected`.

    `form` is one of `forms.FORMS`, by default what each record's fields tell. With `queries`, a prompt
    without a response is good, and a record's `task` is read. The first row that cannot be used raises
    UserError; with `on_error="quarantine"` it comes out as `Rejected`, and reading goes on. A file that holds
    nothing counts as a bad row. UserError is raised in either case for an unknown form, and for a file that
    cannot be read to its end.
    """
    if form is not None and form not in FORMS:
        raise UserError(f"--format {form}: is unknown; use one of {', '.join(FORMS)}")
    found = given if isinstance(given, Input) else find_input(given)
    return _rows(found, form, on_error == "stop", queries)


def _rows(given: Input, form: str | None, stop: bool, queries: bool) -> Iterator[Row | Rejected]:
    ids = _Ids()
    for part in _parts(given):
        ids.prefixes.append(part.prefix)
        empty = True
        for found in part.found:
            empty = False
            ids.numbered.append(0)
            row = _row(found, part, form, queries, ids)
            if stop and isinstance(row, Rejected):
                raise UserError(f"{row.where}: {row.reason}")
            yield row
        if empty:
            reason = "holds no samples; fill or remove it"
            if stop:
                raise UserError(f"{part.name}: {reason}")
            # Counts as one bad row, so that it is told of.
            yield Rejected(part.name, reason, None)


def _row(found: Found, part: _Part, form: str | None, queries: bool, ids: _Ids) -> Row | Rejected:
    where = f"{part.prefix}{found.number}"
    reason = found.reason
    if reason is None:
        record = found.value
        try:
            messages = to_messages(record, form, prompts=queries)
            source = _name(record, "source") or _name(record, "dataset") or part.source
            task = _name(record, "task") if queries else None
            return Row(ids.take(_name(record, "id"), found.number), source, messages, record, task, where)
        except ValueError as error:
            reason = f"this sample {error}; mend or remove it"
    return Rejected(where, reason, _as_text(found.value) if found.raw is None else found.raw)


def _name(record: dict[str, Any], key: str) -> str | None:
    """A name under a key, or None where there is none; raises ValueError for what is no name."""
    value = record.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"has the field {key} of type {type(value).__name__}; it must be text")
    return str(value)


def _as_text(value: Any) -> str | None:
    try:
        return None if value is None else json.dumps(value, default=str)
    except RecursionError:
        return None
