"""Training on several processes: each holds a part of the model (FSDP), as a file of accelerate's says.

What is trained is what one process would train: the same batches, in the same order, in the same precision.
The last bits differ, since sums are taken in another order.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml

from rdslib.data.chat import Sample
from rdslib.data.pool import write_pool
from rdslib.errors import UserError, plain, reason_of
from rdslib.files import CHECKPOINTS, write_json
from rdslib.models.device import CHOICE, device, threads
from rdslib.params import ROOT, Train

# What processes are given, and what they leave, in a folder of their own.
JOB, SAMPLES, RESULT, ERROR, OUTPUT = (
    "job.json",
    "samples.parquet",
    "result.json",
    "error-{}.txt",
    "stderr.txt",
)
# In a checkpoint that all have written their parts of: how many they are.
WHOLE = "whole.json"
# Begins the lines in which the first process says how far it is: the name of a method of `Bar`, and a number.
PROGRESS = "rdslib:"


class Bar(Protocol):
    """What shows how far something is, such as a bar of tqdm."""

    def update(self, n: int) -> object:
        """Move on by `n`."""

    def reset(self, total: int) -> object:
        """Begin again, now that the total is known."""


def processes_of(accelerate: str, params: Train) -> int:
    """Count the processes that a training runs on, by the file of accelerate's that it names.

    Raises:
        UserError: The file is not there or is for another kind of training, or its
            processes cannot share a batch evenly.
    """
    path = _path(accelerate)
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        count, version = int(config["num_processes"]), int(config["fsdp_config"]["fsdp_version"])
        if (config["distributed_type"], version, config.get("num_machines", 1)) != ("FSDP", 2, 1):
            raise ValueError("distributed_type, fsdp_version or num_machines")
    except OSError as error:
        known = ", ".join(sorted(each.stem for each in (ROOT / "params" / "accelerate").glob("*.yaml")))
        raise UserError(
            f"train.accelerate: {path} cannot be read ({reason_of(error)}); give one of {known}, or the path "
            "of a file of accelerate's"
        ) from error
    except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: is not for FSDP, version 2, on one machine ({reason_of(error)}); "
            f"begin with a copy of {_path('gpus_8')}"
        ) from error
    micro = params.micro_batch_size
    if params.batch_size % (count * micro):
        raise UserError(
            f"{path}: has {count} processes, and train.batch_size {params.batch_size} is no multiple of "
            f"{count} x train.micro_batch_size {micro}; change one of the three"
        )
    return count


def _path(name: str) -> Path:
    given = Path(name)
    return given if given.suffix in (".yaml", ".yml") else ROOT / "params" / "accelerate" / f"{name}.yaml"


def launch(
    model_path: Path, samples: Sequence[Sample], params: Train, seed: int, out: Path, bar: Bar | None
) -> dict[str, Any]:
    """Train as `rdslib.models.train.train` does, on the processes of `params.accelerate`.

    Checkpoints are kept in `out` until the training is through; one that was killed goes on from its last.

    Returns:
        What the processes found: what `train` returns, and `losses`, the mean loss of each update.

    Raises:
        UserError: There are not so many GPUs, or a process failed.
    """
    assert params.accelerate is not None
    count = processes_of(params.accelerate, params)
    if device().type == "cuda" and torch.cuda.device_count() < count:
        raise UserError(
            f"{_path(params.accelerate)}: has {count} processes, and this machine has "
            f"{torch.cuda.device_count()} GPUs; change num_processes"
        )
    checkpoints = out / CHECKPOINTS
    last = _last(checkpoints, count)
    with tempfile.TemporaryDirectory(dir=out, prefix="tmp-") as folder:
        job = Path(folder)
        write_pool(samples, job / SAMPLES)
        settings = {**params.model_dump(), "gradient_checkpointing": params.gradient_checkpointing}
        paths = {"model_path": str(model_path), "out": str(out), "resume": last and str(last)}
        write_json(job / JOB, {**paths, "params": settings, "seed": seed})
        with _running(params.accelerate, job, count) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if bar is not None and line.startswith(PROGRESS):
                    method, number = line.removeprefix(PROGRESS).split()
                    getattr(bar, method)(int(number))
            process.wait()
        if not (job / RESULT).is_file():
            raise UserError(f"training on {count} processes: {_reason(job, process.returncode)}")
        found: dict[str, Any] = json.loads((job / RESULT).read_text(encoding="utf-8"))
    shutil.rmtree(checkpoints, ignore_errors=True)
    return found


def _reason(job: Path, code: int) -> str:
    """Why processes ended: what one of them says, or else the launcher."""
    # The first to fail says why; the others say that it is gone.
    for each in sorted(job.glob(ERROR.format("*")), key=lambda each: each.stat().st_mtime_ns):
        return each.read_text(encoding="utf-8")
    for line in reversed((job / OUTPUT).read_text(encoding="utf-8", errors="replace").splitlines()):
        if re.match(r"\w+Error: (?!\s*$)", line):
            return f"{plain(line)[:200]}; correct the configuration"
    return (
        f"ended with code {code}, and none says why; if memory ran out, lower train.micro_batch_size or set "
        "train.gradient_checkpointing"
    )


def _last(checkpoints: Path, count: int) -> Path | None:
    """The last checkpoint, if so many processes have left one that is whole; all else there is removed."""
    whole = {}
    for each in checkpoints.glob("*"):
        with contextlib.suppress(OSError, ValueError):
            if json.loads((each / WHOLE).read_text(encoding="utf-8")) == count:
                whole[int(each.name.rpartition("-")[2])] = each
    last = whole[max(whole)] if whole else None
    for each in checkpoints.glob("*"):
        if each != last:
            shutil.rmtree(each)
    return last


@contextlib.contextmanager
def _running(accelerate: str, job: Path, count: int) -> Iterator[subprocess.Popen[str]]:
    """The processes of a training, which end when this one does: they read from a pipe that then breaks."""
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    if device().type == "cpu":
        environment["OMP_NUM_THREADS"] = str(max(1, min(threads(), (os.cpu_count() or 1) // count)))
    else:
        environment.pop(CHOICE, None)  # each process has a GPU of its own
    command = [
        *(sys.executable, "-P", "-m", "accelerate.commands.launch"),
        *("--config_file", str(_path(accelerate)), "--main_process_port", "0"),
        # The worker has a precision of its own, and checks what it loads.
        *("--mixed_precision", "no", "--fsdp_cpu_ram_efficient_loading", "false"),
        *("-m", "rdslib.models.worker", str(job)),
    ]
    gc.collect()
    torch.cuda.empty_cache()  # of the GPU that this process has used
    with (job / OUTPUT).open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
