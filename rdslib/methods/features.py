"""Features of samples on disk: `<name>-<start>.npy`, one file a shard, rows in the samples' order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np


def split_feature(feature: str) -> tuple[str, str]:
    """Split a feature's name, such as `lm.nll`, into those of its extractor and of what that gives."""
    extractor, _, name = feature.partition(".")
    return extractor, name


def shard_name(feature: str, start: int) -> str:
    """Name the file of the shard whose first row is the sample at position `start`."""
    return f"{feature}-{start:09d}.npy"


def read_shards(
    folder: Path, feature: str, part: tuple[int, int] = (0, 1)
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (start, rows) of each shard in order, memory-mapped: [samples of the shard, ...].

    The feature goes without its extractor's name. With a `part` (i, n): of every n shards the i-th, from 0.
    """
    index, parts = part
    shards = [
        each for each in folder.iterdir() if re.fullmatch(rf"{re.escape(feature)}-\d{{9,}}\.npy", each.name)
    ]
    for path in sorted(shards)[index::parts]:
        yield int(path.stem.rpartition("-")[2]), np.load(path, mmap_mode="r", allow_pickle=False)


def read_all(folder: Path, feature: str) -> np.ndarray:
    """Read all rows of a feature: [samples, ...]."""
    return np.concatenate([np.asarray(rows) for _, rows in read_shards(folder, feature)])


def write(path: Path, rows: np.ndarray) -> None:
    """Write one shard's rows to `path`, whatever its suffix."""
    with path.open("wb") as stream:
        np.save(stream, rows, allow_pickle=False)
