"""Whether published figures still agree with the artifacts behind them."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rdslib.errors import UserError
from rdslib.figures import publish
from rdslib.figures import specs as tables
from rdslib.params import Profile
from rdslib.pipeline.step import in_order
from rdslib.pipeline.study import Study


@dataclass(frozen=True)
class Verdict:
    """Of a published table, whether it agrees with its artifacts (None: they are not here), and why."""

    name: str
    agrees: bool | None
    reason: str


def verify(folder: Path, home: Path | None = None) -> list[Verdict]:
    """Recompute the CSV of every figure in a folder from its artifacts, and compare.

    The parameters are those that the figure's JSON holds. Nothing is computed that is not there: without its
    artifacts a figure has no verdict. `records.csv`, if there is one, is compared as well. Raises UserError
    for a folder without figures, or a JSON file that does not describe one.
    """
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
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        tables.spec_of(described["figure"])
        tables.checked(described["show"])
        return {**described, "profile": Profile.model_validate_json(json.dumps(described["profile"]))}
    except (OSError, ValueError, KeyError, TypeError, UserError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path}: does not describe a figure ({reason}); draw it anew with `rds run`"
        ) from error


def _verdict(study: Study, path: Path, described: dict[str, Any]) -> Verdict:
    name, show = described["figure"], described["show"]
    steps = tables.steps(study, name, show)
    recorded = {artifact["hash"] for artifact in described["artifacts"]}
    changed = len({step.hash for step in in_order(steps)} ^ recorded)
    if changed:
        return Verdict(name, False, f"{changed} of its artifacts are made by other recipes now")
    missing = len(study.missing(steps))
    if missing:
        return Verdict(name, None, f"{missing} of its {len(recorded)} artifacts are not here")
    return _compared(name, path.with_suffix(".csv"), publish.as_csv(tables.table(study, name, show)))


def _records(study: Study, path: Path) -> Verdict:
    missing = len(study.missing(study.evaluations(publish.all_runs(study))))
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
        return Verdict(name, False, f"{path.name} has {there.shape[0]} rows and {there.shape[1]} columns, "
                                    f"the artifacts give {here.shape[0]} and {here.shape[1]}")  # fmt: skip
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
