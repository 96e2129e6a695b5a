"""Notebooks: what their cells call, and how all of them are run without a browser, by papermill."""

from __future__ import annotations

import ast
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

import psutil

from rdslib.errors import UserError, reason_of
from rdslib.files import write_whole
from rdslib.params import ROOT
from rdslib.pipeline.study import Study

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager


def open_study(profile: str) -> Study:
    """Return the study of a profile; raises UserError for it, or for a parameter that the notebook lacks."""
    from IPython import get_ipython

    shell = get_ipython()
    refuse_unknown_parameters(shell.user_ns["In"] if shell else [])
    return Study.load(profile)


def refuse_unknown_parameters(cells: Sequence[str]) -> None:
    """Raise UserError if papermill was given a parameter that the cell of parameters does not have.

    Papermill itself runs such a notebook with its defaults. `cells` are the cells that have run: it puts what
    it was given into a cell of its own, after that of the notebook.
    """
    for own, given in pairwise(cells):
        if given.startswith("# Parameters\n") and (unknown := _assigned(given) - (known := _assigned(own))):
            names = ", ".join(sorted(unknown))
            raise UserError(f"unknown parameter {names}; this notebook's are {', '.join(sorted(known))}")


def _assigned(cell: str) -> set[str]:
    return {name.id for name in ast.walk(ast.parse(cell)) if isinstance(name, ast.Name)}


def run_notebooks(names: Sequence[str], profile: str, show: str, out: Path) -> Iterator[tuple[str, float]]:
    """Execute notebooks, two at a time, and keep each executed copy beside what it draws.

    Args:
        names: The notebooks, such as `fig1_pareto`.
        profile: A profile's name, or the path of one.
        show: `measured`, `published` or `both`.
        out: Where figures go, with the copies in its folder `notebooks`.

    Yields:
        A notebook's name and the seconds that it took, in the order of names.

    Raises:
        UserError: If a cell fails, with the notebook's message, or a kernel dies.
    """
    from rdslib.figures import kernel

    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    # Python's -P for kernels: a file of the working folder that is named like a module is not that module.
    os.environ["PYTHONSAFEPATH"] = "1"
    # What a kernel or its client logs is for who writes kernels; what goes wrong is an error below.
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    folder = out.resolve() / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        kernels = [kernel.kernel(Path(scratch, str(i))) for i in range(2)]
        idle: SimpleQueue[AsyncKernelManager] = SimpleQueue()
        for each in kernels:
            idle.put(each)
        run = partial(_run, profile=profile, show=show, folder=folder, scratch=Path(scratch), idle=idle)
        # Threads, as kernels are processes already.
        with ThreadPoolExecutor(len(kernels)) as threads:
            running = [threads.submit(run, name) for name in names]
            try:
                for name, done in zip(names, running, strict=True):
                    yield name, done.result()
            finally:
                threads.shutdown(wait=False, cancel_futures=True)
                while not all(done.done() for done in running):  # an error elsewhere, or Ctrl-C
                    _kill_kernels()
                    time.sleep(0.05)
                kernel.end(kernels)


def _kill_kernels() -> None:
    """Kill the kernels of this process: one that is just starting ends in no other way."""
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if "ipykernel_launcher" in child.cmdline():
                child.kill()


def _run(
    name: str, profile: str, show: str, folder: Path, scratch: Path, idle: SimpleQueue[AsyncKernelManager]
) -> float:
    import papermill

    from rdslib.figures import kernel

    started = time.monotonic()
    source, executed = str(ROOT / "notebooks" / f"{name}.ipynb"), scratch / f"{name}.ipynb"
    given = {"profile": profile, "show": show, "out": str(folder.parent)}
    known = papermill.inspect_notebook(source)
    free = idle.get()
    try:
        papermill.execute_notebook(
            source,
            str(executed),
            parameters={key: value for key, value in given.items() if key in known},
            progress_bar=False,
            engine_name=kernel.NAME,
            km=free,
        )
    except papermill.PapermillExecutionError as error:
        message = " ".join(str(error.evalue).split())
        raise UserError(f"{name}.ipynb: {error.ename}: {message}") from error
    except RuntimeError as error:  # a kernel that was killed, as where memory ends
        raise UserError(f"{name}.ipynb: {reason_of(error)}; run the same command again") from error
    finally:
        idle.put(free)
    write_whole(folder / f"{name}.ipynb", executed.read_bytes())
    return time.monotonic() - started
