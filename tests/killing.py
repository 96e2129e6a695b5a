"""Running a command until it ends, with SIGKILLs at random moments in between."""

from __future__ import annotations

import os
import random
import signal
import subprocess
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
