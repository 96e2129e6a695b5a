"""The line of progress: one for all steps and processes, in a terminal and in a file."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from unittest import mock

import pytest
from rich.cells import cell_len

from rdslib.pipeline import progress
from rdslib.pipeline.progress import Progress
from rdslib.pipeline.step import step
from tests.command import COMMAND, rds


@step(version=1)
def made(work, number):
    """A step that is never run."""


def steps_of(label, count):
    return [made.step(label=label, number=number) for number in range(count)]


def screen(text, columns=80):
    """What a terminal shows at the end, and every line on the way; a wide character has two cells."""
    lines, shown, at = [[]], [], 0
    for part in re.findall(r"\r|\n|[^\r\n]+", text):
        if part == "\n":
            lines.append([])
        elif part == "\r":
            at = 0
        else:
            cells = [cell for each in part for cell in [each, ""][: cell_len(each)]]
            lines[-1][at : at + len(cells)] = cells
            at += len(cells)
            shown.append("".join(lines[-1]).rstrip())
    assert all(cell_len(line) < columns for line in shown), shown
    left = ["".join(line).rstrip() for line in lines]
    return [line for line in left if line], [line for line in shown if line]


def everything(reader):
    """Read what comes from a terminal, up to its end."""
    found = b""
    with suppress(OSError), open(reader, "rb", buffering=0) as stream:
        while chunk := stream.read(65536):
            found += chunk
    return found.decode()


@contextmanager
def terminal(columns):
    """Make standard error a terminal; the list that it gives has what was written, in the end."""
    reader, writer = pty.openpty()
    text = []
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(everything, reader)
        with (
            open(writer, "w", encoding="utf-8") as stream,
            mock.patch.object(sys, "stderr", stream),
            mock.patch.object(progress, "OVER", 0),
            mock.patch.dict(os.environ, {"COLUMNS": str(columns)}),
        ):
            yield text
        text.append(found.result())


LABELS = [
    "lm features of the pool",
    "evaluate rds 24 of all for all tasks on Reverse " * 3,
    "训练 随机 " * 20,
]


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("label", LABELS)
def test_one_line_is_written_over_itself_and_gone_at_the_end(label, columns):
    with terminal(columns) as text:
        shown, steps = Progress(), steps_of(label, 3)
        shown.plan(steps, lambda step: False)
        with shown.step(steps[:1]), shown.bar(label, 1234, "sample", 1000) as bar:
            for _ in range(26):
                bar.update(9)
        with shown.step(steps[1:2]), shown.bar(label, 0, "token") as bar:
            bar.update(4)
            shown.note("a note\x1b[2J that stays")
            bar.reset(5000)
            bar.update(2500)
        with shown.step(steps[2:]), shown.bar(label, 1, "model"):
            pass
    left, lines = screen(text[0], columns)
    assert left == ["a note [2J that stays"]
    of_bar = [line for line in lines if "/1,234 samples" in line]
    counts = [int(re.search(r" ([\d,]+)/1,234 samples", line)[1].replace(",", "")) for line in of_bar]
    assert counts == [1000, *range(1009, 1235, 9)]
    for line in of_bar[1:]:
        assert re.search(r", [\d,]+/s, 00:\d\d left, all about \d+ s$", line), line
    assert any(re.search(r": 4 tokens, ", line) for line in lines)
    assert any(re.search(r" 2,500/5,000 tokens, ", line) for line in lines)
    assert not any(re.search(r"0\.00|\d\.\d\d/|models", line) for line in lines)
    cut = any("…" in line for line in lines)
    assert cut == (columns == 80 or len(label) > 30)
    numbers = [int(line[1]) for line in lines if line.startswith("[")]
    assert numbers == sorted(numbers)
    assert set(numbers) == {1, 2, 3}


def test_what_another_process_has_made_is_counted():
    with terminal(80) as text:
        shown, steps = Progress(), steps_of("a step", 9)
        there = set()
        shown.plan(steps, lambda step: step.hash in there)
        with shown.step(steps[:1]):
            there |= {each.hash for each in steps[2:5]}
        with shown.step(steps[1:2]):
            pass
    _, lines = screen(text[0])
    assert [line[:5] for line in lines if line.startswith("[")] == ["[1/9]", "[5/9]"]


def test_what_is_left_to_another_process_is_said():
    with terminal(80) as text:
        shown, steps, there = Progress(), steps_of("a step", 3), set()
        shown.plan(steps, lambda step: step.hash in there)
        with shown.step(steps[:1]):
            pass
        shown.wait(steps[1:2])
        there.add(steps[1].hash)
        shown.wait(steps[2:])
        shown.clear()
    left, lines = screen(text[0])
    assert left == []
    waits = [re.sub(": all about .*", "", line) for line in lines if "another" in line]
    assert waits == ["[2/3] a step, by another process", "[3/3] a step, by another process"]


def test_the_time_left_for_all_is_known_from_the_first_step_on_and_shared(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(progress, "UNDER", 0)
    shown, steps = Progress(), steps_of("a step", 10)
    shown.workers = 2
    shown.plan(steps, lambda step: False)
    for each in steps:
        with shown.step([each]), shown.bar("a step", 100, "row") as bar:
            for _ in range(10):
                now[0] += 2
                bar.update(10)
    lines = sys.stderr.getvalue().splitlines()
    assert len(lines) == 100
    assert lines[0] == "[1/10] a step: 10/100 rows, 5/s, 00:18 left, all about 2 min"
    assert lines[50] == "[6/10] a step: 10/100 rows, 5/s, 00:18 left, all about 49 s"
    assert lines[-1] == "[10/10] a step: 100/100 rows, 5/s, 00:00 left"


@pytest.mark.slow
def test_two_processes_show_one_line(tmp_path):
    arguments = ["run", "--profile", "tiny", "--only", "fig4_scaling", "--workers", "2", "--out", tmp_path]
    reader, writer = pty.openpty()
    environment = {**os.environ, "RDSLIB_HOME": str(tmp_path / "home"), "COLUMNS": "80"}
    run = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], env=environment, stdin=writer, stdout=writer, stderr=writer
    )
    os.close(writer)
    text = everything(reader)
    assert run.wait() == 0, text
    left, lines = screen(text, 80 + len(str(tmp_path)))
    made, todo = left[0], " ".join(left[1:])
    assert made == f"1 figure or table is in {tmp_path}, with the numbers as CSV"
    assert todo == f"next: `rds report --profile tiny --figures {tmp_path}` makes one page of all"
    assert "drawing" in lines
    of_steps = [line for line in lines if re.match(r"\[\d+/\d\d\]", line)]
    assert all(cell_len(line) < 80 for line in of_steps)
    numbers = [int(line[1:].split("/")[0]) for line in of_steps]
    assert numbers == sorted(numbers)
    arguments[arguments.index("fig4_scaling")] = "fig5_score_histogram"
    piped = rds(*arguments, home=tmp_path / "other")
    assert piped.returncode == 0
    assert "\r" not in piped.stderr
    assert all(
        re.match(r"\[\d+/\d+\] .|the pool|task|drawing|next: ", line) for line in piped.stderr.splitlines()
    )
