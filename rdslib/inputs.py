"""A user's own data, row by row: files, folders of files and data sets of the hub, of any size.

Nothing is skipped in silence: every row is either read or rejected with a reason, and a file that cannot be
read to its end is an error.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rdslib.chat import Message
from rdslib.errors import UserError
from rdslib.forms import FORMS, to_messages

# Bytes of a line of text that are held at once: a sample of the largest size with each character escaped.
MAX_LINE = 64 * 2**20
# Rows of Parquet that are held at once.
BATCH = 256

COMPRESSED = (".gz", ".zst")
# `org/name`, or `org/name:split`.
_HUB = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?::([\w.-]+))?")
# What JSON may escape half of a surrogate pair with.
_SURROGATE = re.compile(r"\\u[dD]")
# A place is the number of a part of the input and, in so many bits, a number within it.
_PLACE = 48


class _Found(NamedTuple):
    """What is at the `number`-th place, from 1, of a file: a value and its text, or why it is unusable."""

    number: int
    value: Any
    raw: str | None = None
    reason: str | None = None


@contextmanager
def _open(path: Path, seekable: bool = False) -> Iterator[Any]:
    """A file's bytes, decompressed; what goes wrong while it is open becomes a UserError that names it."""
    try:
        with path.open("rb") as file:
            compression = path.suffix.lower()
            if compression not in COMPRESSED:
                yield file
                return
            # Both tell a stream that ends too early.
            inner: Any = (
                gzip.GzipFile(fileobj=file) if compression == ".gz" else pa.input_stream(file, "zstd")
            )
            stream = io.BufferedReader(inner)
            if not seekable:
                yield stream
                return
            with tempfile.TemporaryFile() as whole:
                shutil.copyfileobj(stream, whole)
                whole.seek(0)
                yield whole
    # Bytes that are no UTF-8 in lines are told of there; here they are in the names of columns.
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, pa.ArrowException) as error:
        raise UserError(
            f"{path}: cannot be read ({_why(error)}); check that it is whole and that you may read it"
        ) from error


def _why(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """The lines, numbered from 1; None for one that is longer than `MAX_LINE`, which is passed over."""
    for number in count(1):
        line = stream.readline(MAX_LINE)
        if not line:
            return
        if len(line) < MAX_LINE or line.endswith(b"\n"):
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE)
        yield number, None


def _decode(line: bytes, number: int) -> str:
    return line.decode("utf-8-sig" if number == 1 else "utf-8")


def _too_long() -> str:
    return f"is a line of more than {MAX_LINE} bytes; split it"


def _not_utf8(byte: int) -> str:
    return f"is not UTF-8 (byte {byte} of the line); save the file as UTF-8"


def _read_jsonl(path: Path) -> Iterator[_Found]:
    with _open(path) as stream:
        for number, line in _lines(stream):
            if line is None:
                yield _Found(number, None, None, _too_long())
                continue
            try:
                text = _decode(line, number)
            except UnicodeDecodeError as error:
                text = line.decode(errors="backslashreplace").strip()
                yield _Found(number, None, text, _not_utf8(error.start))
                continue
            if text and not text.isspace():
                yield _parse(number, text)


def _parse(number: int, text: str) -> _Found:
    value = None
    try:
        value = json.loads(text)
        reason = _unusable(value, _SURROGATE.search(text) is not None)
    except json.JSONDecodeError as error:
        reason = f"is not valid JSON ({error.msg}, column {error.colno}); write one object on each line"
    except (ValueError, RecursionError) as error:
        reason = _too_much(error)
    return _Found(number, value, text.strip(), reason)


def _too_much(error: Exception) -> str:
    """Why JSON that is valid still cannot be read: its depth, or the digits of a number."""
    why = "nested too deeply" if isinstance(error, RecursionError) else _why(error)
    return f"cannot be read ({why}); mend or remove it"


def _unusable(value: Any, escapes: bool) -> str | None:
    """Why a value of JSON is no record; None if it is one. `escapes`: its text may escape surrogates."""
    if not isinstance(value, dict):
        return "is not a JSON object; write one on each line, or a list of them in a .json file"
    if escapes:
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            return "escapes half of a surrogate pair (as \\ud800), which is no text; mend or remove it"
        except RecursionError as error:
            return _too_much(error)
    return None


def _read_json(path: Path) -> Iterator[_Found]:
    """A list of records, `{"data": [...]}` or one record; the whole file is held."""
    with _open(path) as stream:
        data = stream.read()
    try:
        text = data.decode("utf-8-sig")
        if not text or text.isspace():
            return
        value = json.loads(text)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: is not UTF-8 (byte {error.start} of the file); save it so"
        ) from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: is not valid JSON ({error.msg}, column {error.colno}); mend it, "
            f"or name a file with one record on each line .jsonl"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {_too_much(error)}") from error
    if isinstance(value, dict):
        value = value["data"] if isinstance(value.get("data"), list) else [value]
    if not isinstance(value, list):
        raise UserError(f"{path}: is not a list of records; write one")
    escapes = _SURROGATE.search(text) is not None
    for number, record in enumerate(value, start=1):
        yield _Found(number, record, None, _unusable(record, escapes))


def _is_jsonl(path: Path) -> bool:
    """Whether a file's first line is a whole object, and not its only one."""
    with _open(path) as stream:
        filled = (line for _, line in _lines(stream) if line is None or line.strip(b"\xef\xbb\xbf \t\r\n"))
        try:
            value = json.loads(_decode(next(filled, None) or b"", 1))
        except (ValueError, RecursionError):
            return False
        return isinstance(value, dict) and any(True for _ in filled)


def _json_reader(path: Path) -> tuple[str, Iterator[_Found]]:
    """Of a JSON file: one that is JSONL, whatever its name, is read as such."""
    return (":", _read_jsonl(path)) if _is_jsonl(path) else (": record ", _read_json(path))


def _read_csv(path: Path, delimiter: str) -> Iterator[_Found]:
    """The rows under a header; an empty cell is null. What a row is, is lost after a quote that is wrong."""
    broken: list[tuple[int, int]] = []

    def lines(stream: BinaryIO) -> Iterator[str]:
        for number, line in _lines(stream):
            if line is None:
                raise UserError(f"{path}:{number}: {_too_long()}")
            try:
                text = _decode(line, number)
            except UnicodeDecodeError as error:
                broken.append((number, error.start))
                text = line.decode(errors="backslashreplace")
            yield text

    csv.field_size_limit(MAX_LINE)  # by default 128 KiB, for the whole process
    with _open(path) as stream:
        rows = csv.reader(lines(stream), delimiter=delimiter, strict=True)
        try:
            header = next(filter(None, rows), [])
            if broken:
                raise UserError(f"{path}:{broken[0][0]}: {_not_utf8(broken[0][1])}")
            _check_columns(path, header)
            first = rows.line_num + 1
            for cells in rows:
                if broken:
                    line, byte = broken[0]
                    yield _Found(line, cells, None, _not_utf8(byte))
                    broken.clear()
                elif cells and len(cells) != len(header):
                    reason = f"has {len(cells)} fields, where the header has {len(header)}; mend or remove it"
                    yield _Found(first, cells, None, reason)
                elif cells:
                    yield _Found(first, dict(zip(header, (cell or None for cell in cells), strict=True)))
                first = rows.line_num + 1
        except csv.Error as error:
            raise UserError(
                f"{path}:{rows.line_num}: cannot be read further ({error}); mend the line, and quote fields "
                f"that hold quotes or line breaks"
            ) from error


def _check_columns(path: Path, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path}: has the column {twice[0]!r} twice; rename one")


def _read_parquet(path: Path) -> Iterator[_Found]:
    with _open(path, seekable=True) as stream:
        file = pq.ParquetFile(stream)
        _check_columns(path, file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches(BATCH):
            for record, reason in _records(batch):
                number += 1
                yield _Found(number, record, None, reason)


def _records(batch: pa.RecordBatch) -> list[tuple[Any, str | None]]:
    """The rows, or why one cannot be had in Python: text that is not UTF-8, a date out of range, ..."""
    try:
        return [(record, None) for record in batch.to_pylist()]
    except (ValueError, ArithmeticError, LookupError) as error:
        if len(batch) == 1:
            return [(None, f"cannot be read ({_why(error)}); mend or remove it")]
    return [row for at in range(len(batch)) for row in _records(batch.slice(at, 1))]


_Reader = Callable[[Path], tuple[str, Iterator[_Found]]]

_READERS: dict[str, _Reader] = {
    ".jsonl": lambda path: (":", _read_jsonl(path)),
    ".ndjson": lambda path: (":", _read_jsonl(path)),
    ".json": _json_reader,
    ".parquet": lambda path: (": row ", _read_parquet(path)),
    ".csv": lambda path: (":", _read_csv(path, ",")),
    ".tsv": lambda path: (":", _read_csv(path, "\t")),
}
_KINDS = f"{', '.join(_READERS)}, also with {' or '.join(COMPRESSED)}"


def _kind(path: Path) -> str | None:
    """The suffix that tells what a file holds, whether it is compressed or not; None for an unknown one."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in _READERS else None


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
        raise UserError(f"{path}: cannot be read ({_why(error)}); check the path and its rights") from error
    hub = _HUB.fullmatch(str(name))
    if exists:
        if _kind(path) is None:
            raise UserError(f"{path}: is of no known kind; give {_KINDS}")
        return Input(str(name), (path,))
    if hub is None or _kind(path) is not None:
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
            usable = _kind(path) is not None and not path.name.startswith(".")
            (files if usable else ignored).append(path)
    if not files:
        raise UserError(f"{folder}: holds no data; give a folder with {_KINDS}")
    return Input(str(folder), tuple(sorted(files)), tuple(sorted(ignored)))


def _read_hub(name: str, split: str) -> Iterator[_Found]:
    from datasets import load_dataset

    try:
        rows = load_dataset(name, split=split, streaming=True)
        for number, record in enumerate(rows, start=1):
            yield _Found(number, record)
    except Exception as error:  # of the hub's client, the network or a file format
        raise UserError(
            f"{name}: is no file or folder, and the split {split!r} of that name cannot be read from the hub "
            f"({_why(error)}); check the name, the split and the connection"
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
    found: Iterator[_Found]


def _parts(given: Input) -> Iterator[_Part]:
    if given.split is not None:
        yield _Part(given.name, f"{given.name}: row ", given.name, _read_hub(given.name, given.split))
    for path in given.files:
        kind = _kind(path)
        assert kind is not None
        stem = path.name[: path.name.lower().rindex(kind)]
        separator, found = _READERS[kind](path)
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


def _row(found: _Found, part: _Part, form: str | None, queries: bool, ids: _Ids) -> Row | Rejected:
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
