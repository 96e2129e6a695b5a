"""What a selection of one's own leaves: the picks in the pool's own form, what was left out, and a record.

Beside `BEST.jsonl` stands `BEST.jsonl.rds.json`, which says how the selection was made, so that it can be
explained later; and where rows were left out, `BEST.jsonl.left_out.jsonl` with each of them and the reason.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rdslib.commands.own_pool import LEFT_OUT, RECORDS, OwnPool, Request
from rdslib.data.pool import PoolFile, rows_at
from rdslib.errors import UserError
from rdslib.methods import get_scorer
from rdslib.models.device import CHOICE, choose
from rdslib.pipeline.steps import read_selection
from rdslib.pipeline.study import Run

# What is added to each picked row.
FIELDS = ("rds_score", "rds_rank", "rds_task", "rds_query")
SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")

Form = Literal["own", "messages"]


@dataclass(frozen=True)
class Written:
    """Where a selection is, and how many rows of the pool were read, selected, left, and left out and why.

    read = selected + left + rejected + contaminated + duplicate.
    """

    path: Path
    left_out: Path | None
    read: int
    selected: int
    left: int
    rejected: int
    contaminated: int
    duplicate: int

    def __str__(self) -> str:
        kinds = {"rejected as bad": self.rejected, "contaminated": self.contaminated,
                 "duplicate": self.duplicate}  # fmt: skip
        out = "".join(f" + {count:,} {kind}" for kind, count in kinds.items() if count)
        where = f"; what was left out, and why: {self.left_out}" if self.left_out else ""
        noun = "sample is" if self.selected == 1 else "samples are"
        return (
            f"{self.selected:,} {noun} in {self.path} (rows read: {self.read:,} = {self.selected:,} "
            f"selected + {self.left:,} left{out}){where}"
        )


def select_own(request: Request, out: Path, form: Form = "own", resume: bool = True) -> Written:
    """Select what is requested, and write it to `out`, in the order of picking.

    `form`: the rows as they came ("own"), or with `messages` in place of the fields that held the sample.
    Without `resume`, what an earlier run has left of this selection is computed anew. What can be checked is
    checked before a model is loaded, and `out` is written whole or not at all. Raises UserError for whatever
    cannot be read, selected or written.
    """
    check_output(out)
    request = request.in_full()
    study = OwnPool(request)
    if not resume:
        study.store.forget(study.data)
    run = study.run()
    step = study.selection(run)
    if not resume:
        study.store.forget(step, *step.inputs.values())
    study.compute([step])
    picks = read_selection(study.store.path(step)).to_pylist()
    rows = _rows(study, run, picks, form)
    counts = study.counts
    left_out = out.with_name(f"{out.name}.left_out.jsonl")
    written = Written(
        out, left_out if counts["read"] > counts["kept"] else None, counts["read"], len(picks),
        counts["kept"] - len(picks), counts["rejected"], counts["contaminated"], counts["duplicate"],
    )  # fmt: skip
    with _whole(out) as temporary:
        _write(rows, temporary, out)
    if written.left_out is not None:
        with _whole(left_out) as temporary:
            shutil.copyfile(study.store.path(study.data) / LEFT_OUT, temporary)
    record = {
        "request": asdict(request), "run": asdict(run), "data": study.data.hash, "selection": step.hash,
        "counts": {**counts, "selected": len(picks)}, "version": version("rdslib"),
        "device": os.environ.get(CHOICE),
    }  # fmt: skip
    with _whole(record_of(out)) as temporary:
        temporary.write_text(json.dumps(record, ensure_ascii=False, indent=1), encoding="utf-8")
    return written


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


def record_of(out: Path) -> Path:
    """Where it is written how a selection was made."""
    return out.with_name(f"{out.name}.rds.json")


def reopen(selection: Path) -> tuple[OwnPool, Run]:
    """The study and the run behind a selection that `select_own` has written.

    Raises UserError if its record is not there or not whole, or if the files that it was made from, or the
    methods' code, are others now.
    """
    path = record_of(selection)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        given = record["request"]
        request = Request(**{**given, "exclude": tuple(given["exclude"])})
        run = Run(**{**record["run"], "targets": tuple(record["run"]["targets"])})
        if record["device"] is not None:
            choose(record["device"])
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: there is no such file; `rds select` writes it beside {selection.name}"
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: is not what `rds select` writes; select anew") from error
    study = OwnPool(request)
    if study.data.hash != record["data"]:
        raise UserError(f"{selection}: the files that it was selected from have changed; select anew")
    if study.selection(run).hash != record["selection"]:
        raise UserError(f"{selection}: its model, profile or method has changed since; select anew")
    return study, run


def scores_at(study: OwnPool, run: Run, target: str | None, positions: Sequence[int]) -> np.ndarray:
    """Scores of some samples for a task's queries, as the method gives them: [queries, positions]."""
    wanted = np.asarray(positions, dtype=np.int64)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for start, block in get_scorer(run.method).blocks(study.scoring_inputs(run, target)):
        inside = np.flatnonzero((wanted >= start) & (wanted < start + block.shape[1]))
        found.append((inside, np.asarray(block)[:, wanted[inside] - start]))
    scores = np.empty((found[0][1].shape[0], len(wanted)), dtype=found[0][1].dtype)
    for inside, columns in found:
        scores[:, inside] = columns
    return scores


def _rows(study: OwnPool, run: Run, picks: list[dict[str, Any]], form: Form) -> Iterator[dict[str, Any]]:
    folder = study.store.path(study.data)
    positions = [pick["position"] for pick in picks]
    records = rows_at(folder / RECORDS, positions)
    asked = _queries_of(study, run, picks)
    messages = PoolFile(folder / "pool.parquet").take(positions) if form == "messages" else []
    for rank, (pick, kept) in enumerate(zip(picks, records, strict=True)):
        # What an earlier selection has added says nothing of this one.
        row = {name: value for name, value in json.loads(kept["record"]).items() if name not in FIELDS}
        if form == "messages":
            extra = {name: row[name] for name in ("id", "source", "dataset") if name in row}
            row = {**extra, "messages": messages[rank].messages}
        row |= {"rds_score": round(pick["score"], 6), "rds_rank": rank}
        if asked:
            row["rds_task"], row["rds_query"] = asked[rank]
        yield row


def _queries_of(study: OwnPool, run: Run, picks: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Of each pick, the task and the number of the query that it was picked for; none without queries."""
    if not run.targets:
        return []
    if len(run.targets) == 1:
        (task,) = run.targets
        return [(task, study.queries[task][int(pick["taker"])][0]) for pick in picks]
    # A task picks by its best query, which is not kept.
    found: list[tuple[str, int]] = [("", 0)] * len(picks)
    for task in run.targets:
        ranks = [rank for rank, pick in enumerate(picks) if pick["taker"] == task]
        if ranks:
            best = scores_at(study, run, task, [picks[rank]["position"] for rank in ranks]).argmax(axis=0)
            for rank, query in zip(ranks, best, strict=True):
                found[rank] = (task, study.queries[task][query][0])
    return found


def _write(rows: Iterator[dict[str, Any]], path: Path, out: Path) -> None:
    if out.name.endswith(".parquet"):
        try:
            held = list(rows)
            # Not all rows need have the same fields.
            names = dict.fromkeys(name for row in held for name in row)
            columns = {name: [row.get(name) for row in held] for name in names}
            pq.write_table(pa.table(columns), path, compression="zstd")
        except pa.ArrowException as error:
            reason = " ".join(str(error).split())[:150]
            raise UserError(
                f"{out}: the rows do not make one table ({reason}); write .jsonl, or use --as messages"
            ) from error
        return
    # No time of writing in the file: the same selection gives the same bytes.
    stream = gzip.GzipFile(path, "wb", mtime=0) if out.name.endswith(".gz") else path.open("wb")
    with stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A file to write, which takes the place of `out` when it is whole; else nothing is left of it."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error}); free some space, or choose "
                        f"another place") from error  # fmt: skip
    finally:
        temporary.unlink(missing_ok=True)
