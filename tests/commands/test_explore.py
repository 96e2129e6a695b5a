"""Exploring a selection of one's own: against naive computations from its file and features."""

from __future__ import annotations

import json

import numpy as np
import papermill
import pytest

from rdslib import explore
from rdslib.commands.request import SelectRequest
from rdslib.commands.select import reopen, write_selection
from rdslib.data.chat import user_assistant
from rdslib.errors import UserError
from rdslib.figures import controls
from rdslib.methods import features
from rdslib.params import ROOT

K = 9
POOL = [
    {
        "source": ("sums", "words")[i % 3 > 0],
        "messages": user_assistant(f"Add {i} to {i % 5}", str(i + i % 5)),
    }
    for i in range(40)
]
QUERIES = [
    {"messages": user_assistant("What is 3 + 4?", "7"), "task": "sums"},
    {"prompt": "Say hello", "task": "talk"},
    {"messages": user_assistant("What is 9 + 1?", "10"), "task": "sums"},
]
REQUESTS = {
    "one": {"queries": "sums.jsonl"},
    "tasks": {"queries": "queries.jsonl"},
    "limited": {"queries": "sums.jsonl", "max_per_source": 5},
    "balanced": {"queries": "queries.jsonl", "balance_sources": True},
    "last": {"queries": "queries.jsonl", "method": "rds_eos"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files, under another home."""
    folder = tmp_path_factory.mktemp("explore")
    for name, rows in (("pool", POOL), ("queries", QUERIES), ("sums", QUERIES[::2])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RDSLIB_HOME", str(folder / "home"))
        yield folder


@pytest.fixture(scope="module")
def selected(folder, tiny_model):
    """Make the file of a selection, by the name of its request."""

    def selected(name):
        path = folder / f"{name}.out.jsonl"
        changes = {"method": "rds", "model": str(tiny_model), **REQUESTS[name]}
        changes["queries"] = str(folder / changes["queries"])
        if not path.exists():
            write_selection(
                SelectRequest.of({"pool": str(folder / "pool.jsonl"), "k": str(K), **changes}), path
            )
        return path

    return selected


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", REQUESTS)
def test_it_is_the_selection_of_the_file(selected, name):
    path = selected(name)
    explorer, rows = explore(path), rows_of(path)
    assert (explorer.first, explorer.budget) == (REQUESTS[name].get("method", "rds"), K)
    found = explorer.selection(explorer.first, K)
    assert found["id"].tolist() == [row["rds_id"] for row in rows]
    assert found["source"].tolist() == [row["rds_source"] for row in rows]
    np.testing.assert_allclose(found["score"], [row["rds_score"] for row in rows], atol=1e-6)
    table = explorer.map(explorer.first, K)
    assert set(table["id"][table["selected"]]) == {row["rds_id"] for row in rows}
    assert table["kind"].value_counts()["query"] == len(rows_of(path.parent / REQUESTS[name]["queries"]))
    mix = explorer.mix(explorer.first, K).set_index(["selection", "source"])["count"]
    assert mix["The pool"].to_dict() == {"sums": 14, "words": 26}


@pytest.mark.parametrize(("task", "query"), [("sums", 0), ("sums", 1), ("talk", 0)])
def test_the_nearest_are_those_of_a_naive_computation(selected, task, query):
    path = selected("tasks")
    pipeline = reopen(path)[0].pipeline
    pool, asked = (
        features.read_all(pipeline.store.path(pipeline.features("lm.weighted_all", of)), "weighted_all")
        for of in (None, task)
    )
    scores = pool.astype(np.float32) @ asked.astype(np.float32)[query]
    order = sorted(range(len(POOL)), key=lambda at: (-scores[at], at))[:10]
    found = explore(path).neighbours(task, query, "rds")
    assert found["id"].tolist() == [str(at) for at in order]
    np.testing.assert_allclose(found["score"], scores[order], rtol=1e-6)


def test_methods_are_compared_whose_features_are_there(selected):
    by_rds, by_last = selected("tasks"), selected("last")
    ours, theirs = ([row["rds_id"] for row in rows_of(path)] for path in (by_rds, by_last))
    for path in (by_rds, by_last):
        explorer = explore(path)
        assert explorer.methods == ["random", "random_balanced", "rds", "rds_whitened", "rds_eos"]
        found = explorer.compare("rds", "rds_eos", K)
        assert set(found["id"][found["taken"] == "both"]) == set(ours) & set(theirs)
        assert set(found["id"]) == set(ours) | set(theirs)


def test_a_limit_holds_for_the_largest_budget(selected):
    limited, balanced = explore(selected("limited")), explore(selected("balanced"))
    for method in limited.methods:
        assert limited.largest(method) == 10
        assert limited.selection(method, 10)["source"].value_counts().to_dict() == {"sums": 5, "words": 5}
        assert balanced.largest(method) == len(POOL)
    with pytest.raises(UserError, match="with at most 5 of a source; choose another budget"):
        limited.selection("rds", 11)


def test_controls_open_on_the_selection(selected):
    explorer = explore(selected("last"))
    for build in (controls.neighbours, controls.mix, controls.pool_map, controls.comparison):
        part = build(explorer)
        chosen = {control.description: control for control in part.children[0].children}
        assert "Error" not in part.children[-1].value
        assert chosen["First" if build is controls.comparison else "Method"].value == "rds_eos"
        assert build is controls.neighbours or chosen["Budget"].value == K


def test_what_cannot_be_explored_is_one_line(folder, tiny_model):
    with pytest.raises(
        UserError, match=r"pool\.jsonl\.rds\.json: there is no such file; `rds select`"
    ) as error:
        explore(folder / "pool.jsonl")
    assert "\n" not in str(error.value)
    for method in ("random", "top_ppl"):
        out = folder / f"{method}.jsonl"
        given = {"pool": str(folder / "pool.jsonl"), "method": method, "k": "3", "model": str(tiny_model)}
        write_selection(SelectRequest.of(given), out)
        with pytest.raises(UserError, match=f"{method}.jsonl: was selected by {method}, which comp") as error:
            explore(out)
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_notebook_explores_a_selection(selected, tmp_path):
    path = selected("tasks")
    source, executed = ROOT / "notebooks" / "explore.ipynb", tmp_path / "explore.ipynb"
    papermill.execute_notebook(source, executed, {"selection": str(path)}, progress_bar=False)
    shown = executed.read_text()
    assert "RDS+: 9 samples selected from 40 for all tasks" in shown
    assert "Of 9 samples each, from a pool of 40, both took" in shown
