"""Files of records: JSONL, JSON, Parquet and CSV, also compressed.

A file that cannot be read to its end is an error that names it.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import math
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from rdslib.data.footer import check_metadata
from rdslib.data.formats import FIELDS
from rdslib.data.values import is_plain, plain
from rdslib.errors import UserError, reason_of

# Bytes of a line of text that are held at once: a sample of the largest size with each character escaped.
MAX_LINE = 64 * 2**20
# Rows of Parquet that are held at once, and the bytes that they may be in all.
BATCH, MAX_BATCH = 256, 2**27
# Bytes of rows of which Python's objects are made at once.
MAX_ROWS = 2**22
# How many times its size, and a line, a compressed file may expand to that has to be held or copied whole.
EXPANSION = 100
# Bytes that a column of a group of Parquet's rows may expand to beside that: it may be one page.
MAX_COLUMN = 2**29

# What a file's name has where a data set is in several: they are one source.
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
# What JSON may escape half of a surrogate pair with.
_SURROGATE = re.compile(r"\\u[dD]")

# Each notices a stream that ends too early.
_DECOMPRESSED: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".zst": lambda file: pa.input_stream(file, "zstd"),
    ".xz": lzma.LZMAFile,
}


class Part(NamedTuple):
    """A file, a data set of the hub or a table in memory; `source` is that of its samples.

    `before` and `after` stand around a number to name a place in it, as `pool.jsonl:3` or `pool[2]`. `file`
    is its name in a folder.
    """

    name: str
    before: str
    after: str
    source: str
    file: str = ""

    def place(self, number: int | None) -> str:
        """Name a place in it; without a number, the whole of it."""
        return self.name if number is None else f"{self.before}{number}{self.after}"


class Found(NamedTuple):
    """What is at a place: a value and its text, or why the value is no record.

    `number` is that of a line, row or record, from 1, of a row in memory from 0, and None for an empty part.
    """

    number: int | None
    value: Any
    raw: str | None = None
    reason: str | None = None


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file's bytes, decompressed; what goes wrong while it is open is a UserError that names it."""
    try:
        with path.open("rb") as file:
            decompressed = _DECOMPRESSED.get(path.suffix.lower())
            yield io.BufferedReader(decompressed(file)) if decompressed else cast(BinaryIO, file)
    # The readers of lines handle what is not UTF-8; the names of Parquet's columns may still be such.
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        raise UserError(
            f"{path}: cannot be read ({reason_of(error)}); check that it is whole and that you may read it"
        ) from error


def _whole(stream: BinaryIO, path: Path) -> Iterator[bytes]:
    """All that a file holds, piece by piece, unless it expands beyond measure."""
    compressed = path.suffix.lower() in _DECOMPRESSED
    left = path.stat().st_size * EXPANSION + MAX_LINE if compressed else math.inf
    while piece := stream.read(2**20):
        left -= len(piece)
        if left < 0:
            raise UserError(
                f"{path}: expands to more than {EXPANSION} times its size; decompress it, or write .jsonl"
            )
        yield piece


def _lines(stream: BinaryIO) -> Iterator[tuple[int, str | None, str | None]]:
    """Each line's number, its text, and what is wrong with it; no text of more than `MAX_LINE`."""
    for number in count(1):
        line = stream.readline(MAX_LINE)
        if not line:
            return
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            yield number, None, f"is a line of more than {MAX_LINE} bytes; split it"
            while line and not line.endswith(b"\n"):  # nobody who stops here waits for its end
                line = stream.readline(MAX_LINE)
            continue
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8"), None
        except UnicodeDecodeError as error:
            reason = f"is not UTF-8 (byte {error.start} of the line); save the file as UTF-8"
            yield number, line.decode(errors="backslashreplace"), reason


def parse_lines(stream: BinaryIO) -> Iterator[Found]:
    """Read JSONL: one record on each line that is not blank; a byte order mark may come first."""
    for number, text, reason in _lines(stream):
        if text is None or reason is not None:
            yield Found(number, None, text and text.strip(), reason)
        elif text and not text.isspace():
            yield _parse(number, text)


def _loads(text: str) -> Any:
    """A value of JSON, with null for what Python writes and JSON does not have: NaN and infinities."""
    return json.loads(text, parse_constant=lambda name: None, parse_float=lambda digits: plain(float(digits)))


def _parse(number: int, text: str) -> Found:
    value = None
    try:
        value = _loads(text)
        reason = unusable(value, may_escape(text))
    except json.JSONDecodeError as error:
        reason = f"is not valid JSON ({error.msg}, column {error.colno}); write one object on each line"
    except (ValueError, RecursionError) as error:
        reason = _too_much(error)
    return Found(number, value, text.strip(), reason)


def _too_much(error: Exception) -> str:
    """Why JSON that is valid still cannot be read: its depth, or the digits of a number."""
    why = "nested too deeply" if isinstance(error, RecursionError) else reason_of(error)
    return f"cannot be read ({why}); correct or remove it"


def may_escape(text: str) -> bool:
    """Return whether JSON may escape surrogates, of which halves must be looked for."""
    return _SURROGATE.search(text) is not None


def unusable(value: Any, escapes: bool) -> str | None:
    """Say why a value of JSON, whose text `may_escape` surrogates, is no record; None if it is one."""
    if not isinstance(value, dict):
        return "is not a JSON object; write one on each line, or a list of them in a .json file"
    if escapes:
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            return "escapes half of a surrogate pair (as \\ud800), which is no text; correct or remove it"
        except RecursionError as error:
            return _too_much(error)
    return None


def _read_jsonl(path: Path) -> Iterator[Found]:
    with opened(path) as stream:
        yield from parse_lines(stream)


def _read_json(path: Path) -> Iterator[Found]:
    """A list of records, `{"data": [...]}`, columns or one record; the whole file is held."""
    with opened(path) as stream:
        data = b"".join(_whole(stream, path))
    try:
        text = data.decode("utf-8-sig")
        if not text or text.isspace():
            return
        value = _loads(text)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: is not UTF-8 (byte {error.start} of it); save it so") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: is not valid JSON ({error.msg}, column {error.colno}); correct it, "
            f"or name a file with one record on each line .jsonl"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {_too_much(error)}") from error
    if isinstance(value, dict):
        value = value["data"] if isinstance(value.get("data"), list) else _rows(value)
    if not isinstance(value, list):
        raise UserError(f"{path}: is not a list of records; write one")
    escapes = may_escape(text)
    for number, record in enumerate(value, start=1):
        yield Found(number, record, None, unusable(record, escapes))


def _rows(value: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an object of columns, lists of one length; or else itself as the one row.

    The turns of a conversation are a list too, of objects; in a column each row has a list of them.
    """
    columns = list(value.values())
    lengths = {len(column) if isinstance(column, list) else None for column in columns}
    fields = (name for fields in FIELDS.values() for name in fields)
    if (
        len(lengths) != 1
        or lengths & {None, 0}
        or any(isinstance(value[name][0], dict) for name in fields if name in value)
    ):
        return [value]
    return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]


def _is_jsonl(path: Path) -> bool:
    """Whether a file's first line is a whole object, and not its only one."""
    with opened(path) as stream:
        filled = (text for _, text, _ in _lines(stream) if text is None or text.strip())
        try:
            value = json.loads(next(filled, None) or "")
        except (ValueError, RecursionError):
            return False
        return isinstance(value, dict) and any(True for _ in filled)


def _separator(path: Path, separators: str) -> str:
    """The first of `separators` by which a header's first line has several fields, or else the first."""
    with opened(path) as stream:
        head = next((text.split("\r")[0] for _, text, _ in _lines(stream) if text and text.strip()), "")
    several = (each for each in separators if len(next(csv.reader([head], delimiter=each), [])) > 1)
    return next(several, separators[0])


def _read_csv(path: Path, separators: str) -> Iterator[Found]:
    """The rows under a header; an empty cell is null. After a wrong quote nothing can be made out."""
    broken: list[tuple[int, str]] = []
    size = 0  # of the row so far

    def lines(stream: BinaryIO) -> Iterator[str]:
        nonlocal size
        for number, text, reason in _lines(stream):
            if text is None:
                raise UserError(f"{path}:{number}: {reason}")
            size += len(text)
            if size > MAX_LINE:
                raise UserError(f"{path}:{number}: is in a row of more than {MAX_LINE} bytes; split it")
            if reason is not None:
                broken.append((number, reason))
            yield text

    csv.field_size_limit(MAX_LINE)  # by default 128 KiB, for the whole process
    separator = _separator(path, separators)
    with opened(path) as stream:
        rows = csv.reader(lines(stream), delimiter=separator, strict=True)
        try:
            header = next(filter(None, rows), [])
            if broken:
                raise UserError(f"{path}:{broken[0][0]}: {broken[0][1]}")
            _check_columns(path, header)
            first, size = rows.line_num + 1, 0
            for cells in rows:
                size = 0
                if broken:
                    line, reason = broken[0]
                    yield Found(line, cells, None, reason)
                    broken.clear()
                elif cells and len(cells) != len(header):
                    reason = f"has {len(cells)} fields, where the header has {len(header)}"
                    yield Found(first, cells, None, f"{reason}; correct or remove it")
                elif cells:
                    yield Found(first, dict(zip(header, (cell or None for cell in cells), strict=True)))
                first = rows.line_num + 1
        except csv.Error as error:
            raise UserError(
                f"{path}:{rows.line_num}: cannot be read further ({error}); quote what holds quotes or "
                f"line breaks"
            ) from error


def _check_columns(path: Path, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path}: has the column {twice[0]!r} twice; rename one")


def batches_of(path: Path) -> Iterator[pa.RecordBatch]:
    """Go through a file of Parquet or Arrow in batches of at most `BATCH` rows, with their types."""
    with opened(path) as stream, tempfile.TemporaryFile() as whole:
        if path.suffix.lower() in _DECOMPRESSED:  # these are read from their end
            whole.writelines(_whole(stream, path))
            whole.seek(0)
            stream = cast(BinaryIO, whole)
        start = stream.read(6)
        stream.seek(0)
        if kind_of(path) == ".parquet":
            file = pq.ParquetFile(stream)
            check_metadata(stream, file.metadata)
            names, batches = file.schema_arrow.names, file.iter_batches(_rows_at_once(path, file.metadata))
        elif start == b"ARROW1":
            ipc = pa.ipc.open_file(stream)
            names, batches = ipc.schema.names, map(ipc.get_batch, range(ipc.num_record_batches))
        else:  # as `datasets` saves to a disk
            batches = pa.ipc.open_stream(stream)
            names = batches.schema.names
        _check_columns(path, names)
        for batch in batches:
            for at in range(0, len(batch), BATCH):
                yield batch.slice(at, BATCH)


def _rows_at_once(path: Path, metadata: pq.FileMetaData) -> int:
    """How many rows of Parquet to hold at once: `BATCH`, but where they may be too large.

    A value that many rows share is written once, but held once for each.
    """
    largest, first = 0.0, 1
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        size = 0.0
        for column in map(group.column, range(group.num_columns)):
            if column.total_uncompressed_size > column.total_compressed_size * EXPANSION + MAX_COLUMN:
                raise UserError(
                    f"{path}: row {first} and after: expand to more than {EXPANSION} times their size; write "
                    "smaller row groups, or .jsonl"
                )
            if column.has_dictionary_page and column.total_compressed_size:
                expansion = column.total_uncompressed_size / column.total_compressed_size
                size += (column.data_page_offset - column.dictionary_page_offset) * expansion
            mean = column.total_uncompressed_size / max(1, group.num_rows)
            if mean > MAX_LINE:
                raise UserError(f"{path}: row {first} and after: are of over {MAX_LINE} bytes; split them")
            size += mean
        largest, first = max(largest, size), first + group.num_rows
    return min(BATCH, max(1, int(MAX_BATCH / max(1.0, largest))))


def _read_batches(path: Path) -> Iterator[Found]:
    number = 0
    for batch in batches_of(path):
        typed = [field.name for field in batch.schema if not is_plain(field.type)]
        for record, reason in _records(batch):
            number += 1
            if record is not None and typed:
                record |= {name: plain(record[name]) for name in typed}
            yield Found(number, record, None, reason)


def _records(batch: pa.RecordBatch) -> Iterator[tuple[Any, str | None]]:
    """The rows, or why one cannot be had in Python: text that is not UTF-8, a date out of range, ..."""
    alone = len(batch) == 1
    if alone and batch.nbytes > MAX_LINE:
        yield None, f"is a row of more than {MAX_LINE} bytes; split it"
        return
    try:
        # Large ones are had one by one.
        records = batch.to_pylist() if alone or batch.nbytes <= MAX_ROWS else None
    except (ValueError, ArithmeticError, LookupError) as error:
        records = None
        if alone:
            yield None, f"cannot be read ({reason_of(error)}); correct or remove it"
            return
    if records is None:
        for at in range(len(batch)):
            yield from _records(batch.slice(at, 1))
    else:
        yield from ((record, None) for record in records)


# By suffix: what is in a file, and what stands between its name and a number in it.
_READERS: dict[str, tuple[Callable[[Path], Iterator[Found]], str]] = {
    ".jsonl": (_read_jsonl, ":"),
    ".ndjson": (_read_jsonl, ":"),
    ".json": (_read_json, ": record "),
    ".parquet": (_read_batches, ": row "),
    ".arrow": (_read_batches, ": row "),
    ".csv": (partial(_read_csv, separators=",;\t"), ":"),
    ".tsv": (partial(_read_csv, separators="\t"), ":"),
}
KINDS = f"{', '.join(_READERS)}, also with {' or '.join(_DECOMPRESSED)}"


def kind_of(path: Path) -> str | None:
    """Return the suffix that says what a file holds, compressed or not; None for an unknown one."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _DECOMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in _READERS else None


def read_file(path: Path) -> tuple[Part, Iterator[Found]]:
    """Open a file of a known kind, and read what it holds as it is asked for.

    Raises:
        UserError: It cannot be read to its end.
    """
    kind = kind_of(path) or ""
    # A file that is JSONL, whatever its name, is read as such.
    read, separator = _READERS[".jsonl" if kind == ".json" and _is_jsonl(path) else kind]
    source = _SHARD.sub("", path.name[: path.name.lower().rindex(kind)])
    return Part(str(path), f"{path}{separator}", "", source), read(path)
