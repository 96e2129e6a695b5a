"""`rds verify`: whether published figures still agree with the artifacts behind them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import typer

from rdslib.commands.text import line, show
from rdslib.errors import UserError
from rdslib.params import Profile
from rdslib.pipeline.runs import recorded
from rdslib.pipeline.step import in_order

if TYPE_CHECKING:
    from rdslib.pipeline.step import Step
    from rdslib.pipeline.study import Study


# Numbers agree within the sum of both: another machine adds up in another order.
ABSOLUTE, RELATIVE = 1e-6, 1e-5
TOLERANCE = f"{ABSOLUTE:g} + {RELATIVE:g} of the value"


@dataclass(frozen=True)
class Verdict:
    """Of a published table, whether it agrees with its artifacts (None: they are not here), and why."""

    name: str
    agrees: bool | None
    reason: str


def verify_command(
    folder: Annotated[Path, typer.Argument(help="Figures that a run has left, such as figures/mini.")],
    profile: Annotated[
        str | None,
        typer.Option(help="The profile that they are of, where it has plug-ins: their code is run."),
    ] = None,
) -> None:
    """Recompute the numbers behind published figures from their artifacts, and say whether they agree.

    Numbers agree within 1e-6 and a hundred-thousandth of the value: another machine rounds otherwise. Exit
    code 0 if all agree, 1 if any does not or cannot be recomputed because its artifacts are not here.
    """
    verdicts = verify(folder, profile=profile)
    states = {True: "agrees", False: "DIFFERS", None: "unknown"}
    for verdict in verdicts:
        show([line(f"{states[verdict.agrees]}  {verdict.name}: {verdict.reason}")])
    agreeing = sum(verdict.agrees is True for verdict in verdicts)
    typer.echo(f"{agreeing} of {len(verdicts)} agree")
    if any(verdict.agrees is None for verdict in verdicts):
        typer.echo("`rds run` with the figures' profile computes artifacts that are not here", err=True)
    raise typer.Exit(0 if agreeing == len(verdicts) else 1)


def verify(folder: Path, home: Path | None = None, profile: str | None = None) -> list[Verdict]:
    """Recompute the CSV of every figure in a folder from its artifacts, and compare.

    The parameters are those that the figure's JSON holds. Nothing is computed that is not there: without its
    artifacts a figure has no verdict. Where the folder has records, they stand in for artifacts that are not
    here, and the verdict says so. `records.csv`, if there is one, is compared as well.

    Args:
        folder: The figures.
        home: Of the artifacts; by default `RDSLIB_HOME`.
        profile: Whose plug-ins may be run. Those that a JSON names are not: it may come from anybody.

    Raises:
        UserError: The folder has no figures, or a JSON file that does not describe one, or one of methods of
            plug-ins while no profile is given.
    """
    # These load torch.
    from rdslib.models.device import recorded_on
    from rdslib.pipeline import records
    from rdslib.pipeline.study import Study

    found = sorted(folder.glob("*.json"))
    if not found:
        raise UserError(f"{folder}: holds no figure's JSON; give a folder that `rds run` has written to")
    if profile is not None:
        Study.load(profile, home)
    verdicts, taken = [], False
    for path in found:
        described = _described(path)
        parameters: Profile = described["profile"]
        if parameters.experiment is not None and parameters.experiment.plugins:
            if profile is None:
                raise UserError(
                    f"{path}: its methods are in {', '.join(parameters.experiment.plugins)}, and code that a "
                    "file names is not run; look at it, and give --profile with the profile that names it"
                )
            experiment = parameters.experiment.model_copy(update={"plugins": ()})
            parameters = parameters.model_copy(update={"experiment": experiment})
        with recorded_on(described.get("device")):
            study = Study(parameters, home)
            if not taken and (folder / records.NAME).is_file() and "measured" in described["origins"]:
                records.take(study.store, folder / records.NAME)
                taken = True
            verdicts.append(_verdict(study, path, described))
            if path == found[-1] and (folder / "records.csv").is_file():
                verdicts.append(_records(study, folder / "records.csv"))
    return verdicts


def _described(path: Path) -> dict[str, Any]:
    from rdslib import figures

    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        figures.get_figure(described["figure"])
        figures.checked(described["show"])
        return {**described, "profile": Profile.model_validate_json(json.dumps(described["profile"]))}
    except (OSError, ValueError, KeyError, TypeError, RecursionError, UserError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path}: does not describe a figure ({reason}); draw it anew with `rds run`"
        ) from error


def _verdict(study: Study, path: Path, described: dict[str, Any]) -> Verdict:
    from rdslib import figures
    from rdslib.figures.publish import as_csv

    name, show = described["figure"], described["show"]
    steps = figures.steps(study, name, show)
    recorded = {artifact["hash"] for artifact in described["artifacts"]}
    changed = len({step.hash for step in in_order(steps)} ^ recorded)
    if changed:
        return Verdict(name, False, f"{changed} of its artifacts are made in another way now")
    missing = len(study.missing(steps))
    if missing:
        return Verdict(name, None, f"{missing} of its {len(recorded)} artifacts are not here")
    verdict = _compared(name, path.with_suffix(".csv"), as_csv(figures.table(study, name, show)))
    return replace(verdict, reason=verdict.reason + _of_records(study, in_order(steps)))


def _of_records(study: Study, steps: Sequence[Step]) -> str:
    """How many of a figure's artifacts are records, if any are."""
    recorded = sum(study.store.manifest(step).get("recorded", False) for step in steps)
    return f"; {recorded} of {len(steps)} artifacts from records" if recorded else ""


def _records(study: Study, path: Path) -> Verdict:
    from rdslib.figures import publish

    missing = len(study.missing(recorded(study)))
    if missing:
        return Verdict("records", None, f"{missing} of its artifacts are not here")
    verdict = _compared("records", path, publish.records_csv(study))
    return replace(verdict, reason=verdict.reason + _of_records(study, in_order(recorded(study))))


def _compared(name: str, path: Path, made: str) -> Verdict:
    if not path.is_file():
        return Verdict(name, False, f"{path.name} is missing")
    held = path.read_bytes().decode("utf-8", "replace")
    if held == made:
        return Verdict(name, True, f"{max(0, len(made.splitlines()) - 1)} rows, the same bytes")
    try:
        there, here = _texts(held), _texts(made)
    except ValueError as error:
        return Verdict(name, False, f"{path.name} cannot be read ({error})")
    if list(there.columns) != list(here.columns) or len(there) != len(here):
        reason = (
            f"{path.name} has {there.shape[0]} rows and {there.shape[1]} columns, "
            f"the artifacts give {here.shape[0]} and {here.shape[1]}"
        )
        return Verdict(name, False, reason)
    apart, differs = (there != here).to_numpy(), np.zeros(here.shape, dtype=bool)
    for at, column in enumerate(here):
        differs[:, at] = apart[:, at] & ~_near(there[column], here[column])
    if not differs.any():
        return Verdict(name, True, f"{len(here)} rows, {apart.sum()} numbers within {TOLERANCE}")
    row, column = (int(at) for at in next(zip(*differs.nonzero(), strict=True)))
    return Verdict(
        name,
        False,
        f"{int(differs.any(axis=1).sum())} of {len(here)} rows differ; {path.name}:{row + 2}: "
        f"{here.columns[column]} is {there.iat[row, column]!s}, the artifacts give {here.iat[row, column]!s}",
    )


def _near(there: pd.Series, here: pd.Series) -> np.ndarray:
    """Which cells of a column are numbers that agree; counts, hashes and words have to be the same."""
    texts = pd.concat([there, here])
    numbers = pd.to_numeric(texts.where(texts != "", "nan"), errors="coerce")
    if not np.isfinite(numbers[texts != ""]).all() or not texts.str.contains(r"[.e]").any():
        return np.zeros(len(here), dtype=bool)
    ours = numbers.to_numpy()
    return np.isclose(ours[: len(there)], ours[len(there) :], rtol=RELATIVE, atol=ABSOLUTE)


def _texts(csv: str) -> pd.DataFrame:
    """The cells of a CSV as they are written."""
    return pd.read_csv(io.StringIO(csv), dtype=str, keep_default_na=False)
