"""Notebooks: what their cells call, and how all of them are run without a browser, by papermill."""

from __future__ import annotations

import ast
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from multiprocessing.pool import ThreadPool
from pathlib import Path

from rdslib.errors import UserError
from rdslib.files import write_whole
from rdslib.params import ROOT
from rdslib.pipeline.study import Study


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
        UserError: If a cell fails, with the notebook's message.
    """
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    # Python's -P for kernels: a file of the working folder that is named like a module is not that module.
    os.environ["PYTHONSAFEPATH"] = "1"
    folder = out.resolve() / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    # Threads, as kernels are processes already: those end when their parent does, however it ends.
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch,
        ThreadPool(min(2, len(names))) as threads,
    ):
        run = partial(_run, profile=profile, show=show, folder=folder, scratch=Path(scratch))
        yield from zip(names, threads.imap(run, names), strict=True)


def _run(name: str, profile: str, show: str, folder: Path, scratch: Path) -> float:
    import papermill
    from traitlets.config import Config

    started = time.monotonic()
    source, executed = str(ROOT / "notebooks" / f"{name}.ipynb"), scratch / f"{name}.ipynb"
    given = {"profile": profile, "show": show, "out": str(folder.parent)}
    known = papermill.inspect_notebook(source)
    # Sockets in a folder of this notebook alone, where another kernel's cannot be met; of so many characters.
    sockets = str(scratch / f"{name}.kernel")
    ipc = {"transport": "ipc", "ip": sockets} if os.name == "posix" and len(os.fsencode(sockets)) < 90 else {}
    try:
        papermill.execute_notebook(
            source,
            str(executed),
            parameters={key: value for key, value in given.items() if key in known},
            progress_bar=False,
            config=Config(KernelManager=ipc),
            # What a kernel logs is for who writes kernels; what goes wrong in a cell is the error below.
            extra_arguments=["--log-level=CRITICAL", "--InteractiveShellApp.ignore_cwd=True"],
        )
    except papermill.PapermillExecutionError as error:
        message = " ".join(str(error.evalue).split())
        raise UserError(f"{name}.ipynb: {error.ename}: {message}") from error
    write_whole(folder / f"{name}.ipynb", executed.read_bytes())
    return time.monotonic() - started
