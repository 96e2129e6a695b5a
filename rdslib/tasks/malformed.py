"""Rows that a reader cannot read: one line that says which, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import yaml

from rdslib.errors import UserError
from rdslib.params import Task

# What the standard library, YAML and Arrow raise for data of another form than is read.
RAISED = (
    ArithmeticError, AttributeError, EOFError, LookupError, OSError, SyntaxError, TypeError, ValueError,
    yaml.YAMLError,
)  # fmt: skip


@contextmanager
def malformed(task: Task, where: str) -> Iterator[None]:
    """Turn what reading a malformed row raises into a UserError that names the row, `where`."""
    try:
        yield
    except RAISED as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, KeyError):
            reason = f"no {reason}"
        raise UserError(
            f"task {task.name!r}: {where}: cannot be read ({reason}); pin the data that {task.reader} reads"
        ) from error


def text_of(row: Mapping[str, Any], key: str) -> str:
    """A row's text under a key; raises KeyError or TypeError if there is none."""
    value = row[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is not a text")
    return value
