"""More processes that compute a profile's steps, beside the one that a person has started.

The store's locks are all that they share: each goes through the same steps in the same order, makes what
nobody else is making, and passes over the rest. So any number of them ends in the same artifacts, and one
that is killed costs no more than its own step.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def helpers(arguments: Sequence[str], count: int) -> Iterator[None]:
    """Run `count` processes `rds help ARGUMENTS` in the meantime.

    They end when this process does, however it ends: each reads from a pipe that then breaks.
    """
    command = [sys.executable, "-m", "rdslib.cli", "help", *arguments]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


def end_with_parent() -> None:
    """End this process, whatever it is doing, when the one that started it ends."""

    def wait() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
