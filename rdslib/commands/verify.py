"""`rds verify`: whether published figures still agree with the artifacts behind them."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
import typer

from rdslib.errors import UserError
from rdslib.params import Profile
from rdslib.pipeline.step import in_order

if TYPE_CHECKING:
    from rdslib.pipeline.study import Study


@dataclass(frozen=True)
class Verdict:
    """Of a published table, whether it agrees with its artifacts (None: they are not here), and why."""

    name: str
    agrees: bool | None
    reason: str


def verify_command(
    folder: Annotated[Path, typer.Argument(help="Figures that a run has left, such as figures/mini.")],
) -> None:
    """Recompute the numbers behind published figures from their artifacts, and say whether they agree.

    Exit code 0 if all agree, 1 if any does not or cannot be recomputed because its artifacts are not here.
    """
    verdicts = verify(folder)
    states = {True: "agrees", False: "DIFFERS", None: "unknown"}
    for verdict in verdicts:
        typer.echo(f"{states[verdict.agrees]:<8} {verdict.name}: {verdict.reason}")
    agreeing = sum(verdict.agrees is True for verdict in verdicts)
    typer.echo(f"{agreeing} of {len(verdicts)} agree")
    if any(verdict.agrees is None for verdict in verdicts):
        typer.echo("`rds run` with the figures' profile computes artifacts that are not here", err=True)
    raise typer.Exit(0 if agreeing == len(verdicts) else 1)


def verify(folder: Path, home: Path | None = None) -> list[Verdict]:
    """Recompute the CSV of every figure in a folder from its artifacts, and compare.

    The parameters are those that the figure's JSON holds. Nothing is computed that is not there: without its
    artifacts a figure has no verdict. `records.csv`, if there is one, is compared as well.

    Raises:
        UserError: The folder has no figures, or a JSON file that does not describe one.
    """
    from rdslib.pipeline.study import Study  # loads torch

    found = sorted(folder.glob("*.json"))
    if not found:
        raise UserError(f"{folder}: holds no figure's JSON; give a folder that `rds run` has written to")
    verdicts = []
    for path in found:
        described = _described(path)
        study = Study(described["profile"], home)
        verdicts.append(_verdict(study, path, described))
    if (folder / "records.csv").is_file():
        verdicts.append(_records(study, folder / "records.csv"))
    return verdicts


def _described(path: Path) -> dict[str, Any]:
    from rdslib import figures

    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        figures.get_figure(described["figure"])
        figures.checked(described["show"])
        return {**described, "profile": Profile.model_validate_json(json.dumps(described["profile"]))}
    except (OSError, ValueError, KeyError, TypeError, UserError) as error:
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
    return _compared(name, path.with_suffix(".csv"), as_csv(figures.table(study, name, show)))


def _records(study: Study, path: Path) -> Verdict:
    from rdslib.figures import publish

    missing = len(study.missing(study.evaluations(study.all_runs())))
    if missing:
        return Verdict("records", None, f"{missing} of its artifacts are not here")
    return _compared("records", path, publish.records_csv(study))


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
        return Verdict(
            name,
            False,
            f"{path.name} has {there.shape[0]} rows and {there.shape[1]} columns, "
            f"the artifacts give {here.shape[0]} and {here.shape[1]}",
        )
    differs = (there != here).to_numpy()
    if not differs.any():
        return Verdict(name, False, f"{path.name} has the same values, written otherwise")
    row, column = (int(at) for at in next(zip(*differs.nonzero(), strict=True)))
    return Verdict(
        name,
        False,
        f"{int(differs.any(axis=1).sum())} of {len(here)} rows differ; {path.name}:{row + 2}: "
        f"{here.columns[column]} is {there.iat[row, column]!s}, the artifacts give {here.iat[row, column]!s}",
    )


def _texts(csv: str) -> pd.DataFrame:
    """The cells of a CSV as they are written."""
    return pd.read_csv(io.StringIO(csv), dtype=str, keep_default_na=False)
