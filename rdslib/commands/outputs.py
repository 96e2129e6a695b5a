"""What `rds select` writes: the rows, beside them what was left out, and the record that binds them.

`BEST.jsonl` has the picks in the pool's form. `BEST.jsonl.rds.json` says how they were selected, so that this
can be explained later; and where rows were left out, `BEST.jsonl.left_out.jsonl` has each, and the reason.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rdslib.commands.request import SelectRequest
from rdslib.data.inputs import folder_split
from rdslib.errors import UserError, reason_of
from rdslib.files import replaced, sha256_of

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
RECORD = ".rds.json"
# Why rows are left out of a pool, and how that is put.
KINDS = {"rejected": "rejected as bad", "contaminated": "contaminated", "duplicate": "duplicate"}


class Written(NamedTuple):
    """Where a selection is, where what was left out is, if anything was, and how many rows are where.

    In `counts`, read = selected + left + rejected + contaminated + duplicate.
    """

    path: Path
    left_out: Path | None
    counts: Mapping[str, int]

    def __str__(self) -> str:
        counts = self.counts
        out = "".join(f" + {counts[kind]:,} {words}" for kind, words in KINDS.items() if counts[kind])
        where = f"; what was left out, and why: {self.left_out}" if self.left_out else ""
        noun = "sample is" if counts["selected"] == 1 else "samples are"
        return (
            f"{counts['selected']:,} {noun} in {self.path} (rows read: {counts['read']:,} = "
            f"{counts['selected']:,} selected + {counts['left']:,} left{out}){where}"
        )


def record_of(out: Path) -> Path:
    """Where it is written how a selection was made."""
    return out.with_name(f"{out.name}{RECORD}")


def left_out_of(out: Path) -> Path:
    """Where rows are written that were left out of the pool."""
    return out.with_name(f"{out.name}.left_out.jsonl")


def check_output(out: Path) -> None:
    """Raise UserError unless `out` can be written and has a name that says its format."""
    if not out.name.endswith(SUFFIXES):
        raise UserError(f"{out}: is of no known kind; end its name with {', '.join(SUFFIXES)}")
    if out.is_dir():
        raise UserError(f"{out}: is a folder; give the name of a file in it")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder for the output; create it first")
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"{out.parent}: you have no right to write there; choose another --out")


def check_new(out: Path) -> None:
    """Raise UserError unless `out` is the name of a folder that can be made."""
    if os.path.lexists(out) or not out.parent.is_dir():
        raise UserError(f"--out {out}: is there already, or has no folder to be in; name a new folder")


def check_apart(outputs: Iterable[Path], inputs: Iterable[Path | str], option: str = "--out") -> None:
    """Raise UserError if an output is a file that is read, by whatever name, or in a folder that is.

    `inputs`: files, folders such as a model's, and names that are neither; `option`: what names the outputs.
    """
    read = {_identity(path): path for path in (Path(each).expanduser() for each in inputs) if path.exists()}
    for path in outputs:
        for place in (path, *path.resolve().parents):
            if place.exists() and (same := read.get(_identity(place))):
                what = f"is {'an input' if place is path else 'in an input'} ({same})"
                raise UserError(f"{path}: {what}, which is never written to; choose another {option}")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def not_data(folder: Path, files: Sequence[Path]) -> set[Path]:
    """Of a folder's files, those that `rds select` has written: of what else is in the folder, or about rows.

    What was selected from elsewhere is data like any other.
    """
    found: set[Path] = set()
    for path in (each for each in files if each.name.endswith(RECORD)):
        out = path.with_name(path.name.removesuffix(RECORD))
        try:
            request = read_record(out, checked=False)["request"]
        except UserError:
            continue
        found |= {path, left_out_of(out)}
        names = (request.pool, request.queries, *(request.exclude or ()))
        inputs = [folder_split(each)[0] for each in names if each]
        if any(each.is_absolute() and each.is_relative_to(folder.resolve()) for each in inputs):
            found.add(out)
    return found & set(files)


def write(
    out: Path,
    rows: Iterator[dict[str, Any]],
    left_out: Path | None,
    record: Mapping[str, Any],
    typed: pa.Table | None = None,
) -> None:
    """Write rows to `out`, a copy of `left_out` beside it, if there is one, and the record with checksums.

    Columns of Parquet are those of `typed`, where it has one of that name.

    What an earlier selection has left there is replaced or removed. The record takes its place first: where
    the run ends before the rows have theirs, it does not match them, and nothing can be explained by it.
    """
    try:
        with ExitStack() as outputs:
            best, beside, about = (
                outputs.enter_context(replaced(path)) for path in (out, left_out_of(out), record_of(out))
            )
            _write(rows, best, out, typed)
            sums = {"output_sha256": sha256_of(best)}
            if left_out is not None:
                shutil.copyfile(left_out, beside)
                sums["left_out_sha256"] = sha256_of(beside)
            about.write_text(json.dumps({**record, **sums}, indent=1), encoding="utf-8")
    except OSError as error:
        reason = reason_of(error)
        raise UserError(f"{out}: cannot be written ({reason}); free some space, or choose another") from error


def _write(rows: Iterator[dict[str, Any]], path: Path, out: Path, typed: pa.Table | None) -> None:
    if out.name.endswith(".parquet"):
        made = columns(list(rows))
        if typed is not None:
            made |= {name: typed[name] for name in typed.column_names if name in made}
        try:
            pq.write_table(pa.table(made), path, compression="zstd")
        except (pa.ArrowException, OverflowError) as error:
            reason = f"the rows do not make one table ({reason_of(error)})"
            raise UserError(f"{out}: {reason}; write .jsonl, or use --as messages") from error
        return
    # No time of writing in the file: the same selection gives the same bytes.
    stream = gzip.GzipFile(path, "wb", mtime=0) if out.name.endswith(".gz") else path.open("wb")
    with stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns; not all rows need have the same fields."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def read_record(out: Path, checked: bool = True) -> dict[str, Any]:
    """Read how a selection was made, with its `request` as a `SelectRequest`.

    Raises:
        UserError: There is no record, or it is not whole, or, if that is checked, not of the file `out`.
    """
    path = record_of(out)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["request"] = SelectRequest.model_validate(record["request"])
        wanted = record["output_sha256"]
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; `rds select` writes it beside {out.name}") from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path}: is not what `rds select` writes; select anew") from error
    if checked and (not out.is_file() or sha256_of(out) != wanted):
        raise UserError(f"{out}: is not the file that {path.name} was written with; select anew")
    return record
