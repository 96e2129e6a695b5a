"""Published figures against their artifacts, and the report: on the paper's numbers, which need none."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest

from rdslib import figures
from rdslib.figures.publish import publish
from rdslib.params import ROOT
from rdslib.pipeline.study import Study
from tests.command import rds

NAMES = ("fig1_pareto", "fig6_sources_by_task", "tab4_splits")


@pytest.fixture
def folder(tmp_path):
    """Three figures of the profile `paper`, as its notebooks leave them."""
    study = Study.load("paper", home=tmp_path / "home")
    for name in NAMES:
        table = figures.table(study, name)
        publish(study, name, figures.draw(name, table), table, out=tmp_path / "figures")
    return tmp_path / "figures"


def test_untouched_figures_agree(folder, tmp_path):
    done = rds("verify", folder, home=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "3 of 3 agree")


def test_a_changed_number_is_found_and_named(folder, tmp_path):
    path = folder / "fig1_pareto.csv"
    text = path.read_text()
    assert "46.4" in text
    path.write_text(text.replace("46.4", "49.4", 1))
    done = rds("verify", folder, home=tmp_path)
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("DIFFERS")]
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
def test_every_kind_of_damage_is_found(folder, tmp_path, change, message):
    change(folder / "tab4_splits.csv")
    done = rds("verify", folder, home=tmp_path)
    assert done.returncode == 1
    assert message in done.stdout
    assert "2 of 3 agree" in done.stdout


def test_without_artifacts_there_is_no_verdict_and_nothing_is_computed(tmp_path):
    study = Study.load("tiny", home=tmp_path / "home")
    described = {
        "figure": "tab5_pool_sources", "show": "both", "profile": study.profile.model_dump(mode="json"),
        "artifacts": [{"stage": "data", "hash": study.data.hash, "what": ""}],
    }  # fmt: skip
    (tmp_path / "tab5_pool_sources.json").write_text(json.dumps(described))
    done = rds("verify", tmp_path, home=tmp_path / "home")
    assert done.returncode == 1
    assert "unknown  tab5_pool_sources: 1 of its 1 artifacts are not here" in done.stdout
    assert not study.store.has(study.data)
    described["artifacts"][0]["hash"] = "0" * 16
    (tmp_path / "tab5_pool_sources.json").write_text(json.dumps(described))
    assert "made in another way now" in rds("verify", tmp_path, home=tmp_path / "home").stdout


@pytest.mark.parametrize(
    "text", ["{", '{"figure": "fig9"}', '{"figure": "tab4_splits", "show": "all"}', "[]"]
)
def test_a_json_that_describes_no_figure_is_one_line(folder, tmp_path, text):
    (folder / "tab4_splits.json").write_text(text)
    done = rds("verify", folder, home=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "tab4_splits.json" in done.stderr


def test_a_folder_without_figures_is_one_line(tmp_path):
    for command in (["verify", tmp_path], ["report", "--profile", "paper", "--figures", tmp_path]):
        done = rds(*command, home=tmp_path / "home")
        assert done.returncode == 2
        assert "holds no figure" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_the_report_holds_everything_and_asks_for_nothing(folder, tmp_path):
    out = tmp_path / "page.html"
    done = rds("report", "--profile", "paper", "--figures", folder, "--out", out, home=tmp_path)
    assert done.returncode == 0, done.stderr
    page = out.read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert not re.findall(r"(?:src|href)=[^\"]|url\(|@import|<script", page)
    assert len(re.findall(r'<img src="data:image/svg\+xml;base64,[^"]{1000,}" alt="[^"]{40,}"', page)) == 2
    assert page.count('download="') == len(NAMES)
    heads = [int(level) for level in re.findall(r"<h(\d)", page)]
    assert heads[0] == 1
    assert heads.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(heads))
    assert "Not drawn: fig2_pools" in page
    assert "14,042" in page
    assert re.search(r"What it shows</h3>\s*<p><strong>Published", page)
    parameters = json.loads((folder / "tab4_splits.json").read_text())["profile"]
    assert f"title: {parameters['title']}" in page


def test_the_report_cannot_be_written_is_one_line(folder, tmp_path):
    done = rds("report", "--profile", "paper", "--figures", folder, "--out", tmp_path / "no" / "page.html",
               home=tmp_path)  # fmt: skip
    assert done.returncode == 2
    assert "cannot be written" in done.stderr


def test_committed_figures_have_what_makes_them():
    for folder in (ROOT / "figures").iterdir():
        for name in figures.FIGURES:
            kinds = ["png", "svg", "csv", "json", *(["md", "tex"] if name.startswith("tab") else [])]
            assert [kind for kind in kinds if not (folder / f"{name}.{kind}").is_file()] == [], name
