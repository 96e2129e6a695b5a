"""Which device this is, and in which precision it computes."""

from __future__ import annotations

import os

import torch


def device() -> torch.device:
    """The first GPU, if there is one, or the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def share_threads(processes: int) -> None:
    """Take this process's part of the machine's cores, where `processes` compute at once."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))


def compute_dtype() -> torch.dtype:
    """bfloat16 where this device multiplies matrices in it natively, or float32."""
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if native and torch.cpu._is_avx512_bf16_supported() else torch.float32


def device_kind() -> str:
    """The kind of device and its dtype; a part of the recipe of everything that a model computes."""
    return f"{device().type}-{str(compute_dtype()).removeprefix('torch.')}"
