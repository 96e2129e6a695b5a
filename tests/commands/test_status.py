"""`rds status` and `rds clean` of `tiny`: what is counted, what is removed, and what stays."""

from __future__ import annotations

import re

import filelock
import pytest
from typer.testing import CliRunner

from rdslib import figures
from rdslib.commands.app import app
from rdslib.commands.status import seconds_left
from rdslib.params import ROOT
from rdslib.pipeline.runs import multi_task_runs
from rdslib.pipeline.step import in_order
from rdslib.pipeline.study import Study


@pytest.fixture
def study(tmp_path, monkeypatch):
    """`tiny`, of which the pool, the tasks and the model are there."""
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    study = Study.load("tiny")
    study.compute([*study.data_steps, study.pipeline.model])
    return study


def run(*arguments, **options):
    return CliRunner().invoke(app, list(arguments), **options)


def rows(text):
    return {line.split()[0]: line.split()[1:4] for line in text.splitlines() if re.search(r"\d of \d", line)}


def test_a_line_a_figure_and_what_is_to_be_run(study):
    done = run("status", "--profile", "tiny")
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80
    steps = {name: in_order(figures.steps(study, name)) for name in figures.FIGURES}
    missing = {step.hash for each in steps.values() for step in study.missing(each)}
    every = in_order(step for each in steps.values() for step in each)
    found = rows(done.stdout)
    assert found.pop("together") == [str(len(missing)), "of", str(len(every))]
    assert found == {
        name: [str(len(study.missing(each))), "of", str(len(each))] for name, each in steps.items()
    }
    assert found["tab4_splits"] == ["0", "of", "3"]
    assert "Time: not known before one of each kind is there; see rds plan" in done.stdout
    assert every[0].hash not in done.stdout
    listed = run("status", "--profile", "tiny", "--all").stdout
    assert all(f"{'missing' if step.hash in missing else 'exists '}  {step.hash}" in listed for step in every)
    assert listed.endswith(done.stdout)


def test_the_time_left_is_by_weight_and_kind(study, monkeypatch):
    runs = multi_task_runs(study)
    here, todo = [study.selection(run) for run in runs[:2]], [study.selection(run) for run in runs[2:]]
    monkeypatch.setattr(study.store, "manifest", lambda _: {"seconds": 3.0})
    monkeypatch.setattr("rdslib.commands.status.processes", lambda *_: 2)
    rate = 6.0 / sum(step.weight for step in here)
    assert seconds_left(study, here, todo) == pytest.approx(rate * sum(step.weight for step in todo) / 2)
    assert seconds_left(study, here, [study.pool]) is None


def test_of_a_partial_study_all_that_is_to_be_run_counts_and_none_of_it_goes(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "params" / "tiny.yaml").read_text()
    text = text.replace("name: tiny", "name: parts\npartial: true", 1)
    (tmp_path / "parts.yaml").write_text(text)
    parts = Study.load("parts.yaml")
    every = in_order(step for name in figures.FIGURES for step in figures.steps(parts.whole(), name))
    shown = in_order(step for name in figures.FIGURES for step in figures.steps(parts, name))
    assert len(shown) < len(every)
    (one,) = (step for step in every if step.name == "model")
    assert one not in shown
    parts.store.make(one)
    (line,) = (
        each for each in run("status", "--profile", "parts.yaml").stdout.splitlines() if "together" in each
    )
    left = len(every) - sum(parts.store.has(step) for step in every)
    assert line.split() == ["together", str(left), "of", str(len(every))]
    (tmp_path / "params").mkdir()
    monkeypatch.setattr("rdslib.commands.status.ROOT", tmp_path)
    run("clean", "--profile", "parts.yaml", "--yes")
    assert parts.store.path(one).is_dir()


def test_what_no_profile_needs_goes_and_nothing_else(study, tmp_path, monkeypatch):
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "tiny.yaml").touch()
    monkeypatch.setattr("rdslib.commands.status.ROOT", tmp_path)
    kept = {path for path in study.store.folder.glob("*/*") if path.is_dir()}
    assert "nothing to remove" in run("clean", "--yes").stdout
    text = (ROOT / "params" / "tiny.yaml").read_text().replace("  seed: 7\n", "  seed: 8\n", 1)
    (tmp_path / "mine.yaml").write_text(text)
    mine = Study.load(str(tmp_path / "mine.yaml"))
    mine.compute([*mine.data_steps])
    part = study.store.path(study.pool).with_name("0123456789abcdef.part")
    part.mkdir()
    download = tmp_path / "home" / "downloads" / f"{'0' * 16}-old.tar.gz"
    download.parent.mkdir()
    download.write_bytes(b"x" * 1000)
    others = {mine.store.path(step) for step in mine.data_steps} - kept | {part, download}
    assert len(others) == 5

    assert run("clean", input="n\n").exit_code == 1
    assert all(path.exists() for path in kept | others)
    assert "downloads" in run("clean", "--profile", str(tmp_path / "mine.yaml"), input="n\n").stdout
    with filelock.FileLock(f"{download}.lock"):
        assert (
            "but for 1 that are in use"
            in run("clean", "--profile", str(tmp_path / "mine.yaml"), "--yes").stdout
        )
    assert not part.exists()
    assert all(path.exists() for path in kept | others - {part})
    assert run("clean", "--yes").exit_code == 0
    assert not any(path.exists() for path in others)
    assert all(path.exists() for path in kept)
