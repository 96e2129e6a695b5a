"""GSM8k: grade-school mathematics, with eight chain-of-thought exemplars."""

from __future__ import annotations

import ast
import json
import math
import random
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any

import yaml

from rdslib.data.chat import user_assistant
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
        prompt = f"Answer the following question.\n\nQuestion: {each['question']}"
        messages = user_assistant(prompt, f"Answer: {each['response']}")
        queries.append(TaskSample(f"exemplar/{index}", task.name, messages, "gsm8k"))
    return exemplars, queries


def _sample(
    task: Task, key: str, question: str, worked: str, answer: str, exemplars: list[dict[str, str]]
) -> TaskSample:
    """A problem whose gold response is the lines of its worked answer as sentences, and the number."""
    lines = [line.strip() for line in worked.splitlines() if line.strip()]
    steps = " ".join(line if line.endswith((".", "!", "?")) else f"{line}." for line in lines)
    response = f"{steps} The answer is {answer}."
    return TaskSample(
        key,
        task.name,
        user_assistant(f"Question: {question}\nAnswer:", response),
        "gsm8k",
        gold=f" {response}",
        question=question,
        exemplars=exemplars,
        references=[answer],
    )


# --- from packages

SYMBOLIC = "reasoning_gym/arithmetic/gsm_symbolic"

# A step such as `0.81 * 60 = 48`: some templates round a percentage down to a whole number.
PERCENTAGE = re.compile(r"(0\.\d+)\s*\*\s*(\d+(?:\.\d+)?)\s*=\s*\$?(\d+(?:\.\d+)?)")


@register("gsm8k", downloads={"lm-eval": EXEMPLARS, "reasoning-gym": (f"{SYMBOLIC}/g*.py",)})
def gsm8k(files: Files, task: Task, seed: int) -> Candidates:
    """Read the exemplars as queries; tests are one seeded variation of each GSM-Symbolic template."""
    exemplars, queries = _exemplars(task, files[0])
    tree = ast.parse(only(files[1], "gsm_symbolic.py"))
    values = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    templates: dict[str, Template] = {}
    for name, data in files[1].items():
        if PurePosixPath(name).name.startswith("generators_"):
            with malformed(task, name):
                templates |= read_templates(data)
    test = []
    for number in ast.literal_eval(values["tasks_ok"]):
        made = templates[f"generate_{number}"](random.Random(f"{seed}/{number}"))
        question, worked = made["question"].strip(), made["metadata"]["answer_cot"]
        if all(abs(float(a) * float(b) - float(c)) < 0.01 for a, b, c in PERCENTAGE.findall(worked)):
            worked = worked.partition("####")[0]
            key = f"symbolic/{number}"
            test.append(_sample(task, key, question, worked, made["answer"], exemplars))
    note = "Test problems are GSM-Symbolic's variations of GSM8k test problems, at most one a template."
    return queries, test, note


# A GSM-Symbolic template is a function of a random generator. It is not run as Python: it may be made of
# arithmetic, text, lists and loops, and name nothing but its variables and what is given here. So it can
# compute a problem, and reach no module, file or process.
Template = Callable[[random.Random], dict[str, Any]]
SYNTAX = (
    *(ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Raise, ast.Expr, ast.Pass),
    *(ast.Assign, ast.AugAssign, ast.If, ast.IfExp, ast.For, ast.While, ast.Break, ast.ListComp),
    *(ast.comprehension, ast.Call, ast.keyword, ast.Name, ast.Attribute, ast.Subscript, ast.Slice),
    *(ast.Constant, ast.JoinedStr, ast.FormattedValue, ast.List, ast.Tuple, ast.Dict, ast.BoolOp, ast.BinOp),
    *(ast.UnaryOp, ast.Compare, ast.expr_context, ast.boolop, ast.operator, ast.unaryop, ast.cmpop),
)
METHODS = {
    *("append", "copy", "get", "keys", "values", "split", "lower", "is_integer", "denominator", "gcd"),
    *("choice", "randint", "randrange", "sample", "uniform"),
}


def _ratio(text: str) -> float:
    above, below = text.split("/")
    return int(above) / int(below)


def _number(value: float) -> str:
    """A number with at most two decimals, without zeros at its end."""
    text = f"{float(value):.2f}".rstrip("0").rstrip(".")
    if not math.isclose(float(text), value, rel_tol=1e-9):
        raise ValueError(f"{value} has more than two decimals")
    return text


GIVEN: dict[str, Any] = {
    **{each.__name__: each for each in (int, float, list, range, round, min, max, ValueError, Fraction)},
    "math": math,
    "gcd": math.gcd,
    "eval": _ratio,
    "format_number": _number,
    "is_integer": lambda value: value == int(value),
}


class _WithoutImports(ast.NodeTransformer):
    def visit_ImportFrom(self, node: ast.ImportFrom | ast.Import) -> ast.Pass:
        return ast.copy_location(ast.Pass(), node)

    visit_Import = visit_ImportFrom


def read_templates(source: bytes) -> dict[str, Template]:
    """Return the functions of a file by name; raise ValueError for a file that could do more than compute."""
    tree = _WithoutImports().visit(ast.parse(source))
    for node in ast.walk(tree):
        if not isinstance(node, SYNTAX) or (isinstance(node, ast.Attribute) and node.attr not in METHODS):
            raise ValueError(f"line {getattr(node, 'lineno', 0)} does more than compute")
    space: dict[str, Any] = {"__builtins__": GIVEN}
    # As in this file, annotations are not evaluated: they name types that are not given.
    exec(compile(tree, "template", "exec", annotations.compiler_flag, dont_inherit=True), space)
    return {node.name: space[node.name] for node in tree.body if isinstance(node, ast.FunctionDef)}


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
