"""Tasks: drawing, files, and mistakes in a profile."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdslib.data.archives import Archives
from rdslib.errors import UserError
from rdslib.evaluation import harness
from rdslib.params import ROOT, Task
from rdslib.profiles import load_profile
from rdslib.tasks.base import READERS, build_task, read_task, stratified, wanted_members, write_task

NOTHING = Archives({}, Path("unused"))


@pytest.mark.parametrize("reader", ["made_up_sums", "made_up_reversals"])
def test_a_task_is_built_written_and_read(reader, tmp_path):
    task = Task(name="T", reader=reader, queries=4, test=8, note="Mine.")
    data = build_task(task, NOTHING, 1)
    assert (len(data.queries), len(data.test)) == (4, 8)
    assert data.note == "Mine. A made-up task."
    write_task(data, tmp_path / "T")
    assert read_task(tmp_path / "T") == data
    assert build_task(task, NOTHING, 1) == data
    assert build_task(task, NOTHING, 2) != data
    for sample in data.test:
        assert sample.choices is None or sample.choices[sample.answer] == sample.messages[-1]["content"]


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "./T", "a/b", "..", "CON", "\x1b[31m", "x" * 300])
def test_no_name_of_a_task_becomes_a_path(name, tmp_path):
    task = Task(name=name, reader="made_up_sums", queries=1, test=1)
    write_task(build_task(task, NOTHING, 1), tmp_path / "inner")
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "inner",
        "queries.parquet",
        "task.json",
        "test.parquet",
    ]
    assert read_task(tmp_path / "inner").name == name


@pytest.mark.parametrize(
    ("reader", "expected"),
    [
        ("nope", "^task 'T': unknown reader 'nope'; use one of alpaca_full, arena_hard, bbh, "),
        ("bbh", "the reader bbh needs 2 downloads, not 0; list them in this order: lm-eval, bigbench$"),
    ],
)
def test_mistakes_in_a_task_are_named(reader, expected):
    with pytest.raises(UserError, match=expected):
        build_task(Task(name="T", reader=reader, queries=1, test=1), NOTHING, 1)


def test_profiles_name_readers_protocols_and_downloads_that_there_are():
    named = set()
    for path in (ROOT / "params").glob("*.yaml"):
        experiment = load_profile(path.stem).experiment
        for task in experiment.tasks if experiment else ():
            named.add(task.reader)
            assert len(task.downloads) == len(READERS[task.reader].downloads)
            assert set(task.downloads) <= set(experiment.downloads)
            assert task.protocol in (None, *harness.names())
    assert {"bbh_full", "codex_full", "squad", "made_up_sums"} <= named


def test_what_is_read_of_a_download_is_known_before():
    task = Task(name="T", reader="gsm8k_full", downloads=("a", "b"), queries=1, test=1)
    other = Task(name="U", reader="from elsewhere", downloads=("c",), queries=1, test=1)
    assert wanted_members([task, other]) == [("a", "lm_eval/tasks/gsm8k/gsm8k-cot.yaml"), ("b", "test.jsonl")]


@given(strata=st.lists(st.sampled_from("abc"), min_size=1, max_size=40), data=st.data())
def test_stratified_is_as_even_as_can_be(strata, data):
    size = data.draw(st.integers(0, len(strata)))
    drawn = stratified(strata, size, 5)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == size
    have, got = Counter(strata), Counter(strata[at] for at in drawn)
    most = max(got.values(), default=0)
    # A stratum gives less than the most by more than one only where it has no more to give.
    assert all(got[name] >= most - 1 or got[name] == have[name] for name in have)
