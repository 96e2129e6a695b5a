"""Checksums of files, and files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

# Says what made an artifact, and lists its files.
MANIFEST = "manifest.json"
# Of an artifact in the making: the folder of what a killed training goes on from.
CHECKPOINTS = "checkpoints"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_table(file: Path | BinaryIO | pa.BufferReader) -> pa.Table:
    """Read a file of Parquet; pyarrow's own `read_table`, with threads, waits for ever where memory ends."""
    with pq.ParquetFile(file) as opened:
        return opened.read(use_threads=False)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a file to write, which takes the place of `path` once it is whole and on disk.

    `path` stays if there is an error, and goes if nothing was written. What a process that is killed leaves
    has a hidden name, `.*.part`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        if temporary.exists():
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        else:
            path.unlink(missing_ok=True)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with replaced(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write JSON in the order given, whole or not at all."""
    write_whole(path, (json.dumps(value, indent=1) + "\n").encode())


def canonical(value: Any) -> str:
    """A value as JSON, the same text for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def write_manifest(folder: Path, body: Mapping[str, Any]) -> None:
    """Write an artifact's manifest, with a checksum of what it says."""
    write_json(folder / MANIFEST, {**body, "checksum": _checksum(body)})


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read an artifact's manifest; None if it is missing or damaged."""
    try:
        value = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.pop("checksum", None) != _checksum(value):
        return None
    value.setdefault("dropped", [])  # manifests of earlier versions have none
    return value


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(body).encode()).hexdigest()
