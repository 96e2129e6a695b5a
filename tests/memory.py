"""The most memory that a process has held."""

from __future__ import annotations

import re
from pathlib import Path


def peak() -> int:
    """Return the bytes that this process has held at most, on Linux.

    `ru_maxrss` will not do: it begins with what the process that started this one had held.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024
