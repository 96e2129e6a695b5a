"""Made-up tasks, for tests and the tiny profile."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rdslib.data.chat import user_assistant
from rdslib.data.sources import made_up_reversal, made_up_sum
from rdslib.params import Task
from rdslib.seeds import generator
from rdslib.tasks.base import Candidates, Files, TaskSample, register

NOTE = "A made-up task."


@register("made_up_sums")
def made_up_sums(files: Files, task: Task, seed: int) -> Candidates:
    """Make up sums with two choices, answered by a letter."""
    rows = []
    for index, rng in _generators(task, seed):
        prompt, response = made_up_sum(rng)
        total = int(response.split()[-1].rstrip("."))
        answer = int(rng.integers(2))
        first, second = (total + 10, total) if answer else (total, total + 10)
        letter = "AB"[answer]
        messages = user_assistant(f"{prompt}\nA. {first}\nB. {second}\nAnswer:", letter)
        rows.append(
            TaskSample(f"sum/{index}", task.name, messages, "sums", ["A", "B"], answer, references=[letter])
        )
    return rows[: task.queries], rows[task.queries :], NOTE


@register("made_up_reversals")
def made_up_reversals(files: Files, task: Task, seed: int) -> Candidates:
    """Make up words to reverse, without choices."""
    rows = []
    for index, rng in _generators(task, seed):
        messages = user_assistant(*made_up_reversal(rng))
        rows.append(TaskSample(f"reversal/{index}", task.name, messages, f"half {index % 2}"))
    return rows[: task.queries], rows[task.queries :], NOTE


def _generators(task: Task, seed: int) -> Iterator[tuple[int, np.random.Generator]]:
    """As many numbered generators as the task asks for samples."""
    for index in range(task.queries + task.test):
        yield index, generator(seed, task.name, str(index))
