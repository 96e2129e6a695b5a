"""Processes of `rds` that are forks of this one, which has imported everything: real ones, at no cost."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from rdslib import cli
from rdslib.figures import notebook
from rdslib.pipeline.store import Store

# Of `rds run`, to compute and draw nothing.
UNDRAWN = "--undrawn"
# Seconds after which a process is taken to hang.
HANGS = 300


@dataclass
class Ended:
    """How a process ended: its exit code (negative: the signal), what it said, and after how long."""

    code: int
    text: str
    seconds: float

    @property
    def lines(self) -> list[str]:
        """What it said to its user at the end."""
        return [line for line in self.text.splitlines() if line.startswith("rds: ")]


class Process:
    """A fork that runs one command line of `rds` in a home; `change` is done in it before."""

    def __init__(
        self, arguments: Sequence[object], home: Path, change: Callable[[], object] = lambda: None
    ) -> None:
        self.log = Path(tempfile.gettempdir(), f"rds-{os.getpid()}-{time.monotonic_ns()}.log")
        self.started = time.monotonic()
        begun, begin = os.pipe()
        self.begun = begun
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(begun)
                self._run([str(each) for each in arguments], home, change, begin)
            finally:
                os._exit(99)
        os.close(begin)

    def _run(self, arguments: list[str], home: Path, change: Callable[[], object], begin: int) -> None:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        (home.parent / "tmp").mkdir(exist_ok=True)
        os.environ |= {"RDSLIB_HOME": str(home), "TMPDIR": str(home.parent / "tmp"), "OMP_NUM_THREADS": "1"}
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for place in (1, 2):
            os.dup2(log, place)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        call = Store._call
        Store._call = lambda store, steps: (os.write(begin, b"x"), call(store, steps))[1]  # type: ignore[method-assign]
        if UNDRAWN in arguments:
            arguments.remove(UNDRAWN)
            notebook.run_notebooks = lambda *_: iter(())
        else:
            os.write(begin, b"x")  # its first step may be another process's
        sys.argv = ["rds", *arguments]
        code = 0
        try:
            change()
            cli.main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def until_it_begins(self) -> None:
        """Wait until it computes its first step, or draws."""
        os.read(self.begun, 1)

    def poll(self) -> bool:
        """Whether it has ended."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def kill(self, which: int = signal.SIGKILL) -> None:
        """Send a signal to it alone."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, which)

    def end(self, hangs: float = HANGS) -> Ended:
        """Wait until it ends; it is killed where it seems to hang, and what it has left running is, too."""
        while not self.poll():
            if time.monotonic() - self.started > hangs:
                self.kill()
            time.sleep(0.01)
        _, status = os.waitpid(self.pid, 0)
        seconds = time.monotonic() - self.started
        os.close(self.begun)
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        self.log.unlink(missing_ok=True)
        if left := self.left_running():
            text += "".join(f"\nleft running: {' '.join(each)}" for each in left)
        return Ended(os.waitstatus_to_exitcode(status), text, seconds)

    def left_running(self) -> list[list[str]]:
        """The command lines of its session that run half a minute after it; they are then killed."""
        deadline = time.monotonic() + 30
        while True:
            there = [each for each in psutil.process_iter() if _session(each) == self.pid]
            if not there or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        lines = []
        for each in there:
            with suppress(psutil.Error):
                lines.append(each.cmdline())
                each.kill()
        return lines


def _session(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid) if process.status() != psutil.STATUS_ZOMBIE else -1
    except (OSError, psutil.Error):
        return -1
