"""What a study leaves behind: figures with where they came from, and its records as one tidy table."""

from __future__ import annotations

import base64
import html
import json
import platform
import re
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rdslib import figures
from rdslib.evaluation.bootstrap import Estimate
from rdslib.figures.base import Drawn
from rdslib.figures.typeset import MINUS, Cell, Part, Tables
from rdslib.files import write_whole
from rdslib.models.device import device_kind
from rdslib.pipeline import results
from rdslib.pipeline.runs import all_runs
from rdslib.pipeline.step import in_order
from rdslib.pipeline.study import Run, Study

if TYPE_CHECKING:
    from IPython.display import HTML


def folder_of(profile: str) -> Path:
    """Return where a profile's figures go, by its name: `figures/<profile>` of the working folder."""
    return Path("figures", profile)


def publish(
    study: Study, name: str, drawn: Drawn, table: pd.DataFrame, show: str, out: str | Path | None
) -> None:
    """Write a figure with its numbers, and what is behind them, and print what was written.

    `<name>.png` and `.svg` of a figure, `.md` and `.tex` of a table; `.csv`, the numbers; and `.json`, the
    parameters, records, artifacts and versions behind them. The same table gives the same bytes, and a figure
    of published numbers alone names no versions. `out` is the folder; without one nothing is written.
    """
    if out is None:
        return
    described = {
        "figure": name,
        "show": show,
        "profile": study.profile.model_dump(mode="json"),
        "origins": sorted(set(table["origin"])),
        "records": [asdict(run) for run in figures.runs(study, name, show)],
        "artifacts": [
            {"step": step.name, "hash": step.hash, "what": step.label}
            for step in in_order(figures.steps(study, name, show))
        ],
    }
    if "measured" in described["origins"]:
        described["versions"] = {n: version(n) for n in ("rdslib", "torch", "transformers", "peft", "numpy")}
        described["python"] = platform.python_version()
        described["device"] = device_kind()
        described["platform"] = f"{platform.system()} {platform.machine()}"
    # The JSON last, as it says that the others are there.
    files = {
        **drawn.files(),
        "csv": as_csv(table).encode(),
        "json": (json.dumps(described, indent=1) + "\n").encode(),
    }
    folder = Path(out).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for kind, data in files.items():
        write_whole(folder / f"{name}.{kind}", data)
    print(f"written to {folder}: {', '.join(f'{name}.{kind}' for kind in files)}")


def as_csv(table: pd.DataFrame) -> str:
    """Write a figure's table as CSV; the same table gives the same text."""
    text = table.to_csv(index=False, float_format="%.10g", lineterminator="\n")
    # A name that comes from a file's may not be UTF-8.
    return text.encode("utf-8", "backslashreplace").decode()


def csv_link(table: pd.DataFrame, name: str, words: str) -> str:
    """A link of a page that holds a table, and saves it as the file `<name>.csv`."""
    data = base64.b64encode(as_csv(table).encode()).decode("ascii")
    file = html.escape(f"{name}.csv")
    where = f'href="data:text/csv;charset=utf-8;base64,{data}" download="{file}"'
    # Pages of notebooks do not show of everything that it is a link.
    return f'<a style="text-decoration: underline" {where}>{html.escape(words)}</a>'


def summary(name: str, table: pd.DataFrame) -> HTML:
    """What stands under a figure: its key numbers, and all of its table as a file to save."""
    from IPython.display import HTML

    found = figures.key_numbers(table)
    rows = [[Cell(_shown(value)) for value in row] for row in found.itertuples(index=False, name=None)]
    numbers = Tables([Part("Key numbers", [], [*map(Cell, found.columns)], rows)], [])
    return HTML(f"{numbers._repr_html_()}<p>{csv_link(table, name, 'All numbers behind it, as CSV')}</p>")


def _shown(value: Any) -> str:
    text = "" if pd.isna(value) else f"{value:,}" if isinstance(value, int) else str(value)
    return re.sub(r"(?<!\w)-(?=\d)", MINUS, text)


def records_csv(study: Study) -> str:
    """Write records as CSV: a row a run and task, with its score, interval, cost and artifacts."""
    rows = [_record(study, run, task) for run in all_runs(study) for task in study.tasks_of(run)]
    return pd.DataFrame(rows).to_csv(index=False, float_format="%.6g", lineterminator="\n")


def _record(study: Study, run: Run, task: str) -> dict[str, Any]:
    bits = results.bits_per_byte(study, run, task)
    accuracy = results.accuracy(study, run, task) or Estimate(np.nan, np.nan, np.nan, 0)
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
        "flops": results.measured_flops(study, run),
        "formula_flops": results.formula_flops(study, run),
        "trained": training.hash if training else "",
        "evaluation": study.evaluation(run, task).hash,
        # A column of studies that have more than one.
        **({"selector": run.selector} if study.experiment.grid.selectors else {}),
    }
