"""Processes that do a part of this one's work, or that this one waits for."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import filelock

# Seconds that a lock is waited for before a person is told; and until she is told what has changed.
PATIENCE = 30.0


def end_with_parent() -> None:
    """End this process, whatever it is doing, when the one that gave it a pipe as its input ends."""

    def wait() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def acquire(lock: filelock.BaseFileLock, note: Callable[[str], object]) -> None:
    """Wait for a lock; after a while `note` gets a line that says for whom, and since when."""
    waiting = Waiting(note)
    while True:
        try:
            lock.acquire(timeout=PATIENCE)
            return
        except filelock.Timeout:
            waiting.tell([Path(lock.lock_file)])


class Waiting:
    """What is waited for: `note` gets a line after a while, and another when that changes."""

    def __init__(self, note: Callable[[str], object]) -> None:
        self._note, self._since, self._told = note, time.monotonic(), ""

    def tell(self, locks: Sequence[Path]) -> None:
        """Say for whom, if there is anything to say, where these locks are waited for."""
        long = time.monotonic() - self._since >= PATIENCE
        if long and (text := waits_for(locks, self._since)) != self._told:
            self._note(text)
            self._told = text


def waits_for(locks: Sequence[Path], since: float) -> str:
    """Say which process holds one of some locks, which are waited for since a time of `time.monotonic`."""
    started = time.strftime("%H:%M", time.localtime(time.time() - (time.monotonic() - since)))
    holders = {lock: holder for lock in locks if (holder := _holder(lock)) is not None}
    lock, holder = next(iter(holders.items()), (locks[0], None))
    who = "another process" if holder is None else f"process {holder}"
    text = f"waiting since {started} for {who}, which is at {lock.parent.name}/{lock.stem}"
    if holder is not None and _is_stopped(holder):
        text += f" and is stopped; `kill -CONT {holder}` lets it go on, `kill -9 {holder}` ends it"
    return text


def _holder(lock: Path) -> int | None:
    """The process that holds a lock, where the system says (Linux, for processes of this machine)."""
    with suppress(OSError):
        at = lock.stat()
        place = f"{os.major(at.st_dev):02x}:{os.minor(at.st_dev):02x}:{at.st_ino}"
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if place in fields and "->" not in fields:
                return int(fields[fields.index(place) - 1])
    return None


def _is_stopped(process: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    return False
