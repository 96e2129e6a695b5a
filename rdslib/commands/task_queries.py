"""Queries without a file: `--queries task:gsm8k` takes the query samples of a task that a profile has."""

from __future__ import annotations

from collections.abc import Iterator

from rdslib.data.archives import Archives
from rdslib.data.download import cache_dir
from rdslib.data.reader import Row
from rdslib.errors import UserError
from rdslib.params import Experiment, Task
from rdslib.profiles import load_profile
from rdslib.tasks.base import build_task

PREFIX = "task:"
# The profile whose tasks they are, where none is named: whole query sets, from GitHub and packages.
PROFILE = "tasks"


def of_tasks(queries: str | None) -> bool:
    """Whether queries are those of tasks, and not in a file or in memory."""
    return queries is not None and queries.startswith(PREFIX)


class TaskQueries:
    """The query samples of tasks, `task:NAME` each, with commas between them. Test samples are left alone.

    Args:
        given: What was given as queries.
        profile: The profile whose tasks are meant, by default `PROFILE`.

    Raises:
        UserError: A part names no task, or a task that the profile has not, or one that it has twice; or the
            task's data cannot be had.
    """

    def __init__(self, given: str, profile: str | None) -> None:
        self.notes: list[str] = []
        self._rows: list[Row] = []
        profile = profile or PROFILE
        experiment = load_profile(profile).experiment
        if experiment is None:
            raise UserError(f"--queries {given}: the profile {profile} has no tasks; give another, or none")
        known = {each.name.lower(): each for each in experiment.tasks}
        wanted = [each.strip().removeprefix(PREFIX).lower() for each in given.split(",")]
        for name in wanted:
            if name not in known:
                names = ", ".join(map(PREFIX.__add__, known))
                raise UserError(
                    f"--queries {given}: {name!r} is no task of the profile {profile}; it has {names}"
                )
            if wanted.count(name) > 1:
                raise UserError(f"--queries {given}: {name} is there twice; leave one out")
        of = [self._read(known[name], experiment) for name in wanted]
        self.notes.insert(0, f"queries: {', '.join(of)}; test samples are left alone")

    def _read(self, task: Task, experiment: Experiment) -> str:
        """Read the queries of a task; return what they are."""
        archives = Archives({name: experiment.downloads[name] for name in task.downloads}, cache_dir())
        queries = build_task(task, archives, experiment.seed).queries
        self.notes += archives.notes
        for number, each in enumerate(queries):
            where = f"{PREFIX}{task.name.lower()}[{number}]"
            self._rows.append(Row(number, each.id, each.source, each.messages, {}, task.name, where))
        return (
            f"{len(queries)} query samples of {task.name} (from {', '.join(task.downloads) or task.reader})"
        )

    def rows(self) -> Iterator[Row]:
        """Go through the queries, each with its task and its number there."""
        return iter(self._rows)
