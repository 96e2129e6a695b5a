"""`rdslib.select`: the same as `rds select`, from and to what people have in memory."""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
import tempfile
import warnings

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import rdslib
from rdslib import select
from rdslib.commands.request import SelectRequest
from rdslib.commands.select import write_selection
from rdslib.data.chat import user_assistant
from rdslib.errors import UserError
from tests.command import rds

POOL = [
    {"id": f"s{i}", "note": f"é{i}", "messages": user_assistant(f"What is {i} + {i}? 🙂", f"{2 * i}")}
    for i in range(12)
]
QUERIES = [
    {"messages": user_assistant("What is 3 + 4?", "7"), "task": "sums"},
    {"prompt": "Say hello", "task": "talk"},
    {"instruction": "What is 20 + 1?", "output": "21", "task": "sums"},
]
ADDED = ["rds_score", "rds_rank", "rds_id", "rds_source", "rds_task", "rds_query"]
KINDS = {
    "list": list,
    "tuple": tuple,
    "generator": iter,
    "frame": pd.DataFrame,
    "table": lambda rows: pa.Table.from_pylist(list(rows)),
    "dataset": datasets.Dataset.from_list,
    "stream": lambda rows: datasets.Dataset.from_list(rows).to_iterable_dataset(),
}
RESULTS = {"frame": pd.DataFrame, "table": pa.Table, "dataset": datasets.Dataset, "stream": datasets.Dataset}


def as_list(found):
    if isinstance(found, pa.Table):
        return found.to_pylist()
    return found.to_dict("records") if isinstance(found, pd.DataFrame) else list(found)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def temporary(tmp_path, home, monkeypatch):
    """Where temporary files go; nothing is left there."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("RDSLIB_HOME", str(home))
    yield folder
    assert not list(folder.iterdir())


@pytest.fixture(scope="module")
def command(tiny_model, tmp_path_factory):
    """What `rds select` picks, in another home."""
    folder = tmp_path_factory.mktemp("command")
    pool, queries = write(folder / "pool.jsonl", POOL), write(folder / "queries.jsonl", QUERIES)
    arguments = ("--pool", pool, "--queries", queries, "--model", tiny_model, "-k", 5)
    done = rds("select", *arguments, "--out", folder / "out.jsonl", home=folder / "home")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    return folder, rows


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_of_any_kind_gives_what_the_command_does_in_its_own_kind(tiny_model, command, kind):
    make = KINDS[kind]
    # A frame and a data set of queries have a null wherever another form's field is.
    queries = list(QUERIES) if kind != "frame" else pd.DataFrame(QUERIES)
    found = select(make(POOL), queries, model=tiny_model, k=5)
    assert isinstance(found, RESULTS.get(kind, list))
    assert as_list(found) == command[1]


@pytest.mark.slow
def test_a_path_gives_what_the_command_does(tiny_model, command):
    folder, rows = command
    before = sorted(folder.iterdir())
    assert select(folder / "pool.jsonl", str(folder / "queries.jsonl"), model=str(tiny_model), k=5) == rows
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("kind", KINDS)
def test_messages_for_what_held_the_sample(tiny_model, kind):
    pool = [
        {"instruction": f"What is {i}?", "output": f"{i}", "note": f"{i}", "source": "abc"[i % 3]}
        for i in range(6)
    ]
    found = select(KINDS[kind](pool), QUERIES[:1], model=tiny_model, k=3, as_="messages")
    assert isinstance(found, RESULTS.get(kind, list))
    rows = as_list(found)
    assert [list(row) for row in rows] == [["note", "source", "messages", *ADDED]] * 3
    alike = {row["instruction"]: row for row in pool}
    for row in rows:
        given = alike[row["messages"][0]["content"]]
        assert row["messages"] == user_assistant(given["instruction"], given["output"])
        assert (row["source"], row["note"]) == (given["source"], given["note"])


def test_a_frame_keeps_its_index_and_its_values(tiny_model):
    when = pd.date_range("2024-01-01", periods=12, tz="Europe/Paris")
    frame = pd.DataFrame(POOL).assign(when=when, kind=pd.Categorical(["a", None, "b"] * 4), size=np.nan)
    frame.index = [f"row {i // 2}" for i in range(12)]  # labels that repeat
    before = frame.copy(deep=True)
    found = select(frame, QUERIES[:1], model=tiny_model, k=6)
    pd.testing.assert_frame_equal(frame, before)
    positions = [int(name[1:]) for name in found["id"]]
    assert positions != sorted(positions)
    pd.testing.assert_frame_equal(found[list(frame.columns)], frame.iloc[positions])
    assert list(found.columns) == [*frame.columns, *ADDED]
    assert list(found["rds_rank"]) == list(range(6))
    messages = select(frame, QUERIES[:1], model=tiny_model, k=6, as_="messages")
    assert list(messages.index) == list(found.index)


def test_empty_cells_are_missing_fields(tiny_model):
    """Rows of three forms make a frame of many columns, most of whose cells are empty."""
    pool = [
        {"messages": user_assistant("What is 1 + 1?", "2")},
        {"instruction": "What is 2 + 2?", "output": "4", "input": None},
        {"prompt": "What is 3 + 3?", "completion": "6", "weight": 1},
    ]
    frame = pd.DataFrame(pool)
    assert frame["prompt"].isna().sum() == 2
    frame["id"] = pd.array([7, None, 9], dtype="Int64")
    frame["seen"] = pd.to_datetime(["2024-01-01", None, None])
    found = select(frame, QUERIES[:1], model=tiny_model, k=3, as_="messages")
    listed = select(pool, QUERIES[:1], model=tiny_model, k=3, as_="messages")
    assert list(found["messages"]) == [row["messages"] for row in listed]
    # A frame's rows as dicts have the same NaN where there was nothing.
    dicts = select(frame.to_dict("records"), QUERIES[:1], model=tiny_model, k=3, as_="messages")
    assert [row["messages"] for row in dicts] == [row["messages"] for row in listed]


def test_a_dataset_keeps_its_features_and_leaves_no_file(tiny_model, command, tmp_path):
    path = write(tmp_path / "rows.jsonl", [{**row, "label": i % 2} for i, row in enumerate(POOL)])
    pool = datasets.load_dataset(
        "json", data_files=str(path), cache_dir=str(tmp_path / "cache"), split="train"
    )
    pool = pool.cast_column("label", datasets.ClassLabel(names=["even", "odd"]))
    before = sorted(tmp_path.rglob("*"))
    # Picked from once more, with its scores of last time.
    for _ in range(2):
        found = select(pool.with_format("numpy", columns=["id"]), QUERIES, model=tiny_model, k=5)
        assert sorted(tmp_path.rglob("*")) == before
        assert found.features["label"] == pool.features["label"]
        assert found.column_names == [*[name for name in pool.column_names if name not in ADDED], *ADDED]
        assert found.with_format(None)["id"][:] == [row["id"] for row in command[1]]
        pool = found


def test_the_same_contents_are_computed_once(tiny_model, home):
    def artifacts():
        return sorted(path.parent.name for path in home.glob("artifacts/*/*/manifest.json"))

    pool = [{**row, "note": "once"} for row in POOL]
    first = select(pool, QUERIES[:1], model=tiny_model, k="34%")
    before = artifacts()
    for make in KINDS.values():
        assert len(select(make(pool), QUERIES[:1], model=tiny_model, k=4)) == len(first) == 4
    assert artifacts() == before
    assert select(pool, QUERIES[:1], model=tiny_model, k=3) == first[:3]
    assert len(artifacts()) == len(before) + 1  # of another k, the walk alone


BAD = [{"id": "x", "messages": [{"role": "user", "content": "no response"}]}, POOL[0], {"text": "no form"}]


@pytest.mark.parametrize("kind", ["list", "frame", "generator"])
def test_what_is_left_out_is_said_with_counts_and_positions(tiny_model, kind):
    repeated = {**POOL[1], "id": "again"}
    test_set = [{"prompt": "one two three four five six seven eight nine ten eleven twelve thirteen", "n": 1}]
    leak = {"id": "leak", "messages": user_assistant(test_set[0]["prompt"], "It leaks.")}
    pool = [*POOL[:3], *BAD, repeated, leak]
    options = {"on_error": "quarantine", "dedup": "exact"}
    # One test set or a list of them; the second time, it comes from what the first has left.
    for options["exclude"] in ([pd.DataFrame(test_set)], pd.DataFrame(test_set)):
        with pytest.warns(UserWarning, match="left out") as warned:
            found = select(KINDS[kind](pool), QUERIES, model=tiny_model, k=3, **options)
        assert warned[0].filename == __file__
        text = str(warned[0].message)
        assert text.startswith(
            "5 of 8 rows of the pool were left out: 3 rejected, first pool[3]: this sample "
        )
        assert "; 1 duplicate, first pool[6]: repeats pool[1] (similarity 1.00)" in text
        assert "; 1 contaminated, first pool[7]: has words of exclude_0[0]: " in text
        assert "rdslib-select" not in text
        rows = as_list(found)
        assert {row["id"] for row in rows} == {"s0", "s1", "s2"}
        assert set(rows[0]) == {*POOL[0], *ADDED} | ({"text"} if kind == "frame" else set())


def test_rows_after_a_rejected_one_are_still_their_own(tiny_model):
    frame = pd.DataFrame([BAD[2], *POOL], index=range(100, 113))
    with pytest.warns(UserWarning, match="1 of 13 rows"):
        found = select(frame, QUERIES[:1], model=tiny_model, k=12, on_error="quarantine")
    assert list(found.index) == [101 + int(name[1:]) for name in found["id"]]


CIRCLE: list = []
CIRCLE.append(CIRCLE)
REFUSED = {
    "no response": ({"pool": [*POOL, BAD[0]]}, r"pool\[12\]: this sample has no response"),
    "id taken": ({"pool": [*POOL, POOL[2]]}, r"pool\[12\]: this sample has the id 's2' of pool\[2\]"),
    "bad query": ({"queries": [*QUERIES, {"x": 1}]}, r"queries\[3\]: this sample has no field that holds"),
    "no rows": ({"pool": []}, r"^pool: holds no samples"),
    "text": ({"pool": ["What is 1 + 1?"]}, r"pool\[0\]: is of type str; give rows as dicts"),
    "a number": ({"queries": 3}, "queries: is of type int; give a DataFrame"),
    "no JSON": ({"pool": [{"messages": [], "x": CIRCLE}]}, r"pool\[0\]: cannot be written as JSON \(nest"),
    "a missing file": ({"pool": "no-such.jsonl"}, "no-such.jsonl: there is no such file"),
    "too many": ({"k": 13}, "-k 13: must be from 1 to 12, the number of samples in pool$"),
    "no queries": ({"queries": None}, "--method rds: needs --queries"),
    "an unknown form": ({"as_": "message"}, "as_='message': input should be 'own' or 'messages'"),
    "none of a source": ({"max_per_source": 0}, "max_per_source=0: input should be greater than or equal"),
    "a device": ({"device": "cuda:99"}, "--device cuda:99: cannot be used here"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_one_line_that_names_the_row_in_memory(tiny_model, case):
    changes, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as error:
        select(**{"pool": POOL, "queries": QUERIES, "model": tiny_model, "k": 1, **changes})
    assert "\n" not in str(error.value)
    assert "rdslib-select" not in str(error.value)


def test_a_device_is_chosen_for_one_call(tiny_model, monkeypatch):
    for before in ("cpu", None):
        if before is None:
            monkeypatch.delenv("RDSLIB_DEVICE", raising=False)
        else:
            monkeypatch.setenv("RDSLIB_DEVICE", before)
        seen = []
        pool = (seen.append(os.environ["RDSLIB_DEVICE"]) or row for row in POOL)
        select(pool, QUERIES, model=tiny_model, k=1, device="cpu:0")
        assert set(seen) == {"cpu:0"}
        assert os.environ.get("RDSLIB_DEVICE") == before


def test_a_list_is_left_as_it_is_and_nothing_is_said_where_nothing_is_left_out(tiny_model):
    pool = [dict(row) for row in POOL]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = select(pool, QUERIES, model=tiny_model, k=2, on_error="quarantine", dedup="near")
    assert pool == POOL
    assert found[0]["messages"] is pool[int(found[0]["id"][1:])]["messages"]


def test_queries_may_be_a_list_of_prompts(tiny_model):
    texts = [each["prompt"] for each in QUERIES if "prompt" in each] or ["What is 3 + 4?"]
    found = select(list(POOL), texts, model=tiny_model, k=3)
    assert found == select(list(POOL), [{"prompt": text} for text in texts], model=tiny_model, k=3)


def test_what_was_selected_is_explained_and_compared_from_python(tiny_model, tmp_path):
    for name in ("pool", "queries"):
        rows = {"pool": POOL, "queries": QUERIES}[name]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    given = {name: tmp_path / f"{name}.jsonl" for name in ("pool", "queries")} | {"model": tiny_model, "k": 4}
    out = tmp_path / "best.jsonl"
    write_selection(SelectRequest.of(given), out)
    assert rdslib.explain(str(out), "#0").state == "picked"
    assert rdslib.compare(str(out), out).jaccard == 1


@pytest.mark.slow
def test_importing_rdslib_is_light():
    for code, heavy in (
        ("import rdslib", {"numpy", "pandas", "pyarrow", "typer"}),
        ("import rdslib; rdslib.select", set()),
        ("import rdslib.commands.app", set()),
    ):
        code = f"import sys; {code}; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        heavy |= {"torch", "transformers", "datasets", "matplotlib", "scipy", "sklearn"}
        assert not heavy & set(done.stdout.split())


def test_the_examples_in_the_docstring(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(sys.modules["rdslib.commands.select"], extraglobs={"model": tiny_model})
    assert result.attempted >= 8
    assert result.failed == 0
