"""Sets of queries that test nothing: conversations that people had, and hard questions that they asked."""

from __future__ import annotations

import io
import json
from pathlib import PurePosixPath

import pyarrow.parquet as pq

from rdslib.data.chat import user_assistant
from rdslib.params import Task
from rdslib.tasks.base import Candidates, Files, TaskSample, malformed, only, register, text_of


@register("wildchat", downloads={"WildChat": ("data/train-00000-of-*.parquet",)})
def wildchat(files: Files, task: Task, seed: int) -> Candidates:
    """Read the first exchange of each conversation of WildChat's first file that is not toxic."""
    queries = []
    for path, data in files[0].items():
        with malformed(task, path):
            table = pq.read_table(io.BytesIO(data), columns=["conversation", "toxic"])
        for number, row in enumerate(table.to_pylist(), start=1):
            with malformed(task, f"{path}: row {number}"):
                asked, answered = ([*row["conversation"], {}, {}])[:2]
                said = [(each.get("content") or "").strip() for each in (asked, answered)]
                if not row["toxic"] and all(said):
                    key = f"{PurePosixPath(path).stem}/{number}"
                    queries.append(TaskSample(key, task.name, user_assistant(*said), "wildchat"))
    note = (
        "Queries are first exchanges of WildChat's conversations, drawn with the seed; which ones the paper "
        "took, and how many, is in nothing at hand."
    )
    return queries, [], note


@register("arena_hard", downloads={"Arena Hard": ("question.jsonl", "model_answer/gpt-4-0613.jsonl")})
def arena_hard(files: Files, task: Task, seed: int) -> Candidates:
    """Read Arena Hard's questions, each with the answer of gpt-4-0613."""
    answers: dict[str, str] = {}
    for number, line in enumerate(only(files[0], "gpt-4-0613.jsonl").splitlines(), start=1):
        with malformed(task, f"gpt-4-0613.jsonl: line {number}"):
            row = json.loads(line)
            answers[text_of(row, "uid")] = text_of(row["messages"][-1]["content"], "answer").strip()
    queries = []
    for number, line in enumerate(only(files[0], "question.jsonl").splitlines(), start=1):
        with malformed(task, f"question.jsonl: line {number}"):
            row = json.loads(line)
            asked, key = text_of(row, "prompt").strip(), text_of(row, "uid")
            messages = user_assistant(asked, answers[key])
            queries.append(TaskSample(f"arena_hard/{key}", task.name, messages, "arena_hard"))
    return queries, [], "Queries are Arena Hard's questions (v0.1), with gpt-4-0613's answers."
