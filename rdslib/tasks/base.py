"""A task: query samples V, test samples, and what stands in for the paper's (paper, section 6).

A reader gets the files of its downloads, the task's parameters and the seed. It returns all candidates in a
fixed order, queries and tests apart; `build_task` draws from them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rdslib.data.archives import Archives
from rdslib.data.chat import Sample
from rdslib.data.pool import SCHEMA, from_rows, to_table
from rdslib.errors import UserError, reason_of
from rdslib.files import read_table
from rdslib.params import Task
from rdslib.seeds import generator


@dataclass(frozen=True)
class TaskSample(Sample):
    """A sample to evaluate on: its last message, from the assistant, is the bare gold response.

    What follows `answer` is for the task's protocol (`rdslib.evaluation.harness`).

    Attributes:
        subtask: What test samples are drawn evenly over.
        choices: The fixed set of responses, as a model would write them, where the task has one.
        answer: Which of `choices` is the gold response.
        gold: The gold response in the protocol's form, as it follows what the protocol begins the response
            with; empty where that is the bare one.
        question: The question by itself.
        context: What the question is about, or what its subtask asks for.
        exemplars: Solved questions to show before it (see `exemplar`).
        references: The answers that count as right.
        program: The head of the function to write.
        entry_point: The name of that function.
        test: A program that tests it.
    """

    subtask: str
    choices: list[str] | None = None
    answer: int | None = None
    gold: str = ""
    question: str = ""
    context: str = ""
    exemplars: list[dict[str, str]] | None = None
    references: list[str] | None = None
    program: str = ""
    entry_point: str = ""
    test: str = ""


@dataclass(frozen=True)
class TaskData:
    """The samples of one task; `note` says what stands in for the paper's samples."""

    name: str
    queries: list[Sample]
    test: list[TaskSample]
    note: str


# Of each download, its files by path.
Files = Sequence[Mapping[str, bytes]]
# Queries, tests and the note.
Candidates = tuple[list[TaskSample], list[TaskSample], str]
Read = Callable[[Files, Task, int], Candidates]


class TaskReader(NamedTuple):
    """`read(files, task, seed)`, and for each download that it needs the patterns of the files it reads."""

    read: Read
    downloads: Mapping[str, tuple[str, ...]]


READERS: dict[str, TaskReader] = {}
# The files of a task's artifact.
QUERIES, TEST = "queries.parquet", "test.parquet"


def register(*names: str, downloads: Mapping[str, tuple[str, ...]] | None = None) -> Callable[[Read], Read]:
    """Register the decorated reader under the names that profiles use.

    `downloads` has each download that it reads, in the order that a profile lists them: what it is called,
    and the patterns of the files to read from it.
    """

    def keep(read: Read) -> Read:
        READERS.update(dict.fromkeys(names, TaskReader(read, downloads or {})))
        return read

    return keep


# --- helpers for readers


def only(files: Mapping[str, bytes], ending: str) -> bytes:
    """Return the one file whose name ends with `ending`."""
    (found,) = [data for name, data in files.items() if name.endswith(ending)]
    return found


def exemplar(question: str, response: str, context: str = "") -> dict[str, str]:
    """Return a solved question as `TaskSample.exemplars` and the protocols have it."""
    return {"question": question, "context": context, "response": response}


@contextmanager
def malformed(task: Task, where: str) -> Iterator[None]:
    """Turn whatever reading malformed data raises into a UserError that names the file or row, `where`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = f"no {error}" if isinstance(error, KeyError) else reason_of(error)
        raise UserError(
            f"task {task.name!r}: {where}: cannot be read ({reason}); pin the data that {task.reader} reads"
        ) from error


def text_of(row: Mapping[str, Any], key: str) -> str:
    """Return a row's text under `key`; raise KeyError or TypeError if there is none."""
    value = row[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is not a text")
    return value


# --- from a reader to an artifact


def wanted_members(tasks: Iterable[Task]) -> list[tuple[str, str]]:
    """Return the (download, pattern) pairs that `build_task` reads, for `Archives.prepare`."""
    return [
        (download, pattern)
        for task in tasks
        if task.reader in READERS
        for download, patterns in zip(task.downloads, READERS[task.reader].downloads.values(), strict=False)
        for pattern in patterns
    ]


def build_task(task: Task, archives: Archives, seed: int) -> TaskData:
    """Read a task, and draw its query and test samples evenly over the subtasks.

    No query is tested on.

    Raises:
        UserError: The reader is unknown, the number of downloads is wrong, the data cannot be read, or there
            are fewer samples than the task asks for.
    """
    reader = READERS.get(task.reader)
    if reader is None:
        names = ", ".join(sorted(READERS))
        raise UserError(f"task {task.name!r}: unknown reader {task.reader!r}; use one of {names}")
    if len(task.downloads) != len(reader.downloads):
        raise UserError(
            f"task {task.name!r}: the reader {task.reader} needs {len(reader.downloads)} downloads, "
            f"not {len(task.downloads)}; list them in this order: {', '.join(reader.downloads) or 'none'}"
        )
    wanted = zip(task.downloads, reader.downloads.values(), strict=True)
    files = [archives.members(*each) for each in wanted]
    with malformed(task, ", ".join(task.downloads)):
        queries, test, note = reader.read(files, task, seed)
    # A benchmark may ask the same question twice.
    asked_before = {sample.messages[0]["content"] for sample in queries}
    test = [sample for sample in test if sample.messages[0]["content"] not in asked_before]
    for kind, have, asked in (("query", queries, task.queries), ("test", test, task.test)):
        if len(have) < asked:
            raise UserError(
                f"task {task.name!r}: {asked} {kind} samples are asked for, but there are {len(have)}; "
                f"lower the number in the profile"
            )
    drawn = [queries[at] for at in stratified([s.subtask for s in queries], task.queries, seed)]
    tested = [test[at] for at in stratified([s.subtask for s in test], task.test, seed)]
    notes = " ".join(part for part in (task.note.strip(), note) if part)
    return TaskData(task.name, [Sample(s.id, s.source, s.messages) for s in drawn], tested, notes)


def stratified(strata: Sequence[str], size: int, seed: int) -> list[int]:
    """Draw `size` positions, as evenly over the strata as they allow; sorted."""
    rng = generator(seed, "stratified")
    places: dict[str, list[int]] = {}
    for position in rng.permutation(len(strata)):
        places.setdefault(strata[position], []).append(int(position))
    # One from each stratum in turn: a stable sort by how many of the same stratum came before.
    turns = sorted(
        (turn, order, at) for order, row in enumerate(places.values()) for turn, at in enumerate(row)
    )
    return sorted(at for _, _, at in turns[:size])


TEXT = pa.string()
TEST_SCHEMA = pa.schema(
    [
        *SCHEMA,
        *((name, TEXT) for name in ("subtask", "gold", "question", "context")),
        *((name, TEXT) for name in ("program", "entry_point", "test")),
        *((name, pa.list_(TEXT)) for name in ("choices", "references")),
        ("answer", pa.int32()),
        ("exemplars", pa.list_(pa.struct([(name, TEXT) for name in ("question", "context", "response")]))),
    ]
)


def write_task(data: TaskData, folder: Path) -> None:
    """Write a task as `queries.parquet`, `test.parquet` and `task.json` (name and note)."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(to_table(data.queries), folder / QUERIES, compression="zstd")
    test = pa.Table.from_pylist([vars(sample) for sample in data.test], schema=TEST_SCHEMA)
    pq.write_table(test, folder / TEST, compression="zstd")
    about = {"name": data.name, "note": data.note}
    (folder / "task.json").write_text(json.dumps(about, ensure_ascii=False, indent=1), encoding="utf-8")


def read_queries(folder: Path) -> list[Sample]:
    """Read the query samples of what `write_task` wrote."""
    return from_rows(read_table(folder / QUERIES).to_pylist())


def read_task(folder: Path) -> TaskData:
    """Read what `write_task` wrote."""
    about = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    rows = read_table(folder / TEST).to_pylist()
    return TaskData(about["name"], read_queries(folder), [TaskSample(**row) for row in rows], about["note"])
