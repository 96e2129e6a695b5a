"""What a process keeps of the memory that it has freed."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNT = """
import resource, torch
from rdslib.models.device import keep_freed_memory
{keep}
def fill():
    torch.ones(2**24)  # 64 MiB, beyond what glibc keeps by itself
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_memory_that_was_freed_is_not_asked_for_again():
    counts = []
    for keep in ("", "keep_freed_memory()"):
        done = subprocess.run(
            [sys.executable, "-c", COUNT.format(keep=keep)], capture_output=True, text=True, check=True
        )
        counts.append(int(done.stdout))
    # Each of 20 blocks has 16,384 pages.
    assert counts[0] > 20 * 16_000
    assert counts[1] < counts[0] / 2
