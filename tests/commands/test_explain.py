"""Explaining a selection: against naive computations from all scores at once."""

from __future__ import annotations

import json
import os
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from rdslib.commands import explain as explaining
from rdslib.commands import text as texts
from rdslib.commands import user_selection
from rdslib.commands.explain import NEIGHBOURS, SHOWN, explain, ranks_of, shown
from rdslib.commands.outputs import record_of
from rdslib.commands.request import SelectRequest
from rdslib.commands.select import reopen, write_selection
from rdslib.errors import UserError
from rdslib.methods import features, get_scorer
from rdslib.params import ROOT

K = 9
SOURCES = ("sums", "words", "codes")


def row(prompt, response, **extra):
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    return {**extra, "messages": messages}


# Every third text comes four times, so that scores tie; the fourth row's response is cut off.
POOL = [
    row(f"Please add {i % 14 if i % 3 else 1}", f"It is {i % 14 if i % 3 else 2}", source=SOURCES[i % 3])
    | ({"id": f"a{i}"} if i % 2 else {})
    for i in range(48)
]
POOL[4] = row("word " * 3000, "cut", source="hardcoded")
QUERIES = [row(f"What is {i} plus {i}?", str(2 * i), task="sums") for i in range(12)]
QUERIES += [row("Say 你好 to me", "你好", task="greetings"), row("Say hello", "hello", task="greetings")]

REQUESTS = {
    "one task": {"queries": "sums.jsonl"},
    "tasks": {"queries": "queries.jsonl"},
    "limited": {"queries": "sums.jsonl", "max_per_source": 3},
    "response": {"queries": "sums.jsonl", "method": "rds_label"},
    "random": {"method": "random"},
    "balanced": {"method": "random_balanced"},
    "top": {"method": "top_ppl"},
    "middle": {"method": "mid_ppl"},
    "whitened": {"queries": "sums.jsonl", "method": "rds_whitened"},
    "joined": {"queries": "sums.jsonl", "method": "dsir"},
    "joined tasks": {"queries": "queries.jsonl", "method": "dsir"},
}


def select(pool, model, out, k=2, **options):
    request = SelectRequest.of({"pool": str(pool), "model": str(model), "k": str(k), **options})
    return write_selection(request, out)


def flat(explanation):
    return " ".join(texts.as_text(shown(explanation)).split())


def write(path, rows):
    path.write_text("\n".join(json.dumps(each, ensure_ascii=False) for each in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files, under another home, where features are in shards of 16."""
    folder = tmp_path_factory.mktemp("explain")
    write(folder / "pool.jsonl", POOL)
    write(folder / "queries.jsonl", QUERIES)
    write(folder / "sums.jsonl", QUERIES[:12])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RDSLIB_HOME", str(folder / "home"))
        patch.setattr(user_selection, "ENCODE", user_selection.ENCODE.model_copy(update={"shard_size": 16}))
        yield folder


@pytest.fixture(scope="module")
def selected(folder, tiny_model):
    """The file of a selection, by name, made when it is asked for."""
    made = {}

    def selected(name):
        if name not in made:
            made[name] = folder / f"{name}.jsonl"
            changes = {"method": "rds", **REQUESTS[name]}
            if "queries" in changes:
                changes["queries"] = str(folder / changes["queries"])
            select(folder / "pool.jsonl", tiny_model, made[name], k=K, **changes)
        return made[name]

    return selected


def matrices(path):
    """All scores of each target: [lists, pool]."""
    selection, asked = reopen(path)
    found = {}
    for target in asked.targets or (None,):
        inputs = selection.pipeline.scoring_inputs(asked, target)
        blocks = dict(get_scorer(asked.method).blocks(inputs))
        found[target] = np.concatenate([blocks[start] for start in sorted(blocks)], axis=1)
    return found


def ordered(scores):
    """The positions that a list offers, best first."""
    return sorted(np.flatnonzero(scores > -np.inf).tolist(), key=lambda at: (-scores[at], at))


def walked(lists, skip=0, most=None):
    """What is picked, with its list and rank from 1, by going round the lists."""
    orders, picks, taken = [ordered(each)[skip:] for each in lists], [], {}
    for rank in range(len(POOL)):
        for number, order in enumerate(orders):
            at = order[rank] if rank < len(order) else None
            full = most and sum(POOL[each]["source"] == POOL[at]["source"] for each in taken) >= most
            if at is not None and at not in taken and not full:
                taken[at] = None
                picks.append((at, number, rank + skip + 1))
                if len(picks) == K:
                    return picks
    raise AssertionError


def names():
    return [row.get("id", str(number)) for number, row in enumerate(POOL)]


@pytest.mark.parametrize("name", REQUESTS)
def test_ranks_and_scores_are_those_of_the_whole_matrix(selected, name):
    path = selected(name)
    scores = matrices(path)
    tasks = len(scores) > 1
    lists = [each.max(axis=0) for each in scores.values()] if tasks else [*next(iter(scores.values()))]
    assert any(len(set(each[each > -np.inf].tolist())) < (each > -np.inf).sum() for each in lists) or (
        get_scorer(REQUESTS[name].get("method", "rds")).seeded
    )
    skip = int(get_scorer(REQUESTS[name].get("method", "rds")).skip * len(POOL))
    picks = walked(lists, skip, REQUESTS[name].get("max_per_source"))
    for position in sorted({0, 3, 4, 7, *range(20, 26), *(at for at, _, _ in picks)}):
        found = explain(path, names()[position])
        assert (found.id, found.source) == (names()[position], POOL[position]["source"])
        assert found.where.endswith(f"pool.jsonl:{position + 1}")
        assert found.reach == picks[-1][2]
        ranks = [number for number, (at, _, _) in enumerate(picks) if at == position]
        assert (found.rank, found.state) == ((ranks[0], "picked") if ranks else (None, "not picked"))
        offering = [number for number, each in enumerate(lists) if each[position] > -np.inf]
        expected = offering if None in scores else range(len(lists))
        assert len(found.turns) == len(expected)
        for number, turn in zip(expected, found.turns.itertuples(), strict=True):
            assert turn.score == lists[number][position]
            order, own_picks = ordered(lists[number]), [pick for pick in picks if pick[1] == number]
            rank = order.index(position) + 1 if number in offering else None
            assert (None if np.isnan(turn.score) or turn.rank is pd.NA else turn.rank) == rank
            assert turn.picks == len(own_picks)
            if own_picks:
                assert turn.last_rank == own_picks[-1][2]
                assert turn.last_score == lists[number][own_picks[-1][0]]
            else:
                assert np.isnan(turn.last_score)
        if "joined" in name:
            assert found.turns["query"].isna().all()
            assert found.queries.empty
        elif tasks:
            best = [each[:, position].argmax() for each in scores.values()]
            assert found.turns["query"].tolist() == [best[0], 12 + best[1]]
            for (task, matrix), (shown, rows) in zip(
                scores.items(), found.queries.groupby("task", sort=False), strict=True
            ):
                assert shown == task
                assert rows["score"].tolist() == matrix[:, position].tolist()
                assert rows["rank"].tolist() == [ordered(each).index(position) + 1 for each in matrix]


def test_scores_are_those_that_were_written(selected):
    for name in REQUESTS:
        rows = [json.loads(line) for line in selected(name).read_text(encoding="utf-8").splitlines()]
        for row in rows[::4]:
            found = explain(selected(name), f"#{row['rds_rank']}")
            assert found.rank == row["rds_rank"]
            assert found.score == pytest.approx(row["rds_score"], abs=1e-6)
            assert found.text.splitlines()[0] == row["messages"][0]["content"]
            if "rds_query" in row:
                assert f"query {row['rds_query']}" in found.why
                assert row["rds_task"] in found.why
            else:
                by = f"task {row['rds_task']}" if "joined" in name else "method"
                assert f" Picked by the {by}, which has it at rank " in found.why


@pytest.mark.parametrize("name", ["one task", "whitened"])
@pytest.mark.parametrize("position", [0, 5, 47])
def test_neighbours_are_the_nearest_by_cosine(selected, monkeypatch, position, name):
    path = selected(name)
    monkeypatch.setattr(explaining, "TILE", 7)
    selection, asked = reopen(path)
    step = selection.pipeline.features("lm.weighted_all")
    rows = features.read_all(selection.store.path(step), "weighted_all").astype(np.float32)
    rows = get_scorer(asked.method).change(selection.pipeline.scoring_inputs(asked, asked.targets[0]))(rows)
    rows = rows.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    # Rounded, so that what ties in float32 ties here.
    cosines = np.round(rows @ rows[position], 5)
    order = [at for at in ordered(cosines) if at != position][:NEIGHBOURS]
    found = explain(path, names()[position]).neighbours
    np.testing.assert_allclose(found["cosine"], cosines[order], atol=2e-5)
    picked = selection.pipeline.picks(asked)["position"].to_pylist()
    for each in found.itertuples():
        at = names().index(each.id)
        assert cosines[at] >= cosines[order[-1]]
        first = " ".join(POOL[at]["messages"][0]["content"].split())
        assert (each.source, each.text.startswith(first[:20])) == (POOL[at]["source"], True)
        assert (each.picked == picked.index(at)) if at in picked else (each.picked is pd.NA)
    # Equal texts are equally near, and come in order.
    if position == 0:
        assert found["id"].tolist() == [names()[at] for at in range(3, 16, 3)]


def test_why_a_sample_was_not_picked(selected):
    picks = {name: [explain(selected(name), f"#{rank}").id for rank in range(K)] for name in REQUESTS}

    def other(name, wanted):
        found = (explain(selected(name), each) for each in names() if each not in picks[name])
        return next(each for each in found if wanted(each))

    far = other("one task", lambda e: True)
    best = far.turns.sort_values("rank", kind="stable").iloc[0]
    assert best["rank"] >= far.reach
    assert f"Its best rank is {best['rank']}, by query {best['query']} of the task sums." in far.why
    scores = [*matrices(selected("limited"))["sums"]]
    _, last, reach = walked(scores, most=3)[-1]
    fulls = []
    for position, name in enumerate(names()):
        if name not in picks["limited"]:
            ranks = [ordered(each).index(position) + 1 for each in scores]
            full = any(rank <= reach - (number > last) for number, rank in enumerate(ranks))
            why = explain(selected("limited"), name).why
            assert ("but its source had as many picks by then as it may." in why) == full
            fulls.append((full, min(ranks) == reach))
    assert {(True, False), (False, True)} <= set(fulls)
    passed = other("middle", lambda e: e.turns["rank"].min() <= 15)
    passed_over = f"Its rank is {passed.turns['rank'].iloc[0]}, and the method passes over the best 15."
    assert passed_over in passed.why
    low = other("random", lambda e: True)
    assert f"Its rank is {low.turns['rank'].iloc[0]}." in low.why
    # What balanced random leaves out comes behind all else.
    last = explain(selected("balanced"), "4")
    assert "Its rank is 17." in last.why
    assert "4" not in explain(selected("response"), "0").neighbours["id"].tolist()
    for name in ("random", "balanced", "top", "middle"):
        assert explain(selected(name), "0").neighbours is None


def test_what_was_left_out_has_its_reason(folder, tiny_model):
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    rows = [
        row("first", "1"), row("again", "2", id="twin"), row("again", "2"), row("third", "3"),
        row(long, "4", id="leak"), {"id": "bad", "text": "no sample"}, row("last", "5"),
    ]  # fmt: skip
    text = "\n".join(json.dumps(each) for each in rows) + "\n{not JSON\n"
    (folder / "mixed.jsonl").write_text(text)
    write(folder / "test.jsonl", [row(long, "x")])
    out = folder / "mixed.out.jsonl"
    options = {"method": "random", "on_error": "quarantine", "dedup": "exact"}
    select(folder / "mixed.jsonl", tiny_model, out, exclude=[str(folder / "test.jsonl")], **options)
    for sample, line, state, reason, text in (
        ("2", 3, "duplicate", "repeats", "again"),
        ("leak", 5, "contaminated", "has words of", "one two"),
        ("bad", 6, "rejected", "this sample has no field that holds", '{"id": "bad"'),
        ("5", 6, "rejected", "this sample has no field that holds", '{"id": "bad"'),
        ("7", 8, "rejected", "is not valid JSON", "{not JSON"),
    ):
        found = explain(out, sample)
        assert (found.id, found.state, found.rank) == (sample, state, None)
        assert found.where.endswith(f"mixed.jsonl:{line}")
        assert reason in found.why
        assert found.text.startswith(text)
        assert f"Left out as {state}: {found.why}" in flat(found)
    assert explain(out, "twin").reach is not None
    with pytest.raises(UserError, match="has no sample of that id"):
        explain(out, "8")


def test_an_id_like_a_rank_is_the_id(folder, tiny_model):
    rows = [row(f"text {i}", "r", id=f"#{i}") for i in range(4)]
    pool, out = write(folder / "ranks.jsonl", rows), folder / "ranks.out.jsonl"
    select(pool, tiny_model, out, method="random")
    assert [explain(out, f"#{i}").text.splitlines()[0] for i in range(4)] == [f"text {i}" for i in range(4)]


@pytest.mark.parametrize("name", REQUESTS)
def test_the_text_says_it_in_100_columns(selected, name):
    for sample in ("#0", "#8", "4", "a7"):
        found = explain(selected(name), sample)
        text = texts.as_text(shown(found), 100)
        assert all(cell_len(line) <= 100 for line in text.splitlines())
        flat = " ".join(text.split())
        assert flat.startswith(f"Sample {found.id}, of the source {found.source}, from ")
        assert found.why in flat
        assert (
            f"9 of 48 samples were picked; the list that picked last was at its rank {found.reach} then."
            in flat
        )
        method = REQUESTS[name].get("method", "rds")
        assert (f"Pick #{found.rank} of {method}." in flat) == (found.rank is not None)
        titles = [line for line in text.splitlines() if line.startswith("Score and rank in the pool ")]
        assert len(titles) == (3 if name == "tasks" else 1)
        more = f"(the best {SHOWN} of 12)"
        assert flat.count(more) == (name in ("one task", "tasks", "limited", "response"))
        assert ("Nearest in the pool, by cosine" in text) == (
            found.neighbours is not None and len(found.neighbours) > 0
        )
        assert ("looks at no vectors" in text) == (found.neighbours is None)


@settings(deadline=None)
@example("你" * 200, 0)
@example("a" + "你" * 200, 0)
@example("1" * 25 + " " + "你" * 10, 0)
@given(st.text(st.sampled_from("a 你好é\x1b[31m\n\t\x00-"), max_size=300), st.integers(0, 40))
def test_no_line_is_too_wide_or_controls_the_terminal(text, margin):
    lines = texts.as_text([texts.line(text, margin)], 100).splitlines()
    columns = {f"x{text}"[:40]: ["1", text], "n": ["2", "3"], "text": [text * 3, text]}
    table = texts.as_text([texts.table(columns, list(columns))], 100).splitlines()
    assert all(cell_len(line) <= 100 and line.isprintable() for line in [*lines, *table])
    words = "".join(each if each.isprintable() else " " for each in text).split()
    assert "".join("".join(lines).split()) == "".join(words)
    assert len(table) == 3


def score_matrices():
    shape = st.tuples(st.integers(1, 4), st.integers(1, 12))
    values = st.sampled_from([-np.inf, 0.0, 1.0, 2.0])
    return shape.flatmap(
        lambda s: st.lists(st.lists(values, min_size=s[1], max_size=s[1]), min_size=s[0], max_size=s[0])
    )


@settings(deadline=None)
@given(score_matrices(), st.data())
def test_ranks_are_places_in_the_order(rows, data):
    scores = np.array(rows)
    lists, n = scores.shape
    place = st.lists(st.integers(0, n - 1), min_size=lists, max_size=lists)
    places = np.array([data.draw(place), data.draw(place)]).T
    cuts = sorted(data.draw(st.sets(st.integers(1, n))) | {0, n})
    blocks = data.draw(st.permutations([(a, scores[:, a:b]) for a, b in pairwise(cuts)]))
    ranks = ranks_of(blocks, np.take_along_axis(scores, places, axis=1), places)
    for number, each in enumerate(scores):
        order = ordered(each)
        expected = [order.index(at) + 1 if at in order else 0 for at in places[number]]
        assert ranks[number].tolist() == expected


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ("a99", "--sample 'a99': {pool} has no sample of that id; its ids are such as '0', 'a1', '2', and "
                "the picks are #0 to #8"),
        ("", "--sample '': {pool} has no sample of that id"),
        ("#9", "--sample #9: the picks are #0 to #8; give one of them"),
        ("x" * 5000, "--sample 'xxx"),
    ],
)  # fmt: skip
def test_an_unknown_sample_is_one_short_line(selected, folder, sample, message):
    with pytest.raises(UserError) as error:
        explain(selected("random"), sample)
    assert str(error.value).startswith(message.format(pool=folder / "pool.jsonl"))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_what_is_no_selection_is_one_line(selected, folder, tmp_path, tiny_model):
    with pytest.raises(
        UserError, match=r"pool.jsonl.rds.json: there is no such file; `rds select` writes it"
    ):
        explain(folder / "pool.jsonl", "0")
    out = tmp_path / "out.jsonl"
    record_of(out).write_text("{}")
    with pytest.raises(UserError, match="is not what `rds select` writes; select anew"):
        explain(out, "0")
    pool = write(tmp_path / "pool.jsonl", POOL[:4])
    select(pool, tiny_model, out, method="random")
    assert "of 4 samples" in explain(out, "0").why
    write(tmp_path / "pool.jsonl", POOL[5:9])
    with pytest.raises(UserError, match="the files that it was selected from have changed; select anew"):
        explain(out, "0")
    os.remove(tmp_path / "pool.jsonl")
    with pytest.raises(UserError, match="there is no such file or folder"):
        explain(out, "0")


def test_code_that_a_record_names_is_not_run(tmp_path, tiny_model, monkeypatch):
    """Only a profile that the user names runs its plug-ins."""
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))
    mine, ran = tmp_path / "mine.yaml", []
    (tmp_path / "plugin.py").write_text("")
    text = (ROOT / "params" / "tiny.yaml").read_text()
    mine.write_text(text.replace("  seed: 7\n", "  seed: 7\n  plugins: [plugin.py]\n"))
    out = tmp_path / "out.jsonl"
    select(write(tmp_path / "pool.jsonl", POOL[:4]), tiny_model, out, method="random", profile=str(mine))
    monkeypatch.setattr(user_selection, "load_plugins", ran.extend)
    with pytest.raises(UserError, match=r"runs code \(plugin.py\); code that a file names is not run"):
        explain(out, "0")
    assert not ran
    assert explain(out, "0", str(mine)).state in ("picked", "not picked")
    assert ran == [tmp_path / "plugin.py"]
