"""`rds select` on a user's pool, and what it can be asked for."""

from __future__ import annotations

import base64
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdslib.commands.outputs import record_of
from rdslib.commands.request import SelectRequest
from rdslib.commands.select import reopen, scores_at, write_selection
from rdslib.commands.user_selection import UserSelection
from rdslib.data.chat import tokenize_chat, tokenize_query, user_assistant
from rdslib.data.formats import form_of
from rdslib.data.reader import read_rows
from rdslib.errors import UserError
from rdslib.methods import SCORERS, get_scorer
from rdslib.models.encode import encode
from rdslib.models.loading import load_causal_lm, load_tokenizer, make_random
from rdslib.params import ROOT, RandomModel
from rdslib.pipeline.step import in_order
from rdslib.pipeline.study import Study
from rdslib.profiles import find_model
from tests.command import rds, refused


def row(prompt, response, **extra):
    return {**extra, "messages": user_assistant(prompt, response)}


SUMS = [row(f"What is {i} + {i + 1}?", f"{2 * i + 1}", source=f"s{i % 3}", note=f"é{i}") for i in range(24)]
WORDS = [row(f"Say the word number {i} in French, please.", f"mot {i}", source="french") for i in range(12)]
POOL = [*SUMS, *WORDS]
QUERIES = [
    row("What is 3 + 4?", "7", task="sums"),
    row("Say hello in French", "bonjour", task="words"),
    row("What is 5 + 5?", "10", task="sums"),
]


def write(path, rows):
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows), encoding="utf-8")
    return str(path)


def read(path):
    if path.name.endswith(".parquet"):
        return pd.read_parquet(path).to_dict("records")
    opened = gzip.open if path.name.endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def positions(rows):
    """Where the rows of an output are in `POOL`; they are as they came."""
    return [POOL.index({k: v for k, v in each.items() if not k.startswith("rds_")}) for each in rows]


@pytest.fixture
def given(tmp_path, tiny_model):
    """The options of a selection."""
    found = {"pool": write(tmp_path / "pool.jsonl", POOL), "model": str(tiny_model), "k": "9"}
    return {**found, "queries": write(tmp_path / "queries.jsonl", QUERIES)}


@pytest.fixture
def ask(tmp_path, given, monkeypatch):
    """Selects with some options changed; returns the rows and what was counted."""
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))

    def asked(name="out.jsonl", **changes):
        written = write_selection(SelectRequest.of({**given, **changes}), tmp_path / name)
        counts = written.counts
        kinds = ("selected", "left", "rejected", "contaminated", "duplicate")
        assert counts["read"] == sum(counts[kind] for kind in kinds)
        return read(written.path), written

    return asked


def arguments(given, out, **changes):
    """The same as arguments of the command."""
    options = {**given, "out": out, **changes}
    return ["select", "-k", options.pop("k"), *(part for k, v in options.items() for part in (f"--{k}", v))]


@pytest.mark.slow
def test_the_picks_are_the_definition_and_the_lines_are_the_users(given, tiny_model, tmp_path):
    queries = [row("What is 3 + 4?", "7"), row("Say hello", "hello")]
    given["queries"] = write(tmp_path / "two.jsonl", queries)
    done = rds(*arguments(given, tmp_path / "out.jsonl"), home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    rows = read(tmp_path / "out.jsonl")
    model, tokenizer = load_causal_lm(tiny_model), load_tokenizer(tiny_model)
    sides = (
        tokenize_chat(tokenizer, [r["messages"] for r in POOL], 2048),
        tokenize_query(tokenizer, [r["messages"] for r in queries], 2048),
    )
    pool, wanted = (encode(model, side, ["weighted_all"], 4096)["weighted_all"] for side in sides)
    scores = wanted.astype(np.float16).astype(np.float32) @ pool.astype(np.float16).astype(np.float32).T
    order = [sorted(range(36), key=lambda d: (-each[d], d)) for each in scores]
    expected = list(dict.fromkeys(order[q][rank] for rank in range(36) for q in range(2)))[:9]
    assert positions(rows) == expected
    assert [r["rds_rank"] for r in rows] == list(range(9))
    for found, i in zip(rows, expected, strict=True):
        assert found["rds_score"] == pytest.approx(scores[found["rds_query"], i], abs=1e-5)


BAD = {
    "missing file": ({"pool": "none.jsonl"}, "none.jsonl: there is no such file"),
    "malformed line": ({"pool": "cut.jsonl"}, "cut.jsonl:2: "),
    "empty pool": ({"pool": "empty.jsonl"}, "no samples"),
    "too many": ({"k": "37"}, "-k 37: must be from 1 to 36"),
    "no model": ({"model": "no/such-model"}, "model no/such-model: is no folder here"),
    "no folder": ({"out": "nowhere/out.jsonl"}, "no such folder"),
    "an output that is a folder": ({"out": "folder.jsonl"}, "is a folder"),
    "no method": ({"method": "rsd"}, "unknown method 'rsd'; did you mean rds? methods: "),
    "no queries": ({"queries": None}, "--method rds: needs --queries"),
    "no experiment": ({"profile": "paper"}, "has no experiment to take parameters from"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_one_line_exit_code_2_and_leaves_nothing(
    given, tmp_path, tmp_path_factory, monkeypatch, capsys, case
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cut.jsonl").write_text(json.dumps(POOL[0]) + '\n{"messages": [')
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "folder.jsonl").mkdir()
    before = sorted(tmp_path.iterdir())
    changes, message = BAD[case]
    options = {**given, "out": "out.jsonl", **changes}
    options = {name: value for name, value in options.items() if value is not None}
    line = refused(capsys, *arguments(options, options["out"]), home=tmp_path_factory.mktemp("home"))
    assert message in line
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("model", ["MODEL", "no/such", "./none", "/none/x", "~/none", None])
def test_a_model_that_is_not_there_is_refused_before_anything_is_made(given, tmp_path, capsys, model):
    options = {name: value for name, value in {**given, "model": model}.items() if value is not None}
    line = refused(capsys, *arguments(options, tmp_path / "out.jsonl"), home=tmp_path / "home")
    assert (f"model {model}: " if model else "--method rds: needs --model: a folder") in line
    assert not (tmp_path / "home").exists()


def test_the_model_may_be_a_profiles(ask, given, tmp_path):
    """By its name, its file, or --profile; the artifact is that of the profile's own study."""
    rows, _ = ask(model="tiny")
    for options in ({"model": str(ROOT / "params" / "tiny.yaml")}, {"model": None, "profile": "tiny"}):
        assert ask(**options)[0] == rows
        study = Study.load("tiny")
        same = SelectRequest.of({**given, **options, "seed": study.experiment.seed})
        assert UserSelection(same).pipeline.model.hash == study.pipeline.model.hash
    reopen(tmp_path / "out.jsonl")
    # A model that is named counts, and so does a folder that has a profile's name.
    for name in (given["model"], "tiny"):
        selection = UserSelection(SelectRequest.of({**given, "model": name, "profile": "tiny"}))
        assert (selection.pipeline.settings.model.path == given["model"]) == (name != "tiny")
    (tmp_path / "tiny").symlink_to(given["model"])
    assert find_model(str(tmp_path / "tiny"))[0].path == str(tmp_path / "tiny")


@pytest.mark.parametrize(("method", "extra"), [("embed_minilm", "embed"), ("ifd", "study")])
def test_a_package_that_is_not_there_is_said_before_the_pool_is_read(
    given, tmp_path, monkeypatch, capsys, method, extra
):
    monkeypatch.setattr("rdslib.errors.find_spec", lambda name: None)
    line = refused(capsys, *arguments(given, tmp_path / "out.jsonl", method=method), home=tmp_path / "home")
    assert line.endswith(f"is not installed; run `pip install 'rdslib[{extra}]'`")
    assert not (tmp_path / "home").exists()


def test_no_model_is_asked_for_where_none_is_used(ask, given):
    for method in ("random", "random_balanced"):
        assert len(ask(model=None, queries=None, method=method)[0]) == 9
    request = SelectRequest.of({**given, "method": "embed_minilm"})
    for model, used in ((None, False), (given["model"], True)):
        pipeline = UserSelection(request.model_copy(update={"model": model})).pipeline
        steps = in_order([pipeline.features("minilm.sentence")])
        assert ("model" in [step.name for step in steps]) == used
    assert pipeline.settings.embedders["minilm"].download in pipeline.settings.downloads


def test_picks_of_several_forms_are_said_unless_they_become_one(ask, tmp_path, capsys):
    alpaca = [{"instruction": f"What is {i}?", "output": f"{i}"} for i in range(9)]
    mixed = write(tmp_path / "mixed.jsonl", [*POOL[:9], *alpaca])
    one = write(tmp_path / "one.jsonl", alpaca * 2)
    for options, said in (({}, 1), ({"as_": "messages"}, 0), ({"pool": one}, 0)):
        ask(**{"pool": mixed, "k": "18", **options})
        text = "of the forms alpaca and messages, which trainers do not read from one file; --as messages"
        assert capsys.readouterr().err.count(text) == said


@pytest.mark.parametrize(
    ("prompt", "response", "said"),
    [
        ("prompt", "completion", False),
        ("prompt", "response", True),
        ("question", "answer", True),
        ("instruction", "output", True),
    ],
)
def test_what_trainers_do_not_read_is_said(ask, tmp_path, capsys, prompt, response, said):
    pool = write(tmp_path / "asked.jsonl", [{prompt: f"What is {i}?", response: f"{i}"} for i in range(9)])
    for options in ({}, {"as_": "messages"}, {"format": form_of(read(tmp_path / "asked.jsonl")[0])}):
        ask(pool=pool, method="random", k="3", **options)
        text = f"samples in {prompt} and {response}, which trainers such as TRL do not read; --as messages"
        assert (text in capsys.readouterr().err) == (said and "as_" not in options)


def test_rows_say_their_id_and_source_in_the_pool(ask, tmp_path):
    pool = [row("a", "b", id="one", source="s"), row("c", "d", rds_id="old", rds_source="old"), row("e", "f")]
    rows, _ = ask(pool=write(tmp_path / "named.jsonl", pool), k="3", method="random")
    found = {each["messages"][0]["content"]: (each["rds_id"], each["rds_source"]) for each in rows}
    assert found == {"a": ("one", "s"), "c": ("1", "named"), "e": ("2", "named")}


@pytest.mark.real
def test_minilm_comes_from_its_package_without_a_profile_or_a_model(ask):
    assert len(ask(model=None, method="embed_minilm")[0]) == 9


METHODS = sorted(set(SCORERS) - {"embed_gtr", "embed_minilm", "embed_nv"})


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_by_its_name(ask, given, method):
    """In this process, for speed; sentence embeddings need another model (test_embed)."""
    queries = given["queries"] if get_scorer(method).needs_queries else None
    options = {"queries": queries, "method": method, "k": "5"}
    options["profile"] = "tiny" if method in ("ifd", "less") else None
    rows, written = ask(**options)
    first = written.path.read_bytes()
    ask(**options)
    assert written.path.read_bytes() == first
    assert len(set(positions(rows))) == 5
    scorer = get_scorer(method)
    assert all(("rds_task" in each) == scorer.needs_queries for each in rows)
    assert all(("rds_query" in each) == (scorer.needs_queries and not scorer.joins_queries) for each in rows)
    _, asked = reopen(written.path)
    assert (asked.method, asked.k) == (method, 5)


def test_another_model_or_pooling_has_other_features(ask, given, tiny_model, tmp_path):
    _, written = ask()
    selection, _ = reopen(written.path)
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["rope_theta"] = config.get("rope_theta", 10000.0) * 2
    (folder / "config.json").write_text(json.dumps(config))
    steps = [selection.pipeline.features(f"lm.{name}") for name in ("weighted_all", "uniform_all")]
    for seed in (None, 1, 2):
        if seed is not None:  # in the same folder
            make_random(RandomModel(layers=1, hidden_size=16, heads=2), seed, folder)
        other = UserSelection(selection.request.model_copy(update={"model": str(folder)}))
        steps.append(other.pipeline.features("lm.weighted_all"))
    assert len({step.hash for step in steps}) == 5
    assert [selection.store.has(step) for step in steps] == [True, False, False, False, False]


def test_tasks_take_turns_and_name_their_query(ask, tmp_path):
    rows, written = ask()
    selection, asked = reopen(written.path)
    assert asked.targets == ("sums", "words")
    scores = {task: scores_at(selection, asked, task, range(len(POOL))) for task in asked.targets}
    assert {task: each.shape for task, each in scores.items()} == {"sums": (2, 36), "words": (1, 36)}
    best = {task: each.max(axis=0) for task, each in scores.items()}
    order = {task: sorted(range(36), key=lambda d: (-each[d], d)) for task, each in best.items()}
    walk = [(order[task][rank], task) for rank in range(36) for task in asked.targets]
    # Of each sample the first of its places in the walk.
    expected = sorted(dict(reversed(walk)).items(), key=walk.index)[:9]
    assert positions(rows) == [d for d, _ in expected]
    assert [each["rds_task"] for each in rows] == [task for _, task in expected]
    numbers = {"sums": [0, 2], "words": [1]}
    assert [each["rds_query"] for each in rows] == [
        numbers[task][int(np.argmax(scores[task][:, d]))] for d, task in expected
    ]


def test_other_queries_use_the_same_features_of_the_pool(ask, tmp_path):
    _, written = ask()
    first, _ = reopen(written.path)
    _, other = ask(queries=write(tmp_path / "other.jsonl", QUERIES[:1]), name="other.jsonl.gz")
    again, _ = reopen(other.path)
    for task, same in ((None, True), ("sums", False)):
        steps = [each.pipeline.features("lm.weighted_all", task) for each in (first, again)]
        assert (steps[0].hash == steps[1].hash) == same


def test_a_prompt_alone_is_a_query_where_the_method_allows(ask, tmp_path):
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": "What is 3 + 4?"}, {"question": "And 1 + 1?"}])
    rows, _ = ask(queries=prompts)
    assert {each["rds_query"] for each in rows} == {0, 1}
    answered = write(tmp_path / "answered.jsonl", [{"prompt": "What is 3 + 4?", "completion": "7"}] * 2)
    with_answers, _ = ask(queries=answered)
    assert [r["rds_score"] for r in rows] != [r["rds_score"] for r in with_answers]
    for method in ("rds_label", "less"):
        with pytest.raises(UserError, match=rf"prompts.jsonl:1: .* no response, and --method {method}"):
            ask(queries=prompts, method=method)


@pytest.mark.parametrize(("k", "expected"), [("25%", 9), ("0.1%", 1), ("100%", 36), ("36", 36)])
def test_a_count_or_a_percent(ask, k, expected):
    assert len(ask(k=k)[0]) == expected


@pytest.mark.parametrize("k", ["0", "37", "0%", "101%", "many", "5 %x", "nan%", "-3"])
def test_a_number_that_is_none_is_one_line(ask, k):
    with pytest.raises(UserError, match=r"^-k "):
        ask(k=k)


def test_a_count_beyond_what_is_left_says_what_was_left_out(ask, tmp_path):
    test = [row("one two three four five six seven eight nine ten", "yes")]
    pool = [*POOL[:5], *POOL[:3], *test]
    path = write(tmp_path / "repeated.jsonl", pool)
    with open(path, "a") as stream:
        stream.write("{\n")
    options = {"pool": path, "dedup": "exact", "on_error": "quarantine"}
    options["exclude"] = [write(tmp_path / "test.jsonl", test)]
    with pytest.raises(UserError) as error:
        ask(k="6", **options)
    assert str(error.value) == (
        "-k 6: must be from 1 to 5, the number of samples left of the 10 rows of "
        f"{path} (1 rejected as bad, 1 contaminated, 3 duplicate)"
    )
    assert len(ask(k="5", **options)[0]) == 5


def test_fewer_picks_than_what_picks_in_turns_is_said_once(ask, tmp_path, capsys):
    queries = [row(f"What is {i} + 5?", "7") for i in range(5)]
    one = write(tmp_path / "one.jsonl", queries)
    tasks = write(tmp_path / "tasks.jsonl", [{**each, "task": f"t{i}"} for i, each in enumerate(queries)])
    for path, what in ((one, "queries"), (tasks, "tasks")):
        for k, said in (("4", 1), ("5", 0), ("15%", 0)):
            ask(k=k, queries=path)
            found = [line for line in capsys.readouterr().err.splitlines() if line.startswith("-k ")]
            assert len(found) == said
            assert all(f"-k {k}: is less than the 5 {what}, which" in line for line in found)
            assert all(line.endswith(f"ask for 20 (four each), or give fewer {what}") for line in found)
    ask(k="1", queries=one, method="random")
    assert "-k" not in capsys.readouterr().err


def test_a_query_of_two_forms_is_not_told_of_an_option_for_pools(ask, tmp_path):
    both = write(tmp_path / "both.jsonl", [{**row("q", "r"), "prompt": "q"}])
    with pytest.raises(UserError, match="messages and prompt_completion; say which with --format"):
        ask(pool=both)
    for part in ({"queries": both}, {"exclude": [both]}):
        with pytest.raises(UserError, match="messages and prompt_completion; keep one of them"):
            ask(**part)


def test_every_kind_of_output_holds_the_same(ask, tmp_path):
    lines, _ = ask()
    packed, _ = ask(name="out.jsonl.gz")
    assert packed == lines
    table, _ = ask(name="out.parquet")
    assert [r["rds_query"] for r in table] == [r["rds_query"] for r in lines]
    assert [[dict(m) for m in r["messages"]] for r in table] == [r["messages"] for r in lines]
    for name in ("out.csv", "out"):
        with pytest.raises(UserError, match="is of no known kind"):
            ask(name=name)


def test_a_pool_of_parquet_gives_rows_with_their_types(ask, tmp_path):
    typed = {
        "when": pa.array([datetime(2024, 1, 1, i % 24, tzinfo=UTC) for i in range(36)]),
        "price": pa.array([Decimal(f"{i}.50") for i in range(36)]),
        "raw": pa.array([bytes([i]) for i in range(36)]),
        "half": pa.array([i / 2 for i in range(36)], pa.float32()),
    }
    table = pa.table({**pa.Table.from_pylist(POOL).to_pydict(), **typed})
    pq.write_table(table, tmp_path / "typed.parquet", row_group_size=7)
    pool = str(tmp_path / "typed.parquet")
    lines, _ = ask(pool=pool)
    places = [next(i for i, m in enumerate(POOL) if m["messages"] == r["messages"]) for r in lines]
    for options in ({}, {"as_": "messages"}):
        ask(name="out.parquet", pool=pool, **options)
        found = pq.read_table(tmp_path / "out.parquet")
        names = [name for name in table.column_names if name != "messages" or not options]
        assert found.select(names).equals(table.take(pa.array(places)).select(names))
    assert lines[0]["raw"] == base64.b64encode(bytes([places[0]])).decode()
    assert lines[0]["price"] == f"{places[0]}.50"


def test_duplicates_go_the_first_stays(ask, tmp_path):
    pool = [*POOL[:5], POOL[2], *POOL[5:9], POOL[0]]
    path = write(tmp_path / "twice.jsonl", pool)
    rows, written = ask(pool=path, dedup="exact", k="9")
    assert [written.counts[kind] for kind in ("read", "duplicate", "left")] == [11, 2, 0]
    assert sorted(map(str, (r["messages"] for r in rows))) == sorted(str(r["messages"]) for r in POOL[:9])
    left_out = read(written.left_out)
    assert [each["where"].rsplit(":", 1)[1] for each in left_out] == ["6", "11"]
    assert [each["kind"] for each in left_out] == ["duplicate"] * 2
    assert left_out[0]["reason"].startswith(f"repeats {path}:3 ")
    assert left_out[0]["row"] == POOL[2]
    words = " ".join(f"word{i}" for i in range(60))
    near = [row(words, "yes"), row(words + " more", "yes"), row("something else", "no")]
    path = write(tmp_path / "near.jsonl", near)
    assert ask(pool=path, dedup="exact", k="3")[1].counts["duplicate"] == 0
    assert ask(pool=path, dedup="near", k="2")[1].counts["duplicate"] == 1


def test_what_a_test_set_holds_is_left_out(ask, tmp_path):
    secret = "the quick brown fox jumps over the lazy dog while fourteen owls look on silently"
    tests = write(tmp_path / "test.jsonl", [{"question": secret}])
    pool = write(tmp_path / "pool2.jsonl", [*POOL[:6], row(f"Tell me: {secret}, and so on", "No.")])
    rows, written = ask(pool=pool, exclude=[tests], k="6")
    assert [written.counts[kind] for kind in ("contaminated", "selected", "left")] == [1, 6, 0]
    (left_out,) = read(written.left_out)
    assert left_out["kind"] == "contaminated"
    assert left_out["reason"].startswith(f"has words of {tests}:1: the quick brown fox")
    assert all(secret not in str(each) for each in rows)


@pytest.mark.parametrize("repeated", [9, 10])
def test_more_than_a_fifth_left_out_is_said_with_its_option(ask, tmp_path, capsys, repeated):
    pool = write(tmp_path / "repeated.jsonl", [*POOL, *POOL[:repeated]])
    ask(pool=pool, method="random", k="3", dedup="exact")
    said = f"--dedup: leaves out {repeated} of {36 + repeated} rows, more than a fifth; {tmp_path}/out.jsonl."
    assert (said in " ".join(capsys.readouterr().err.split())) == (repeated == 10)


def test_limits_per_source(ask):
    rows, _ = ask(k="12", max_per_source=4)
    assert max(Counter(r["source"] for r in rows).values()) <= 4
    free, _ = ask(k="12")
    assert max(Counter(r["source"] for r in free).values()) > 4, "the limit is felt"
    rows, _ = ask(k="12", balance_sources=True)
    assert Counter(r["source"] for r in rows) == {"s0": 3, "s1": 3, "s2": 3, "french": 3}
    with pytest.raises(UserError, match=r"only 8 to choose from with at most 2 of a source; ask for fewer"):
        ask(k="12", max_per_source=2)


def test_bad_rows_stop_or_are_put_aside(ask, tmp_path):
    path = tmp_path / "bad.jsonl"
    write(path, POOL[:7])
    with path.open("ab") as file:
        file.write(b'{"messages": [\n\xff\xfe\n{"messages": []}\n')
    with pytest.raises(UserError, match=r"bad.jsonl:8: is not valid JSON"):
        ask(pool=str(path), k="3")
    _, written = ask(pool=str(path), k="3", on_error="quarantine")
    assert written.counts == {
        "read": 10,
        "kept": 7,
        "rejected": 3,
        "contaminated": 0,
        "duplicate": 0,
        "selected": 3,
        "left": 4,
    }
    assert [each["where"] for each in read(written.left_out)] == [f"{path}:{n}" for n in (8, 9, 10)]
    assert "10 = 3 selected + 4 left + 3 rejected as bad" in str(written)
    path.write_bytes(b"{\n[]\n")
    with pytest.raises(UserError) as error:
        ask(pool=str(path), k="1", on_error="quarantine")
    left = f"{path}: no sample is left of its 2 rows (2 rejected as bad), first {path}:1: is not valid JSON"
    assert str(error.value).startswith(left)
    assert str(error.value).endswith("; write one object on each line")
    with pytest.raises(UserError, match=r"line; --on-error quarantine leaves such rows out$"):
        ask(pool=str(path), k="1")
    same = write(path, [row("one two three four five six seven eight nine ten", "yes")])
    expected = r"\(1 contaminated\), first .*words.*; give a larger pool, or leave less out$"
    with pytest.raises(UserError, match=expected):
        ask(pool=same, k="1", exclude=[same])


def test_the_record_tells_when_something_has_changed(ask, tmp_path):
    _, written = ask()
    reopen(written.path)
    write(tmp_path / "pool.jsonl", POOL[:-1])
    with pytest.raises(UserError, match="have changed; select anew"):
        reopen(written.path)
    record_of(written.path).write_text("{}")
    with pytest.raises(UserError, match="is not what `rds select` writes"):
        reopen(written.path)
    record_of(written.path).unlink()
    with pytest.raises(UserError, match="there is no such file"):
        reopen(written.path)


def test_without_resuming_all_is_made_anew(ask, tmp_path, tiny_model):
    rows, written = ask()
    selection, _ = reopen(written.path)
    folder = selection.store.path(selection.pipeline.features("lm.weighted_all"))
    (shard,) = folder.glob("weighted_all*")
    before = shard.stat().st_mtime_ns
    again = write_selection(selection.request, written.path)
    assert shard.stat().st_mtime_ns == before
    again = write_selection(selection.request.model_copy(update={"resume": False}), written.path)
    (shard,) = folder.glob("weighted_all*")
    assert shard.stat().st_mtime_ns > before
    assert read(again.path) == rows


def test_the_selection_can_be_selected_from_again(ask, tmp_path):
    rows, written = ask()
    again, _ = ask(pool=str(written.path), k="4", name="again.jsonl")
    assert [r["messages"] for r in again] == [r["messages"] for r in rows[:4]]
    assert len(list(read_rows(written.path))) == 9


@pytest.mark.slow
def test_a_device_that_is_not_here_is_one_line(given, tmp_path, capsys):
    line = refused(capsys, *arguments(given, tmp_path / "o.jsonl", device="warp9"), home=tmp_path / "home")
    assert "rds: --device warp9: cannot be used here" in line
    done = rds(*arguments(given, tmp_path / "o.jsonl", device="cpu"), home=tmp_path / "home")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="makes a small file system")
@pytest.mark.parametrize("full", ["out", "home"])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path, tiny_model, full):
    """A real one: a file system of 256 KiB in another name space."""
    pool = write(tmp_path / "pool.jsonl", [row(f"{i} {os.urandom(4000).hex()}", "yes") for i in range(99)])
    small = tmp_path / "small"
    small.mkdir()
    inside = 'mount -t tmpfs -o size=256k none "$0" && "$@"; status=$?; ls -A "$0"/*.jsonl; exit $status'
    before = ["unshare", "-rm", "sh", "-c", inside, small]
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("no other name space is to be had here")
    out, home = (small, tmp_path / "home") if full == "out" else (tmp_path, small)
    options = {"pool": pool, "model": tiny_model, "k": "80", "method": "random"}
    done = rds(*arguments(options, out / "best.jsonl"), home=home, before=before)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("rds: ")]
    assert "No space left" in line
    assert "best.jsonl\n" not in done.stdout
    assert not (tmp_path / "best.jsonl").exists()
