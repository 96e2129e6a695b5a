"""Names that come from data: they are never paths, never shared, and never control a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rdslib.commands.plan import plan_request
from rdslib.commands.request import SelectRequest
from rdslib.commands.select import reopen, write_selection
from rdslib.data.chat import user_assistant

NAMES = [
    "a",
    "./a",
    "A",
    "../x",
    "../../x",
    "a/../b",
    "a\\b",
    "..",
    ".",
    "queries",
    "con",
    "x" * 300,
    "a%2F",
    "é",
]


@pytest.mark.parametrize("method", ["rds", "less"])
def test_a_task_may_have_any_name(tmp_path, tiny_model, monkeypatch, method):
    names = [*NAMES, str(tmp_path / "absolute")]
    (tmp_path / "one" / "two").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "one" / "two")
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))
    pool = [{"source": name, "messages": user_assistant(f"What is {name}?", name[:9])} for name in names] * 2
    queries = [{"task": name, "prompt": f"Say {name}", "completion": name[:9]} for name in names]
    for name, rows in (("pool", pool), ("queries", queries)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = sorted(tmp_path.rglob("*"))
    request = SelectRequest.of(
        {"pool": "pool.jsonl", "queries": "queries.jsonl", "model": str(tiny_model), "k": str(len(names)),
         "method": method, "profile": "tiny"}
    )  # fmt: skip
    plan_request(request)
    assert sorted(tmp_path.rglob("*")) == before
    out = Path("best.jsonl")
    write_selection(request, out)
    outside = [path for path in tmp_path.rglob("*") if tmp_path / "home" not in (path, *path.parents)]
    written = [Path.cwd() / each for each in ("best.jsonl", "best.jsonl.rds.json")]
    assert sorted(outside) == sorted([*before, *written])
    selection, asked = reopen(out)
    assert asked.targets == tuple(names)
    # Each has its own query, and the query its own features.
    assert len({selection.pipeline.queries[name].hash for name in names}) == len(names)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert all(names[row["rds_query"]] == row["rds_task"] for row in rows)
