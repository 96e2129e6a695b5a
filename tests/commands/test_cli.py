"""The command line by itself: published figures, bad arguments, help; and the notebooks' form."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from typer.core import TyperOption
from typer.testing import CliRunner

from rdslib.commands.app import COMMANDS, app, load
from rdslib.data.chat import user_assistant
from rdslib.errors import UserError
from rdslib.figures import FIGURES, get_figure
from rdslib.methods import SCORERS, get_scorer
from rdslib.models.loading import make_random
from rdslib.params import ROOT, RandomModel
from rdslib.profiles import load_profile
from rdslib.selection import get_selector
from tests.command import COMMAND, rds, refused


@pytest.mark.slow
def test_every_notebook_runs_on_published_numbers_alone(tmp_path):
    done = rds("run", "--profile", "paper", "--out", tmp_path, home=tmp_path / "h")
    assert done.returncode == 0, done.stderr
    line = "not drawn: Figure 5, Figure 6, Figure 7 (published as a picture, without numbers)"
    assert line in " ".join(done.stderr.split())
    for name, figure in FIGURES.items():
        assert (tmp_path / f"{name}.csv").is_file() == (figure.published is not None)
        if figure.published is not None:
            assert set(pd.read_csv(tmp_path / f"{name}.csv")["origin"]) <= {"published", "others"}
            committed = ROOT / "figures" / "paper" / f"{name}.json"
            assert (tmp_path / f"{name}.json").read_bytes() == committed.read_bytes()
    assert not (tmp_path / "h").exists(), "no model and no artifact is needed"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[12, 24]", "[12, 5000]", "asks for random_balanced 5000 of all, but random_balanced has at most"),
        (
            "single_task_budget: 12",
            "single_task_budget: 42",
            "mid_ppl 42 of small, but mid_ppl has at most 41 of",
        ),
        ("small: 60", "small: 121", "pool 'small' of 121 samples from 120"),
        (
            "source_budgets: [",
            "source_budgets: [121, ",
            "asks for 121 samples, and no method has more than 120",
        ),
    ],
)
def test_a_budget_beyond_what_there_is_to_choose_from_is_one_line(old, new, expected, tmp_path, capsys):
    text = (ROOT / "params" / "tiny.yaml").read_text()
    assert old in text
    (tmp_path / "mine.yaml").write_text(text.replace(old, new))
    asked = "run", "--profile", tmp_path / "mine.yaml", "--out", tmp_path / "out"
    line = refused(capsys, *asked, home=tmp_path)
    assert expected in line
    assert not (tmp_path / "artifacts").exists(), "nothing is computed before"


@pytest.mark.parametrize("command", ["run", "compute"])
def test_a_copy_that_kept_the_name_of_ours_writes_nothing_over_its_figures(command, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(
        (ROOT / "params" / "tiny.yaml").read_text().replace("seed: 7", "seed: 8")
    )
    line = refused(capsys, command, "--profile", tmp_path / "mine.yaml", home=tmp_path)
    assert "mine.yaml: has the name 'tiny', as a profile of ours has" in line
    assert "give it another name, or give --out" in line


def test_a_copy_elsewhere_finds_the_listings_of_ours(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        (ROOT / "params" / "lab.yaml").read_text().replace("name: lab", "name: mine")
    )
    mine, ours = load_profile(str(tmp_path / "mine.yaml")), load_profile("lab")
    assert mine.experiment == ours.experiment


def test_notebooks_are_committed_without_outputs_and_hold_no_logic():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert all(not cell.outputs and cell.execution_count is None for cell in code), path
        assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1, path
        assert all("def " not in cell.source and "for " not in cell.source for cell in code), path


BAD = [
    (["run", "--profile", "mni"], "unknown profile 'mni'; did you mean mini?"),
    (["run", "--profile", "\x1b[2Jnone.yaml"], "none.yaml: cannot be read"),
    (["run", "--profile", "tiny", "--only", "fig9"], "unknown figure 'fig9'"),
    (["run", "--profile", "tiny", "--show", "all"], "use measured, published or both"),
    (["run", "--profile", "paper", "--show", "measured"], "measures nothing"),
]


@pytest.mark.parametrize(
    ("find", "given", "meant"),
    [
        (get_scorer, "rds_plus", "rds"),
        (get_scorer, "rds+", "rds"),
        (get_scorer, "random_ballanced", "random_balanced"),
        (get_selector, "round-robin", "round_robin"),
        (get_figure, "fig6", "fig6_"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(find, given, meant):
    with pytest.raises(UserError, match=f"^unknown .*; did you mean {meant}"):
        find(given)
    with pytest.raises(UserError, match=r"^unknown \w+ 'qqq'; \w+: "):
        find("qqq")


def test_the_methods_that_the_help_names_are_there():
    (option,) = [each for each in load("select").params if each.name == "method"]
    named = option.help.removeprefix("How to choose: ").removesuffix(", ...").split(", ")
    assert {"random", "embed_minilm"} <= set(named) <= set(SCORERS)


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_arguments_are_one_line_and_exit_code_2(arguments, message, tmp_path, capsys):
    line = refused(capsys, *arguments, home=tmp_path / "home")
    assert message in line
    assert line.strip().isprintable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_no_network_and_no_cache_is_one_line(tmp_path):
    offline = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "RDSLIB_MIRROR": ""}
    done = rds("run", "--profile", "mini", "--only", "tab5_pool_sources", home=tmp_path, env=offline)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("rds: ")]
    assert "download '" in line
    assert "RDSLIB_HOME" in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_the_help_of_every_command_fits_80_columns(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(app, [*([name] if name else []), "--help"])
    assert shown.exit_code == 0, shown.output
    assert "Usage: " in shown.output
    for line in shown.output.splitlines():
        assert len(line) <= 80
        assert line.startswith("Usage: ") or not line.endswith(("...", "…"))


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_what_takes_a_second_is_not_loaded_to_list_the_commands(option):
    command = [sys.executable, "-X", "importtime", *COMMAND[1:], option]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in loaded
    assert not loaded & {"torch", "pandas", "transformers", "pyarrow", "numpy", "pydantic", "rich"}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_of_one_value_is_given_once(command, tmp_path, capsys):
    """Whichever of its names is used, and if it is a flag."""
    options = [each for each in load(command).params if isinstance(each, TyperOption) and not each.multiple]
    for option in options:
        once = [option.opts[0]] if option.is_flag else [f"{option.opts[0]}=1"]
        again = [option.opts[-1]] if option.is_flag else [option.opts[-1], "2"]
        line = refused(capsys, command, *once, *again, home=tmp_path)
        cure = "put the files into one folder" if option.name in ("pool", "queries") else "give it once"
        assert line.startswith(f"rds: {max(option.opts, key=len)}: is given 2 times; {cure}")
    assert options


def test_what_may_be_repeated_may_be(tmp_path, capsys):
    tests = ("--exclude", "none.jsonl", "--exclude", "other.jsonl")
    line = refused(
        capsys, "select", "--pool", "x.jsonl", "-k", "1", "--out", "o.jsonl", *tests, home=tmp_path
    )
    assert "needs --queries" in line


def test_a_command_that_is_not_there_is_named():
    shown = CliRunner().invoke(app, ["selct"])
    assert shown.exit_code == 2
    assert "Did you mean 'select'?" in shown.output


def test_the_package_can_be_found():
    assert Path(shutil.which("rds", path=str(Path(sys.executable).parent)) or "").name == "rds"


@pytest.mark.slow
@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
def test_what_is_stopped_says_so_and_goes_on_where_it_was(interrupt, tmp_path, tiny_model):
    rows = [{"messages": user_assistant(f"Say {i}", "yes " * 9)} for i in range(2500)]
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = ["--pool", tmp_path / "pool.jsonl", "--method", "top_ppl", "--model", tiny_model, "-k", "2"]
    arguments = ["select", *given, "--out", tmp_path / "out.jsonl"]
    environment = {**os.environ, "RDSLIB_HOME": str(tmp_path / "home")}
    run = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stderr=subprocess.PIPE, text=True, env=environment
    )
    features = tmp_path / "home" / "artifacts" / "features"
    while not (journals := list(features.glob("*.part/shards.jsonl"))):
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(interrupt)
    _, error = run.communicate()
    assert run.returncode == 128 + interrupt
    assert error.splitlines()[-1] == "rds: stopped; run the same command again to go on"
    assert "Traceback" not in error
    (part,) = [journal.parent for journal in journals]
    kept = {path.name: path.stat().st_mtime_ns for path in part.glob("*0000*")}
    done = rds(*arguments, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert kept
    assert kept.items() <= {p.name: p.stat().st_mtime_ns for p in part.with_suffix("").iterdir()}.items()


@pytest.mark.slow
def test_training_adapters_prints_no_warning_of_libraries(tmp_path):
    rows = [{"messages": user_assistant(f"Say {i}", "yes")} for i in range(12)]
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, rows)))
    make_random(RandomModel(layers=2, hidden_size=32, heads=2), 0, tmp_path / "model")
    given = ("--pool", tmp_path / "pool.jsonl", "--queries", tmp_path / "pool.jsonl", "--method", "less")
    given = (*given, "--model", tmp_path / "model", "--profile", "tiny", "-k", "2")
    for command in (("plan", *given), ("select", *given, "--out", tmp_path / "out.jsonl")):
        done = rds(*command, home=tmp_path / "home")
        assert done.returncode == 0, done.stderr
        assert "arning" not in done.stderr + done.stdout
