"""`rds select` on a user's pool."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from rdslib.commands.request import SelectRequest
from rdslib.commands.select import reopen, write_selection
from rdslib.commands.user_data import UserSelection
from rdslib.data.chat import tokenize_chat, tokenize_query
from rdslib.errors import UserError
from rdslib.methods import SCORERS, get_scorer
from rdslib.models.encode import encode
from rdslib.models.loading import load_causal_lm, load_tokenizer, make_random
from rdslib.params import RandomModel
from rdslib.pipeline.pipeline import Request
from tests.command import rds, refused


def row(prompt, response, **extra):
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    return {**extra, "messages": messages}


POOL = [row(f"What is {i} + {i}?", f"{2 * i}", dataset="sums", note=f"é{i}") for i in range(30)]
QUERIES = [row("What is 3 + 4?", "7"), row("Say hello", "hello")]


@pytest.fixture
def files(tmp_path):
    for name, rows in (("pool", POOL), ("queries", QUERIES)):
        text = "\n".join(json.dumps(r, ensure_ascii=False) for r in rows)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def arguments(folder, model, k, **changes):
    given = {"pool": folder / "pool.jsonl", "queries": folder / "queries.jsonl", "model": model}
    given |= {"out": folder / "out.jsonl", **changes}
    return ["select", "-k", k, *(part for name, value in given.items() for part in (f"--{name}", value))]


def request_for(folder, model, k, **changes):
    given = {"pool": folder / "pool.jsonl", "queries": folder / "queries.jsonl", "model": model, "k": k}
    return SelectRequest.of({**given, **changes})


@pytest.mark.slow
def test_the_picks_are_the_definition_and_the_lines_are_the_users(files, tiny_model):
    done = rds(*arguments(files, tiny_model, 7), home=files / "home")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (files / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    model, tokenizer = load_causal_lm(tiny_model), load_tokenizer(tiny_model)
    sides = (
        tokenize_chat(tokenizer, [r["messages"] for r in POOL], 2048),
        tokenize_query(tokenizer, [r["messages"] for r in QUERIES], 2048),
    )
    pool, wanted = (encode(model, side, ["weighted_all"], 4096)["weighted_all"] for side in sides)
    scores = wanted.astype(np.float16).astype(np.float32) @ pool.astype(np.float16).astype(np.float32).T
    order = [sorted(range(30), key=lambda d: (-each[d], d)) for each in scores]
    expected = list(dict.fromkeys(order[q][rank] for rank in range(30) for q in range(2)))[:7]
    assert [r["messages"] for r in rows] == [POOL[i]["messages"] for i in expected]
    assert [r["rds_rank"] for r in rows] == list(range(7))
    for found, i in zip(rows, expected, strict=True):
        assert {k: found[k] for k in POOL[i]} == POOL[i]
        assert found["rds_score"] == pytest.approx(scores[found["rds_query"], i], abs=1e-5)
    assert np.argmax(scores[:, expected[0]]) >= 0


BAD = {
    "missing file": (None, "pool.jsonl"),
    "malformed line": (json.dumps(POOL[0]) + '\n{"messages": [', "pool.jsonl:2: "),
    "empty pool": ("", "no samples"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_pools_are_one_line_exit_code_2_and_leave_nothing(
    files, tiny_model, tmp_path_factory, capsys, case
):
    text, message = BAD[case]
    if text is None:
        (files / "pool.jsonl").unlink()
    else:
        (files / "pool.jsonl").write_text(text)
    before = sorted(path.name for path in files.iterdir())
    assert message in refused(capsys, *arguments(files, tiny_model, 1), home=tmp_path_factory.mktemp("home"))
    assert sorted(path.name for path in files.iterdir()) == before


@pytest.mark.parametrize(
    ("k", "changes", "message"),
    [
        ("31", {}, "-k 31: must be from 1 to 30"),
        ("0", {}, "-k 0: must be from 1 to 30"),
        ("3", {"model": "no/such-model"}, "model no/such-model: cannot be loaded"),
        ("3", {"out": "nowhere/out.jsonl"}, "no such folder"),
        ("3", {"method": "rsd"}, "unknown method 'rsd'; methods: "),
        ("3", {"profile": "paper"}, "has no experiment to take parameters from"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(files, tiny_model, capsys, k, changes, message):
    given = arguments(files, changes.pop("model", tiny_model), k, **changes)
    assert message in refused(capsys, *given, home=files / "home")
    assert not (files / "out.jsonl").exists()


SETTINGS = {"ifd": "tiny", "less": "tiny"}
METHODS = sorted(set(SCORERS) - {"embed_gtr", "embed_minilm", "embed_nv"})


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_by_its_name(files, tiny_model, tmp_path, monkeypatch, method):
    """In this process, for speed; sentence embeddings need another model (test_embed)."""
    queries = str(files / "queries.jsonl") if get_scorer(method).needs_queries else None
    request = request_for(files, tiny_model, 5, queries=queries, method=method, profile=SETTINGS.get(method))
    out = tmp_path / "picks.jsonl"
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))
    write_selection(request, out)
    first = out.read_bytes()
    write_selection(request, out)
    assert out.read_bytes() == first
    rows = [json.loads(line) for line in first.decode().splitlines()]
    assert len({row["note"] for row in rows}) == 5
    assert all(("rds_query" in row) == get_scorer(method).needs_queries for row in rows)
    _, asked = reopen(out)
    assert (asked.method, asked.k) == (method, 5)


def test_a_method_with_queries_says_so_without_them(files, tiny_model, tmp_path):
    with pytest.raises(UserError, match="--method rds: needs --queries"):
        write_selection(request_for(files, tiny_model, 5, queries=None), tmp_path / "picks.jsonl")


def test_another_model_in_the_same_folder_is_another_model(files, tiny_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    hashes = []
    for seed in (1, 2):
        make_random(RandomModel(layers=1, hidden_size=16, heads=2), seed, folder)
        selection = UserSelection(request_for(files, folder, 3))
        hashes.append(selection.pipeline.selection(Request("rds", 3, ("queries",))).hash)
    assert len(set(hashes)) == 2
