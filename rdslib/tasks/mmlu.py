"""MMLU: multiple-choice questions on 57 subjects."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from dataclasses import replace

from rdslib.data.chat import user_assistant
from rdslib.params import Task
from rdslib.tasks.base import Candidates, Files, TaskSample, malformed, only, register

LETTERS = ["A", "B", "C", "D"]
# What the response to a query begins with, in the paper's code.
LEAD = "The answer is:"


def _sample(
    task: Task, key: str, subject: str, question: str, choices: Iterable[str], answer: int
) -> TaskSample:
    # The paper's code has two spaces before a subject.
    about = f"The following are multiple choice questions (with answers) about  {subject.replace('_', ' ')}."
    listed = [f"{letter}. {choice.strip()}" for letter, choice in zip(LETTERS, choices, strict=True)]
    asked = "\n".join([question.strip(), *listed])
    return TaskSample(
        key,
        task.name,
        user_assistant(f"{about}\n\n{asked}\nAnswer:", LETTERS[answer]),
        subject,
        choices=LETTERS,
        answer=answer,
        gold=f" {LETTERS[answer]}",
        question=asked,
        references=[LETTERS[answer]],
    )


def _query(sample: TaskSample) -> TaskSample:
    prompt, response = (message["content"] for message in sample.messages)
    return replace(sample, messages=user_assistant(prompt, f"{LEAD} {response}"))


# --- from packages

DEV_QUERIES = 3
DEV_QUESTION = re.compile(
    r"(.+?)\s\(A\)\s(.+?)\s\(B\)\s(.+?)\s\(C\)\s(.+?)\s\(D\)\s(.+?)\nA: .*answer is \(([ABCD])\)", re.DOTALL
)

# Where the prompts were written, the `\f` and `\r` of LaTeX commands were taken for escapes, and some became
# line breaks: `\factorial` is a new line and `actorial`.
LATEX = {
    r"\\f": re.compile(r"[\n\f](?=(?:actorial|rac)\{)"),
    r"\\r": re.compile(r"[\n\r](?=ight(?:arrow)?\b)"),
}


@register("mmlu_dev", downloads={"lm-eval": ("lm_eval/tasks/mmlu/flan_cot_fewshot/_cot_prompts.json",)})
def mmlu_dev(files: Files, task: Task, seed: int) -> Candidates:
    """Read the dev split's five questions a subject: three are queries, two are tested."""
    subjects: dict[str, str] = json.loads(only(files[0], "_cot_prompts.json"))
    queries: list[TaskSample] = []
    test: list[TaskSample] = []
    for subject, text in sorted(subjects.items()):
        for lost, rest in LATEX.items():
            text = rest.sub(lost, text)
        good = []
        for index, chunk in enumerate(text.split("\n\nQ: ")[1:]):
            parsed = DEV_QUESTION.match(chunk)
            # A few are damaged: no answer letter, or a fifth choice where four are known.
            if parsed is None or "(E)" in parsed[5]:
                continue
            question, *choices, letter = parsed.groups()
            good.append(
                _sample(task, f"{subject}/{index}", subject, question, choices, LETTERS.index(letter))
            )
        queries += map(_query, good[:DEV_QUERIES])
        test += good[DEV_QUERIES:]
    note = "Test samples are held out from MMLU's dev split, two a subject; its test split is not packaged."
    return queries, test, note


# --- whole

HEADER = ["question", "choice0", "choice1", "choice2", "choice3", "answer"]


@register("mmlu_full", downloads={"MMLU": ("dev/*_dev.csv", "test/*_test.csv")})
def mmlu_full(files: Files, task: Task, seed: int) -> Candidates:
    """Read both splits: the dev split's five questions a subject are queries, the test split is tested."""
    splits: dict[str, list[TaskSample]] = {"dev": [], "test": []}
    for path, data in files[0].items():
        split, _, file = path.partition("/")
        subject = file.removesuffix(f"_{split}.csv")
        with malformed(task, path):
            header, *rows = csv.reader(io.StringIO(data.decode("utf-8"), newline=""))
            if header != HEADER:
                raise ValueError(f"the header is not {','.join(HEADER)}")
        for index, row in enumerate(rows):
            with malformed(task, f"{path}: row {index + 1}"):
                if len(row) != len(HEADER) or not row[0].strip():
                    raise ValueError("not a question, four choices and an answer")
                # The answer is the place of a choice.
                answer = ["0", "1", "2", "3"].index(row[-1])
            key = f"{subject}/{split}/{index}"
            splits[split].append(_sample(task, key, subject, row[0], row[1:-1], answer))
    return list(map(_query, splits["dev"])), splits["test"], "MMLU's dev and test splits, whole."
