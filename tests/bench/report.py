"""What benchmarks share: the real model, timing in turn, and tables printed and written to `results/`."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from rdslib.data.pool import PoolFile
from rdslib.pipeline.steps import model_folder
from rdslib.pipeline.study import Study

RESULTS = Path(__file__).parent / "results"


def mini() -> tuple[Study, Path, PoolFile]:
    """The `mini` study, the folder of its model, and its pool."""
    study = Study.load("mini")
    study.compute([study.pipeline.model, *study.data_steps])
    path = study.store.path
    return study, model_folder(path(study.pipeline.model)), PoolFile(path(study.pool) / "pool.parquet")


def seconds(ways: Mapping[str, Callable[[], Any]], repetitions: int) -> dict[str, list[float]]:
    """Seconds of each way to do the same, in turn, after a first round that warms up."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    for repetition in range(repetitions + 1):
        for way, run in ways.items():
            started = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repetition:
                found[way].append(time.perf_counter() - started)
    return found


def ratios(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    """One list over another, repetition by repetition."""
    return [a / b for a, b in zip(ones, others, strict=True)]


def machine() -> str:
    """This machine in a line."""
    cpuinfo, model = Path("/proc/cpuinfo"), platform.processor() or platform.machine()
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{os.cpu_count()} cores of {(names or [model])[0]}, {memory:.0f} GiB{gpu}; Python "
        f"{platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}"
    )


def spread(values: Sequence[float], form: str = "{:.2f}") -> str:
    """The median, and from where to where."""
    middle, low, high = (form.format(each) for each in (np.median(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def report(
    name: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], notes: str
) -> None:
    """Print a table, and write it to `results/<name>.md`."""
    lines = [f"# {title}", "", f"{date.today()}: {machine()}.", "", notes, ""]
    lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    text = "\n".join(lines) + "\n"
    print(text)
    (RESULTS / f"{name}.md").write_text(text)
