"""Profiles: those that ship are valid, and mistakes are told in one line that names the key."""

from __future__ import annotations

import math
import re
from datetime import date

import pytest
import yaml

from rdslib.errors import UserError
from rdslib.params import ROOT
from rdslib.profiles import load_profile
from tests.lock import LOCK, TORCH_LOCK, direct_requirements, locked, name_of


@pytest.mark.parametrize("name", ["lab", "mini", "paper", "tasks", "tiny"])
def test_every_profile_loads(name):
    assert load_profile(name).name == name


def changed(tmp_path, change):
    raw = yaml.safe_load((ROOT / "params" / "tiny.yaml").read_text())
    change(raw)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda raw: raw.update(naem="x"), r"naem: is not a known key; did you mean name\?"),
        (lambda raw: raw.pop("title"), "title: is missing"),
        (lambda raw: raw.update(titel=raw.pop("title")), r"titel: is .* mean title\? .*\(and 1 more\)"),
        (lambda raw: raw["experiment"].update(seed=date(2026, 1, 1)), "seed: got '2026-01-01'"),
        (lambda raw: raw["experiment"]["train"].update(learning_rate=math.nan), "learning_rate: got"),
        (lambda raw: raw["experiment"].update(seed="a"), "experiment.seed: got 'a'"),
        (lambda raw: raw["experiment"]["encode"].update(token_budget=-1), "encode.token_budget: got -1"),
        (lambda raw: raw["experiment"]["encode"].update(token_budgt=1), "did you mean token_budget"),
        (
            lambda raw: raw["experiment"]["encode"].update(template="model"),
            "encode: has template: model, but a",
        ),
        (lambda raw: raw["experiment"]["pool"]["sources"][0].update(samples=-1), "sources.0.samples: got -1"),
        (lambda raw: raw["experiment"]["pool"]["sources"][0].update(download="x"), "download 'x'"),
        (lambda raw: raw["experiment"]["grid"].update(ablation_pool="huge"), "pool 'huge'"),
        (lambda raw: raw["experiment"]["train"].update(method="magic"), "'full' or 'lora'"),
        (lambda raw: raw["experiment"]["model"].update(random=None), "exactly one of"),
    ],
)
def test_a_mistake_names_its_key(tmp_path, change, expected):
    path = changed(tmp_path, change)
    with pytest.raises(UserError, match=expected) as error:
        load_profile(str(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_profile_and_broken_files(tmp_path):
    expected = (
        r"unknown profile 'mni'; did you mean mini\? Profiles: lab, mini, paper, tasks, tiny, tulu2, tulu3"
    )
    with pytest.raises(UserError, match=expected):
        load_profile("mni")
    with pytest.raises(UserError, match="cannot be read"):
        load_profile(str(tmp_path / "none.yaml"))
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    with pytest.raises(UserError, match="not valid YAML") as error:
        load_profile(str(broken))
    assert "\n" not in str(error.value)
    for text in ("name: a\ntitle: b\nname: c\n", "a: &a [*a]", "2026-01-01: x", "[" * 5000):
        broken.write_text(text)
        with pytest.raises(UserError, match="not valid YAML"):
            load_profile(str(broken))
    broken.write_text("just text")
    with pytest.raises(UserError, match="the file: got 'just text'"):
        load_profile(str(broken))


def test_lock_environment_and_pyproject_agree():
    lock = re.sub(r"^#.*\n", "", LOCK.read_text(), flags=re.MULTILINE).replace("\\\n", "").splitlines()
    hashed = re.compile(r"[\w.-]+==[\w.]+( ; [^\\]+?)?( +--hash=sha256:[0-9a-f]{64})+")
    assert all(hashed.fullmatch(line.strip()) for line in lock), "exact versions, with hashes"
    assert re.fullmatch(r"#.*\ntorch==[\w.]+\n", TORCH_LOCK.read_text())
    versions = locked()
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pins = [line for line in environment[-1]["pip"] if line != "-e ."]
    assert {name_of(pin) for pin in pins} == {name_of(each) for each in direct_requirements()}
    assert all(versions[name_of(pin)] == pin.split("==")[1] for pin in pins)
    for requirement in direct_requirements():
        wanted = re.search(r"[=>]=([\d.]+)", requirement).group(1)
        have = versions[name_of(requirement)]
        assert [int(x) for x in have.split(".")[:2]] >= [int(x) for x in wanted.split(".")[:2]], requirement


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("model", "{0}/profiles/model"), ("../here/other", "{0}/here/other"), ("other", "{0}/here/other"),
        ("{0}/absolute", "{0}/absolute"), ("~/mine", "~/mine"), ("owner/name", "owner/name"),
    ],
)  # fmt: skip
def test_a_path_means_the_same_from_any_folder(given, expected, tmp_path, monkeypatch):
    """That of a model, an embedder or a file; of the profile's folder, else of the working folder."""
    for name in ("profiles/model", "here/other"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    given, expected = (each.format(tmp_path) for each in (given, expected))

    def change(raw):
        raw["experiment"]["model"] = {"title": "mine", "path": given}
        raw["experiment"]["embedders"] = {"mine": {"path": given, "max_length": 8, "batch_size": 1}}
        raw["experiment"]["downloads"] = {"a": {"uri": f"file:{given}", "sha256": "0" * 64}}

    e = load_profile(str(changed(tmp_path / "profiles", change))).experiment
    assert (e.model.path, e.embedders["mine"].path, e.downloads["a"].uri) == (
        expected,
        expected,
        f"file:{expected}",
    )
