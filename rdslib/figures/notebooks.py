"""Running the notebooks headlessly, through papermill."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import papermill
from traitlets.config import Config

from rdslib.errors import UserError
from rdslib.params import ROOT


def run_notebook(name: str, profile: str, show: str, out: Path | None, root: Path = ROOT) -> float:
    """Execute `notebooks/<name>.ipynb` with its parameters; what it draws goes to `out`. Returns seconds.

    The executed copy is thrown away: the figures' folder holds what the notebook leaves. Raises UserError,
    with the notebook's own message, if a cell fails.
    """
    started = time.monotonic()
    source = root / "notebooks" / f"{name}.ipynb"
    parameters = {"profile": profile, "show": show, "out": None if out is None else str(out)}
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    with tempfile.TemporaryDirectory() as scratch:
        # Sockets in a folder of this notebook's own, where another kernel's cannot be met.
        sockets = {"transport": "ipc", "ip": str(Path(scratch, "kernel"))} if os.name == "posix" else {}
        try:
            papermill.execute_notebook(
                str(source),
                str(Path(scratch, source.name)),
                parameters=parameters,
                cwd=str(root / "notebooks"),
                progress_bar=False,
                config=Config(KernelManager=sockets),
                log_output=False,
            )
        except papermill.PapermillExecutionError as error:
            raise UserError(f"{source.name}: {error.ename}: {' '.join(str(error.evalue).split())}") from error
    return time.monotonic() - started
