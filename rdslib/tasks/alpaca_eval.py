"""AlpacaEval: open-ended instructions, whose responses a judge compares."""

from __future__ import annotations

import json

from rdslib.data.chat import user_assistant
from rdslib.params import Task
from rdslib.seeds import generator
from rdslib.tasks.base import Candidates, Files, TaskSample, malformed, only, register, text_of

QUERIES = 50


@register("alpaca_full", downloads={"alpaca_eval": ("model_outputs.json",)})
def alpaca_full(files: Files, task: Task, seed: int) -> Candidates:
    """Read the instructions: 50, drawn with the seed, are queries, all others are tested.

    The gold response is the reference output that a judge compares with; a few are empty, and no query is
    one of those.
    """
    samples = []
    with malformed(task, "model_outputs.json"):
        rows = list(json.loads(only(files[0], "model_outputs.json")))
    for index, row in enumerate(rows):
        with malformed(task, f"model_outputs.json: row {index + 1}"):
            asked, output = text_of(row, "instruction").strip(), text_of(row, "output").strip()
            if not asked:
                raise ValueError("no instruction")
        key, messages = f"alpaca_eval/{index}", user_assistant(asked, output)
        sample = TaskSample(key, task.name, messages, "alpaca_eval", question=asked, references=[output])
        samples.append(sample)
    answered = [at for at, sample in enumerate(samples) if sample.messages[-1]["content"]]
    order = generator(seed, "alpaca_eval").permutation(len(answered))
    chosen = {answered[at] for at in order[:QUERIES]}
    queries = [sample for at, sample in enumerate(samples) if at in chosen]
    test = [sample for at, sample in enumerate(samples) if at not in chosen]
    note = (
        f"Queries are {QUERIES} AlpacaEval instructions drawn with the seed; which {QUERIES} "
        f"the paper took is not published. References are text-davinci-003's outputs."
    )
    return queries, test, note
