"""GSM8k: grade-school mathematics, with eight chain-of-thought exemplars."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml

from rdslib.data.chat import user_assistant
from rdslib.errors import UserError
from rdslib.params import Task
from rdslib.tasks.base import Candidates, Files, TaskSample, exemplar, malformed, only, register, text_of

EXEMPLARS = ("lm_eval/tasks/gsm8k/gsm8k-cot.yaml",)


def _exemplars(task: Task, files: Mapping[str, bytes]) -> tuple[list[dict[str, str]], list[TaskSample]]:
    """The eight exemplars, to be shown before each test problem, and the same as query samples."""
    with malformed(task, "gsm8k-cot.yaml"):
        rows = yaml.safe_load(only(files, "gsm8k-cot.yaml"))["fewshot_config"]["samples"]
        exemplars = [exemplar(text_of(row, "question"), text_of(row, "target")) for row in rows]
    queries = []
    for index, each in enumerate(exemplars):
        messages = user_assistant(f"Q: {each['question']}\nA:", each["response"])
        queries.append(TaskSample(f"exemplar/{index}", task.name, messages, "gsm8k"))
    return exemplars, queries


def _sample(
    task: Task, key: str, question: str, worked: str, answer: str, exemplars: list[dict[str, str]]
) -> TaskSample:
    """A problem whose gold response is the lines of its worked answer as sentences, and the number."""
    lines = [line.strip() for line in worked.splitlines() if line.strip()]
    steps = " ".join(line if line.endswith((".", "!", "?")) else f"{line}." for line in lines)
    return TaskSample(
        key,
        task.name,
        user_assistant(f"Q: {question}\nA:", f"{steps} The answer is {answer}."),
        "gsm8k",
        question=question,
        exemplars=exemplars,
        references=[answer],
    )


# --- from packages

SYMBOLIC = "reasoning_gym/arithmetic/gsm_symbolic"

# Runs in a separate process, without site-packages: the generators import only the standard library and one
# module of their package, whose other dependencies are not wanted here.
GENERATE = """
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


@register(
    "gsm8k",
    downloads={
        "lm-eval": EXEMPLARS,
        "reasoning-gym": (
            f"{SYMBOLIC}/gsm_symbolic.py",
            f"{SYMBOLIC}/generators_00_49.py",
            f"{SYMBOLIC}/generators_50_99.py",
            "reasoning_gym/utils.py",
        ),
    },
)
def gsm8k(files: Files, task: Task, seed: int) -> Candidates:
    """Read the exemplars as queries; tests are one seeded variation of each GSM-Symbolic template."""
    exemplars, queries = _exemplars(task, files[0])
    tree = ast.parse(only(files[1], "gsm_symbolic.py"))
    values = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    numbers = ast.literal_eval(values["tasks_ok"])
    test = []
    for number, question, answer, worked in _gsm_symbolic(files[1], seed, numbers):
        if all(abs(float(a) * float(b) - float(c)) < 0.01 for a, b, c in PERCENTAGE.findall(worked)):
            worked = worked.partition("####")[0]
            test.append(_sample(task, f"symbolic/{number}", question.strip(), worked, answer, exemplars))
    note = "Test problems are GSM-Symbolic's variations of GSM8k test problems, at most one a template."
    return queries, test, note


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
        command = [sys.executable, "-S", "-s", "-P", "-c", GENERATE, folder, json.dumps([seed, numbers])]
        env = {"PYTHONHASHSEED": "0"}
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)
    if ran.returncode != 0:
        last = ran.stderr.strip().rpartition("\n")[2]
        raise UserError(
            f"GSM-Symbolic's generators failed ({last}); pin the reasoning-gym that the profile names"
        )
    rows: list[tuple[int, str, str, str]] = json.loads(ran.stdout)
    return rows


# --- whole

# What a calculator was given, and gave: `<<48/2=24>>`.
CALCULATION = re.compile(r"<<.*?>>")


@register("gsm8k_full", downloads={"lm-eval": EXEMPLARS, "grade-school-math": ("test.jsonl",)})
def gsm8k_full(files: Files, task: Task, seed: int) -> Candidates:
    """Read the exemplars as queries, and the test split."""
    exemplars, queries = _exemplars(task, files[0])
    test = []
    for index, line in enumerate(only(files[1], "test.jsonl").splitlines()):
        with malformed(task, f"test.jsonl: row {index + 1}"):
            row = json.loads(line)
            question = text_of(row, "question").strip()
            worked, mark, answer = text_of(row, "answer").partition("####")
            answer = answer.strip().replace(",", "")
            if not mark or not re.fullmatch(r"-?\d+(\.\d+)?", answer):
                raise ValueError("no number after ####")
        test.append(_sample(task, f"test/{index}", question, CALCULATION.sub("", worked), answer, exemplars))
    return queries, test, "GSM8k's test split, whole; the queries are the eight chain-of-thought exemplars."
