"""The campaign of faults, and the fuzzing of readers, in small."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.faults.determinism import FIRST, table
from tests.faults.fuzz import READERS, fuzz
from tests.killing import WITH_TESTS


@pytest.mark.slow
def test_two_kills_of_two_stages_leave_no_trace(tmp_path):
    given = ["--only", "kill", "--stage", "encode", "--stage", "rds select", "--trials", "2"]
    command = [
        sys.executable,
        "-m",
        "tests.faults",
        *given,
        "--folder",
        tmp_path,
        "--out",
        tmp_path / "table.md",
    ]
    done = subprocess.run(command, env={**os.environ, **WITH_TESTS}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "table.md").read_text().endswith("| | | all | 4 | 4 |\n")


@pytest.mark.parametrize("name", READERS)
@pytest.mark.slow
def test_no_reader_breaks_at_what_is_nearly_right(name, tmp_path):
    runs = 5 if name in ("GGUF", "safetensors") else 50
    done, wrong = fuzz(name, runs, 1, tmp_path / "found")
    assert done == runs
    assert not wrong


def test_what_changes_between_selections_is_counted_by_method():
    def found(rds, random, kills=0):
        return {"picks": {"rds": {"a": list(rds), "b": ["x"]}, "random": {"a": list(random)}}, "kills": kills}

    first = found("abc", "123")
    again = [first, found("bac", "123", 2), found("abd", "123", 1)]
    assert table({FIRST: [first], "again": again, "swapped": again[1:2], "not run": []}).splitlines()[2:] == [
        "| again (3) | 3 | 0 | 25.0% |",
        "| swapped (2) | 1 | 0 | 0.0% |",
    ]
