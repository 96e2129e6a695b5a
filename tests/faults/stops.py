"""Processes that are killed or stopped at random moments, alone or one of several in the same home."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.ground import STAGES, Ground
from tests.faults.process import Ended, Process

STOPPED = "stopped; run the same command again to go on"
# A process that ends before its moment has come is tried again so many times.
TRIES = 20


def stop(ground: Ground, stage: str, how: int, home: Path, rng: random.Random) -> Ended | None:
    """How a process ends that gets a signal at a random moment of a stage; None if it had ended before."""
    process = ground.start(stage, home)
    process.until_it_begins()
    time.sleep(rng.uniform(0, ground.lasts(stage)))
    process.kill(how)
    done = process.end()
    return None if done.code == 0 else done


def signals(ground: Ground, stage: str, how: int, rng: random.Random) -> list[str]:
    """One trial: a signal at a random moment, and a rerun."""
    for _ in range(TRIES):
        with ground.home(stage) as home:
            done = stop(ground, stage, how, home, rng)
            if done is None:
                continue
            problems = (
                [] if "left running" not in done.text else [done.text[done.text.index("left running") :]]
            )
            if how == signal.SIGKILL:
                # What it had in the folder for temporary files stays, as of any process that is killed.
                shutil.rmtree(home.parent / "tmp")
            else:
                if done.code != 128 + how:
                    problems.append(f"ended with {done.code}: {done.text[-300:]}")
                elif not done.lines or STOPPED not in done.lines[-1]:
                    problems.append(f"did not say how to go on: {done.text[-300:]}")
                if "Traceback" in done.text:
                    problems.append(f"a traceback: {done.text[-300:]}")
                if left := [path.name for path in (home.parent / "tmp").glob("*")]:
                    problems.append(f"left temporary files: {left}")
                if left := [path.name for path in home.parent.rglob(".*.part")]:
                    problems.append(f"left half-written files: {left}")
            return problems + ground.recover(stage, home)
    return ["it always ended before"]


def together(
    ground: Ground, stage: str, count: int, other: bool, killed: bool, rng: random.Random
) -> list[str]:
    """One trial: so many processes at once, one of which may have another profile, or be killed."""
    with ground.home(stage, other=other) as home:
        commands = [ground.command(stage, home, other and number == 0) for number in range(count)]
        running = [Process(each, home) for each in commands]
        if killed:
            running[0].until_it_begins()
            time.sleep(rng.uniform(0, ground.lasts(stage)))
            running[0].kill()
        ended = [each.end() for each in running]
        problems = [
            f"process {number} ended with {done.code}: {done.text[-300:]}"
            for number, done in enumerate(ended)
            if done.code != 0 and not (killed and number == 0)
        ]
        if killed:
            shutil.rmtree(home.parent / "tmp", ignore_errors=True)
        return problems + ground.wrong(stage, home, other)


def campaign(ground: Ground) -> Iterator[tuple[str, str, str, Any]]:
    """Each fault: its kind, name, stage and one trial of it."""
    for stage in STAGES:
        yield "kill", "SIGKILL at a random moment", stage, partial(signals, ground, stage, signal.SIGKILL)
    for how, name in ((signal.SIGINT, "SIGINT (Ctrl-C)"), (signal.SIGTERM, "SIGTERM")):
        for stage in STAGES:
            yield "stop", f"{name} at a random moment", stage, partial(signals, ground, stage, how)
    for stage in STAGES:
        for count in (2, 3):
            if stage != "figures":
                trial = partial(together, ground, stage, count, False, False)
                yield "together", f"{count} processes in one home", stage, trial
        if stage not in ("figures", "rds select"):
            trial = partial(together, ground, stage, 3, True, False)
            yield "together", "3 processes, one with another profile", stage, trial
            trial = partial(together, ground, stage, 2, False, True)
            yield "together", "2 processes, one of them killed", stage, trial
