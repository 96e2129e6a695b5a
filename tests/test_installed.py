"""The wheel, installed apart from the checkout: every command works from an empty folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The programs of an environment with rdslib from its wheel, and all other packages from this one."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    for name in ("rdslib", "params", "notebooks"):
        shutil.copytree(CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-I", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    flags = ["--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", *flags, "--no-build-isolation", "-w", folder, source], check=True)
    shutil.rmtree(source)
    venv.create(folder / "venv")
    python = folder / "venv" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "--python", python, "install", *flags, wheel], check=True)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # A folder that is named here is on the path, but the .pth file of the checkout in it is not followed.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "venv" / "bin"


@pytest.fixture
def rds(installed, tmp_path, monkeypatch):
    """Run the installed command in an empty folder, and return what it prints."""
    # Templates and other data of Jupyter's are looked for beside the interpreter, and here.
    environment = {
        **os.environ,
        "JUPYTER_PATH": f"{sys.prefix}/share/jupyter",
        "RDSLIB_HOME": str(tmp_path / "home"),
    }
    environment.pop("PYTHONPATH", None)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")

    def run(*arguments):
        command = [installed / "rds", *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def test_the_published_figures_are_drawn_beside_the_user(rds):
    names = ["fig1_pareto", "tab4_splits"]
    only = [word for name in names for word in ("--only", name)]
    assert str(Path("figures", "paper")) in rds("run", "--profile", "paper", *only)
    assert sorted(path.stem for path in Path("figures", "paper").glob("*.json")) == names
    rds("report", "--profile", "paper")
    assert Path("figures", "paper", "report.html").is_file()


def test_a_study_is_run_planned_and_verified(rds):
    rds("plan", "--profile", "paper")
    rds("run", "--profile", "tiny", "--only", "fig4_scaling")
    assert re.search(r"fig4_scaling +0 of \d+ +drawn", rds("status", "--profile", "tiny"))
    assert "agree" in rds("verify", Path("figures", "tiny"))
    assert sorted(path.name for path in Path().iterdir()) == ["figures"]


def test_samples_are_selected(rds, tiny_model):
    rows = [json.dumps({"prompt": f"What is {n}?", "response": f"It is {n}."}) + "\n" for n in range(12)]
    Path("pool.jsonl").write_text("".join(rows))
    Path("queries.jsonl").write_text(rows[3])
    rds(
        "select",
        "--pool",
        "pool.jsonl",
        "--queries",
        "queries.jsonl",
        "-k",
        2,
        "--model",
        tiny_model,
        "--out",
        "best.jsonl",
    )
    assert len(Path("best.jsonl").read_text().splitlines()) == 2
