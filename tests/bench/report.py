"""Tables of benchmarks: printed, and written to `results/` with a description of the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import psutil
import torch

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """This machine in a line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB{gpu}; Python {platform.python_version()}, "
        f"numpy {np.__version__}, torch {torch.__version__}"
    )


def spread(values: Sequence[float], form: str = "{:.2f}") -> str:
    """The median, and from where to where."""
    ordered = sorted(values)
    middle, low, high = (form.format(each) for each in (float(np.median(ordered)), ordered[0], ordered[-1]))
    return middle if len(ordered) == 1 else f"{middle} ({low} to {high})"


def report(
    name: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], notes: str
) -> None:
    """Print a table, and write it to `results/<name>.md`."""
    lines = [f"# {title}", "", f"{date.today()}: {machine()}.", "", notes, ""]
    lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
