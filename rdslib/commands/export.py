"""`rds export`: the fine-tuned model of one run, as a plain model folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rdslib.commands.outputs import check_new
from rdslib.commands.run import ProfileOption
from rdslib.errors import UserError
from rdslib.pipeline.runs import all_runs

if TYPE_CHECKING:
    from rdslib.pipeline.study import Run

SHOWN = 8


def export_command(
    out: Annotated[Path, typer.Option(help="The folder to write; it must not exist.")],
    profile: ProfileOption = "mini",
    method: Annotated[str | None, typer.Option(help="The run's method, such as rds.")] = None,
    budget: Annotated[int | None, typer.Option("-k", "--budget", help="How many samples it took.")] = None,
    pool: Annotated[str | None, typer.Option(help="From which pool: all, or a smaller one's name.")] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="For which task; repeated for a run for several.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="With which seed.")] = None,
    selector: Annotated[
        str | None, typer.Option(help="By which selector, of a profile that has more than one.")
    ] = None,
) -> None:
    """Write the model that one run of a profile was fine-tuned to, training it again if need be."""
    check_new(out)
    from rdslib.models.train import merge
    from rdslib.pipeline.steps import model_folder
    from rdslib.pipeline.study import Study

    study = Study.load(profile)
    wanted: dict[str, Any] = {"method": method, "budget": budget, "pool": pool, "seed": seed}
    wanted |= {"targets": tuple(task or ()), "selector": selector}
    asked = {name: value for name, value in wanted.items() if value not in (None, ())}
    runs = [run for run in all_runs(study) if asked.items() <= vars(run).items() and study.training(run)]
    run = _only(runs, profile)
    training = study.training(run)
    assert training is not None
    study.compute([training, study.pipeline.model], whole=True)
    trained, base = (study.store.path(each) for each in (training, study.pipeline.model))
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as place:
        merge(model_folder(base), trained, Path(place) / "model")
        shutil.move(Path(place) / "model", out)
    typer.echo(f"{run}, seed {run.seed}: its model is in {out}")


def _only(runs: Sequence[Run], profile: str) -> Run:
    """The one run that was asked for; raises UserError if there is none, or more than one."""
    if len(runs) == 1:
        return runs[0]
    found = "; ".join(f"{run} (seed {run.seed})" for run in runs[:SHOWN])
    more = f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
    if not runs:
        raise UserError(f"profile {profile}: has no such run; rds status --profile {profile} lists them")
    raise UserError(
        f"profile {profile}: {len(runs)} runs are meant: {found}{more}; "
        "say which by --method, --budget, --pool, --task, --seed and --selector"
    )
