"""Features of samples on disk: `<name>-<start>.npy`, one file a shard, rows in the samples' order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rdslib.errors import UserError, reason_of
from rdslib.files import read_manifest


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
    Of an artifact, those are read that its manifest lists; raises UserError if one is gone.
    """
    index, parts = part
    manifest = read_manifest(folder)
    names = [path.name for path in folder.iterdir()] if manifest is None else manifest["files"]
    found = [re.fullmatch(re.escape(feature) + r"-(\d{9,})\.npy", name) for name in names]
    for start in sorted(int(each[1]) for each in found if each)[index::parts]:
        path = folder / shard_name(feature, start)
        try:
            yield start, np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # whatever numpy's reader of headers raises
            raise UserError(
                f"{path}: cannot be read any more ({reason_of(error)}); start the command again, which makes "
                "it again"
            ) from error


def read_all(folder: Path, feature: str) -> np.ndarray:
    """Read all rows of a feature: [samples, ...]."""
    return np.concatenate([np.asarray(rows) for _, rows in read_shards(folder, feature)])


def write(path: Path, rows: np.ndarray) -> None:
    """Write one shard's rows to `path`, whatever its suffix."""
    with path.open("wb") as stream:
        np.save(stream, rows, allow_pickle=False)
