"""Running programs that a model wrote, and tests of them, where they can do no harm and fake no pass.

Each test takes two sandboxed processes (`rdslib.evaluation.sandbox_worker`): one holds the program, the other
the test, and the test calls the program's function by messages. So whatever a program does to its interpreter
(patched builtins, an early exit, a printed verdict), the verdict is another process's.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from rdslib.errors import UserError
from rdslib.evaluation import sandbox_worker

# What a program may take: seconds of a processor, seconds by the clock, bytes of address space, and threads.
CPU_SECONDS, WALL_SECONDS, BYTES, THREADS = 5, 10.0, 2**29, 512


class Trial(NamedTuple):
    """A program that defines `entry_point`, and a test that defines `check(function)`, as in HumanEval."""

    program: str
    entry_point: str
    test: str


def passes(trial: Trial, cpu: int = CPU_SECONDS, wall: float = WALL_SECONDS) -> bool:
    """Return whether the test comes to its end without an exception, within the limits.

    Both processes start in an empty folder that is thrown away, without environment variables, with no file
    to write, no network and no other process, and are killed at the limit: seconds of a processor and by the
    clock, and bytes of address space.

    Raises:
        UserError: This system cannot hold a program in; Linux 5.13 or newer with Landlock can.
    """
    limits = {"seconds": cpu, "bytes": BYTES, "threads": _threads() + THREADS, "parent": os.getpid()}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        pipes = stack.enter_context(contextlib.ExitStack())
        questions, answers = _pipe(pipes), _pipe(pipes)
        processes = []
        for role, source, pair in (
            ("candidate", trial.program, (questions[0], answers[1])),
            ("judge", trial.test, (answers[0], questions[1])),
        ):
            given = stack.enter_context(tempfile.TemporaryFile())
            given.write(json.dumps({"program": source, "entry_point": trial.entry_point}).encode())
            given.seek(0)
            command = [sys.executable, "-I", "-S", "-B", str(Path(sandbox_worker.__file__)), role]
            process = subprocess.Popen(
                [*command, *map(str, pair), json.dumps(limits)],
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=pair,
                cwd=folder,
                env={},
                start_new_session=True,
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            processes.append(process)
        pipes.close()  # each end is now held by one process alone
        verdict = _outcome(processes[0], processes[1], wall)
    if verdict.startswith(b"open"):
        raise UserError(
            f"programs that a model wrote are run only where they can be held in, and here they cannot "
            f"({verdict.decode(errors='replace')}); use Linux 5.13 or newer with Landlock, or leave Codex out"
        )
    return verdict == sandbox_worker.PASSED


def _pipe(pipes: contextlib.ExitStack) -> list[int]:
    """Both ends of a pipe, until the stack is closed; none is a place that standard streams have."""
    ends = []
    for end in os.pipe():
        # Where this process has no standard input, its number would be given to a pipe.
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3))
        pipes.callback(os.close, ends[-1])
        os.close(end)
    return ends


def _threads() -> int:
    """How many threads this user has: a limit to threads counts them all, whatever program they are of."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            count += len(os.listdir(process / "task")) if process.stat().st_uid == os.getuid() else 0
    return count


def _outcome(candidate: subprocess.Popen[bytes], judge: subprocess.Popen[bytes], wall: float) -> bytes:
    """What the judge wrote, or the candidate that could not be locked in; nothing at the limit."""
    try:
        verdict, _ = judge.communicate(timeout=wall)
    except subprocess.TimeoutExpired:
        return b""
    if verdict == sandbox_worker.PASSED or candidate.poll() is None:
        return verdict
    assert candidate.stdout is not None
    early = candidate.stdout.read(200)
    return early if early.startswith(b"open") else verdict


def pass_all(trials: Sequence[Trial]) -> list[bool]:
    """Return whether each passes; as many are run at a time as there are processors."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(passes, trials))
