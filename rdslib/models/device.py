"""Which device this is, and in which precision it computes."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rdslib.errors import UserError

# Which device to use, for this process and those that it starts; by default the first GPU, if there is one.
CHOICE = "RDSLIB_DEVICE"
# The kind of device that what is looked up was made on, where that is another one (`recorded_on`).
KIND = "RDSLIB_RECORDED_ON"

# Of glibc's `mallopt`: from which size on a block is mapped by itself, and how much that is free may stay.
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1


def choose(name: str) -> None:
    """Use the device of a name (`cpu`, `cuda`, `cuda:1`) from now on; raises UserError if it is not here."""
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:150]
        raise UserError(f"--device {name}: cannot be used here ({reason}); try cpu or cuda") from error
    os.environ[CHOICE] = name


def device() -> torch.device:
    """Return the chosen device; if none was, the first GPU, if there is one, or the processor."""
    return torch.device(os.environ.get(CHOICE) or ("cuda" if torch.cuda.is_available() else "cpu"))


# How many processes compute side by side on a processor, where nobody says otherwise.
PROCESSES = 2


def threads() -> int:
    """Count the cores of a processor that are this process's part."""
    return max(1, (os.cpu_count() or 1) // PROCESSES)


def share_threads() -> None:
    """Take this process's part of a processor's cores.

    The same part however many processes there are: sums are grouped by thread, so that another number of
    threads may end in another last bit.
    """
    if device().type == "cpu":
        torch.set_num_threads(threads())


def keep_freed_memory() -> None:
    """Have this process keep the memory that is freed, for what is allocated next.

    On a processor a model takes and frees blocks of megabytes for each layer, and glibc by itself gives large
    ones back to the system, which then hands out zeroed pages again: an eighth of the time of encoding
    (SmolLM2, batches of 1,024 tokens). What is larger than a layer's, such as logits of a whole batch, is
    mapped by itself and given back at once: between such blocks kept ones would leave gaps, of which a process
    that trains and evaluates for hours came to hold 12 GB.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None and device().type == "cpu":
        mallopt(MMAP_THRESHOLD, 2**27)
        mallopt(TRIM_THRESHOLD, 2**29)


def token_budget() -> int:
    """Return how many tokens, padding included, make a batch where nobody says otherwise.

    On a processor what stays in its caches: from 256 to 2,048 tokens made no difference where it was
    measured, and 8,192 was slower. On a GPU enough to keep it busy; that was not measured.
    """
    return 1024 if device_kind().startswith("cpu") else 32_768


def compute_dtype() -> torch.dtype:
    """Return bfloat16 where this device multiplies matrices in it natively, or float32."""
    if device().type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if native and torch.cpu._is_avx512_bf16_supported() else torch.float32


def device_kind() -> str:
    """Name the kind of device and its dtype, on which all that a model computes depends."""
    return os.environ.get(KIND) or this_kind()


def this_kind() -> str:
    """Name the kind of this device, whatever is looked up."""
    return f"{device().type}-{str(compute_dtype()).removeprefix('torch.')}"


@contextmanager
def restored(variable: str) -> Iterator[None]:
    """Leave an environment variable as it was before, whatever is set within."""
    before = os.environ.get(variable)
    try:
        yield
    finally:
        os.environ.pop(variable, None)
        if before is not None:
            os.environ[variable] = before


@contextmanager
def recorded_on(kind: str | None) -> Iterator[None]:
    """Lay out steps as they were on a device of another kind, to look up what was made there."""
    with restored(KIND):
        if kind is not None:
            os.environ[KIND] = kind
        yield
