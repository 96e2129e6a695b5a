"""Selection at the paper's full scale: `python -m tests.bench.bench_scale [--check]`.

An index of up to 5.8 million made-up embeddings on disk, and the paper's 949 queries in 7 tasks. From one
walk over the index: 10,000 samples for each task, and 326,000 and 2,500,000 for all tasks. The floor is what
cannot be saved: reading the shards once, and the matrix products. With `--check`, the picks of the largest
index are compared with a plain reading of the definition (which needs 22 GB of disk, and some minutes).
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rdslib.data.download import home
from rdslib.methods import InnerProduct, ScoringInputs
from rdslib.methods.features import read_shards, shard_name, write
from rdslib.selection.base import highest
from rdslib.selection.round_robin import Selection, Walk
from rdslib.selection.topk import Block, Ranking
from tests.bench.report import report, spread
from tests.memory import peak

SIZES = (100_000, 400_000, 1_500_000, 5_800_000)
SINGLE, MULTI = 10_000, (326_000, 2_500_000)
REPETITIONS = 3
DIMENSION, SHARD = 576, 65_536
# The paper's query samples, task by task.
TASKS = {"MMLU": 285, "GSM8k": 8, "BBH": 81, "TydiQA": 9, "Codex": 16, "Squad": 500, "AlpacaEval": 50}
FEATURE = "weighted_all"
CENTRES = 1000


def make_index(folder: Path, samples: int) -> None:
    """Write `samples` unit vectors (float16), around `CENTRES` centres, in shards; what is there is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    centres = _centres()
    for start in range(0, samples, SHARD):
        path = folder / shard_name(FEATURE, start)
        if not path.is_file():
            rng = np.random.default_rng([1, start])
            size = min(SHARD, samples - start)
            rows = centres[rng.integers(0, CENTRES, size)]
            rows += rng.standard_normal((size, DIMENSION), dtype=np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            write(path.with_suffix(".tmp"), rows.astype(np.float16))
            path.with_suffix(".tmp").rename(path)


def index_queries() -> dict[str, np.ndarray]:
    """Unit vectors of each task's queries, float32 [queries, dimension].

    A task's lie around a few centres, so that they want much the same samples.
    """
    centres, rng = _centres(), np.random.default_rng(2)
    found = {}
    for task, count in TASKS.items():
        wanted = rng.integers(0, CENTRES, 20)
        rows = centres[wanted[rng.integers(0, len(wanted), count)]]
        rows = rows + rng.standard_normal((count, DIMENSION), dtype=np.float32)
        found[task] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


def _centres() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((CENTRES, DIMENSION), dtype=np.float32)


def blocks(folder: Path, queries: Path) -> Iterator[Block]:
    """Score blocks of all queries, as the study's methods make them."""
    inputs = ScoringInputs((), 0, {f"lm.{FEATURE}": folder}, {f"lm.{FEATURE}": queries})
    return InnerProduct("rds", f"lm.{FEATURE}").blocks(inputs)


def slices() -> dict[str, slice]:
    """Which rows of a block are a task's."""
    ends = itertools.accumulate(TASKS.values())
    return {task: slice(end - TASKS[task], end) for task, end in zip(TASKS, ends, strict=True)}


def select(folder: Path, queries: Path, samples: int) -> dict[str, Selection]:
    """All selections, from one walk over the"""
    budgets = [k for k in MULTI if k <= samples] or [samples // 2]
    single = {task: Ranking(SINGLE) for task in TASKS}
    best = {task: Ranking(max(budgets), highest) for task in TASKS}
    of_task = slices()
    for start, block in blocks(folder, queries):
        for task, rows in of_task.items():
            single[task].add(start, block[rows])
            best[task].add(start, block[rows])
    found = {}
    for task, ranking in single.items():
        found[task] = picked(ranking.lists(), SINGLE, False)
    lists = [ranking.lists()[0] for ranking in best.values()]
    for k in budgets:
        found[f"all tasks, {k:,}"] = picked([each.cut(k) for each in lists], k, True)
    return found


def picked(lists: list[Any], k: int, smaller_score: bool) -> Selection:
    walk = Walk(k, smaller_score)
    assert walk.offer(lists)
    return walk.selection(0)


def floor(folder: Path, queries: Path) -> None:
    """Reading the shards once, and the products."""
    rows = np.load(queries / f"{FEATURE}-000000000.npy")
    for _, shard in read_shards(folder, FEATURE):
        for at in range(0, len(shard), 8192):
            rows @ shard[at : at + 8192].astype(np.float32).T


def timed(what: str, folder: Path, queries: Path, samples: int) -> tuple[float, float, int]:
    """Seconds, peak GiB, and how many samples were picked."""
    started = time.perf_counter()
    found = select(folder, queries, samples) if what == "selection" else floor(folder, queries)
    seconds = time.perf_counter() - started
    return seconds, peak() / 2**30, sum(len(each.indices) for each in (found or {}).values())


def main() -> None:
    sizes = [int(each) for each in sys.argv[1:] if each.isdigit()] or SIZES
    root = Path(os.environ.get("BENCH_HOME", home() / "bench"))
    with tempfile.TemporaryDirectory() as scratch:
        queries = Path(scratch)
        write(queries / f"{FEATURE}-000000000.npy", np.concatenate(list(index_queries().values())))
        rows, points = [], []
        for samples in sizes:
            folder = root / f"index-{samples}"
            make_index(folder, samples)
            runs: dict[str, list[tuple[float, float, int]]] = {"floor": [], "selection": []}
            for _ in range(REPETITIONS):
                for what, found in runs.items():
                    with multiprocessing.get_context("spawn").Pool(1) as process:
                        found.append(process.apply(timed, (what, folder, queries, samples)))
            low, whole = runs["floor"], runs["selection"]
            ratios = [b[0] / a[0] for a, b in zip(low, whole, strict=True)]
            points.append((math.log(samples), math.log(float(np.median([run[0] for run in whole])))))
            rows.append(
                [
                    f"{samples:,}", spread([run[0] for run in low], "{:.1f}"),
                    spread([run[0] for run in whole], "{:.1f}"), spread(ratios),
                    spread([run[1] for run in whole]), f"{whole[0][2]:,}",
                ]
            )  # fmt: skip
            print(*rows[-1], sep=" | ", flush=True)
        slope = np.polyfit(*zip(*points, strict=True), 1)[0] if len(points) > 1 else float("nan")
        notes = (
            f"{sum(TASKS.values())} queries in {len(TASKS)} tasks, float16 shards of "
            f"{SHARD:,} x {DIMENSION}; one walk gives {SINGLE:,} samples for each task, and "
            f"{MULTI[0]:,} and {MULTI[1]:,} for all (half of the pool, where it is smaller). "
            f"{REPETITIONS} runs, floor and selection in turn, each in a process of its own. Slope of log "
            f"seconds over log samples: {slope:.3f}."
        )
        if "--check" in sys.argv:
            notes += f" Compared with the definition at {max(sizes):,}: {check(folder, queries, max(sizes))}."
    report(
        "selection_at_scale",
        "Selection at full scale",
        ["pool", "floor, s", "selection, s", "ratio", "peak GiB", "picks"],
        rows,
        notes,
    )


def check(folder: Path, queries: Path, samples: int) -> str:
    """Compare every selection with a plain reading of the definition, list by list."""
    found = select(folder, queries, samples)
    with tempfile.NamedTemporaryFile(dir=folder.parent) as file:
        table = np.memmap(file.name, np.float32, "w+", shape=(sum(TASKS.values()), samples))
        for start, block in blocks(folder, queries):
            table[:, start : start + block.shape[1]] = block
        same = 0
        for task, rows in slices().items():
            lists = [order(np.array(table[row]), SINGLE) for row in range(rows.start, rows.stop)]
            same += definition(lists, SINGLE) == found[task].indices.tolist()
            print(f"{task}: compared", flush=True)
        best = [table[rows].max(axis=0) for rows in slices().values()]
        budgets = [len(each.indices) for name, each in found.items() if name not in TASKS]
        lists = [order(scores, max(budgets)) for scores in best]
        for k in budgets:
            same += definition(lists, k) == found[f"all tasks, {k:,}"].indices.tolist()
    return f"{same} of {len(found)} selections are the same, pick by pick"


def order(scores: np.ndarray, k: int) -> list[int]:
    """Positions of the best `k`, ties to the smaller."""
    at = np.flatnonzero(scores >= np.sort(scores)[-k])
    return at[np.lexsort((at, -scores[at]))].tolist()


def definition(lists: list[list[int]], k: int) -> list[int]:
    """Walk (rank, list) pairs in order, and keep first occurrences."""
    picks: dict[int, None] = {}
    for rank in itertools.count():
        for each in lists:
            picks.setdefault(each[rank])
            if len(picks) == k:
                return list(picks)
    return []


if __name__ == "__main__":
    main()
