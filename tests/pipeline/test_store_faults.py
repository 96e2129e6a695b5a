"""Artifacts through kills, flipped bits, and what does not belong where it lies."""

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
from rdslib.pipeline.artifacts import SHARDS, damage
from rdslib.pipeline.step import step
from rdslib.pipeline.store import MANIFEST, Store, Work
from tests.killing import WITH_TESTS, run_with_kills


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


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
    victim = part / (SHARDS if what == "journal" else MANIFEST)
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
        "from tests.pipeline.test_store_faults import Store, few; h = Path(sys.argv[1]);"
        "Store(h).make(few.step('few', n=2, given={'log': h.parent / 'log'}))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "home")]
    subprocess.run(command, check=True, env={**os.environ, **WITH_TESTS})
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
