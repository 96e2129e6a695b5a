"""Selection against the reference's data structures and loops: `python -m tests.bench.bench_reference`.

Made-up scores, which both are given. Each case runs in a process of its own for each side, so that the peak
memory is that side's; it includes the scores themselves (and Python and numpy).
"""

from __future__ import annotations

import multiprocessing
import time

import numpy as np

from rdslib.selection.round_robin import choose
from rdslib.selection.topk import over
from tests.bench.report import ratios, report, spread
from tests.memory import peak

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


def reference(tables: list[np.ndarray], k: int) -> list[int]:
    """Every score in a dictionary, a sorted list a query, and the next best popped from its front.

    With several tasks, a sample's score for a task is the highest of the task's queries.
    """
    lists = [[dict(enumerate(row.tolist())) for row in table] for table in tables]
    if len(tables) == 1:
        (best,) = lists
    else:
        best = []
        for queries in lists:
            highest: dict[int, float] = {}
            for query in queries:
                for position, score in query.items():
                    if position not in highest or score > highest[position]:
                        highest[position] = score
            best.append(highest)
    ranked = [sorted(each.items(), key=lambda item: item[1], reverse=True) for each in best]
    picked: list[int] = []
    taken: set[int] = set()
    while len(picked) < k:
        for each in ranked:
            position = each.pop(0)[0] if each else None
            if position is not None and position not in taken and len(picked) < k:
                taken.add(position)
                picked.append(position)
    return picked


def ours(tables: list[np.ndarray], k: int) -> list[int]:
    rankers = [
        over(lambda part=part: ((at, part[:, at : at + BLOCK]) for at in range(0, part.shape[1], BLOCK)))
        for part in tables
    ]
    found = choose(rankers, k)
    return found.indices.tolist()


SIDES = {"reference": reference, "ours": ours}


def timed(side: str, pool: int, queries: int, k: int, tasks: int) -> tuple[float, float, list[int]]:
    """Seconds, peak GiB and the picks."""
    tables = np.split(scores(pool, queries), tasks)
    started = time.perf_counter()
    picks = SIDES[side](tables, k)
    seconds = time.perf_counter() - started
    return seconds, peak() / 2**30, picks


def main() -> None:
    rows = []
    for pool, queries, k, tasks in CASES:
        runs: dict[str, list[tuple[float, float, list[int]]]] = {side: [] for side in SIDES}
        for _ in range(REPETITIONS):
            for side, found in runs.items():
                with multiprocessing.get_context("spawn").Pool(1) as process:
                    found.append(process.apply(timed, (side, pool, queries, k, tasks)))
        (theirs, _, picks), (own, _, _) = (tuple(zip(*runs[side], strict=True)) for side in SIDES)
        peaks = [f"{found[0][1]:.2f}" for found in runs.values()]
        same = "yes" if all(run[2] == picks[0] for run in runs["ours"]) else "NO"
        faster = spread(ratios(theirs, own), "{:.0f}")
        case = [f"{pool:,}", queries, f"{k:,}", tasks]
        rows.append([*case, spread(theirs), spread(own, "{:.3f}"), faster, *peaks, same])
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
