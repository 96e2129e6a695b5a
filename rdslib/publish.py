"""What a study leaves behind: figures with where they came from, and its records as one tidy table."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rdslib import drawing
from rdslib.recipes import Run
from rdslib.store import Step, in_order, write_json
from rdslib.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def folder_of(study: Study, out: str | Path | None = None) -> Path:
    """Where a profile's figures go: `out`, or `figures/<profile>`."""
    return Path(out) if out else study.root / "figures" / study.profile.name


def publish(
    study: Study,
    name: str,
    figure: Figure,
    table: pd.DataFrame,
    steps: Iterable[Step],
    out: str | Path | None = None,
) -> None:
    """Write `<name>.png`, `.svg`, `.csv` and, as `.json`, the parameters, artifacts and versions behind them.

    `steps` are those that the table's measured rows rest on. The same table gives the same bytes.
    """
    folder = folder_of(study, out)
    folder.mkdir(parents=True, exist_ok=True)
    drawing.save(figure, table, folder, name)
    write_json(
        folder / f"{name}.json",
        {
            "figure": name,
            "profile": study.profile.model_dump(mode="json"),
            "origins": sorted(set(table["origin"])),
            "artifacts": [
                {"stage": step.stage, "hash": step.hash, "what": step.label} for step in in_order(list(steps))
            ],
            "versions": {n: version(n) for n in ("rdslib", "torch", "transformers", "peft", "numpy")},
            "python": platform.python_version(),
        },
    )


def records(study: Study) -> pd.DataFrame:
    """One row a run and task, with its score, interval, cost and artifacts."""
    runs = dict.fromkeys(
        [
            study.untuned(),
            *study.single_task_runs(),
            *study.ablation_runs(),
            *study.multi_task_runs(),
            *study.second_pool_runs(),
        ]
    )
    return pd.DataFrame([_record(study, run, task) for run in runs for task in study.tasks_of(run)])


def _record(study: Study, run: Run, task: str) -> dict[str, Any]:
    bits, accuracy = study.bits_per_byte(run, task), study.accuracy(run, task)
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
        "accuracy": accuracy.value if accuracy else np.nan,
        "accuracy_low": accuracy.low if accuracy else np.nan,
        "accuracy_high": accuracy.high if accuracy else np.nan,
        "flops": study.measured_flops(run),
        "formula_flops": study.formula_flops(run),
        "trained": training.hash if training else "",
        "evaluation": study.evaluation(run, task).hash,
    }


def write_records(study: Study, out: str | Path | None = None) -> None:
    """Write `records.csv` beside the figures."""
    records(study).to_csv(folder_of(study, out) / "records.csv", index=False, float_format="%.6g")
