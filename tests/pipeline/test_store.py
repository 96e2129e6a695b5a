"""Artifacts: whole or not at all, checked byte for byte, repaired from their sound shards."""

from __future__ import annotations

import json

import pytest

from rdslib import files
from rdslib.errors import UserError
from rdslib.pipeline.artifacts import damage
from rdslib.pipeline.step import Kind, in_order, step
from rdslib.pipeline.store import MANIFEST, Store

SHARDS = 6


def make_steps(calls):
    """A small chain: a base, and shards computed from it; `calls` collects what is computed."""

    @step(version=1)
    def base(work, a):
        calls.append("base")
        (work.path / "base.txt").write_text("7")
        return {"n": 1}

    @step(version=1)
    def shards(work, base, b):
        factor = int((base / "base.txt").read_text())
        total = 0
        for i in range(SHARDS):

            def write(folder, i=i):
                calls.append(f"shard {i}")
                (folder / f"value-{i}.txt").write_text(str(factor * i) * 100)
                (folder / f"other-{i}.txt").write_text(str(i))

            if str(i) not in work.shards:
                work.shard(str(i), {"value": factor * i}, write)
            total += work.shards[str(i)]["counts"]["value"]
        return {"total": total}

    first = base.step("base", a=1)
    return first, shards.step("shards", base=first, b=2)


@pytest.fixture
def made(tmp_path):
    calls = []
    first, second = make_steps(calls)
    store = Store(tmp_path)
    path = store.make(second)
    return tmp_path, calls, first, second, path


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_hash_follows_function_version_arguments_and_marks_alone():
    first, second = make_steps([])

    def laid_out(version=1, name="shards", marks=None, given=None, label="", **arguments):
        def function(work):
            return {}

        function.__name__ = name
        return Kind(function, version, None).step(label, 3, marks, given, **arguments)

    same = laid_out(base=first, b=2, label="another", given={"executor": object()})
    assert same.hash == second.hash
    changes = [
        laid_out(2, base=first, b=2),
        laid_out(base=first, b=3),
        laid_out(b=2),
        laid_out(name="other", base=first, b=2),
        laid_out(base=first, b=2, marks={"device": "cuda"}),
        laid_out(base=laid_out(name="base", a=9), b=2),
    ]
    assert len({second.hash, *(change.hash for change in changes)}) == 7


def test_steps_in_nested_arguments_are_inputs_and_arrive_as_folders(tmp_path):
    first, second = make_steps([])
    found = {}

    @step(version=1)
    def reads(work, folders, pairs, other):
        found.update(folders=folders, pairs=pairs, other=other)
        return {}

    last = reads.step("", folders={"x": first}, pairs=[{"y": second}], other=None)
    assert in_order([last]) == [first, second, last]
    store = Store(tmp_path)
    store.make(last)
    assert found == {
        "folders": {"x": store.path(first)},
        "pairs": [{"y": store.path(second)}],
        "other": None,
    }


def test_what_is_keyed_by_a_file_stays_when_the_file_comes_out_the_same(tmp_path):
    calls = []

    @step(version=1)
    def source(work, text, comment):
        calls.append(f"source {comment}")
        (work.path / "text.txt").write_text(text)
        return {"comment": comment}

    @step(version=1)
    def length(work, text):
        calls.append("length")
        return {"length": len((text / "text.txt").read_text())}

    def chain(text, comment):
        store = Store(tmp_path)
        return store, length.step(
            "", text=store.file(source.step("", text=text, comment=comment), "text.txt")
        )

    store, last = chain("abc", 1)
    assert not store.has(last)
    store.make(last)
    store, last = chain("abc", 2)
    assert [each.name for each in store.missing([last])] == ["source", "length"]
    store.make(last)
    assert calls == ["source 1", "length", "source 2"]
    assert store.missing([last]) == []
    store, last = chain("abcd", 2)
    store.make(last)
    assert store.manifest(last)["counts"] == {"length": 4}


def test_files_that_are_not_there_are_looked_for_once_until_something_is_made(tmp_path, monkeypatch):
    looked = []
    look = Store._checksum
    monkeypatch.setattr(Store, "_checksum", lambda *given: looked.append(given) or look(*given))

    @step(version=1)
    def next_of(work, files):
        (work.path / "text.txt").write_text("x")
        return {}

    def chain(store):
        steps = []
        for _ in range(6):  # each reads all before it
            steps.append(next_of.step("", files=[store.file(each, "text.txt") for each in steps]))
        return steps

    store = Store(tmp_path)
    steps = chain(store)
    assert len(in_order(steps)) == 6
    assert steps[-1].unsettled == steps[:-1]
    assert len(looked) < 3 * 6 * 6
    before = [each.hash for each in steps]
    elsewhere = chain(Store(tmp_path))
    Store(tmp_path).make(elsewhere[-1])
    assert steps[-1].unsettled == []
    assert [each.hash for each in steps] == [each.hash for each in elsewhere] != before


def test_steps_of_one_group_are_made_in_one_call_and_only_those_that_are_missing(tmp_path):
    calls = []

    @step(version=1, joined_by="feature")
    def features(works, model):
        calls.append(sorted(works))
        for feature, work in works.items():
            (work.path / "rows.txt").write_text(feature)
        return {feature: {"letters": len(feature)} for feature in works}

    each = {name: features.step(name, feature=name, model="m") for name in ("nll", "states", "last")}
    other = features.step("", feature="nll", model="another")
    assert len({one.group for one in each.values()}) == 1
    assert other.group != each["nll"].group
    store = Store(tmp_path)
    assert store.try_make([each["nll"], each["states"]])
    assert store.try_make(list(each.values()))
    assert calls == [["nll", "states"], ["last"]]
    for name, one in each.items():
        assert (store.path(one) / "rows.txt").read_text() == name
        assert store.manifest(one)["counts"] == {"letters": len(name)}
    (store.path(each["states"]) / "rows.txt").write_text("x")
    store = Store(tmp_path)
    assert store.try_make(list(each.values()))
    assert calls[-1] == ["states"]


def test_order_is_that_of_a_walk_from_the_inputs_and_takes_each_step_once():
    @step(version=1)
    def node(work):
        return {}

    first = node.step("", n=0)
    middle = [node.step("", n=n, of=first) for n in (2, 1)]
    last = node.step("", n=3, of=middle, first=first)
    assert in_order([last, middle[1]]) == [first, *middle, last]

    # Of as many paths as 2 to the 60th.
    chain = [first]
    for n in range(60):
        chain.append(node.step("", n=n, a=chain[-1], b=[chain[-1]]))
    assert in_order([chain[-1]]) == chain


def test_a_manifest_is_read_once_until_it_changes(made, monkeypatch):
    folder, _, first, last, path = made
    reads = []
    read = files.read_manifest
    monkeypatch.setattr("rdslib.pipeline.artifacts.read_manifest", lambda at: reads.append(at) or read(at))
    store = Store(folder)
    for _ in range(3):
        assert store.missing([last]) == []
    assert reads == [store.path(first), path]
    sound = (path / MANIFEST).read_bytes()
    (path / MANIFEST).write_bytes(sound.replace(b"105", b"104"))
    assert not store.has(last)
    (path / MANIFEST).unlink()
    assert not store.has(last)
    (path / MANIFEST).write_bytes(sound)
    assert store.has(last)


def test_made_once_and_described(made):
    folder, calls, _, last, path = made
    assert calls == ["base", *(f"shard {i}" for i in range(SHARDS))]
    manifest = Store(folder).manifest(last)
    assert manifest["counts"] == {"total": 7 * 15}
    assert len(manifest["files"]) == 2 * SHARDS
    assert damage(path) == []
    assert Store(folder).make(last) == path
    assert len(calls) == 1 + SHARDS, "a second run computes nothing"
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize("how", ["flip", "delete", "truncate"])
def test_damage_is_named_and_only_the_damaged_shard_is_recomputed(made, how, capsys):
    folder, calls, _, last, path = made
    before = contents(path)
    victim = path / "value-3.txt"
    data = bytearray(victim.read_bytes())
    if how == "delete":
        victim.unlink()
    else:
        data[50] ^= 1
        victim.write_bytes(data if how == "flip" else data[:50])
    assert len(damage(path)) == 1
    calls.clear()
    Store(folder).make(last)
    assert calls == ["shard 3"]
    printed = capsys.readouterr().err
    assert "value-3.txt is" in printed
    assert last.hash in printed
    after = contents(path)
    before.pop(MANIFEST)
    after.pop(MANIFEST)
    assert after == before


def with_another_count(manifest):
    return json.dumps({**json.loads(manifest), "counts": {"total": 1}}).encode()


@pytest.mark.parametrize("change", [b"{", with_another_count])
def test_a_damaged_manifest_is_not_trusted(made, change):
    folder, calls, _, last, path = made
    manifest = path / MANIFEST
    manifest.write_bytes(change(manifest.read_bytes()) if callable(change) else change)
    assert damage(path) == [f"{MANIFEST} is missing or damaged"]
    calls.clear()
    Store(folder).make(last)
    assert len(calls) == SHARDS
    assert damage(path) == []
    assert Store(folder).manifest(last)["counts"]["total"] == 105


def test_nothing_half_written_when_a_build_fails(tmp_path):
    @step(version=1)
    def fails(work):
        (work.path / "half.txt").write_text("half")
        raise RuntimeError("no")

    one = fails.step("")
    with pytest.raises(RuntimeError):
        Store(tmp_path).make(one)
    assert not Store(tmp_path).has(one)
    assert not (tmp_path / "fails" / one.hash).exists()


def test_checkpoints_of_a_step_that_was_killed_are_kept_for_it(tmp_path):
    seen = []

    @step(version=1)
    def trained(work):
        folder = work.path / files.CHECKPOINTS
        seen.append(folder.is_dir())
        folder.mkdir(exist_ok=True)
        assert not (work.path / "half-written").exists()
        if len(seen) == 1:
            (work.path / "half-written").write_text("x")
            raise KeyboardInterrupt
        folder.rmdir()
        return {}

    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        store.make(trained.step("trained"))
    assert list(contents(store.make(trained.step("trained")))) == [MANIFEST]
    assert seen == [False, True]


def test_what_does_not_belong_there_is_removed_and_nothing_is_made_again(made, capsys):
    folder, calls, _, last, path = made
    before = contents(path)
    (path / "value-9.txt").write_text("junk")
    (path / "sub").mkdir()
    (path / "sub" / "link").symlink_to(path / "nowhere")
    assert damage(path) == ["sub/link is no part of it", "value-9.txt is no part of it"]
    calls.clear()
    Store(folder).make(last)
    assert calls == []
    assert contents(path) == before
    assert "value-9.txt is no part of it; removed" in capsys.readouterr().err


def test_an_input_that_goes_after_it_was_checked_is_named(tmp_path):
    first, second = make_steps([])
    store = Store(tmp_path)
    (store.make(first) / "base.txt").unlink()
    with pytest.raises(UserError, match=r"base.txt is missing, since it was checked; start the command"):
        store.make(second)
    assert not store.has(second)
    assert Store(tmp_path).make(second)


def transient_chain(calls, store, readers=2):
    """A transient step, and steps that read its file."""

    @step(version=1)
    def train(work):
        calls.append("train")
        (work.path / "weights.txt").write_text("9")
        return {"tokens": 5}

    @step(version=1)
    def evaluate(work, trained, task):
        calls.append(f"evaluate {task}")
        (work.path / "score.txt").write_text((trained / "weights.txt").read_text() + task)
        return {}

    trained = train.step("train", transient=True)
    return trained, [evaluate.step("evaluate", trained=trained, task=str(at)) for at in range(readers)]


def test_a_dropped_artifact_keeps_its_manifest_and_is_made_again_for_what_reads_it(tmp_path):
    calls, store = [], Store(tmp_path)
    trained, (first, second) = transient_chain(calls, store)
    store.make(first)
    store.drop(trained)
    assert contents(store.path(trained)).keys() == {MANIFEST}
    assert store.has(trained)
    assert store.manifest(trained)["counts"] == {"tokens": 5}
    for known in (store, Store(tmp_path)):
        assert known.try_make([trained])
        assert known.try_make([first])
    assert calls == ["train", "evaluate 0"]
    store.make(second)
    assert calls == ["train", "evaluate 0", "train", "evaluate 1"]
    assert (store.path(second) / "score.txt").read_text() == "91"
    assert (store.path(trained) / "weights.txt").exists()


def test_files_that_a_kill_left_of_a_dropped_artifact_are_no_part_of_it(tmp_path):
    calls, store = [], Store(tmp_path)
    trained, (first, _) = transient_chain(calls, store)
    store.make(first)
    left = (store.path(trained) / "weights.txt").read_bytes()
    store.drop(trained)
    (store.path(trained) / "weights.txt").write_bytes(left)
    assert Store(tmp_path).try_make([trained])
    assert contents(store.path(trained)).keys() == {MANIFEST}
    assert calls == ["train", "evaluate 0"]
