"""`rds run` and `rds report`: a profile's study, from its steps to its figures."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rdslib.commands.outputs import check_apart
from rdslib.commands.text import as_text, hint, line
from rdslib.errors import UserError, needs
from rdslib.params import ROOT
from rdslib.pipeline.runs import recorded
from rdslib.profiles import load_profile, profile_path

if TYPE_CHECKING:
    from rdslib.pipeline.store import Store
    from rdslib.pipeline.study import Study

# What a study imports, sooner or later.
STUDY = ("ipykernel", "lm_eval", "matplotlib", "nbconvert", "papermill", "seaborn", "sklearn", "tabulate")

OURS = sorted(path.stem for path in (ROOT / "params").glob("*.yaml"))
ProfileOption = Annotated[
    str,
    typer.Option(help=f"A profile: {', '.join(OURS)}, or the path of a YAML file of your own."),
]


def run_command(
    profile: ProfileOption = "mini",
    only: Annotated[
        list[str] | None, typer.Option(help="A figure or table, such as fig1_pareto; may be repeated.")
    ] = None,
    show: Annotated[str, typer.Option(help="What to draw: measured, published or both.")] = "both",
    out: Annotated[
        Path | None, typer.Option(help="Where the figures go; by default figures/<profile>.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that compute; 0 is two on a processor, one on a GPU.")
    ] = 0,
    engine: Annotated[
        Literal["local", "ray"] | None,
        typer.Option(help="Where features and scores are computed; by default the profile's."),
    ] = None,
    record: Annotated[
        list[Path] | None,
        typer.Option("--records", help="A records.parquet: what is in it is not computed; may be repeated."),
    ] = None,
    rehearse: Annotated[
        bool,
        typer.Option(
            "--rehearse",
            help="Try every step of the profile on made-up rows and tiny random models, in minutes, offline. "
            "All of it goes into a temporary folder, or into that of --out, and nowhere else.",
        ),
    ] = False,
) -> None:
    """Compute what a profile's figures need, and draw them through their notebooks.

    What is there already is checked and kept, so a second run is quick, and a run that was stopped goes on
    where it was.
    """
    needs("study", *STUDY)
    if rehearse:
        if record:
            raise UserError("--rehearse: a rehearsal looks nothing up; leave --records away")
        return _rehearse(profile, out, {"only": only, "show": show, "workers": workers, "engine": engine})
    from rdslib import figures
    from rdslib.figures import publish
    from rdslib.figures.notebook import run_notebooks
    from rdslib.files import write_whole
    from rdslib.models import device
    from rdslib.pipeline import records
    from rdslib.pipeline.executors import helpers
    from rdslib.pipeline.study import Study

    if profile.endswith((".yaml", ".yml")):
        profile = str(Path(profile).resolve())
    study = Study.load(profile, engine=engine)
    out = out or folder_beside(profile, study.profile.name)
    if study.profile.partial and (out / records.NAME).is_file():
        record = [out / records.NAME, *(record or [])]
    if record:
        look_up(study.store, record)
        study = Study.load(profile, engine=engine)  # laid out as it was where the records are from
    wanted = only or list(figures.FIGURES)
    # Executed copies go into a folder `notebooks` there.
    check_apart([out / "notebooks" / f"{name}.ipynb" for name in wanted], [ROOT / "notebooks"])
    absent = {name: reason for name in wanted if (reason := figures.why_absent(study, name, show))}
    for reason in dict.fromkeys(absent.values()):
        titles = [figures.FIGURES[name].title for name, each in absent.items() if each == reason]
        why = f"not drawn: {', '.join(titles)} ({reason})"
        if only:
            raise UserError(f"{why}; use a profile that measures it, such as mini")
        typer.echo(as_text([line(why)]), err=True)
    names = [name for name in wanted if name not in absent]
    steps = [step for name in names for step in figures.steps(study, name, figures.checked(show))]
    missing = len(study.missing(steps))
    if missing and device.device_kind() != device.this_kind():
        raise UserError(
            f"{missing} steps are not in the records, which are of {device.device_kind()}, and this is "
            f"{device.this_kind()}; leave --records away to compute all here"
        )
    workers = processes(study, missing, workers)
    study.store.progress.workers = workers
    arguments = ["help", "--profile", profile, "--show", show, "--engine", study.profile.engine]
    with helpers([*arguments, *(part for name in names for part in ("--only", name))], workers - 1):
        study.compute(steps)
    with study.store.progress.bar("drawing", len(names), "figure") as bar:
        for _ in run_notebooks(names, profile, show, out):
            bar.update()
    whole = only is None and show != "published" and study.profile.experiment is not None
    if whole and study.there([study.untuned()]):
        write_whole(out / "records.csv", publish.records_csv(study).encode())
        if not study.profile.partial:  # `rds compute` writes them
            records.write(study.store, [*recorded(study), *steps], out / records.NAME)
    what = "1 figure or table is" if len(names) == 1 else f"{len(names)} figures and tables are"
    typer.echo(f"{what} in {out}, with the numbers as CSV")
    place = "" if out == publish.folder_of(study.profile.name) else f" --figures {quote(str(out))}"
    todo = f"; `rds status --profile {quote(profile)}` says what is left" if study.profile.partial else ""
    hint(f"`rds report --profile {quote(profile)}{place}` makes one page of all{todo}")


def folder_beside(profile: str, name: str) -> Path:
    """Where the figures of a profile go, of which no other place is named.

    Raises:
        UserError: A profile that comes with the library has the name too.
    """
    from rdslib.figures.publish import folder_of

    ours = ROOT / "params" / f"{name}.yaml"
    if ours.is_file() and not profile_path(profile).samefile(ours):
        raise UserError(
            f"{profile}: has the name {name!r}, as a profile of ours has, whose figures it would write over; "
            "give it another name, or give --out"
        )
    return folder_of(name)


def _rehearse(profile: str, out: Path | None, options: Mapping[str, Any]) -> None:
    """Rehearse a profile in the folder `out`, which is kept, or in a temporary one."""
    needs("embed", "sentence_transformers")
    from rdslib.models.device import restored
    from rdslib.pipeline.rehearsal import FIGURES, PROFILE, rehearse

    if out is not None and out.exists() and not (out / PROFILE).is_file() and any(out.iterdir()):
        raise UserError(f"{out}: holds something else than a rehearsal; give an empty folder, or none")
    started, loaded = time.monotonic(), load_profile(profile)
    with restored("RDSLIB_HOME"), tempfile.TemporaryDirectory(prefix="rds-rehearsal-") as scratch:
        home = Path(scratch) if out is None else out.resolve()
        os.environ["RDSLIB_HOME"] = str(home)
        rehearsed = rehearse(loaded, profile_path(profile).resolve().parent, home)
        run_command(profile=str(rehearsed), out=home / FIGURES, **options)
    where = f"it is in {out}" if out is not None else "what it left was removed"
    typer.echo(f"rehearsed {loaded.name} in {time.monotonic() - started:.0f} s; {where}")


def processes(study: Study, missing: int, wanted: int = 0) -> int:
    """How many processes compute so many steps that are missing: those `wanted`, or as the device has it."""
    from rdslib.models import device

    # A process for each model keeps two cores busier than two threads for one model do; where Ray has
    # workers, they have the cores.
    alone = study.profile.engine == "ray" or device.device().type != "cpu"
    wanted = wanted or (1 if alone else device.PROCESSES)
    return max(1, min(wanted, os.cpu_count() or 1, missing))


def whole_study(profile: str) -> Study:
    """Load the study of a profile with all its runs, and of a partial one the records beside its figures.

    Raises:
        UserError: There is no such profile, or it has a mistake.
    """
    from rdslib.figures.publish import folder_of
    from rdslib.pipeline import records
    from rdslib.pipeline.study import Study

    study = Study.load(profile)
    if not study.profile.partial:
        return study
    if (path := folder_of(study.profile.name) / records.NAME).is_file():
        look_up(study.store, [path])
        study = Study.load(profile)  # laid out as it was where the records are from
    return study.whole()


def look_up(store: Store, paths: Sequence[Path]) -> None:
    """Put records into a store, and from now on lay out steps as where they were made."""
    from rdslib.models.device import KIND
    from rdslib.pipeline.records import take

    kinds = {take(store, path) for path in paths}
    if len(kinds) > 1:
        raise UserError(f"--records: are of several kinds of device, {', '.join(sorted(kinds))}; give one's")
    os.environ[KIND] = kinds.pop()


def help_command(
    profile: str = "mini",
    only: list[str] = [],  # noqa: B006
    show: str = "both",
    engine: str | None = None,
) -> None:
    """Compute steps beside an `rds run`, for as long as it lasts."""
    from rdslib import figures
    from rdslib.pipeline.study import Study
    from rdslib.processes import end_with_parent

    end_with_parent()
    study = Study.load(profile, engine=engine)
    study.compute([step for name in only for step in figures.steps(study, name, figures.checked(show))])


def report_command(
    profile: ProfileOption = "mini",
    figures: Annotated[
        Path | None, typer.Option(help="Where the figures are; by default figures/<profile>.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The HTML file; by default report.html beside the figures.")
    ] = None,
) -> None:
    """Write a profile's figures, tables, parameters and provenance as one HTML page that opens from disk."""
    needs("study", *STUDY)
    from rdslib.figures.publish import folder_of
    from rdslib.figures.report import write_report

    folder = figures or folder_of(load_profile(profile).name)
    out = out or folder / "report.html"
    read = [path for path in folder.glob("*") if path.suffix != ".html"]
    check_apart([out], [profile_path(profile), *read])
    typer.echo(f"the report is {write_report(profile, folder, out)}")
