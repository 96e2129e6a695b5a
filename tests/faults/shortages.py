"""What runs out or is refused: disk, the right to write, memory, a clock that goes on; and errors.

A full disk is a small tmpfs, which takes the right to mount; without it the trials are said to be left out.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rdslib.pipeline.store import Store, Work
from tests.faults.ground import STAGES, Ground
from tests.faults.process import Ended

NOBODY = 65534


def may_mount() -> bool:
    """Whether a tmpfs can be mounted here."""
    return os.getuid() == 0 and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


@contextmanager
def disk(place: Path, *options: str) -> Iterator[None]:
    """Mount something at a place."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", *options, str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def refused(done: Ended, names: tuple[str, ...]) -> list[str]:
    """What is wrong with how a process ended that should have said, in a line, what it lacks."""
    if done.code != 2:
        return [f"ended with {done.code}: {done.text[-400:]}"]
    if "Traceback" in done.text or len(done.lines) != 1:
        return [f"not one line: {done.text[-400:]}"]
    return [] if any(name in done.lines[0] for name in names) else [f"does not say why: {done.lines[0]}"]


def full(ground: Ground, stage: str, output: bool, rng: random.Random) -> list[str]:
    """One trial: the disk of the home, or of the output, has less room than is needed."""
    tmpfs = ("-t", "tmpfs", "-o", "size=64m", "none")
    with ExitStack() as stack:
        if output:
            home = stack.enter_context(ground.home(stage))
            place = home.parent / "out"
            stack.enter_context(disk(place, *tmpfs))
        else:
            place = ground.folder / "disk"
            stack.enter_context(disk(place, *tmpfs))
            home = stack.enter_context(ground.home(stage, place / "trial"))
        ballast = place / "ballast"
        room = rng.randrange(0, max(ground.size(stage, output) * 3 // 4, 4096))
        with ballast.open("wb") as stream:
            stream.write(bytes(max(shutil.disk_usage(place).free - room, 0)))
        done = ground.start(stage, home).end()
        ballast.unlink()
        problems = ["it had room enough"] if done.code == 0 else refused(done, ("No space left",))
        return problems + ground.recover(stage, home)


def read_only(ground: Ground, stage: str, mounted: bool, rng: random.Random) -> list[str]:
    """One trial: the home cannot be written to."""
    with ground.home(stage) as home, ExitStack() as stack:
        if mounted:
            stack.enter_context(disk(home, "--bind", str(home)))
            subprocess.run(["mount", "-o", "remount,bind,ro", str(home)], check=True)
            done = ground.start(stage, home).end()
        else:
            (home.parent / "tmp").mkdir(exist_ok=True)
            (home.parent / "tmp").chmod(0o777)
            log = home.parent
            log.chmod(0o777)
            done = ground.start(stage, home, lambda: os.setuid(NOBODY)).end()
        problems = refused(done, ("Read-only file system", "Permission denied", "no right to write"))
        if f"{home.parent}" not in "".join(done.lines):
            problems.append(f"does not name the folder: {done.lines}")
        stack.close()
        return problems + ground.recover(stage, home)


def starve(spare: int) -> None:
    """Leave this process so many bytes of address space."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + spare
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def memory(ground: Ground, stage: str, rng: random.Random) -> list[str]:
    """One trial: memory ends."""
    with ground.home(stage) as home:
        done = ground.start(stage, home, partial(starve, rng.randrange(2**25, 2**27))).end()
        # A native library may end the process, which leaves no line.
        native = (-signal.SIGABRT, -signal.SIGSEGV)
        problems = [] if done.code in (0, *native) else refused(done, ("memory",))
        shutil.rmtree(home.parent / "tmp", ignore_errors=True)
        return problems + ground.recover(stage, home)


def jump(rng: random.Random) -> None:
    """Let the clock of this process jump back and forth by up to two days."""
    clock, offset = time.time, [0.0]

    def jumping() -> float:
        if rng.random() < 0.2:
            offset[0] = rng.uniform(-2, 2) * 86400
        return clock() + offset[0]

    time.time = jumping


def clock(ground: Ground, stage: str, rng: random.Random) -> list[str]:
    """One trial: the clock jumps."""
    with ground.home(stage) as home:
        done = ground.start(stage, home, partial(jump, rng)).end()
        problems = [] if done.code == 0 else [f"ended with {done.code}: {done.text[-400:]}"]
        return problems + ground.wrong(stage, home)


def fail(rng: random.Random, most: int) -> None:
    """Have some call that keeps a shard, or finishes an artifact, raise an error."""
    left = [rng.randrange(most)]

    def failing(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise RuntimeError("made up")
            return call(*args, **options)

        return called

    Work.shard = failing(Work.shard)  # type: ignore[method-assign]
    Store._finish = failing(Store._finish)  # type: ignore[method-assign]


def error(ground: Ground, stage: str, rng: random.Random) -> list[str]:
    """One trial: a fault of ours in the middle of a stage."""
    with ground.home(stage) as home:
        done = ground.start(stage, home, partial(fail, rng, ground.calls(stage))).end()
        problems = (
            [] if done.code == 1 and "made up" in done.text else [f"ended with {done.code}: {done.text}"]
        )
        if left := [path.name for path in (home.parent / "tmp").glob("*")]:
            problems.append(f"left temporary files: {left}")
        return problems + ground.recover(stage, home)


def campaign(ground: Ground) -> Iterator[tuple[str, str, str, Any]]:
    """Each fault: its kind, name, stage and one trial of it."""
    computed = [stage for stage in STAGES if stage != "figures"]
    if may_mount():
        for stage in computed:
            yield "disk", "full disk (tmpfs) under RDSLIB_HOME", stage, partial(full, ground, stage, False)
        for stage in ("figures", "rds select"):
            yield "disk", "full disk (tmpfs) under the output", stage, partial(full, ground, stage, True)
        for stage in computed:
            yield "read-only", "read-only file system", stage, partial(read_only, ground, stage, True)
    if os.getuid() == 0:
        for stage in computed:
            yield "read-only", "another user's folder", stage, partial(read_only, ground, stage, False)
    for stage in computed:
        yield "memory", "memory ends (RLIMIT_AS)", stage, partial(memory, ground, stage)
    for stage in STAGES:
        yield "clock", "a clock that jumps by days", stage, partial(clock, ground, stage)
    for stage in computed:
        yield "error", "an error in a step", stage, partial(error, ground, stage)
