"""`rds verify`: published figures against their artifacts, on the paper's numbers, which need none."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from rdslib import figures
from rdslib.commands.app import app
from rdslib.commands.verify import verify
from rdslib.errors import UserError
from rdslib.figures.publish import publish
from rdslib.pipeline.step import in_order
from rdslib.pipeline.study import Study

NAMES = ("fig1_pareto", "fig6_sources_by_task", "tab4_splits")


@pytest.fixture
def folder(tmp_path):
    """Three figures of the profile `paper`, as its notebooks leave them."""
    study = Study.load("paper", home=tmp_path / "home")
    for name in NAMES:
        table = figures.table(study, name)
        publish(study, name, figures.draw(name, table), table, out=tmp_path / "figures")
    return tmp_path / "figures"


def run(folder):
    done = CliRunner().invoke(app, ["verify", str(folder)])
    return done.exit_code, done.stdout.splitlines()


def test_untouched_figures_agree_and_a_changed_number_is_named(folder):
    assert (run(folder)[0], run(folder)[1][-1]) == (0, "3 of 3 agree")
    path = folder / "fig1_pareto.csv"
    text = path.read_text()
    assert "46.4" in text
    path.write_text(text.replace("46.4", "49.4", 1))
    code, lines = run(folder)
    assert (code, lines[-1]) == (1, "2 of 3 agree")
    (line,) = [line for line in lines if line.startswith("DIFFERS")]
    assert re.search(r"fig1_pareto: 1 of 18 rows differ; fig1_pareto\.csv:\d+: score is 49\.4", line)
    assert "the artifacts give 46.4" in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "tab4_splits.csv is missing"),
        (lambda path: path.write_text(path.read_text().rsplit("\n", 2)[0] + "\n"), "has 6 rows and"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n")), "the same values"),
        (lambda path: path.write_text(""), "cannot be read"),
    ],
)
def test_every_kind_of_damage_is_found(folder, change, message):
    change(folder / "tab4_splits.csv")
    verdicts = verify(folder)
    assert [each.agrees for each in verdicts] == [True, True, False]
    assert message in verdicts[-1].reason


def test_without_artifacts_there_is_no_verdict_and_nothing_is_computed(tmp_path):
    study = Study.load("tiny", home=tmp_path / "home")
    described = {"figure": "tab5_pool_sources", "show": "both"}
    described["profile"] = study.profile.model_dump(mode="json")
    steps = in_order(figures.steps(study, "tab5_pool_sources"))
    described["artifacts"] = [{"step": each.name, "hash": each.hash, "what": ""} for each in steps]
    path = tmp_path / "tab5_pool_sources.json"
    path.write_text(json.dumps(described))
    (verdict,) = verify(tmp_path, tmp_path / "home")
    assert verdict.agrees is None
    assert verdict.reason == f"{len(steps)} of its {len(steps)} artifacts are not here"
    assert not (tmp_path / "home").exists()
    described["artifacts"][0]["hash"] = "0" * 16
    path.write_text(json.dumps(described))
    (verdict,) = verify(tmp_path, tmp_path / "home")
    assert (verdict.agrees, verdict.reason) == (False, "2 of its artifacts are made in another way now")


@pytest.mark.parametrize(
    "text", ["{", '{"figure": "fig9"}', '{"figure": "tab4_splits", "show": "all"}', "[]"]
)
def test_a_json_that_describes_no_figure_is_one_line(folder, text):
    (folder / "tab4_splits.json").write_text(text)
    with pytest.raises(UserError, match=r"tab4_splits.json: does not describe a figure") as error:
        verify(folder)
    assert "\n" not in str(error.value)


def test_a_folder_without_figures_is_one_line(tmp_path):
    with pytest.raises(UserError, match="holds no figure"):
        verify(tmp_path)
