"""An index of made-up embeddings on disk, in the form that the study writes, and queries for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rdslib.methods import features

DIMENSION, SHARD = 576, 65_536
# The paper's query samples, task by task.
TASKS = {"MMLU": 285, "GSM8k": 8, "BBH": 81, "TydiQA": 9, "Codex": 16, "Squad": 500, "AlpacaEval": 50}
FEATURE = "weighted_all"
CENTRES = 1000


def make(folder: Path, samples: int) -> None:
    """Write `samples` unit vectors (float16), around `CENTRES` centres, in shards; what is there is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    centres = _centres()
    for start in range(0, samples, SHARD):
        path = folder / features.shard_name(FEATURE, start)
        if not path.is_file():
            rng = np.random.default_rng([1, start])
            size = min(SHARD, samples - start)
            rows = centres[rng.integers(0, CENTRES, size)]
            rows += rng.standard_normal((size, DIMENSION), dtype=np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            features.write(path.with_suffix(".tmp"), rows.astype(np.float16))
            path.with_suffix(".tmp").rename(path)


def queries() -> dict[str, np.ndarray]:
    """Unit vectors of each task's queries, float32 [queries, dimension].

    A task's lie around a few centres, so that they want much the same samples.
    """
    centres, rng = _centres(), np.random.default_rng(2)
    found = {}
    for task, count in TASKS.items():
        own = rng.integers(0, CENTRES, 20)
        rows = centres[own[rng.integers(0, len(own), count)]]
        rows = rows + rng.standard_normal((count, DIMENSION), dtype=np.float32)
        found[task] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


def _centres() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((CENTRES, DIMENSION), dtype=np.float32)
