"""`rds verify`: published figures against their artifacts, on the paper's numbers, which need none."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest
from typer.testing import CliRunner

from rdslib import figures
from rdslib.commands.app import app
from rdslib.commands.verify import _near, verify
from rdslib.errors import UserError
from rdslib.figures.publish import publish
from rdslib.params import ROOT
from rdslib.pipeline.step import in_order
from rdslib.pipeline.study import Study

NAMES = ("fig1_pareto", "fig4_scaling", "tab4_splits")


@pytest.fixture
def folder(tmp_path):
    """Three figures of the profile `paper`, as its notebooks leave them."""
    study = Study.load("paper", home=tmp_path / "home")
    for name in NAMES:
        table = figures.table(study, name)
        publish(study, name, figures.draw(name, table), table, "both", tmp_path / "figures")
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
    # The lines fit the terminal.
    assert max(map(len, lines)) <= 100
    line = " ".join(lines).partition("DIFFERS")[2]
    assert re.search(r"fig1_pareto: 1 of 18 rows differ; fig1_pareto\.csv:\d+: score is 49\.4", line)
    assert "the artifacts give 46.4" in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "tab4_splits.csv is missing"),
        (lambda path: path.write_text(path.read_text().rsplit("\n", 2)[0] + "\n"), "has 6 rows and"),
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


def test_numbers_agree_within_the_tolerance_and_all_else_to_the_letter(folder):
    path = folder / "fig1_pareto.csv"
    text = path.read_text()
    path.write_text(text.replace("46.4", "46.4000001", 1))
    (verdict,) = [each for each in verify(folder) if each.name == "fig1_pareto"]
    assert verdict.agrees
    assert verdict.reason == "18 rows, 1 numbers within 1e-06 + 1e-05 of the value"
    for was, now in (
        ("46.4", "46.41"),
        ("46.4", ""),
        ("46.4", "nan"),
        ("5817792", "5817793"),
        ("rds,", "rdt,"),
    ):
        assert was in text
        path.write_text(text.replace(was, now, 1))
        assert [each.name for each in verify(folder) if not each.agrees] == ["fig1_pareto"], now


def test_columns_of_whole_numbers_and_of_hashes_are_no_measurements():
    assert _near(pd.Series(["1.0", "2", ""]), pd.Series(["1.0000001", "2.00002", ""])).tolist() == [
        True,
        True,
        False,
    ]
    assert not _near(pd.Series(["10000000"]), pd.Series(["10000001"])).any()
    assert not _near(pd.Series(["1e99999999999999"]), pd.Series(["1e99999999999998"])).any()
    assert not _near(pd.Series(["1.5", "a"]), pd.Series(["1.5", "b"])).any()


PLUGIN = "from pathlib import Path\nPath({!r}).touch()\n"


def test_code_that_a_json_names_is_not_run(tmp_path):
    ran, plugin = tmp_path / "ran", tmp_path / "plugin.py"
    plugin.write_text(PLUGIN.format(str(ran)))
    text = (ROOT / "params" / "tiny.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("  seed: 7\n", f"  seed: 7\n  plugins: [{plugin}]\n"))
    profile = Study.load("tiny", home=tmp_path / "home").profile
    experiment = profile.experiment.model_copy(update={"plugins": (str(plugin),)})
    profile = profile.model_copy(update={"experiment": experiment})
    described = {"figure": "tab5_pool_sources", "show": "both", "artifacts": []}
    described["profile"] = profile.model_dump(mode="json")
    figures_ = tmp_path / "figures"
    figures_.mkdir()
    (figures_ / "tab5_pool_sources.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match=r"code that a file names is not run; look at it, and give --profile"):
        verify(figures_, tmp_path / "home")
    assert not ran.exists()
    (verdict,) = verify(figures_, tmp_path / "home", str(tmp_path / "mine.yaml"))
    assert verdict.agrees is False
    assert ran.exists()


@pytest.mark.slow
def test_the_figures_that_are_here_agree_with_their_records_where_nothing_else_is(tmp_path):
    verdicts = verify(ROOT / "figures" / "mini", home=tmp_path / "home")
    assert len(verdicts) == len(figures.FIGURES) + 1
    for verdict in verdicts:
        assert verdict.agrees, verdict
        # Of others and of the paper alone: `mini` has no second pool, ablations or quantiles.
        if verdict.name not in ("quantiles", "replication", "tab3_second_pool", "tab6_rds_ablation"):
            assert re.search(r"; (\d+) of \1 artifacts from records", verdict.reason), verdict
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.parquet")) < 2**20
