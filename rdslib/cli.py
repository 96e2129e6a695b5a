"""The `rds` command."""

from __future__ import annotations

import errno
import functools
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Literal

import typer

from rdslib.commands import own as cli_own
from rdslib.errors import UserError

app = typer.Typer(
    help="Select instruction-tuning data with RDS+ and other methods, and reproduce the paper's figures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


ProfileOption = Annotated[
    str, typer.Option(help="A profile: tiny, mini, paper, or the path of a YAML file of your own.")
]


@app.command()
def run(
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
) -> None:
    """Compute what a profile's figures need, and draw them through their notebooks.

    What is there already is checked and kept, so a second run is quick, and a run that was stopped goes on
    where it was.
    """
    from rdslib.figures import publish
    from rdslib.figures import specs as tables
    from rdslib.figures.notebooks import run_notebook
    from rdslib.models import device
    from rdslib.pipeline.executors import helpers
    from rdslib.pipeline.study import Study

    profile = _resolved(profile)
    study = Study.load(profile, engine=engine)
    names = only or list(tables.FIGURES)
    steps = [step for name in names for step in tables.steps(study, name, tables.checked(show))]
    missing = len(study.missing(steps))
    # A process of its own for each model keeps two cores busier than two threads for one model do; where Ray
    # has workers of its own, they have the cores.
    alone = study.profile.engine == "ray" or device.device().type != "cpu"
    workers = workers or (1 if alone else device.PROCESSES)
    workers = max(1, min(workers, os.cpu_count() or 1, missing))
    study.store.progress.workers = workers
    arguments = ["--profile", profile, "--show", show]
    with helpers([*arguments, *(part for name in names for part in ("--only", name))], workers - 1):
        study.compute(steps)
    draw = functools.partial(run_notebook, profile=profile, show=show, out=out.resolve() if out else None)
    # Spawned, not forked: this process has a model's threads.
    with ProcessPoolExecutor(min(2, len(names)), multiprocessing.get_context("spawn")) as processes:
        for number, (name, seconds) in enumerate(zip(names, processes.map(draw, names), strict=True), 1):
            typer.echo(f"[{number}/{len(names)}] drew {name} in {seconds:.1f} s", err=True)
    if only is None and study.profile.experiment is not None:
        publish.write_records(study, out)
    typer.echo(f"figures are in {publish.folder_of(study, out)}")


@app.command("help", hidden=True)
def help_out(profile: str = "mini", only: list[str] = [], show: str = "both") -> None:  # noqa: B006
    """Compute steps beside an `rds run`, for as long as it lasts."""
    from rdslib.figures import specs as tables
    from rdslib.pipeline.executors import end_with_parent
    from rdslib.pipeline.study import Study

    end_with_parent()
    study = Study.load(profile)
    study.compute([step for name in only for step in tables.steps(study, name, tables.checked(show))])


def _resolved(profile: str) -> str:
    """The path of a profile in full, since notebooks run in a folder of their own; a name as it is."""
    return str(Path(profile).resolve()) if profile.endswith((".yaml", ".yml")) else profile


@app.command()
def status(profile: ProfileOption = "mini") -> None:
    """Show what a profile's study is made of: what exists, and what is missing."""
    from rdslib.figures import publish
    from rdslib.figures import specs as tables
    from rdslib.pipeline.step import in_order
    from rdslib.pipeline.study import Study

    study = Study.load(profile)
    steps = in_order([step for name in tables.FIGURES for step in tables.steps(study, name)])
    there = 0
    for step in steps:
        has = study.store.has(step)
        there += has
        typer.echo(f"{'exists ' if has else 'missing'}  {step.name:<9} {step.hash}  {step.label}")
    for name in tables.FIGURES:
        missing = len(study.missing(tables.steps(study, name)))
        drawn = (publish.folder_of(study) / f"{name}.png").is_file()
        state = "drawn" if drawn else "not drawn"
        typer.echo(f"{name}: {state}; " + ("nothing missing" if not missing else f"{missing} steps missing"))
    typer.echo(f"{there} of {len(steps)} artifacts exist, in {study.store.folder}")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Figures that a run has left, such as figures/mini.")],
) -> None:
    """Recompute the numbers behind published figures from their artifacts, and say whether they agree.

    Exit code 0 if all agree, 1 if any does not or cannot be recomputed because its artifacts are not here.
    """
    from rdslib.commands.verify import verify as verified

    verdicts = verified(folder)
    states = {True: "agrees", False: "DIFFERS", None: "unknown"}
    for verdict in verdicts:
        typer.echo(f"{states[verdict.agrees]:<8} {verdict.name}: {verdict.reason}")
    agreeing = sum(verdict.agrees is True for verdict in verdicts)
    typer.echo(f"{agreeing} of {len(verdicts)} agree")
    if any(verdict.agrees is None for verdict in verdicts):
        typer.echo("`rds run` with the figures' profile computes artifacts that are not here", err=True)
    raise typer.Exit(0 if agreeing == len(verdicts) else 1)


@app.command()
def report(
    profile: ProfileOption = "mini",
    figures: Annotated[
        Path | None, typer.Option(help="Where the figures are; by default figures/<profile>.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The HTML file; by default report.html beside the figures.")
    ] = None,
) -> None:
    """Write a profile's figures, tables, parameters and provenance as one HTML page that opens from disk."""
    from rdslib.figures.report import write_report
    from rdslib.params import ROOT, load_profile

    folder = figures or ROOT / "figures" / load_profile(profile).name
    typer.echo(f"the report is {write_report(profile, folder, out or folder / 'report.html')}")


for _command in (cli_own.select, cli_own.plan, cli_own.explain, cli_own.compare):
    app.command()(_command)


@app.command()
def evaluate(
    profile: ProfileOption = "mini",
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model, a folder or hub name; by default the profile's. Repeated: compared."),
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="A task of the profile; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many test samples a task; 0 is all.")] = 0,
    max_response: Annotated[
        int, typer.Option(min=0, help="At most so many tokens a response; 0 is what the protocol says.")
    ] = 0,
    judge: Annotated[
        str | None,
        typer.Option(help="For AlpacaEval: the model that compares responses; key in OPENAI_API_KEY."),
    ] = None,
    judge_url: Annotated[
        str | None, typer.Option(help="Its OpenAI-compatible address; by default OpenAI's own.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A CSV file to write the scores to as well.")] = None,
) -> None:
    """Score models on a profile's tasks, by the paper's protocols and in bits per byte.

    Each score has its 95% interval, and each further model its difference from the first on the same test
    samples. What was measured is kept: a run that was stopped goes on with the next task.
    """
    from rdslib.commands.evaluate import as_text, examine, write

    table = examine(profile, model or (), task or (), limit, max_response, judge, judge_url)
    if out is not None:
        write(table, out)
    typer.echo(as_text(table))


def main() -> None:
    """Run the command; what a user can mend is told in one line, with exit code 2."""
    try:
        app()
    except UserError as error:
        typer.echo(f"rds: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        # A full disk or a folder without rights, wherever it was met; anything else is a fault of ours.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
            raise
        where = error.filename or "RDSLIB_HOME or the output's folder"
        typer.echo(f"rds: {where}: {error.strerror}; mend that, and run the same again to go on", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("rds: stopped; run the same command again to go on", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
