"""BBH from packages: its chain-of-thought exemplars, and tests made of the BIG-bench tasks it came from.

BBH has 27 subtasks of 23 BIG-bench tasks. Their exemplars are packaged; BBH's own test questions are not,
so tests are drawn from the parents and written as BBH writes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import yaml

from rdslib.data.chat import user_assistant
from rdslib.data.sources import task_path
from rdslib.params import Task
from rdslib.seeds import generator
from rdslib.tasks.readers import Candidates, Files, TaskReader, TaskSample


@dataclass(frozen=True)
class Parent:
    """A subtask's BIG-bench task, and how BBH writes its questions.

    `options`: "letters" lists the choices as (A), (B), ...; "words" lists them by a dash; "hidden" does
    not list them; "free" has no fixed choices. Where the parent always names the right choice first, the
    choices are shuffled; `rename` gives BBH's own words for them.
    """

    path: str
    options: Literal["letters", "words", "hidden", "free"] = "letters"
    shuffle: bool = False
    rename: Mapping[str, str] = field(default_factory=dict)


PARENTS = {
    "causal_judgement": Parent("causal_judgment", "words"),
    "date_understanding": Parent("date_understanding", shuffle=True),
    "disambiguation_qa": Parent("disambiguation_qa"),
    "dyck_languages": Parent("dyck_languages", "free"),
    "formal_fallacies": Parent("formal_fallacies_syllogisms_negation", "words"),
    "geometric_shapes": Parent("geometric_shapes"),
    "hyperbaton": Parent("hyperbaton"),
    "logical_deduction_five_objects": Parent("logical_deduction/five_objects", shuffle=True),
    "logical_deduction_seven_objects": Parent("logical_deduction/seven_objects", shuffle=True),
    "logical_deduction_three_objects": Parent("logical_deduction/three_objects", shuffle=True),
    "movie_recommendation": Parent("movie_recommendation", shuffle=True),
    "navigate": Parent("navigate", "words", rename={"True": "Yes", "False": "No"}),
    "object_counting": Parent("object_counting", "free"),
    "penguins_in_a_table": Parent("penguins_in_a_table"),
    "reasoning_about_colored_objects": Parent("reasoning_about_colored_objects"),
    "ruin_names": Parent("ruin_names", shuffle=True),
    "salient_translation_error_detection": Parent("salient_translation_error_detection"),
    "snarks": Parent("snarks"),
    "sports_understanding": Parent(
        "sports_understanding", "hidden", rename={"plausible": "yes", "implausible": "no"}
    ),
    "temporal_sequences": Parent("temporal_sequences", shuffle=True),
    "tracking_shuffled_objects_five_objects": Parent("tracking_shuffled_objects/five_objects", shuffle=True),
    "tracking_shuffled_objects_seven_objects": Parent(
        "tracking_shuffled_objects/seven_objects", shuffle=True
    ),
    "tracking_shuffled_objects_three_objects": Parent(
        "tracking_shuffled_objects/three_objects", shuffle=True
    ),
    "word_sorting": Parent("word_sorting", "free"),
}

# The parents whose choices are inside the question: `... a " x " b " y " ?` and `... (a) x (b) y`.
INLINE = {
    "hyperbaton": re.compile(r'(.*?:) a " (.*) " b " (.*) " \?', re.DOTALL),
    "snarks": re.compile(r"(.*?\?) \(a\) (.*) \(b\) (.*)", re.DOTALL),
}


# What a chain of thought begins with.
LEAD = "A: Let's think step by step."


def bbh(files: Files, task: Task, seed: int) -> Candidates:
    """The three exemplars of each subtask are queries; tests are from the subtasks' BIG-bench parents."""
    queries: list[TaskSample] = []
    test: list[TaskSample] = []
    parents = {task_path(name): data for name, data in files[1].items()}
    absent = []
    for data in files[0].values():
        about = yaml.safe_load(data)
        subtask, description = about["dataset_name"], about["description"].strip()
        exemplars = about["fewshot_config"]["samples"]
        shown = [
            {"question": each["input"].strip(), "context": "", "response": str(each["target"]).strip()}
            for each in exemplars
        ]
        queries += bbh_queries(task, subtask, description, shown)
        parent = PARENTS.get(subtask)
        if parent is None or parent.path not in parents:
            absent.append(subtask)
            continue
        content = json.loads(parents[parent.path])
        known = _squeezed(" ".join(row["input"] for row in exemplars))
        # More than can be drawn from one subtask are not needed, and some parents have tens of thousands.
        rng = generator(seed, "bbh", subtask)
        for at in sorted(rng.permutation(len(content["examples"]))[: 2 * task.test]):
            example = content["examples"][at]
            made = _question(subtask, parent, content, example, rng)
            if made is None or _shown(subtask, example["input"].strip(), known):
                continue
            question, response = made
            messages = user_assistant(f"{description}\n\nQ: {question}\nA:", response)
            test.append(
                TaskSample(
                    f"{parent.path}/{at}",
                    task.name,
                    messages,
                    subtask,
                    question=question,
                    context=description,
                    exemplars=shown,
                    references=[response],
                )
            )
    note = (
        "Test questions are drawn from the BIG-bench tasks that BBH came from, and ask for the answer alone"
    )
    return queries, test, f"{note}; not there: {', '.join(absent)}." if absent else f"{note}."


def bbh_queries(
    task: Task, subtask: str, description: str, shown: Sequence[Mapping[str, str]]
) -> list[TaskSample]:
    """A subtask's exemplars (`question`, `response`) as query samples."""
    return [
        TaskSample(
            f"{subtask}/exemplar/{index}",
            task.name,
            user_assistant(f"{description}\n\nQ: {each['question']}\n{LEAD}", each["response"]),
            subtask,
        )
        for index, each in enumerate(shown)
    ]


def _question(
    subtask: str, parent: Parent, content: dict[str, Any], example: dict[str, Any], rng: np.random.Generator
) -> tuple[str, str] | None:
    """The question and its response as BBH has them; None unless exactly one choice is right."""
    parts = [" ".join(content.get("task_prefix", "").split())]
    parts.append(content.get("example_input_prefix", "").strip())
    text = re.sub(r"[ \t]*\n[ \t]*", "\n", example["input"].strip())
    if subtask == "sports_understanding":
        question = f'Is the following sentence plausible? "{text.rstrip(".")}."'
    else:
        question = " ".join(part for part in (*parts, text) if part)
    if parent.options == "free" and "target" in example:
        target = example["target"]
        # A count is given in words and in digits; BBH writes digits, which come last.
        return question, str(target[-1] if isinstance(target, list) else target).strip()
    scores: dict[str, float] = example["target_scores"]
    right = [choice for choice, score in scores.items() if score == 1]
    if len(right) != 1:
        return None
    if parent.options == "free":
        return question, right[0].strip()
    names = list(scores)
    gold = names.index(right[0])
    if subtask in INLINE:
        inline = INLINE[subtask].fullmatch(question)
        if inline is None:
            return None
        question, *names = (part.strip() for part in inline.groups())
    names = [parent.rename.get(name, name).strip().rstrip(".") for name in names]
    if parent.shuffle:
        order = [int(at) for at in rng.permutation(len(names))]
        names, gold = [names[at] for at in order], order.index(gold)
    if parent.options == "letters":
        choices = [f"({chr(ord('A') + at)})" for at in range(len(names))]
        listed = "\n".join(f"{letter} {name}" for letter, name in zip(choices, names, strict=True))
    else:
        choices = names
        listed = "\n".join(f"- {name}" for name in names)
    if parent.options != "hidden":
        question = f"{question}\nOptions:\n{listed}"
    return question, choices[gold]


def _shown(subtask: str, text: str, known: str) -> bool:
    """Whether an exemplar, in the squeezed text `known`, already shows this question."""
    inline = INLINE[subtask].fullmatch(text) if subtask in INLINE else None
    # Where the choices are inside the question, the question itself is always the same.
    parts = inline.groups()[1:] if inline else (text,)
    return all(_squeezed(part) in known for part in parts)


def _squeezed(text: str) -> str:
    """The text without what differs between BBH and its parents: case and white space."""
    return "".join(text.lower().split())


BBH = TaskReader(
    bbh,
    ("lm-eval", "bigbench"),
    (
        ("lm_eval/tasks/bbh/cot_fewshot/[a-z]*.yaml",),
        tuple(f"*/benchmark_tasks/{parent.path}/task.json" for parent in PARENTS.values()),
    ),
)
