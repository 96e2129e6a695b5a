"""A task: query samples V, test samples, and what to say of them (paper, section 6)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rdslib.data.chat import Sample
from rdslib.data.download import Archives
from rdslib.data.pool import SCHEMA, from_rows, to_table
from rdslib.errors import UserError
from rdslib.params import Task
from rdslib.seeds import generator
from rdslib.tasks.bbh import BBH
from rdslib.tasks.full_tasks import READERS as FULL_READERS
from rdslib.tasks.readers import READERS as PLAIN_READERS
from rdslib.tasks.readers import TaskReader, TaskSample

__all__ = ["TaskData", "TaskSample", "build_task", "read_task", "stratified", "wanted_members", "write_task"]

READERS: dict[str, TaskReader] = {"bbh": BBH, **PLAIN_READERS, **FULL_READERS}

# The files of a task's artifact.
QUERIES, TEST = "queries.parquet", "test.parquet"
EXEMPLAR = pa.struct([(name, pa.string()) for name in ("question", "context", "response")])
TEST_SCHEMA = pa.schema(
    [
        *SCHEMA, ("subtask", pa.string()), ("choices", pa.list_(pa.string())), ("answer", pa.int32()),
        ("question", pa.string()), ("context", pa.string()), ("exemplars", pa.list_(EXEMPLAR)),
        ("references", pa.list_(pa.string())), ("program", pa.string()), ("entry_point", pa.string()),
        ("test", pa.string()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class TaskData:
    """The samples of one task; `note` says what stands in for the paper's own samples."""

    name: str
    queries: list[Sample]
    test: list[TaskSample]
    note: str


def wanted_members(tasks: Iterable[Task]) -> list[tuple[str, str]]:
    """The (download, pattern) pairs that `build_task` reads, for `Archives.prepare`."""
    pairs = []
    for task in tasks:
        if task.reader in READERS:
            for download, patterns in zip(task.downloads, READERS[task.reader].members, strict=False):
                pairs += [(download, pattern) for pattern in patterns]
    return pairs


def build_task(task: Task, archives: Archives, seed: int) -> TaskData:
    """Read a task, and draw its query and test samples evenly over the subtasks; no query is tested on.

    Raises UserError for an unknown reader, the wrong number of downloads, or fewer samples than asked.
    """
    reader = READERS.get(task.reader)
    if reader is None:
        raise UserError(
            f"task {task.name!r}: unknown reader {task.reader!r}; use one of {', '.join(READERS)}"
        )
    if len(task.downloads) != len(reader.members):
        raise UserError(
            f"task {task.name!r}: the reader {task.reader} needs {len(reader.members)} downloads, "
            f"not {len(task.downloads)}; list them in this order: {', '.join(reader.packages) or 'none'}"
        )
    files = [
        archives.members(name, globs) for name, globs in zip(task.downloads, reader.members, strict=True)
    ]
    queries, test, said = reader.read(files, task, seed)
    # A benchmark may ask the same question twice.
    asked_before = {sample.messages[0]["content"] for sample in queries}
    test = [sample for sample in test if sample.messages[0]["content"] not in asked_before]
    for kind, have, asked in (("query", queries, task.queries), ("test", test, task.test)):
        if len(have) < asked:
            raise UserError(
                f"task {task.name!r}: {asked} {kind} samples are asked for, but there are {len(have)}; "
                f"lower the number in the profile"
            )
    picked = [queries[at] for at in stratified([s.subtask for s in queries], task.queries, seed)]
    tested = [test[at] for at in stratified([s.subtask for s in test], task.test, seed)]
    note = " ".join(part for part in (task.note.strip(), said) if part)
    return TaskData(task.name, [Sample(s.id, s.source, s.messages) for s in picked], tested, note)


def stratified(strata: Sequence[str], size: int, seed: int) -> list[int]:
    """`size` positions, as even over the strata as they allow, drawn with the seed and sorted."""
    rng = generator(seed, "stratified")
    places: dict[str, list[int]] = {}
    for position in rng.permutation(len(strata)):
        places.setdefault(strata[position], []).append(int(position))
    # One from each stratum in turn: a stable sort by how many of the same stratum came before.
    turns = sorted(
        (turn, order, at) for order, row in enumerate(places.values()) for turn, at in enumerate(row)
    )
    return sorted(at for _, _, at in turns[:size])


def write_task(data: TaskData, folder: Path) -> None:
    """Write a task as `queries.parquet`, `test.parquet` and `task.json` (name and note)."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(to_table(data.queries), folder / "queries.parquet", compression="zstd")
    table = to_table(data.test)
    for field in list(TEST_SCHEMA)[len(SCHEMA) :]:
        values = [getattr(sample, field.name) for sample in data.test]
        table = table.append_column(field, pa.array(values, type=field.type))
    pq.write_table(table, folder / "test.parquet", compression="zstd")
    about = {"name": data.name, "note": data.note}
    (folder / "task.json").write_text(json.dumps(about, ensure_ascii=False, indent=1), encoding="utf-8")


def read_queries(folder: Path) -> list[Sample]:
    """The query samples of what `write_task` wrote."""
    return from_rows(pq.read_table(folder / QUERIES, schema=SCHEMA).to_pylist())


def read_task(folder: Path) -> TaskData:
    """Read what `write_task` wrote."""
    about = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    queries = from_rows(pq.read_table(folder / "queries.parquet", schema=SCHEMA).to_pylist())
    rows = pq.read_table(folder / "test.parquet", schema=TEST_SCHEMA).to_pylist()
    return TaskData(about["name"], queries, [TaskSample(**row) for row in rows], about["note"])
