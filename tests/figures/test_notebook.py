"""Notebooks: what they refuse, where they write, and what is left of them when they are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import nbformat
import papermill
import psutil
import pytest

from rdslib import figures
from rdslib.commands.verify import verify
from rdslib.errors import UserError
from rdslib.figures import kernel
from rdslib.figures.notebook import refuse_unknown_parameters
from rdslib.figures.publish import publish
from rdslib.params import ROOT
from rdslib.pipeline.study import Study
from tests.command import rds

OWN = 'profile = "mini"\nshow = "both"  # measured\nout = None'


@pytest.mark.parametrize("given", ["", "x = 1", "# Parameters\nprofile = 'tiny'\nout = None", "# profle = 1"])
def test_parameters_of_the_notebook_are_taken(given):
    refuse_unknown_parameters(["", OWN, given, "# Parameters of mine\ny = 2"])


def test_a_parameter_of_another_name_is_refused():
    with pytest.raises(UserError, match=r"^unknown parameter profle; this notebook's are out, profile, sh"):
        refuse_unknown_parameters(["", OWN, "# Parameters\nprofle = 'tiny'\n"])


@pytest.mark.slow
def test_papermill_with_a_mistyped_parameter_is_an_error(tmp_path):
    notebook = str(ROOT / "notebooks" / "tab4_splits.ipynb")
    with pytest.raises(papermill.PapermillExecutionError, match="unknown parameter profle"):
        papermill.execute_notebook(
            notebook, str(tmp_path / "x.ipynb"), {"profle": "tiny"}, progress_bar=False
        )


@pytest.mark.slow
def test_a_notebook_by_itself_writes_nothing(tmp_path):
    notebook, given = str(ROOT / "notebooks" / "tab4_splits.ipynb"), {"profile": "paper", "show": "published"}
    papermill.execute_notebook(notebook, str(tmp_path / "x.ipynb"), given, progress_bar=False, cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x.ipynb"]


@pytest.mark.slow
def test_no_file_of_the_working_folder_is_a_module(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    for name in ("random", "torch", "signal", "ipykernel_launcher", "rdslib", "numpy"):
        (work / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    environment = {**os.environ, "RDSLIB_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", "rdslib.cli", "run", "--profile", "tiny", "--workers", "2"]
    done = subprocess.run(
        [*command, "--only", "tab4_splits", "--only", "fig5_score_histogram"],
        cwd=work, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (work / "figures" / "tiny" / "tab4_splits.csv").is_file()
    assert not (tmp_path / "executed").exists()
    assert "Warning" not in done.stderr
    assert "IPKernelApp" not in done.stderr


@pytest.mark.slow
def test_a_notebook_sees_nothing_of_the_one_before_in_its_kernel(tmp_path):
    kept = kernel.kernel(tmp_path / "sockets")
    first = ["import os", "x, pid = 1, os.getpid()\nprint(pid)"]
    second = ["assert 'x' not in globals() and 'os' not in globals()", "import os\nprint(os.getpid())"]
    printed = []
    for name, cells in (("first", first), ("second", second)):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
        done = papermill.execute_notebook(
            tmp_path / f"{name}.ipynb",
            tmp_path / "x.ipynb",
            progress_bar=False,
            engine_name=kernel.NAME,
            km=kept,
        )
        assert [cell.execution_count for cell in done.cells] == [1, 2]
        printed.append(done.cells[1].outputs[0].text)
    kernel.end([kept])
    assert printed[0] == printed[1]
    assert not psutil.pid_exists(int(printed[0]))


class Large:
    """A figure whose files take a while to write; all of one letter."""

    def __init__(self, letter):
        self.letter = letter

    def files(self):
        return {"png": self.letter * 3_000_000, "svg": self.letter * 3_000_000}


def test_a_kill_while_figures_are_written_leaves_whole_files(tmp_path):
    study = Study.load("paper", home=tmp_path / "home")
    table = figures.table(study, "tab4_splits")
    folder = tmp_path / "figures"
    publish(study, "tab4_splits", Large(b"a"), table, "both", folder)
    rng = random.Random(0)
    for _ in range(12):
        child = os.fork()
        if not child:
            while True:
                for letter in (b"a", b"b"):
                    publish(study, "tab4_splits", Large(letter), table, "both", folder)
        time.sleep(rng.uniform(0.01, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for kind in ("png", "svg"):
            data = (folder / f"tab4_splits.{kind}").read_bytes()
            assert (len(data), len(set(data))) == (3_000_000, 1)
        assert [verdict.agrees for verdict in verify(folder, tmp_path / "home")] == [True]
        assert json.loads((folder / "tab4_splits.json").read_bytes())["figure"] == "tab4_splits"


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_running(tmp_path):
    environment = {**os.environ, "RDSLIB_HOME": str(tmp_path / "home")}
    command = [
        sys.executable,
        "-m",
        "rdslib.cli",
        "run",
        "--profile",
        "paper",
        "--out",
        str(tmp_path / "out"),
    ]
    run = psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (started := run.children(recursive=True)):
        assert run.poll() is None
        time.sleep(0.1)
    run.kill()
    run.wait()
    _, alive = psutil.wait_procs(started, timeout=60)
    assert not alive
    assert rds("run", "--profile", "paper", "--only", "tab4_splits", "--out", tmp_path / "out",
               home=tmp_path / "home").returncode == 0  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 0.4, 3])
def test_ctrl_c_prints_one_line_and_leaves_nothing_running(tmp_path, after):
    environment = {**os.environ, "RDSLIB_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "rdslib.cli", "run", "--profile", "paper", "--only", "tab4_splits"]
    command += ["--only", "tab5_pool_sources", "--out", str(tmp_path / "out")]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    run = psutil.Popen(command, env=environment, start_new_session=True, **streams)
    while not (started := run.children(recursive=True)):
        assert run.poll() is None
        time.sleep(0.02)
    time.sleep(after)
    started += run.children(recursive=True)
    os.killpg(run.pid, signal.SIGINT)
    # Ends once nobody holds its output: a kernel that is left would.
    printed, _ = run.communicate(timeout=120)
    assert printed.splitlines() == ["rds: stopped; run the same command again to go on"]
    assert run.returncode == 130
    assert not psutil.wait_procs(started, timeout=60)[1]


@pytest.mark.slow
def test_a_kernel_that_dies_is_one_line(tmp_path):
    command = [sys.executable, "-m", "rdslib.cli", "run", "--profile", "paper", "--only", "tab4_splits"]
    command += ["--out", str(tmp_path / "out")]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    run = psutil.Popen(command, **streams)
    while not (started := run.children(recursive=True)):
        assert run.poll() is None
        time.sleep(0.02)
    started[0].kill()
    printed, _ = run.communicate(timeout=120)
    assert run.returncode == 2
    (line,) = printed.splitlines()
    assert line.startswith("rds: tab4_splits.ipynb: Kernel died")
