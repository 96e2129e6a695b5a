"""Running a command, or a fork of a process, until it ends, with SIGKILLs at random moments in between."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path

# For programs that import from `tests`: `rds`, where a test ran it in this process, has had Python keep the
# working folder off the path of its children.
WITH_TESTS = {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}


def run_with_kills(command: list[str], seed: int, shortest: float, longest: float) -> tuple[int, int]:
    """Start `command` again after each kill, until it ends by itself; return its exit code and the kills.

    A run is killed after `shortest` to `longest` seconds, and a ninth of the longest more after each kill,
    so that on a busy machine too there is a run that ends.
    """
    rng = random.Random(seed)
    kills = 0
    while True:
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            return process.wait(timeout=rng.uniform(shortest, longest) + kills * longest / 9), kills
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1


def forks_with_kills(
    work: Callable[[], object], made: Callable[[], int], kills: int, most: int, pause: float
) -> tuple[int, int]:
    """Do `work` in a fork of this process, and again after each of `kills`.

    A fork is killed when 1 to `most` things more are `made`, and up to `pause` seconds later. It does not
    have to load what this process has loaded, so that it is killed at its work, on a busy machine too.
    Returns the exit code, and how often it was killed.
    """
    rng, killed = random.Random(0), 0
    while True:
        child = os.fork()
        if child == 0:
            try:
                work()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        ended, status, enough = 0, 0, made() + rng.randint(1, most)
        while killed < kills and made() < enough and not ended:
            time.sleep(0.001)
            ended, status = os.waitpid(child, os.WNOHANG)
        if killed < kills and not ended:
            time.sleep(rng.uniform(0, pause))
            os.kill(child, signal.SIGKILL)
        if not ended:
            _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            return os.waitstatus_to_exitcode(status), killed
        killed += 1
