"""What can be read only once: standard input and pipes. It is kept in a file for as long as it is needed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rdslib.data.containers import kind_of, opened
from rdslib.errors import UserError, reason_of

STDIN = "-"
# What files begin with: compressed ones, and those of rows.
_COMPRESSED = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst", b"\xfd7zXZ": ".xz"}
_KINDS = {
    b"PAR1": ".parquet",
    b"ARROW1": ".arrow",
    b"\xff\xff\xff\xff": ".arrow",
    b"{": ".json",
    b"[": ".json",
}
# Bytes that the kind of a text is told from.
_HEAD = 2**16


def is_stream(name: str) -> bool:
    """Return whether a name is that of standard input, `-`, or of a pipe or the like."""
    path = Path(name)
    return name == STDIN or (path.exists() and not path.is_file() and not path.is_dir())


def keep(name: str) -> tuple[TemporaryDirectory[str], Path]:
    """Read a stream to its end, into a file whose name says what it holds; the folder goes with its object.

    Raises:
        UserError: It cannot be read or kept, holds nothing, or nothing of a known kind.
    """
    folder = TemporaryDirectory(prefix="rds-", ignore_cleanup_errors=True)
    path = Path(folder.name) / ("stdin" if name == STDIN else "pipe")
    try:
        stdin = name == STDIN
        with open(0 if stdin else name, "rb", closefd=not stdin) as source, path.open("wb") as kept:
            shutil.copyfileobj(source, kept, 2**20)
        if not path.stat().st_size:
            raise UserError(f"{name}: gave nothing; a stream is read once, so give it to one option alone")
        if kind_of(Path(name)) is not None:
            return folder, path.rename(path.with_name(Path(name).name))
        with path.open("rb") as stream:
            compression = _begins(stream.read(8), _COMPRESSED)
        path = path.rename(path.with_name(path.name + compression))
        with called(path, name), opened(path) as stream:
            kind = _kind(stream.read(_HEAD))
    except OSError as error:
        raise UserError(
            f"{name}: cannot be kept in a file ({reason_of(error)}); set TMPDIR to a folder with room"
        ) from error
    if not kind:
        raise UserError(f"{name}: is of no known kind; send JSONL, JSON, Parquet, Arrow, CSV or TSV")
    return folder, path.rename(
        path.with_name(f"{path.stem if compression else path.name}{kind}{compression}")
    )


@contextmanager
def called(path: Path, name: str) -> Iterator[None]:
    """Call a file after the stream that it is of, where something is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(str(path), name)) from error


def _begins(head: bytes, kinds: dict[bytes, str]) -> str:
    return next((kind for start, kind in kinds.items() if head.startswith(start)), "")


def _kind(head: bytes) -> str:
    """The kind of what begins so; empty if unknown."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if (kind := _begins(head, _KINDS) or _begins(text, _KINDS)) or b"\0" in head:
        return kind
    header = text.partition(b"\n")[0]
    return ".tsv" if b"\t" in header else ".csv" if b"," in header or b";" in header else ".jsonl"
