"""`--queries task:NAME`: the query samples of tasks that a profile has, and nothing of their tests."""

from __future__ import annotations

import os

import pandas as pd
import pytest

import rdslib
from rdslib.commands.explain import explain
from rdslib.commands.plan import plan_request
from rdslib.commands.request import SelectRequest
from rdslib.commands.select import reopen
from rdslib.commands.user_selection import UserSelection
from rdslib.errors import UserError
from rdslib.pipeline.study import Study
from tests.commands.test_select import POOL, ask, given, read, write  # noqa: F401

TINY = {"profile": "tiny", "queries": "task:sums,task:Reverse"}


def test_the_queries_are_the_tasks_and_no_test_sample_is_among_them(ask, tmp_path, capsys):  # noqa: F811
    rows, written = ask(**TINY)
    (note,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("queries: ")]
    study = Study.load("tiny", home=tmp_path / "study")
    tasks = {name: study.task_data(name) for name in ("Sums", "Reverse")}
    sums, reverse = (len(each.queries) for each in tasks.values())
    assert note == (
        f"queries: {sums} query samples of Sums (from made_up_sums), {reverse} query samples of Reverse "
        "(from made_up_reversals); test samples are left alone"
    )
    selection, asked = reopen(written.path)
    assert asked.targets == ("Sums", "Reverse")
    for name, data in tasks.items():
        asked_for = [row.messages for row in selection.queries[name]]
        assert asked_for == [each.messages for each in data.queries]
        assert not [each for each in data.test if each.messages in asked_for]
    # As from a file with the same in a field "task".
    file = [
        {"task": name, "messages": each.messages} for name, data in tasks.items() for each in data.queries
    ]
    path = write(tmp_path / "file.jsonl", file)
    assert [each["rds_id"] for each in ask(**{**TINY, "queries": path})[0]] == [
        each["rds_id"] for each in rows
    ]
    assert {each["rds_task"] for each in rows} == {"Sums", "Reverse"}
    assert "Pick #0" in explain(written.path, "#0").why


def test_plan_and_python_take_them_too(given, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))
    plan = plan_request(SelectRequest.of({**given, **TINY}))
    assert any("Reverse queries" in part.name for part in plan.parts)
    best = rdslib.select(pd.DataFrame(POOL), model=given["model"], k=4, **TINY)
    assert set(best["rds_task"]) == {"Sums", "Reverse"}


def test_a_folder_called_task_stays_a_folder(given, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task").mkdir()
    assert SelectRequest.of({**given, "queries": "task:sums"}).queries == "task:sums"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": "task:gsm"}, "'gsm' is no task of the profile tiny; it has task:sums, task:reverse"),
        ({"queries": "task:sums,other.jsonl"}, "'other.jsonl' is no task of the profile tiny; it has"),
        ({"queries": "task:sums,task:SUMS"}, "sums is there twice; leave one out"),
        ({"queries": "task:sums", "profile": "paper"}, "has no experiment to take parameters from"),
        (
            {"queries": "task:gsm", "profile": None},
            "'gsm' is no task of the profile tasks; it has task:mmlu,",
        ),
    ],
)
def test_what_is_no_task_is_one_line(given, tmp_path, monkeypatch, changes, message):  # noqa: F811
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))
    with pytest.raises(UserError, match=message):
        UserSelection(SelectRequest.of({**given, **TINY, **changes}))


@pytest.mark.real
@pytest.mark.skipif(not os.environ.get("RDSLIB_MIRROR"), reason="57 files of MMLU are not to be asked for")
def test_gsm8k_and_mmlu_come_from_packages_and_github(given):  # noqa: F811
    found = UserSelection(SelectRequest.of({**given, "queries": "task:gsm8k,task:mmlu"}))
    assert {name: len(rows) for name, rows in found.queries.items()} == {"GSM8k": 8, "MMLU": 285}
    mini = UserSelection(SelectRequest.of({**given, "queries": "task:squad", "profile": "mini"}))
    assert len(mini.queries["Squad"]) == 8
