"""Rehearsals of the paper's setting: every step of a profile, on made-up files, from the command line."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pandas as pd
import pytest

from rdslib import figures
from rdslib.commands.run import run_command
from rdslib.errors import UserError
from rdslib.params import ROOT
from rdslib.pipeline.pipeline import in_turn
from rdslib.pipeline.rehearsal import FIGURES, PROFILE, rehearse, small
from rdslib.pipeline.runs import all_runs, table_runs
from rdslib.pipeline.study import Study
from rdslib.profiles import load_profile
from tests.command import rds

PROFILES = ["tulu2", "tulu3"]
# Where nothing answers.
NOWHERE = {
    "HF_ENDPOINT": "http://127.0.0.1:9",
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "RDSLIB_MIRROR": "",
}


def test_counts_become_fourth_roots():
    assert [small(count) for count in (0, 1, 2, 16, 17, 81, 10_000, 200_000)] == [0, 1, 2, 2, 3, 3, 10, 22]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_rehearsal_has_all_that_the_profile_has(profile, tmp_path):
    given = load_profile(profile)
    path = rehearse(given, ROOT / "params", tmp_path)
    made = load_profile(str(path))
    assert made.name != given.name
    before, now = given.experiment, made.experiment
    study, rehearsed = Study(given, tmp_path / "other"), Study.load(str(path), home=tmp_path / "home")
    assert len(all_runs(rehearsed)) == len(all_runs(study))
    assert [run.method for run in all_runs(rehearsed)] == [run.method for run in all_runs(study)]
    assert rehearsed.task_names == study.task_names
    assert rehearsed.query_sets == study.query_sets
    for old, new in zip(before.tasks, now.tasks, strict=True):
        assert (new.reader, new.protocol, new.downloads) == (old.reader, old.protocol, old.downloads)
        assert (new.queries, new.test) == (small(old.queries), small(old.test))
    (source,) = now.pool.sources
    assert list(source.published) == list(before.pool.sources[0].published)
    assert 100 < source.samples < 500
    assert now.train.learning_rate == before.train.learning_rate
    assert now.train.epochs == before.train.epochs
    # As many different budgets, and the whole pool is still the whole.
    assert len(set(now.grid.multi_task_budgets)) == len(set(before.grid.multi_task_budgets))
    whole = [k == before.pool.sources[0].samples for k in before.grid.multi_task_budgets]
    assert [k == source.samples for k in now.grid.multi_task_budgets] == whole
    # Nothing that is not here.
    assert all(each.uri.startswith(f"file:{tmp_path}/") for each in now.downloads.values())
    assert now.model.path == str(tmp_path / "model")
    assert all(each.path == str(tmp_path / "sentences") for each in now.embedders.values())
    # The data is read by the very readers, and is as the profile says: nothing differs.
    rehearsed.compute(rehearsed.data_steps)
    counts = rehearsed.store.manifest(rehearsed.pool)["counts"]
    assert counts["samples"] == source.samples
    for task in now.tasks:
        found = rehearsed.store.manifest(rehearsed.tasks[task.name])["counts"]
        assert (found["queries"], found["test"]) == (task.queries, task.test)


def files_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_rehearsal_runs_every_step_and_leaves_nothing_elsewhere(tmp_path):
    """Of `tulu2`, which has all that `tulu3` has and more."""
    profile = "tulu2"
    out, home, work, scratch = (tmp_path / name for name in ("out", "home", "work", "tmp"))
    for folder in (work, scratch):
        folder.mkdir()
    environment = {**NOWHERE, "TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)}
    done = rds("run", "--profile", profile, "--rehearse", "--out", out, home=home, cwd=work, env=environment)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^rehearsed {profile} in \d+ s; it is in .*out$", done.stdout, re.MULTILINE)
    assert not home.exists()
    assert list(work.iterdir()) == []
    study = Study.load(str(out / PROFILE), home=out)
    wanted = [step for name in figures.FIGURES for step in figures.steps(study, name)]
    assert study.missing(wanted) == []
    assert {step.name for step in in_turn(wanted)} >= {"pool", "features", "select", "train", "evaluate"}
    drawn = {path.stem for path in (out / FIGURES).glob("*.csv")} - {"records"}
    assert drawn == {name for name in figures.FIGURES if not figures.why_absent(study, name)}
    table = pd.read_csv(out / FIGURES / "tab2_multi_task.csv")
    measured = set(table.loc[table["origin"] == "measured", "method"])
    assert measured == set(table_runs(study, "all"))


def test_a_rehearsal_goes_into_an_empty_folder_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))
    (tmp_path / "figure.png").write_bytes(b"real")
    with pytest.raises(UserError, match="holds something else than a rehearsal; give an empty folder"):
        run_command(profile="tulu2", out=tmp_path, rehearse=True)
    assert os.environ["RDSLIB_HOME"] == str(tmp_path / "home")
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        ("paper", "has no experiment, so that there is nothing to rehearse"),
        ("mini", "the reader mmlu_dev has no made-up files to rehearse with"),
    ],
)
def test_what_cannot_be_rehearsed_is_said(profile, reason, tmp_path):
    with pytest.raises(UserError, match=reason):
        rehearse(load_profile(profile), ROOT / "params", tmp_path / "home")
