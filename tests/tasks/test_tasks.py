"""Target tasks: drawing, files, and the packaged data behind the mini profile."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdslib.data.download import Archives, cache_dir
from rdslib.errors import UserError
from rdslib.params import Experiment, Task, load_profile
from rdslib.tasks.base import TaskData, build_task, read_task, stratified, wanted_members, write_task
from rdslib.tasks.bbh import PARENTS
from rdslib.tasks.codex import split_function as _split_function

NOTHING = Archives({}, Path("unused"))
SUMS = Task(name="Sums", reader="made_up_sums", queries=4, test=8)
REVERSE = Task(name="Reverse", reader="made_up_reversals", queries=4, test=8, note="Mine.")


def test_tiny_tasks_from_end_to_end(tmp_path: Path) -> None:
    for task in (SUMS, REVERSE):
        data = build_task(task, NOTHING, 1)
        assert len(data.queries) == 4
        assert len(data.test) == 8
        write_task(data, tmp_path / task.name)
        assert read_task(tmp_path / task.name) == data
        assert build_task(task, NOTHING, 1) == data
        assert build_task(task, NOTHING, 2) != data
    assert data.note == "Mine. A made-up task."
    sums = build_task(SUMS, NOTHING, 1)
    for sample in sums.test:
        assert sample.choices is not None
        assert sample.answer is not None
        assert sample.choices[sample.answer] == sample.messages[-1]["content"]


def test_mistakes_in_a_task_are_named() -> None:
    with pytest.raises(UserError, match="task 'T': unknown reader 'nope'; use one of alpaca_full, bbh"):
        build_task(Task(name="T", reader="nope", queries=1, test=1), NOTHING, 1)
    with pytest.raises(
        UserError, match="needs 2 downloads, not 0; list them in this order: lm-eval, bigbench"
    ):
        build_task(Task(name="T", reader="bbh", queries=1, test=1), NOTHING, 1)


@given(strata=st.lists(st.sampled_from("abc"), min_size=1, max_size=40), data=st.data())
def test_stratified_is_as_even_as_can_be(strata: list[str], data: st.DataObject) -> None:
    size = data.draw(st.integers(0, len(strata)))
    drawn = stratified(strata, size, 5)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == size
    have, got = Counter(strata), Counter(strata[at] for at in drawn)
    most = max(got.values(), default=0)
    # A stratum gives less than the most by more than one only where it has no more to give.
    assert all(got[name] >= most - 1 or got[name] == have[name] for name in have)


def test_a_function_is_split_at_its_docstring() -> None:
    prompt = (
        'import math\n\n\ndef f(a: int, b=2) -> int:\n    import os\n    """Do it.\n\n    Well.\n    """\n'
    )
    signature, before, docstring = _split_function(prompt, "f")
    assert signature == "f(a: int, b=2) -> int"
    assert before == "import math\n\n\ndef f(a: int, b=2) -> int:\n    import os\n"
    assert docstring == "Do it.\n\nWell."


@pytest.fixture(scope="module")
def mini() -> tuple[Experiment, Archives, dict[str, TaskData]]:
    experiment = load_profile("mini").experiment
    assert experiment is not None
    archives = Archives(experiment.downloads, cache_dir())
    archives.prepare(wanted_members(experiment.tasks))
    built = [build_task(task, archives, experiment.seed) for task in experiment.tasks]
    return experiment, archives, {data.name: data for data in built}


Mini = tuple[Experiment, Archives, dict[str, TaskData]]


@pytest.mark.real
def test_mini_tasks_have_what_the_profile_asks(mini: Mini) -> None:
    experiment, archives, built = mini
    queries = {name: len(data.queries) for name, data in built.items()}
    assert queries == {"MMLU": 57, "GSM8k": 8, "BBH": 81, "Codex": 16, "Squad": 32}
    for task in experiment.tasks:
        data = built[task.name]
        assert len(data.test) == task.test
        ids = [sample.id for sample in [*data.queries, *data.test]]
        assert len(set(ids)) == len(ids)
        prompts = {sample.messages[0]["content"] for sample in data.queries}
        assert prompts.isdisjoint(sample.messages[0]["content"] for sample in data.test)
        for sample in data.test:
            assert sample.messages[-1]["role"] == "assistant"
            assert sample.messages[-1]["content"].strip()
            if sample.choices is not None:
                assert sample.answer is not None
                assert sample.choices[sample.answer] == sample.messages[-1]["content"]
    few = experiment.tasks[1].model_copy(update={"test": 1000})
    with pytest.raises(UserError, match="task 'GSM8k': 1000 test samples are asked for, but there are 8"):
        build_task(few, archives, experiment.seed)


@pytest.mark.real
def test_mini_samples_are_well_formed(mini: Mini) -> None:
    _, _, built = mini
    assert {sample.messages[-1]["content"] for sample in built["MMLU"].test} <= set("ABCD")
    assert max(Counter(sample.subtask for sample in built["MMLU"].test).values()) == 1
    for sample in [*built["GSM8k"].queries, *built["GSM8k"].test]:
        assert ". The answer is " in sample.messages[-1]["content"]
    spread = Counter(sample.subtask for sample in built["BBH"].test)
    assert set(spread) == set(PARENTS)
    assert max(spread.values()) - min(spread.values()) <= 1
    for sample in [*built["Codex"].queries, *built["Codex"].test]:
        compile(sample.messages[-1]["content"], sample.id, "exec")
    contexts = {
        sample.messages[0]["content"].partition("\n\nQuestion:")[0] for sample in built["Squad"].queries
    }
    assert contexts.isdisjoint(
        sample.messages[0]["content"].partition("\n\nQuestion:")[0] for sample in built["Squad"].test
    )


@pytest.mark.real
def test_squad_articles_are_disjoint_and_gsm_is_the_same_again(mini: Mini) -> None:
    experiment, archives, built = mini
    by_name = {task.name: task for task in experiment.tasks}
    from rdslib.tasks.base import READERS

    reader = READERS["squad"]
    files = [archives.members("bigbench", reader.downloads["bigbench"])]
    queries, test, _ = reader.read(files, by_name["Squad"], experiment.seed)
    assert {sample.subtask for sample in queries}.isdisjoint(sample.subtask for sample in test)
    again = build_task(by_name["GSM8k"], archives, experiment.seed)
    assert again == built["GSM8k"]
