"""`rds compute`: the runs of a long study, piece by piece, into its records."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rdslib.commands.run import STUDY, ProfileOption, folder_beside, look_up, processes
from rdslib.errors import UserError, needs
from rdslib.pipeline.runs import by_worth

if TYPE_CHECKING:
    from rdslib.pipeline.step import Step
    from rdslib.pipeline.study import Study

MINUTE = 60


def compute_command(
    profile: ProfileOption = "lab",
    minutes: Annotated[
        int | None,
        typer.Option(min=0, help="Begin no step after so many; 0 writes records alone, none is no limit."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the records go; by default figures/<profile>.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that compute; 0 is two on a processor, one on a GPU.")
    ] = 0,
    record: Annotated[
        list[Path] | None,
        typer.Option("--records", help="Another records.parquet of this study to put in; may be repeated."),
    ] = None,
) -> None:
    """Compute the runs of a study in the order in which they tell most, for as long as there is time.

    What is in the records of `out` is not computed again, and what is computed is added to them, also when it
    is stopped by Ctrl-C. Figures are drawn by `rds run`.
    """
    needs("study", *STUDY)
    from rdslib.models import device
    from rdslib.pipeline import records
    from rdslib.pipeline.executors import helpers
    from rdslib.pipeline.study import Study

    study = Study.load(profile).whole()
    path = (out or folder_beside(profile, study.profile.name)) / records.NAME
    if known := [*([path] if path.is_file() else []), *(record or [])]:
        look_up(study.store, known)
        if device.device_kind() != device.this_kind():
            raise UserError(
                f"{path}: has records of {device.device_kind()}, and this is {device.this_kind()}; give "
                "another folder as --out"
            )
        study = Study.load(profile).whole()
    until = math.inf if minutes is None else time.time() + MINUTE * minutes
    count = processes(study, len(by_worth(study)), workers)
    study.store.progress.workers = count
    try:
        if minutes != 0:
            with helpers(["help-compute", "--profile", profile, "--until", str(until)], count - 1):
                _compute(study, until)
    finally:
        there = records.those_there(study.store, [*study.data_steps, *_wanted(study)])
        if not there:
            raise UserError("nothing was computed in that time; give it more --minutes")
        path.parent.mkdir(parents=True, exist_ok=True)
        records.write(study.store, there, path)
    runs = by_worth(study)
    done = sum(all(study.store.has(step) for step in study.steps_of(run)) for run in runs)
    typer.echo(f"{done} of {len(runs)} runs are in {path}")


def help_compute_command(
    profile: Annotated[str, typer.Option()], until: Annotated[float, typer.Option()]
) -> None:
    """Compute steps beside an `rds compute`, for as long as it lasts."""
    from rdslib.pipeline.study import Study
    from rdslib.processes import end_with_parent

    end_with_parent()
    _compute(Study.load(profile).whole(), until)


def _compute(study: Study, until: float) -> None:
    study.compute(_wanted(study), until=until)


def _wanted(study: Study) -> list[Step]:
    """Of each run, in their order, what is measured of it, and then what else figures show.

    Before the first that selects by a method from a pool stand all its selections from there. They cost
    little once its features are there, and a machine that has them can train without these.
    """
    from rdslib import figures

    runs = by_worth(study)
    drawn = [step for name in figures.FIGURES for step in figures.steps(study, name)]
    picks: dict[Any, list[Step]] = {}
    for each in [*(study.selection(run) for run in runs if study.training(run)), *drawn]:
        if each.name == "select":
            picks.setdefault((each.arguments["method"], each.arguments["draw"]), []).append(each)
    draws = study.pipeline.draws
    of_runs = [[*picks.pop((run.method, draws[run.pool]), []), *study.steps_of(run)] for run in runs]
    return [step for steps in [*of_runs, *picks.values()] for step in steps]
