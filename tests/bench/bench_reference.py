"""Selection against the reference's data structures and loops: `python -m tests.bench.bench_reference`.

Made-up scores, which both are given. Each case runs in a process of its own for each side, so that the peak
memory is that side's; it includes the scores themselves (and Python and numpy).
"""

from __future__ import annotations

import multiprocessing
import resource
import time

import numpy as np

from rdslib.selection.round_robin import choose
from rdslib.selection.topk import over
from tests.bench import reference_selection
from tests.bench.report import report, spread

# Pool, queries, samples to pick; several tasks where the queries are to be split evenly among them.
CASES = [
    (20_000, 8, 1_000, 1),
    (20_000, 81, 10_000, 1),
    (50_000, 8, 10_000, 1),
    (50_000, 81, 10_000, 1),
    (50_000, 70, 10_000, 7),
    (200_000, 8, 10_000, 1),
    (200_000, 50, 10_000, 1),
    (200_000, 50, 50_000, 1),
    (200_000, 49, 50_000, 7),
]
BLOCK, REPETITIONS = 8192, 3


def scores(pool: int, queries: int) -> np.ndarray:
    """Float32 [queries, pool], alike for all queries in part, so that they want the same samples."""
    rng = np.random.default_rng([pool, queries])
    shared = rng.standard_normal(pool, dtype=np.float32)
    return shared + rng.standard_normal((queries, pool), dtype=np.float32)


def reference(table: np.ndarray, k: int, tasks: int) -> list[int]:
    if tasks == 1:
        return reference_selection.round_robin(table, k)
    return reference_selection.round_robin_tasks(np.split(table, tasks), k)


def ours(table: np.ndarray, k: int, tasks: int) -> list[int]:
    rankers = [
        over(lambda part=part: ((at, part[:, at : at + BLOCK]) for at in range(0, part.shape[1], BLOCK)))
        for part in np.split(table, tasks)
    ]
    found = choose(rankers, k)
    return found.indices.tolist()


SIDES = {"reference": reference, "ours": ours}


def timed(side: str, pool: int, queries: int, k: int, tasks: int) -> tuple[float, float, list[int]]:
    """Seconds, peak GiB and the picks."""
    table = scores(pool, queries)
    started = time.perf_counter()
    picks = SIDES[side](table, k, tasks)
    seconds = time.perf_counter() - started
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, picks


def main() -> None:
    rows = []
    for pool, queries, k, tasks in CASES:
        found: dict[str, list[tuple[float, float, list[int]]]] = {side: [] for side in SIDES}
        for _ in range(REPETITIONS):
            for side, runs in found.items():
                with multiprocessing.get_context("spawn").Pool(1) as process:
                    runs.append(process.apply(timed, (side, pool, queries, k, tasks)))
        theirs, own = found["reference"], found["ours"]
        ratios = [a[0] / b[0] for a, b in zip(theirs, own, strict=True)]
        same = all(run[2] == theirs[0][2] for run in own)
        rows.append(
            [
                f"{pool:,}", queries, f"{k:,}", tasks,
                spread([run[0] for run in theirs]), spread([run[0] for run in own], "{:.3f}"),
                spread(ratios, "{:.0f}"), f"{theirs[0][1]:.2f}", f"{own[0][1]:.2f}", "yes" if same else "NO",
            ]
        )  # fmt: skip
        print(*rows[-1], sep=" | ", flush=True)
    report(
        "selection_against_reference",
        "Selection: the reference's lists and dictionaries, and arrays",
        ["pool", "queries", "K", "tasks", "reference, s", "ours, s", "ratio", "reference, GiB", "ours, GiB",
         "same picks"],
        rows,
        f"Both are given the same scores (made up, float32); {REPETITIONS} runs of each, in turn: the "
        "median, and from where to where. GiB is the peak of the process, scores included.",
    )  # fmt: skip


if __name__ == "__main__":
    main()
