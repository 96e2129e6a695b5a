"""Folders of the hub, pools of Tulu's form in them, and what a profile says that a pool has."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from rdslib.data.archives import Archives
from rdslib.data.pool import PoolFile, build_pool, differences
from rdslib.errors import UserError
from rdslib.figures.base import PUBLISHED
from rdslib.params import Download, Pool, Source
from rdslib.pipeline import steps
from rdslib.pipeline.runs import ablation_runs, all_runs, multi_task_runs, single_task_runs, table_runs
from rdslib.pipeline.store import Store
from rdslib.pipeline.study import Study
from rdslib.profiles import load_profile

COMMIT = "0123456789abcdef0123456789abcdef01234567"
POOLS = {"tulu2": "Tulu 2", "tulu3": "Tulu 3"}


def row(source, key, asked="Why?", answered="So.", name="dataset"):
    """A row as the pools have it: turns, where it is from, and an id that need not be unique."""
    turns = [("user", asked), ("assistant", answered)]
    messages = [{"role": role, "content": content} for role, content in turns]
    return {name: source, "id": key, "messages": messages}


ROWS = [
    row("flan_v2", "flan_v2_0", "What is 1?", "One."),
    row("flan_v2", "flan_v2_0", "What is 2?", "Two."),
    row("science.evidence", "x", "What is 3?", "Three." * 1000),
    row("science.qasper", "x", "What is 4?", ""),
    row("made_later", None, "What is 5?", "Five."),
    row("cot", "cot_7", " What is 1? ", "One."),
]
FOUND = {"flan_v2": 2, "science.evidence": 1, "science.qasper": 1, "made_later": 1}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.delenv("RDSLIB_MIRROR", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one data set, at a commit."""
    folder = tmp_path / "snapshots" / COMMIT

    def snapshot(name, repo_type, revision, allow_patterns, **_):
        assert (name, repo_type, revision) == ("o/pool", "dataset", "main")
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("what it is")
    return folder


def source(**changes):
    given = {"name": "p", "reader": "tulu_hub", "download": "pool", "samples": 5}
    return Source(**given | {"published": {"flan_v2*": 2, "science*": 2, "dolly": 1}} | changes)


DOWNLOADS = {"pool": Download(uri="hf-dataset:o/pool@main/")}


@pytest.mark.parametrize("form", ["jsonl", "parquet", "two files"])
def test_a_pool_of_the_hub_is_read_row_by_row_and_differences_are_printed(hub, tmp_path, form, capsys):
    (hub / "data").mkdir()
    if form == "parquet":
        rows = [{**each, "source": each["dataset"]} for each in ROWS]
        table = pa.Table.from_pylist([{k: v for k, v in each.items() if k != "dataset"} for each in rows])
        pq.write_table(table, hub / "data" / "train-00000-of-00001.parquet")
    else:
        parts = [ROWS[:4], ROWS[4:]] if form == "two files" else [ROWS]
        for number, part in enumerate(parts):
            (hub / f"part_{number}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in part))
    pool = Pool(sources=(source(),), max_chars=None, decontaminate=False)
    store = Store(tmp_path / "artifacts")
    step = steps.pool.step(label="the pool", settings=pool, pinned=DOWNLOADS, tests=[], seed=0)
    path = store.make(step)
    made = PoolFile(path / steps.POOL)
    # The second sample with the text of the first goes, and no row goes for its length or an id.
    assert made.ids.to_pylist() == [f"p/{number}" for number in range(5)]
    assert pd.Series(made.sources).value_counts().to_dict() == FOUND
    counts = store.manifest(step)["counts"]
    assert counts["samples"] == 5
    assert counts["sources"]["p"] == {
        "read": 6, "too_long": 0, "drawn": 6, "duplicate": 1, "contaminated": 0, "kept": 5,
    }  # fmt: skip
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "download 'pool': hf-dataset:o/pool@main/ is not pinned to a commit: it is at "
        f"{COMMIT} today; to have the same again, put that in its place",
        "pool source 'p': dolly: 0 samples, 1 are published (-1)",
        "pool source 'p': made_later: 1 samples, of a source that is not published",
        "pool source 'p': all: 5 samples, 5 are published (+0)",
    ]


def test_what_is_as_published_is_not_told():
    assert differences({"a": 2, "b.c": 1, "b.d": 3}, {"a": 2, "b.*": 4}) == []
    (line, total) = differences({"a": 1}, {"a": 2})
    assert line == "a: 1 samples, 2 are published (-1)"
    assert total.endswith("budgets over that must be lowered")


def test_a_row_that_is_no_conversation_is_named(hub, tmp_path):
    (hub / "rows.jsonl").write_text(json.dumps(ROWS[0]) + "\n" + json.dumps({"dataset": "x"}) + "\n")
    pool = Pool(sources=(source(),), max_chars=None)
    with pytest.raises(UserError, match=r"rows\.jsonl:2: .*"):
        list(build_pool(pool, Archives(DOWNLOADS, tmp_path), 0, [], {}))


def test_a_commit_is_not_told_and_members_are_those_that_match(hub, tmp_path, monkeypatch):
    (hub / "deep").mkdir()
    for name in ("deep/train-0.parquet", "deep/test-0.parquet", "train-1.parquet"):
        (hub / name).write_text(name)
    asked = []

    def snapshot(name, revision, allow_patterns, **_):
        asked.append((revision, allow_patterns))
        return str(hub)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    archives = Archives({"x": Download(uri=f"hf-dataset:o/pool@{COMMIT}/deep/")}, tmp_path)
    assert archives.members("x", ["train-*"]) == {"train-0.parquet": b"deep/train-0.parquet"}
    assert asked == [(COMMIT, ["deep/train-*"])]
    assert archives.notes == []
    with pytest.raises(UserError, match="no member matches"):
        archives.members("x", ["none*"])


def test_a_mirror_comes_first(tmp_path, monkeypatch):
    there = tmp_path / "mirror" / "hf" / "o" / "pool" / "main" / "deep"
    there.mkdir(parents=True)
    (there / "a.txt").write_text("a")
    monkeypatch.setenv("RDSLIB_MIRROR", str(tmp_path / "mirror"))
    archives = Archives({"x": Download(uri="hf-dataset:o/pool@main/deep/")}, tmp_path / "cache")
    assert archives.members("x", ["*"]) == {"a.txt": b"a"}


def test_what_the_hub_does_not_give_is_one_line(tmp_path, monkeypatch):
    archives = Archives(DOWNLOADS, tmp_path)
    with pytest.raises(UserError, match=r"'pool': .* could not be fetched: .*out of reach") as error:
        archives.folder("pool")
    assert "\n" not in str(error.value)

    class Gated(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Gated)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    cure = "accept its terms on https://huggingface.co/datasets/o/pool, and set HF_TOKEN"
    with pytest.raises(UserError, match=cure):
        archives.folder("pool")
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("uri", ["hf-dataset:o/pool/", "hf-dataset:o/pool@main/../x/"])
def test_a_folder_of_another_form_is_refused(tmp_path, uri):
    with pytest.raises(UserError, match=r"is not of the form hf-dataset:REPO@REVISION/\[FOLDER/\]"):
        Archives({"x": Download(uri=uri)}, tmp_path).folder("x")


@pytest.mark.parametrize("uri", ["github:o/r@1/x/", "file:x/", "hf-dataset:o/r@1/x.txt"])
def test_only_a_folder_of_the_hub_needs_no_checksums(uri):
    with pytest.raises(ValidationError, match="needs exactly one of sha256"):
        Download(uri=uri)


@pytest.mark.parametrize("profile", POOLS)
def test_the_profiles_say_what_the_papers_tables_say(profile):
    paper = pd.read_csv(PUBLISHED / "tab5.csv")
    paper = paper[paper["pool"] == POOLS[profile]]
    (given,) = load_profile(profile).experiment.pool.sources
    assert list(given.published.values()) == paper["count"].tolist()
    assert given.samples == paper["count"].sum()
    splits = pd.read_csv(PUBLISHED / "tab4.csv").set_index("task")
    tasks = {task.name: task for task in load_profile(profile).experiment.tasks if task.test}
    assert list(tasks) == splits.index.tolist()
    for name, task in tasks.items():
        assert (task.queries, task.test) == tuple(splits.loc[name, ["query", "test"]])


def test_published_counts_add_up():
    with pytest.raises(ValidationError, match="the published counts add up to 5, and samples is 6"):
        source(samples=6)


def test_every_number_of_the_papers_scores_has_its_run():
    paper = {name: pd.read_csv(PUBLISHED / f"{name}.csv") for name in ("fig1", "fig4", "tab2", "tab6")}
    study = Study.load("tulu2")
    single = {(run.method, study.pipeline.pool_size(run.pool), run.budget) for run in single_task_runs(study)}
    rows = paper["fig1"][paper["fig1"]["score"].notna()]
    assert single == set(rows[["method", "pool_size", "budget"]].itertuples(index=False, name=None))
    several = {(run.method, run.budget, study.pipeline.pool_size(run.pool)) for run in multi_task_runs(study)}
    rows = paper["fig4"][["method", "budget", "pool_size"]].itertuples(index=False, name=None)
    assert set(rows) <= several
    table = table_runs(study, "all")
    assert set(table) == set(paper["tab2"]["method"]) - {"tulu2_mixture"}
    assert {run.method for run in ablation_runs(study)} == set(paper["tab6"]["method"])
    (run,) = table["rds_arena_hard"]
    assert (run.method, run.targets, run.budget) == ("rds", ("Arena Hard",), 326_000)
    assert study.tasks_of(run) == study.task_names
    assert set(table["rds"][0].targets) == set(study.task_names)

    study = Study.load("tulu3")
    rows = pd.read_csv(PUBLISHED / "tab3.csv")
    assert set(table_runs(study, "all")) == set(rows["method"]) - {"tulu3_sft"}
    assert {run for runs in table_runs(study, "all").values() for run in runs} == set(all_runs(study)) - {
        study.untuned()
    }
