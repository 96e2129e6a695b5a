"""What `rds select` writes: never over what it reads, and never something that says what is not so."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from rdslib.commands import outputs
from rdslib.commands.compare import compare, compare_command
from rdslib.commands.explain import explain
from rdslib.commands.outputs import left_out_of, read_record, record_of
from rdslib.commands.request import SelectRequest
from rdslib.commands.select import reopen, write_selection
from rdslib.data.chat import user_assistant
from rdslib.errors import UserError
from rdslib.params import ROOT
from tests.command import refused

POOL = [{"id": f"p{i}", "messages": user_assistant(f"What is {i} + 1?", f"{i + 1}")} for i in range(12)]
QUERIES = [{"prompt": "What is 3 + 4?", "completion": "7"}]


def write(path, rows):
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of data, which is the working folder."""
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "pool.jsonl", POOL)
    write(tmp_path / "data" / "queries.jsonl", QUERIES)
    monkeypatch.chdir(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def ask(folder, tiny_model):
    def asked(out, **options):
        given = {"pool": "pool.jsonl", "model": str(tiny_model), "k": "3", "method": "random", **options}
        return write_selection(SelectRequest.of(given), Path(out))

    return asked


def rows_of(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


SPELLINGS = {
    "the same": lambda path: path.name,
    "in full": str,
    "with dots": lambda path: f"../{path.parent.name}/./{path.name}",
    "symbolic link": lambda path: os.symlink(path, "link.jsonl") or "link.jsonl",
    "hard link": lambda path: os.link(path, "link.jsonl") or "link.jsonl",
    "a link to its folder": lambda path: os.symlink(path.parent, "../other") or f"../other/{path.name}",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("part", ["pool", "queries", "exclude"])
def test_no_input_is_written_to_whatever_it_is_called(folder, ask, spelling, part):
    path = folder / ("queries.jsonl" if part != "pool" else "pool.jsonl")
    options = {} if part == "pool" else {part: [str(path)] if part == "exclude" else str(path)}
    out = SPELLINGS[spelling](path)
    before = {each: each.read_bytes() for each in folder.iterdir()}
    with pytest.raises(
        UserError, match=r"is an input \(.*\), which is never written to; choose another --out"
    ):
        ask(out, **options)
    assert {each: each.read_bytes() for each in folder.iterdir()} == before


def test_what_stands_beside_the_output_is_no_input_and_nothing_goes_into_the_model(folder, ask, tiny_model):
    for of in (left_out_of, record_of):
        pool = of(folder / "best.jsonl")
        pool.write_text(json.dumps(POOL))
        if of is left_out_of:
            write(pool, POOL)
        with pytest.raises(UserError, match="is an input"):
            ask("best.jsonl", pool=str(pool))
    with pytest.raises(UserError, match=r"is in an input \(.*model0\), which is never written to"):
        ask(tiny_model / "best.jsonl")
    assert not (tiny_model / "best.jsonl").exists()


def test_what_was_selected_from_a_folder_is_not_its_data(folder, ask, monkeypatch, capsys):
    """Neither what was selected from the whole of it nor from a part; what came from elsewhere is."""
    (folder / "queries.jsonl").rename(folder.parent / "queries.jsonl")
    first = ask("best.jsonl", pool=".", dedup="exact")
    part = ask("part.jsonl", k="2")
    for _ in range(2):
        again = ask("best.jsonl", pool=str(folder))
        assert again.counts == {**first.counts, "read": 12} == first.counts
        assert rows_of("best.jsonl") == rows_of(first.path)
    said = capsys.readouterr().err
    assert "not read: best.jsonl, best.jsonl.rds.json, part.jsonl, part.jsonl.rds.json" in said
    reopen(again.path)
    (folder.parent / "picks").mkdir()
    for each in (part.path, record_of(part.path)):
        each.rename(folder.parent / "picks" / each.name)
    assert ask(folder.parent / "all.jsonl", pool="../picks", k="2").counts["read"] == 2
    (folder / "pool.jsonl").unlink()
    with pytest.raises(UserError, match="holds nothing but what was selected from it"):
        ask("../more.jsonl", pool=".")


def test_artifacts_within_a_folder_are_not_its_data(folder, ask, monkeypatch):
    monkeypatch.setenv("RDSLIB_HOME", "cache")
    for name in ("one.jsonl", "two.jsonl"):
        assert ask(name, pool=".", exclude=[]).counts["read"] == 13
    assert list((folder / "cache").rglob("*.parquet"))


def test_what_was_left_out_before_does_not_stay_beside_a_selection(folder, ask):
    repeated = write(folder / "repeated.jsonl", [*POOL, {**POOL[0], "id": "again"}])
    left_out = left_out_of(folder / "best.jsonl")
    assert ask("best.jsonl", pool=str(repeated), dedup="exact").left_out.resolve() == left_out
    assert len(rows_of(left_out)) == 1
    assert ask("best.jsonl").left_out is None
    assert not left_out.exists()


def test_a_record_is_of_its_output_alone(folder, ask, monkeypatch):
    out = folder / "best.jsonl"
    ask(out, pool=str(write(folder / "twice.jsonl", [*POOL, {**POOL[3], "id": "x"}])), dedup="exact")
    record = json.loads(record_of(out).read_text())
    for path, name in ((out, "output_sha256"), (left_out_of(out), "left_out_sha256")):
        assert record[name] == outputs.sha256_of(path)
    reopen(out)
    whole = out.read_bytes()
    for changed in (whole[:-1] + b" ", whole + whole, b"", None):
        out.unlink() if changed is None else out.write_bytes(changed)
        for look in (reopen, read_record, lambda path: explain(path, "#0")):
            with pytest.raises(
                UserError, match=r"best.jsonl: is not the file that .* was written with; select"
            ):
                look(out)
    # A run that ends between the record and the rows.
    out.write_bytes(whole)
    replace = os.replace

    def killed(source, target):
        if Path(target) == out:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(outputs.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        ask(out, k="5")
    assert out.read_bytes() == whole
    with pytest.raises(UserError, match="is not the file"):
        reopen(out)
    monkeypatch.undo()


@pytest.mark.parametrize("name", ["best.jsonl", "best.jsonl.gz", "best.parquet"])
def test_no_output_has_what_json_has_not(folder, ask, name):
    """Python reads and writes NaN, which is no JSON."""
    lines = [json.dumps({**row, "x": [float("nan")], "y": {"z": float("-inf")}, "w": 0.5}) for row in POOL]
    lines.append(json.dumps({"bad": float("inf")}))
    (folder / "odd.jsonl").write_text("\n".join(lines))
    written = ask(name, pool="odd.jsonl", on_error="quarantine")

    def refuse(constant):
        raise AssertionError(constant)

    if name.endswith(".parquet"):
        rows = pd.read_parquet(name).to_dict("records")
        assert [f"{row['x']}{row['y']}" for row in rows] == ["[None]{'z': None}"] * 3
    else:
        read = pd.read_json(name, lines=True).to_dict("records")
        texts = [json.dumps(row["x"]) + json.dumps(row["y"]) for row in read]
        assert texts == ['[null]{"z": null}'] * 3
    for line in written.left_out.read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def test_of_a_folder_with_splits_train_is_read_which_is_said(folder, ask, monkeypatch, capsys):
    for name in ("train", "test"):
        (folder / "set" / name).mkdir(parents=True)
    write(folder / "set" / "train" / "0.jsonl", POOL[:5])
    write(folder / "set" / "test" / "0.jsonl", POOL[5:7])
    written = ask("best.jsonl", pool="set")
    assert written.counts["read"] == 5
    where = folder / "set"
    said = capsys.readouterr().err
    assert f"{where}: its other splits are not read: test (0.jsonl); to read one, give {where}:test" in said
    with pytest.raises(UserError, match=f"--exclude {where}: has several splits; say which, as in "):
        ask("other.jsonl", pool="set", exclude=["set"])
    assert ask("set/other.jsonl", pool="set:train", exclude=["set:test"]).counts["read"] == 5
    assert f"{where}:test" not in capsys.readouterr().err
    # From any folder, and without what was selected from a split.
    monkeypatch.chdir(folder.parent)
    assert reopen(folder / "set" / "other.jsonl")[1].k == 3
    assert ask(folder / "best.jsonl", pool=str(where)).counts["read"] == 5
    for path in (folder / "set").glob("*.*"):
        path.unlink()
    assert [note for note in compare(where, folder / "best.jsonl").notes if "its other splits" in note]


@pytest.fixture
def used(folder, tiny_model):
    """A folder with one input of each command, and what asks the command to write to it, by a link."""
    shutil.copy(ROOT / "params" / "tiny.yaml", "mine.yaml")
    shutil.copytree(tiny_model, "model")
    drawn = folder / "figures" / "notebooks"
    drawn.mkdir(parents=True)
    for path in (drawn / "fig1_pareto.ipynb", drawn.parent / "fig1_pareto.csv"):
        path.write_text("{}")
    for path, name in {
        "pool.jsonl": "pool.png",
        "model/config.json": "scores.csv",
        str(drawn / "fig1_pareto.ipynb"): "page.html",
        str(ROOT / "notebooks"): "notebooks",
        "mine.yaml": "mine.jsonl",
    }.items():
        os.symlink(path, name)
    os.link("mine.yaml", "mine.csv")
    return folder


GIVEN = "--pool queries.jsonl --model model --method random -k 1 --profile mine.yaml"
OVERWRITING = {
    "compare pool.jsonl queries.jsonl --figure pool.png": "--figure",
    "compare queries.jsonl pool.jsonl --figure pool.png": "--figure",
    "evaluate --profile mine.yaml --out mine.csv": "--out",
    "evaluate --profile mine.yaml --out mine.yaml": "--out",
    "evaluate --profile mine.yaml --model model --out scores.csv": "--out",
    "evaluate --profile mine.yaml --model model --out model/new.csv": "--out",
    "report --figures figures --out figures/fig1_pareto.csv": "--out",
    "report --figures figures --out page.html": "--out",
    "report --figures figures --profile mine.yaml --out mine.csv": "--out",
    "run --profile paper --only tab2_single_task --out .": "--out",
    f"select {GIVEN} --out mine.jsonl": "--out",
    f"select {GIVEN} --out model/new.jsonl": "--out",
}


@pytest.mark.parametrize("command", OVERWRITING)
def test_no_command_writes_to_what_it_reads(used, command, capsys):
    def contents():
        files = [*used.rglob("*"), *(ROOT / "notebooks").glob("*"), *(used / "model").glob("*")]
        return {path: path.read_bytes() for path in files if path.is_file()}

    before = contents()
    line = refused(capsys, *command.split(), home=used.parent / "home")
    assert re.search(
        rf"is (in )?an input \(.*\), which is never written to; choose another {OVERWRITING[command]}$", line
    )
    assert contents() == before


def test_what_is_not_read_may_be_beside_it(used, capsys):
    figure = used / "folder" / "new.png"
    figure.parent.mkdir()
    shutil.copy("pool.jsonl", figure.parent)
    compare_command(figure.parent, used / "queries.jsonl", figure)
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_a_record_that_is_nested_without_end_is_one_line(folder):
    record_of(folder / "best.jsonl").write_text("[" * 100_000)
    with pytest.raises(UserError, match="is not what `rds select` writes; select anew"):
        read_record(folder / "best.jsonl")
