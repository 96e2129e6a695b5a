"""A user's pool and queries: what is read of them."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rdslib.commands.outputs import KINDS, not_data
from rdslib.data.chat import Sample
from rdslib.data.dedup import Contamination, ExactDuplicates, NearDuplicates
from rdslib.data.download import home, hub_commit
from rdslib.data.inputs import Input, find_input
from rdslib.data.pool import PoolWriter, to_table
from rdslib.data.reader import (
    OnError,
    Record,
    Rejected,
    Row,
    digest_of,
    read_records,
    records_in_memory,
    rows_of,
    take_rows,
)
from rdslib.errors import UserError
from rdslib.files import sha256_of
from rdslib.methods import get_scorer
from rdslib.pipeline.step import Step, step
from rdslib.pipeline.steps import POOL
from rdslib.pipeline.store import Work
from rdslib.tasks.base import QUERIES

if TYPE_CHECKING:
    from rdslib.data.reader import Table

# The task of queries that name none.
TASK = "queries"
# Files of the pool's artifact, beside the pool: each sample's record; its position in the input; and what was
# left out, and why.
RECORDS, NUMBERS, LEFT_OUT = "records.parquet", "numbers.npy", "left_out.jsonl"


class UserData:
    """Rows of a user: in files, on the hub, or in memory.

    Args:
        name: The file, the folder or the data set; of a table in memory, what errors call it.
        table: The table, if it is in memory.
    """

    def __init__(self, name: str, table: Table | None = None) -> None:
        self.name, self._table = name, table
        self._input = _found(name) if table is None else None
        # What can be gone through only once is kept.
        self._kept = list(records_in_memory(name, table)) if isinstance(table, Iterator) else None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read."""
        return self._input.files if self._input else ()

    @property
    def notes(self) -> list[str]:
        """What a folder has that is not read."""
        return self._input.notes if self._input else []

    @property
    def other_splits(self) -> list[str]:
        """The splits of a folder that are not read."""
        return list(self._input.others) if self._input else []

    def rows(
        self, form: str | None = None, on_error: OnError = "stop", queries: bool = False
    ) -> Iterator[Row | Rejected]:
        """Go through the rows, as `rdslib.data.reader.rows_of` makes them."""
        return rows_of(self._records(), form, on_error, queries)

    def _records(self) -> Iterable[Record]:
        if self._input is not None:
            return read_records(self._input)
        assert self._table is not None
        return records_in_memory(self.name, self._table) if self._kept is None else self._kept

    def take(self, numbers: Sequence[int]) -> pa.Table | None:
        """Take rows by their numbers, with their types; None unless it is files of Parquet or Arrow."""
        return None if self._input is None else take_rows(self._input, numbers)

    @cached_property
    def contents(self) -> list[Any]:
        """What is in it: its files by their bytes, what the hub has now, or its rows by their digest."""
        if self._input is None:
            return [self.name, digest_of(self._records())]
        if self._input.split is None:
            return [[path.name, sha256_of(path)] for path in self._input.files]
        return [self._input.name, self._input.split, hub_commit(self._input.name)]


def _found(name: str) -> Input:
    """What a name stands for; of a folder, without what was selected from what is in it."""
    found = find_input(name)
    if (folder := found.folder) is None:
        return found
    written = not_data(folder, found.files)
    place = home().resolve()
    inside = place.is_relative_to(folder.resolve()) and place.relative_to(folder.resolve())
    if inside:
        written |= {path for path in found.files if path.is_relative_to(folder / inside)}
    kept = tuple(path for path in found.files if path not in written)
    if not kept:
        raise UserError(f"{name}: holds nothing but what was selected from it; give a folder with data")
    return replace(found, files=kept, ignored=tuple(sorted([*found.ignored, *written])))


def sort_out(
    pool: UserData, tests: Sequence[UserData], form: str | None, on_error: OnError, dedup: str, scratch: Path
) -> Iterator[tuple[str, Row | Rejected, str]]:
    """Go through every row of a pool: whether it is kept, and if not, as what it is left out and why.

    `scratch` is a folder for a file without a name, of near duplicates.
    """
    rows = [row for each in tests for row in each.rows(queries=True) if isinstance(row, Row)]
    contamination = Contamination(Sample(row.where, row.source, row.messages) for row in rows)
    seen = NearDuplicates(scratch) if dedup == "near" else ExactDuplicates() if dedup == "exact" else None
    # Where the samples are that duplicates have been looked for among.
    places: list[str] = []
    for row in pool.rows(form, "quarantine"):
        if isinstance(row, Rejected):
            if on_error == "stop":
                raise UserError(f"{row.where}: {row.reason}; --on-error quarantine leaves such rows out")
            yield "rejected", row, row.reason
        elif tests and (match := contamination.found(row.sample)):
            yield "contaminated", row, f"has words of {match.test.id}: {match.words}"
        elif seen is None:
            yield "kept", row, ""
        else:
            places.append(row.where)
            if repeat := seen.repeats(row.sample):
                yield "duplicate", row, f"repeats {places[repeat.of]} (similarity {repeat.similarity:.2f})"
            else:
                yield "kept", row, ""


@step(version=4)
def user_pool(
    work: Work,
    contents: Any,
    excluded: Any,
    form: str | None,
    on_error: OnError,
    dedup: str,
    pool: UserData,
    tests: Sequence[UserData],
) -> dict[str, int]:
    """Read a user's pool, and leave out what it should not hold.

    Returns:
        How many rows were read, kept, rejected, contaminated and duplicate.
    """
    numbers, tally = array("q"), Tally()
    writer = PoolWriter(work.path / POOL, work.path / RECORDS, ("record", "where"))
    with (
        (work.path / LEFT_OUT).open("w", encoding="utf-8") as left_out,
        work.progress.bar(work.label, 0, "row") as bar,
    ):
        for kind, row, reason in sort_out(pool, tests, form, on_error, dedup, work.path):
            tally.add(kind, row, reason)
            bar.update()
            if isinstance(row, Row) and kind == "kept":
                numbers.append(row.number)
                record = json.dumps(row.record, ensure_ascii=False)
                writer.add(row.sample, record, row.where)
            else:
                found = row.raw if isinstance(row, Rejected) else row.record
                about = {"where": row.where, "id": getattr(row, "id", None), "kind": kind, "reason": reason}
                left_out.write(json.dumps({**about, "row": found}, ensure_ascii=False) + "\n")
    writer.close()
    np.save(work.path / NUMBERS, np.array(numbers, dtype=np.int64))
    tally.check(pool.name)
    return dict(tally.counts)


class Tally:
    """How many rows of a pool were read, kept, and left out by kind; and why the first of these was."""

    def __init__(self) -> None:
        self.counts = Counter(dict.fromkeys(("read", "kept", *KINDS), 0))
        self._first = ""

    def add(self, kind: str, row: Row | Rejected, reason: str) -> None:
        """Count what `sort_out` gives."""
        self.counts.update(["read", kind])
        if kind != "kept":
            self._first = self._first or f"{row.where}: {reason}"

    def check(self, pool: str) -> None:
        """Raise UserError if nothing is left of the pool."""
        if not self.counts["kept"]:
            cure = "" if self.counts["rejected"] else "; give a larger pool, or leave less out"
            rows = f"{self.counts['read']:,} rows{left_out(self.counts)}"
            raise UserError(f"{pool}: no sample is left of its {rows}, first {self._first}{cure}")


def left_out(counts: Mapping[str, int]) -> str:
    """How many rows of a pool were left out of it, and as what: " (20 duplicate)"; empty if none were."""
    kinds = ", ".join(f"{counts[kind]:,} {words}" for kind, words in KINDS.items() if counts[kind])
    return kinds and f" ({kinds})"


@step(version=1)
def user_queries(work: Work, digest: str, samples: Sequence[Sample]) -> dict[str, int]:
    """Write a user's queries for one task."""
    pq.write_table(to_table(samples), work.path / QUERIES, compression="zstd")
    return {"queries": len(samples)}


def read_queries(given: Iterable[Row | Rejected], method: str) -> dict[str, list[Row]]:
    """The queries of each task, in the order in which tasks come."""
    queries: dict[str, list[Row]] = {}
    needs_response = get_scorer(method).needs_response
    for row in given:
        assert isinstance(row, Row)  # a bad one is an error
        if needs_response and row.messages[-1]["role"] != "assistant":
            raise UserError(
                f"{row.where}: this query has no response, and --method {method} looks at responses; "
                f"add one, or take another method"
            )
        queries.setdefault(row.task or TASK, []).append(row)
    return queries


def query_step(task: str, samples: Sequence[Sample]) -> Step:
    """Make the step of a task's queries, whose key is what they say."""
    contents = json.dumps([[each.id, each.source, each.messages] for each in samples])
    digest = hashlib.sha256(contents.encode()).hexdigest()
    return user_queries.step(label=f"queries of {task}", given={"samples": samples}, digest=digest)
