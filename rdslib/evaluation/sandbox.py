"""Running programs that a model wrote, and tests of them, where they can do no harm and fake no pass.

Each test takes two sandboxed processes (`rdslib.evaluation.sandbox_worker`): one holds the program, the other
the test, and the test calls the program's function by messages. So whatever a program does to its interpreter
(patched builtins, an early exit, a printed verdict), the verdict is another process's.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rdslib.errors import UserError
from rdslib.evaluation import sandbox_worker

# What a program may take: seconds of a processor, seconds by the clock, and bytes of address space.
CPU_SECONDS, WALL_SECONDS, BYTES = 5, 10.0, 2**29
# A longer source than this, in bytes, is not run; it fits a pipe.
LONGEST = 60_000


@dataclass(frozen=True)
class Trial:
    """A program that defines `entry_point`, and a test that defines `check(function)`, as in HumanEval."""

    program: str
    entry_point: str
    test: str


def passes(trial: Trial, cpu: int = CPU_SECONDS, wall: float = WALL_SECONDS, size: int = BYTES) -> bool:
    """Return whether the test comes to its end without an exception, within the limits.

    Both processes start in an empty folder that is thrown away, without environment variables, with no file
    to write, no network and no other process, and are killed at the limit: seconds of a processor and by the
    clock, and bytes of address space.

    Raises:
        UserError: This system cannot hold a program in; Linux 5.13 or newer with Landlock can.
    """
    texts = [
        json.dumps({"program": source, "entry_point": trial.entry_point}).encode()
        for source in (trial.program, trial.test)
    ]
    if max(map(len, texts)) > LONGEST:
        return False
    limits = json.dumps({"seconds": cpu, "bytes": size, "parent": os.getpid()})
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as pipes:
        questions, answers = os.pipe(), os.pipe()
        for each in (*questions, *answers):
            pipes.callback(os.close, each)
        ends = {"candidate": (questions[0], answers[1]), "judge": (answers[0], questions[1])}
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for role, pair in ends.items():
                command = [sys.executable, "-I", "-S", "-B", str(Path(sandbox_worker.__file__)), role]
                processes.append(
                    subprocess.Popen(
                        [*command, *map(str, pair), limits],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.DEVNULL,
                        pass_fds=pair,
                        cwd=folder,
                        env={},
                        start_new_session=True,
                    )
                )
            pipes.close()  # each end is now held by one process alone
            verdict = _outcome(processes, texts, wall)
        finally:
            for process in processes:
                process.kill()
                process.communicate()
    if verdict.startswith(b"open"):
        raise UserError(
            f"programs that a model wrote are run only where they can be held in, and here they cannot "
            f"({verdict.decode(errors='replace')}); use Linux 5.13 or newer with Landlock, or leave Codex out"
        )
    return verdict == sandbox_worker.PASSED


def _outcome(processes: Sequence[subprocess.Popen[bytes]], texts: Sequence[bytes], wall: float) -> bytes:
    """What the judge wrote, or the candidate that could not be locked in; nothing at the limit."""
    candidate, judge = processes
    for process, text in zip(processes, texts, strict=True):
        assert process.stdin is not None
        process.stdin.write(text)
        process.stdin.close()
        process.stdin = None
    try:
        verdict, _ = judge.communicate(timeout=wall)
    except subprocess.TimeoutExpired:
        return b""
    assert candidate.stdout is not None
    if verdict == sandbox_worker.PASSED or candidate.poll() is None:
        return verdict
    early = candidate.stdout.read(200)
    return early if early.startswith(b"open") else verdict


def pass_all(trials: Sequence[Trial], workers: int | None = None) -> list[bool]:
    """Return whether each passes; as many are run at a time as there are processors."""
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        return list(pool.map(passes, trials))
