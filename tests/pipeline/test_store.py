"""Artifacts: whole or not at all, checked byte for byte, repaired from their sound shards."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rdslib.errors import UserError
from rdslib.files import read_manifest
from rdslib.pipeline.step import Kind, in_order, step
from rdslib.pipeline.store import MANIFEST, Store, Work, damage
from rdslib.pipeline.store import SHARDS as JOURNAL
from tests.killing import run_with_kills

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


@pytest.mark.parametrize("change", [b"", b"{", b'{"files": {}, "counts": {}}', with_another_count])
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


PROGRAM = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from rdslib.pipeline.step import step
    from rdslib.pipeline.store import Store
    @step(version=1)
    def long(work):
        for i in range(40):
            def write(folder, i=i):
                time.sleep(0.01)
                (folder / f"{i}.bin").write_bytes(bytes([i]) * 20000)
                Path(sys.argv[2]).open("a").write(f"{i}\\n")
            if str(i) not in work.shards:
                work.shard(str(i), {}, write)
        return {}
    Store(Path(sys.argv[1])).make(long.step("long"))
    """
)


@pytest.mark.slow
def test_sigkill_at_random_moments_loses_at_most_the_shard_in_work(tmp_path):
    log = tmp_path / "log"
    log.touch()
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "killed"), str(log)]
    code, kills = run_with_kills(command, 0, 0.1, 0.5)
    assert code == 0
    assert kills >= 1
    subprocess.run([*command[:3], str(tmp_path / "whole"), os.devnull], check=True)
    written = log.read_text().split()
    assert len(written) <= 40 + kills, "each kill costs at most one shard"

    def files(name):
        found = contents(next((tmp_path / name / "long").glob("*[0-9a-f]")))
        return {key: value for key, value in found.items() if key != MANIFEST}

    assert files("killed") == files("whole")


# Everything that changes a file or a folder while an artifact is finished, or a damaged one is taken apart.
CHANGES = ((os, "replace"), (os, "fsync"), (Path, "unlink"), (Path, "write_text"), (shutil, "rmtree"))


@step(version=1)
def few(work, n, log):
    for i in range(n):

        def write(folder, i=i):
            (folder / f"{i}.bin").write_bytes(bytes([i]))
            with open(log, "a") as stream:
                stream.write(f"{i} ")

        if str(i) not in work.shards:
            work.shard(str(i), {"of": 1}, write)
    return {"of": sum(shard["counts"]["of"] for shard in work.shards.values())}


def make_in_fork(home, log, left):
    """Make it in a process of its own, that kills itself before change number `left`; return the status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]

    def dying(call):
        def called(*args, **options):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **options)

        return called

    for place, name in CHANGES:
        setattr(place, name, dying(getattr(place, name)))
    Store(home).make(few.step("few", n=4, given={"log": log}))
    os._exit(0)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_kill_before_any_change_of_the_folder_costs_one_shard(tmp_path, damaged):
    """Killed before the first of them, before the second, and so on, until there is none left."""
    whole, status, left = None, 1, 0
    while status:
        home, log = tmp_path / str(left), tmp_path / f"{left}.log"
        if damaged:
            make_in_fork(home, log, 1000)
            next(home.glob("few/*/2.bin")).write_bytes(b"x")
        status = make_in_fork(home, log, left)
        assert make_in_fork(home, log, 1000) == 0
        (made,) = [each for each in home.glob("few/*") if each.is_dir()]
        found = {name: data for name, data in contents(made).items() if name != MANIFEST}
        whole = whole or found
        assert found == whole
        assert damage(made) == []
        assert len(log.read_text().split()) <= 4 + damaged + bool(status), left
        left += 1
    assert left > 6, "there were places to be killed at"


@pytest.mark.parametrize("what", ["journal", "manifest"])
@pytest.mark.slow
def test_every_bit_flip_is_found_or_harmless(tmp_path, monkeypatch, what, capsys):
    monkeypatch.setattr(os, "fsync", lambda file: None)
    one, log = few.step("few", n=2, given={"log": tmp_path / "log"}), tmp_path / "log"
    store = Store(tmp_path / "home")
    # Killed after the first shard, or not.
    with monkeypatch.context() as patch, contextlib.suppress(RuntimeError):
        if what == "journal":
            patch.setattr(Work, "shard", stop_after(1, Work.shard))
        store.make(one)
    part = store.path(one).with_suffix(".part" if what == "journal" else "")
    victim = part / (JOURNAL if what == "journal" else MANIFEST)
    data, files = victim.read_bytes(), contents(part)
    whole, made_again = {"0.bin": b"\0", "1.bin": b"\1"}, 0
    said = read_manifest(part)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        if what == "manifest" and bit % 23:
            victim.write_bytes(flipped)
            assert read_manifest(part) in (None, said), bit
            continue
        shutil.rmtree(tmp_path / "home")
        part.mkdir(parents=True)
        for name, content in files.items():
            (part / name).write_bytes(content)
        victim.write_bytes(flipped)
        log.write_text("")
        Store(tmp_path / "home").make(one)
        found = contents(store.path(one))
        manifest = json.loads(found.pop(MANIFEST))
        assert found == whole, bit
        assert manifest["counts"] == {"of": 2}, bit
        assert damage(store.path(one)) == [], bit
        made_again += len(log.read_text().split())
    # One shard was to be made anyway; the other is made again at every flip of its line.
    if what == "journal":
        assert made_again == 2 * 8 * len(data)
        assert capsys.readouterr().err.count("1 shards are damaged") == 8 * (len(data) - 1)
    else:
        assert made_again > 0.9 * 2 * 8 * len(data) / 23


def stop_after(shards, keep):
    def shard(work, key, counts, write):
        if len(work.shards) == shards:
            raise RuntimeError
        keep(work, key, counts, write)

    return shard


def test_an_artifact_in_anothers_place_is_found(tmp_path, capsys):
    @step(version=1)
    def text(work, letter):
        (work.path / "text.txt").write_text(letter)
        return {}

    @step(version=1)
    def double(work, text):
        (work.path / "text.txt").write_text(2 * (text / "text.txt").read_text())
        return {}

    store = Store(tmp_path)
    steps = {letter: text.step("", letter=letter) for letter in "ab"}
    doubles = {letter: double.step("", text=store.file(each, "text.txt")) for letter, each in steps.items()}
    for each in doubles.values():
        store.make(each)
    shutil.rmtree(store.path(steps["a"]))
    shutil.copytree(store.path(steps["b"]), store.path(steps["a"]))
    assert "another artifact, text/" in damage(store.path(steps["a"]))[0]
    store = Store(tmp_path)
    again = double.step("", text=store.file(text.step("", letter="a"), "text.txt"))
    assert not store.has(again.inputs[0])
    assert (store.make(again) / "text.txt").read_text() == "aa"
    assert "another artifact" in capsys.readouterr().err


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


def test_junk_in_the_making_does_not_end_in_the_artifact(tmp_path):
    log = tmp_path / "log"
    one = few.step("few", n=2, given={"log": log})
    store = Store(tmp_path / "home")
    part = store.path(one).with_suffix(".part")
    part.mkdir(parents=True)
    (part / "7.bin").write_bytes(b"x")
    (part / "tmp-1").mkdir()
    (part / "tmp-1" / "1.bin").write_bytes(b"x")
    (part / "folder").mkdir()
    assert sorted(contents(store.make(one))) == ["0.bin", "1.bin", MANIFEST]
    # A file where the folder is to be.
    store.forget(one)
    part.write_text("x")
    assert sorted(contents(store.make(one))) == ["0.bin", "1.bin", MANIFEST]
    # A journal of another step.
    other = few.step("few", n=3, given={"log": log})
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(RuntimeError):
        patch.setattr(Work, "shard", stop_after(2, Work.shard))
        store.make(other)
    store.forget(one)
    shutil.copytree(store.path(other).with_suffix(".part"), part)
    log.write_text("")
    store.make(one)
    assert log.read_text() == "0 1 "


def test_an_input_that_goes_after_it_was_checked_is_named(tmp_path):
    first, second = make_steps([])
    store = Store(tmp_path)
    (store.make(first) / "base.txt").unlink()
    with pytest.raises(UserError, match=r"base.txt is missing, since it was checked; start the command"):
        store.make(second)
    assert not store.has(second)
    assert Store(tmp_path).make(second)


def test_a_file_that_comes_out_otherwise_is_named(tmp_path):
    texts = iter(["a", "b", "b"])

    @step(version=1)
    def fickle(work):
        (work.path / "text.txt").write_text(next(texts))
        return {}

    @step(version=1)
    def reads(work, text):
        return {}

    def chain(store):
        return reads.step("", text=store.file(fickle.step(""), "text.txt"))

    store = Store(tmp_path)
    store.make(chain(store))
    store, again = Store(tmp_path), chain(Store(tmp_path))
    assert again.hash
    (store.path(again.inputs[0]) / "text.txt").write_text("x")
    with pytest.raises(UserError, match=r"text.txt came out otherwise than before"):
        store.make(again.inputs[0])
    store.make(chain(store))


def test_a_group_that_shares_the_store_can_write_to_it(tmp_path):
    """As the umask says: locks, folders and files."""
    program = (
        "import os, sys; from pathlib import Path; os.umask(0o002);"
        "from tests.pipeline.test_store import Store, few; h = Path(sys.argv[1]);"
        "Store(h).make(few.step('few', n=2, given={'log': h.parent / 'log'}))"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "home")], check=True)
    for path in (tmp_path / "home").rglob("*"):
        assert path.stat().st_mode & 0o020, path


@pytest.mark.slow
def test_two_processes_share_the_work_of_one(tmp_path):
    log = tmp_path / "log"
    log.touch()
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "both"), str(log)]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert sorted(map(int, log.read_text().split())) == list(range(40))
