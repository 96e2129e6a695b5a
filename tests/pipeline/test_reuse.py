"""A pool that changes: only samples that have not been through the model go through it."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

from rdslib.commands import user_selection
from rdslib.commands.request import SelectRequest
from rdslib.commands.select import compute
from rdslib.commands.user_selection import UserSelection
from rdslib.data.chat import Sample, user_assistant
from rdslib.errors import UserError
from rdslib.methods import features, get_extractor
from rdslib.pipeline.artifacts import damage
from rdslib.pipeline.executors import Local
from rdslib.pipeline.reuse import DIGEST, digests_of

SHARD, POOL, QUERIES = 8, 30, 3


def row(i):
    return {
        "messages": user_assistant(f"What is {i} + {i}? Say it {i % 7} times.", f"{2 * i} " * (i % 5 + 1))
    }


def write(path, numbers, *others):
    path.parent.mkdir(exist_ok=True, parents=True)
    lines = [*(json.dumps(row(i)) for i in numbers), *others]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    encode = user_selection.ENCODE.model_copy(
        update={"shard_size": SHARD, "token_budget": 256, "max_length": 64}
    )
    monkeypatch.setattr(user_selection, "ENCODE", encode)


@pytest.fixture
def encoded(monkeypatch):
    """How many samples went through the model, as (of pools, of queries), since it was last asked."""
    counts = [0, 0]
    extract = Local.extract

    def counting(self, extractor, given, shards, done):
        def counted():
            for start, samples in shards:
                assert len(samples) <= SHARD
                counts[given.queries] += len(samples)
                yield start, samples

        yield from extract(self, extractor, given, counted(), done)

    monkeypatch.setattr(Local, "extract", counting)

    def since():
        found, counts[:] = tuple(counts), (0, 0)
        return found

    return since


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_model):
    """A folder with a pool of two files and queries, and a home where a selection of them is."""
    folder = tmp_path_factory.mktemp("base")
    write(folder / "pool" / "a.jsonl", range(20))
    write(folder / "pool" / "b.jsonl", range(20, POOL))
    write(folder / "queries.jsonl", range(100, 100 + QUERIES))
    return folder


def select(folder, model, home, monkeypatch, **options):
    """A selection of what the folder has: its ids, and its pipeline."""
    monkeypatch.setenv("RDSLIB_HOME", str(home))
    selection = UserSelection(SelectRequest.of(options_of(folder, model, **options)))
    asked = compute(selection)
    return selection.pipeline.picks(asked)["id"].to_pylist(), selection.pipeline


def options_of(folder, model, **options):
    given = {"pool": folder / "pool", "queries": folder / "queries.jsonl"}
    return {"model": model, "k": 6, **given, **options}


def add_rows(folder):
    write(folder / "pool" / "b.jsonl", range(20, POOL + 3))


def add_in_front(folder):
    write(folder / "pool" / "a.jsonl", [50, *range(5), 51, *range(5, 20), 52])


def add_file(folder):
    write(folder / "pool" / "c.jsonl", range(50, 61))


def rename(folder):
    (folder / "pool" / "a.jsonl").rename(folder / "pool" / "z.jsonl")


def repeat(folder):
    write(folder / "pool" / "a.jsonl", [*range(20), 3, 4])


def break_a_row(folder):
    write(folder / "pool" / "a.jsonl", range(20), "{")


def another_form(folder):
    turns = [[{"from": "human", "value": m[0]["content"]}, {"from": "gpt", "value": m[1]["content"]}]
             for m in (row(i)["messages"] for i in range(20))]  # fmt: skip
    write(folder / "pool" / "a.jsonl", (), *(json.dumps({"conversations": each}) for each in turns))


def other_queries(folder):
    write(folder / "queries.jsonl", [100, 200, 101, 201])


def exclude(folder):
    text = "the quick brown fox jumps over the lazy dog and runs away from the old bear"
    long = json.dumps({"messages": user_assistant(text, "yes")})
    write(folder / "test.jsonl", (), long)
    write(folder / "pool" / "a.jsonl", range(20), long)


# What is changed, the options beside it, and how many samples of the pool and queries then pass the model.
CHANGES = {
    "rows at the end": (add_rows, {}, (3, 0)),
    "rows in between": (add_in_front, {}, (3, 0)),
    "a file": (add_file, {}, (11, 0)),
    "a file's name": (rename, {}, (0, 0)),
    "--dedup": (repeat, {"dedup": "exact"}, (0, 0)),
    "--exclude": (exclude, {"exclude": ["test.jsonl"]}, (0, 0)),
    "--on-error": (break_a_row, {"on_error": "quarantine"}, (0, 0)),
    "another form": (another_form, {}, (0, 0)),
    "-k": (lambda folder: None, {"k": 11}, (0, 0)),
    "--seed": (lambda folder: None, {"seed": 3}, (0, 0)),
    "--balance-sources": (lambda folder: None, {"balance_sources": True}, (0, 0)),
    "queries": (other_queries, {}, (0, 2)),
    "another method of the same pass": (lambda folder: None, {"method": "top_ppl"}, (POOL, 0)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_only_new_samples_pass_through_the_model(base, tiny_model, tmp_path, monkeypatch, encoded, name):
    change, options, expected = CHANGES[name]
    folder, home = tmp_path / "data", tmp_path / "home"
    shutil.copytree(base, folder)
    monkeypatch.chdir(folder)
    select(folder, tiny_model, home, monkeypatch)
    assert encoded() == (POOL, QUERIES)
    change(folder)
    picks, pipeline = select(folder, tiny_model, home, monkeypatch, **options)
    assert encoded() == expected
    # The same as from nothing, where every sample is new.
    fresh, other = select(folder, tiny_model, tmp_path / "fresh", monkeypatch, **options)
    assert picks == fresh
    feature = "lm.nll" if options.get("method") else "lm.weighted_all"
    steps = [pipe.features(feature) for pipe in (pipeline, other)]
    assert steps[0].hash == steps[1].hash
    counts = pipeline.store.manifest(steps[0])["counts"]
    size = len(pipeline.pool_file())
    assert counts["encoded"] + counts["reused"] == counts["samples"] == size
    mine, theirs = (pipe.store.path(step) for pipe, step in zip((pipeline, other), steps, strict=True))
    assert damage(mine) == []
    for part in (feature.split(".")[1], "cost", DIGEST):
        ours, news = features.read_all(mine, part), features.read_all(theirs, part)
        assert ours.dtype == news.dtype
        np.testing.assert_allclose(ours.astype(float), news.astype(float), atol=2e-3, rtol=1e-5)


def flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def shorten(path):
    np.save(path, np.load(path)[1:])


# Two shards of eight cannot be trusted, or no row is where it was; and three rows are new.
@pytest.mark.parametrize(("damage", "again"), [(flip, 2 * SHARD + 3), (shorten, POOL + 3)])
def test_what_is_damaged_is_encoded_again(base, tiny_model, tmp_path, monkeypatch, encoded, damage, again):
    folder, home = tmp_path / "data", tmp_path / "home"
    shutil.copytree(base, folder)
    _, pipeline = select(folder, tiny_model, home, monkeypatch)
    made = pipeline.store.path(pipeline.features("lm.weighted_all"))
    for name in ("weighted_all-000000008.npy", "digest-000000016.npy"):
        damage(made / name)
    add_rows(folder)
    encoded()
    picks, _ = select(folder, tiny_model, home, monkeypatch)
    assert encoded() == (again, 0)
    assert picks == select(folder, tiny_model, tmp_path / "fresh", monkeypatch)[0]


def test_a_pool_of_two_earlier_ones_is_encoded_no_more(base, tiny_model, tmp_path, monkeypatch, encoded):
    folder, home = tmp_path / "data", tmp_path / "home"
    shutil.copytree(base, folder)
    for numbers in (range(10), range(10, 25)):
        write(folder / "pool" / "a.jsonl", numbers)
        select(folder, tiny_model, home, monkeypatch)
    encoded()
    write(folder / "pool" / "a.jsonl", [*range(5, 20), 99])
    select(folder, tiny_model, home, monkeypatch)
    assert encoded() == (1, 0)


def test_a_killed_run_goes_on_with_what_is_left(base, tiny_model, tmp_path, monkeypatch, encoded):
    folder, home = tmp_path / "data", tmp_path / "home"
    shutil.copytree(base, folder)
    select(folder, tiny_model, home, monkeypatch)
    write(folder / "pool" / "a.jsonl", [*range(20), *range(300, 340)])
    encoded()
    counting, passes = Local.extract, []

    def dying(self, *given):
        for found in counting(self, *given):
            if len(passes) == 2:
                raise KeyboardInterrupt
            passes.append(found)
            yield found

    with monkeypatch.context() as patch:
        patch.setattr(Local, "extract", dying)
        with pytest.raises(KeyboardInterrupt):
            select(folder, tiny_model, home, monkeypatch)
    done = sum(len(made.rows["cost"]) for _, made in passes)
    assert 0 < done < 40
    encoded()
    picks, _ = select(folder, tiny_model, home, monkeypatch)
    assert encoded() == (40 - done, 0)
    assert picks == select(folder, tiny_model, tmp_path / "fresh", monkeypatch)[0]


def test_a_shard_that_goes_after_it_was_checked_gives_no_part_of_a_selection(
    base, tiny_model, tmp_path, monkeypatch
):
    whole, pipeline = select(base, tiny_model, tmp_path, monkeypatch)
    blocks = Local.ranker
    made = pipeline.store.path(pipeline.features("lm.weighted_all"))

    def going(self, scorer, inputs):
        (made / "weighted_all-000000016.npy").unlink()
        return blocks(self, scorer, inputs)

    with monkeypatch.context() as patch:
        patch.setattr(Local, "ranker", going)
        with pytest.raises(UserError, match=r"weighted_all-000000016.npy is missing, since it was checked"):
            select(base, tiny_model, tmp_path, monkeypatch, k=12)
    picks, _ = select(base, tiny_model, tmp_path, monkeypatch, k=12)
    assert len(picks) == 12
    assert picks[:6] == whole


def test_a_relative_home_stays_where_it_was(base, tiny_model, tmp_path, monkeypatch, encoded):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    select(base, tiny_model, "home", monkeypatch)
    assert os.environ["RDSLIB_HOME"] == str(tmp_path / "home")
    monkeypatch.chdir(tmp_path / "elsewhere")
    picks = compute(UserSelection(SelectRequest.of(options_of(base, tiny_model))))
    assert picks
    assert encoded() == (POOL, QUERIES)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_feature_does_not_read_the_shards_of_one_that_begins_like_it(tmp_path):
    for start in (0, 2):
        features.write(tmp_path / features.shard_name("emb", start), np.full(2, start))
        features.write(tmp_path / features.shard_name("emb-large", start), np.full(2, -1))
    (tmp_path / "emb-000000004.npy.bak").write_text("x")
    (tmp_path / "emb-4.npy").write_text("x")
    assert features.read_all(tmp_path, "emb").tolist() == [0, 0, 2, 2]
    assert features.read_all(tmp_path, "emb-large").tolist() == [-1] * 4


def test_what_an_extractor_sees_is_what_rows_are_known_by():
    samples = [Sample("1", "a", row(1)["messages"]), Sample("2", "b", row(1)["messages"])]
    by_messages = digests_of(samples, get_extractor("lm.nll").sees)
    assert by_messages.shape == (2, 16)
    assert (by_messages[0] == by_messages[1]).all()
    # Of a user's extractor nothing is known, so that it is all that a sample has.
    by_all = digests_of(samples, ("id", "source", "messages"))
    assert (by_all[0] != by_all[1]).any()
