"""What a study leaves behind: figures with where they came from, and its records as one tidy table."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rdslib import figures
from rdslib.evaluation.bootstrap import Estimate
from rdslib.figures.base import Drawn
from rdslib.files import write_json
from rdslib.params import ROOT
from rdslib.pipeline.step import in_order
from rdslib.pipeline.study import Run, Study


def folder_of(profile: str, out: str | Path | None = None) -> Path:
    """Return where a profile's figures go: `out`, or `figures/<profile>` of the working folder."""
    if out:
        return Path(out)
    here = Path.cwd()
    # A notebook that is opened in the checkout works in the folder of notebooks.
    return (here.parent if here == ROOT / "notebooks" else here) / "figures" / profile


def publish(
    study: Study,
    name: str,
    drawn: Drawn,
    table: pd.DataFrame,
    show: str = "both",
    out: str | Path | None = None,
) -> None:
    """Write a figure with its numbers, and what is behind them.

    `<name>.png` and `.svg` of a figure, `.md` and `.tex` of a table; `.csv`, the numbers; and `.json`, the
    parameters, records, artifacts and versions behind them. The same table gives the same bytes. `out` is the
    folder, by default `figures/<profile>`.
    """
    folder = folder_of(study.profile.name, out)
    folder.mkdir(parents=True, exist_ok=True)
    drawn.save(folder, name)
    _write(folder / f"{name}.csv", as_csv(table))
    write_json(
        folder / f"{name}.json",
        {
            "figure": name,
            "show": show,
            "profile": study.profile.model_dump(mode="json"),
            "origins": sorted(set(table["origin"])),
            "records": [asdict(run) for run in figures.runs(study, name, show)],
            "artifacts": [
                {"step": step.name, "hash": step.hash, "what": step.label}
                for step in in_order(figures.steps(study, name, show))
            ],
            "versions": {n: version(n) for n in ("rdslib", "torch", "transformers", "peft", "numpy")},
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
        },
    )


def as_csv(table: pd.DataFrame) -> str:
    """Write a figure's table as CSV; the same table gives the same text."""
    return table.to_csv(index=False, float_format="%.10g", lineterminator="\n")


def records_csv(study: Study) -> str:
    """Write records as CSV: a row a run and task, with its score, interval, cost and artifacts."""
    rows = [_record(study, run, task) for run in study.all_runs() for task in study.tasks_of(run)]
    return pd.DataFrame(rows).to_csv(index=False, float_format="%.6g", lineterminator="\n")


def _record(study: Study, run: Run, task: str) -> dict[str, Any]:
    bits = study.bits_per_byte(run, task)
    accuracy = study.accuracy(run, task) or Estimate(np.nan, np.nan, np.nan, 0)
    training = study.training(run)
    return {
        "method": run.method,
        "pool": run.pool,
        "pool_size": study.pool_size(run.pool),
        "budget": run.budget,
        "targets": "+".join(run.targets),
        "seed": run.seed,
        "task": task,
        "n": bits.n,
        "bits_per_byte": bits.value,
        "low": bits.low,
        "high": bits.high,
        "accuracy": accuracy.value,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "flops": study.measured_flops(run),
        "formula_flops": study.formula_flops(run),
        "trained": training.hash if training else "",
        "evaluation": study.evaluation(run, task).hash,
    }


def write_records(study: Study, out: str | Path | None = None) -> None:
    """Write `records.csv` beside the figures."""
    _write(folder_of(study.profile.name, out) / "records.csv", records_csv(study))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
