"""BBH: 27 subtasks of 23 BIG-bench tasks, each with three chain-of-thought exemplars.

The exemplars are packaged; BBH's test questions are not. So the small task draws tests from the BIG-bench
tasks that they came from, the subtasks' parents, and writes them as BBH does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
import yaml

from rdslib.data.chat import user_assistant
from rdslib.data.sources import task_path
from rdslib.params import Task
from rdslib.seeds import generator
from rdslib.tasks.base import Candidates, Files, TaskSample, exemplar, malformed, register, text_of

# What a chain of thought begins with.
THOUGHT = "Let's think step by step."
EXEMPLARS = 3


class Subtask(NamedTuple):
    """What a subtask asks for, and its exemplars."""

    name: str
    description: str
    exemplars: list[dict[str, str]]

    def queries(self, task: Task) -> list[TaskSample]:
        """Return the exemplars as query samples."""
        queries = []
        for index, each in enumerate(self.exemplars):
            prompt = f"{self.description}\n\nQ: {each['question']}"
            messages = user_assistant(prompt, f"{THOUGHT}\n{each['response']}")
            queries.append(TaskSample(f"{self.name}/exemplar/{index}", task.name, messages, self.name))
        return queries

    def sample(self, task: Task, key: str, question: str, response: str) -> TaskSample:
        """Return a question as a test sample."""
        return TaskSample(
            key,
            task.name,
            user_assistant(f"{self.description}\n\nQ: {question}\nA:", response),
            self.name,
            gold=f" {response}",
            question=question,
            context=self.description,
            exemplars=self.exemplars,
            references=[response],
        )


# --- from packages


class Parent(NamedTuple):
    """A subtask's BIG-bench task, and how BBH writes its questions.

    `options`: "letters" lists the choices as (A), (B), ...; "words" lists them by a dash; "hidden" does
    not list them; "free" has no fixed choices. Where the parent always names the right choice first, the
    choices are shuffled; `rename` gives BBH's words for them. `inline`: where the choices are inside the
    question, what finds the question and them.
    """

    path: str
    options: Literal["letters", "words", "hidden", "free"] = "letters"
    shuffle: bool = False
    rename: Mapping[str, str] = {}
    inline: re.Pattern[str] | None = None


PARENTS = {
    "causal_judgement": Parent("causal_judgment", "words"),
    "date_understanding": Parent("date_understanding", shuffle=True),
    "disambiguation_qa": Parent("disambiguation_qa"),
    "dyck_languages": Parent("dyck_languages", "free"),
    "formal_fallacies": Parent("formal_fallacies_syllogisms_negation", "words"),
    "geometric_shapes": Parent("geometric_shapes"),
    # `... a " x " b " y " ?`
    "hyperbaton": Parent("hyperbaton", inline=re.compile(r'(.*?:) a " (.*) " b " (.*) " \?', re.DOTALL)),
    "movie_recommendation": Parent("movie_recommendation", shuffle=True),
    "navigate": Parent("navigate", "words", rename={"True": "Yes", "False": "No"}),
    "object_counting": Parent("object_counting", "free"),
    "penguins_in_a_table": Parent("penguins_in_a_table"),
    "reasoning_about_colored_objects": Parent("reasoning_about_colored_objects"),
    "ruin_names": Parent("ruin_names", shuffle=True),
    "salient_translation_error_detection": Parent("salient_translation_error_detection"),
    # `... (a) x (b) y`
    "snarks": Parent("snarks", inline=re.compile(r"(.*?\?) \(a\) (.*) \(b\) (.*)", re.DOTALL)),
    "sports_understanding": Parent(
        "sports_understanding", "hidden", rename={"plausible": "yes", "implausible": "no"}
    ),
    "temporal_sequences": Parent("temporal_sequences", shuffle=True),
    "word_sorting": Parent("word_sorting", "free"),
} | {
    f"{name}_{count}_objects": Parent(f"{name}/{count}_objects", shuffle=True)
    for name in ("logical_deduction", "tracking_shuffled_objects")
    for count in ("three", "five", "seven")
}


@register(
    "bbh",
    downloads={
        "lm-eval": ("lm_eval/tasks/bbh/cot_fewshot/[a-z]*.yaml",),
        "bigbench": tuple(f"*/benchmark_tasks/{parent.path}/task.json" for parent in PARENTS.values()),
    },
)
def bbh(files: Files, task: Task, seed: int) -> Candidates:
    """Read the three exemplars of each subtask as queries; tests are from the subtasks' parents."""
    queries: list[TaskSample] = []
    test: list[TaskSample] = []
    parents = {task_path(name): data for name, data in files[1].items()}
    absent = []
    for data in files[0].values():
        about = yaml.safe_load(data)
        rows = about["fewshot_config"]["samples"]
        exemplars = [exemplar(row["input"].strip(), str(row["target"]).strip()) for row in rows]
        subtask = Subtask(about["dataset_name"], about["description"].strip(), exemplars)
        queries += subtask.queries(task)
        parent = PARENTS.get(subtask.name)
        if parent is None or parent.path not in parents:
            absent.append(subtask.name)
            continue
        content = json.loads(parents[parent.path])
        known = _squeezed(" ".join(row["input"] for row in rows))
        # More than can be drawn from one subtask are not needed, and some parents have tens of thousands.
        rng = generator(seed, "bbh", subtask.name)
        for at in sorted(rng.permutation(len(content["examples"]))[: 2 * task.test]):
            example = content["examples"][at]
            made = _question(parent, content, example, rng)
            if made is not None and not _shown(parent, example["input"].strip(), known):
                test.append(subtask.sample(task, f"{parent.path}/{at}", *made))
    note = (
        "Test questions are drawn from the BIG-bench tasks that BBH came from, and ask for the answer alone"
    )
    return queries, test, f"{note}; not there: {', '.join(absent)}." if absent else f"{note}."


def _question(
    parent: Parent, content: dict[str, Any], example: dict[str, Any], rng: np.random.Generator
) -> tuple[str, str] | None:
    """The question and its response as BBH has them; None unless exactly one choice is right."""
    question = re.sub(r"[ \t]*\n[ \t]*", "\n", example["input"].strip())
    if parent.options == "hidden":
        question = f'Is the following sentence plausible? "{question.rstrip(".")}."'
    else:
        task_prefix = " ".join(content.get("task_prefix", "").split())
        prefix = content.get("example_input_prefix", "").strip()
        question = " ".join(part for part in (task_prefix, prefix, question) if part)
    if parent.options == "free" and "target" in example:
        target = example["target"]
        # A count is given in words and in digits; BBH writes digits, which come last.
        return question, str(target[-1] if isinstance(target, list) else target).strip()
    names = list(example["target_scores"])
    right = [at for at, score in enumerate(example["target_scores"].values()) if score == 1]
    if len(right) != 1:
        return None
    (gold,) = right
    if parent.options == "free":
        return question, names[gold].strip()
    if parent.inline:
        found = parent.inline.fullmatch(question)
        if found is None:
            return None
        question, *names = (part.strip() for part in found.groups())
    names = [parent.rename.get(name, name).strip().rstrip(".") for name in names]
    if parent.shuffle:
        order = rng.permutation(len(names)).tolist()
        names, gold = [names[at] for at in order], order.index(gold)
    if parent.options == "hidden":
        return question, names[gold]
    letters = parent.options == "letters"
    marks = [f"({chr(ord('A') + at)})" if letters else "-" for at in range(len(names))]
    listed = "\n".join(f"{mark} {name}" for mark, name in zip(marks, names, strict=True))
    return f"{question}\nOptions:\n{listed}", marks[gold] if letters else names[gold]


def _shown(parent: Parent, text: str, known: str) -> bool:
    """Whether an exemplar, in the squeezed text `known`, already shows this question."""
    found = parent.inline.fullmatch(text) if parent.inline else None
    # Where the choices are inside the question, the question itself is always the same.
    return all(_squeezed(part) in known for part in (found.groups()[1:] if found else (text,)))


def _squeezed(text: str) -> str:
    """The text without what differs between BBH and its parents: case and white space."""
    return "".join(text.lower().split())


# --- whole


@register("bbh_full", downloads={"BIG-Bench-Hard": ("bbh/*.json", "cot-prompts/*.txt")})
def bbh_full(files: Files, task: Task, seed: int) -> Candidates:
    """Read the three exemplars of each subtask as queries, and all of BBH's questions to test on."""
    queries: list[TaskSample] = []
    test: list[TaskSample] = []
    for path, data in files[0].items():
        if not path.startswith("bbh/"):
            continue
        name = PurePosixPath(path).stem
        prompts = f"cot-prompts/{name}.txt"
        with malformed(task, prompts):
            subtask = Subtask(name, *_exemplars(files[0][prompts].decode("utf-8")))
        queries += subtask.queries(task)
        with malformed(task, path):
            rows = list(json.loads(data)["examples"])
        for index, row in enumerate(rows):
            with malformed(task, f"{path}: example {index + 1}"):
                question, target = text_of(row, "input").strip(), text_of(row, "target").strip()
            test.append(subtask.sample(task, f"{name}/{index}", question, target))
    return queries, test, "BBH's test questions, whole; the queries are its chain-of-thought exemplars."


def _exemplars(text: str) -> tuple[str, list[dict[str, str]]]:
    """What a subtask asks for, and its exemplars; raises ValueError unless there are three."""
    # Above the line is a canary that asks to keep the text out of training corpora.
    description, *chunks = text.partition("\n-----\n")[2].split("\n\nQ: ")
    parts = [chunk.partition(f"\nA: {THOUGHT}") for chunk in chunks]
    exemplars = [exemplar(question.strip(), response.strip()) for question, lead, response in parts if lead]
    if not len(exemplars) == len(chunks) == EXEMPLARS:
        raise ValueError(f"{len(exemplars)} exemplars with a chain of thought, not {EXEMPLARS}")
    return description.strip(), exemplars
