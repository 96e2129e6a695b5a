"""The reference's way to select, re-stated, to be timed and agreed with.

Every score is an entry of a dictionary; each query has a sorted list, and the next best is popped from its
front.
"""

from __future__ import annotations

import numpy as np


def scores_by_query(scores: np.ndarray) -> list[dict[int, float]]:
    """Of each query, pool position to score."""
    return [dict(enumerate(row.tolist())) for row in scores]


def round_robin(scores: np.ndarray, k: int) -> list[int]:
    """Single task: go round the queries."""
    return _pop(scores_by_query(scores), k)


def round_robin_tasks(tasks: list[np.ndarray], k: int) -> list[int]:
    """Multi-task: a sample's score for a task is the highest of the task's queries; go round the tasks."""
    best = []
    for task in tasks:
        highest: dict[int, float] = {}
        for query in scores_by_query(task):
            for position, score in query.items():
                if position not in highest or score > highest[position]:
                    highest[position] = score
        best.append(highest)
    return _pop(best, k)


def _pop(lists: list[dict[int, float]], k: int) -> list[int]:
    ranked = [sorted(each.items(), key=lambda item: item[1], reverse=True) for each in lists]
    picked: list[int] = []
    taken: set[int] = set()
    while len(picked) < k:
        for each in ranked:
            if not each:
                continue
            position, _ = each.pop(0)
            if position in taken:
                continue
            taken.add(position)
            picked.append(position)
            if len(picked) == k:
                break
    return picked
