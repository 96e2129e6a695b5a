"""Artifacts: whole or not at all, checked byte for byte, repaired from their sound shards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time

import pytest

from rdslib.pipeline.store import MANIFEST, Step, Store, damage
from tests.killing import run_with_kills

SHARDS = 6


def make_steps(calls):
    """A small chain: a base, and shards computed from it; `calls` collects what is computed."""

    def base(work):
        calls.append("base")
        (work.path / "base.txt").write_text("7")
        return {"n": 1}

    def shards(work):
        factor = int((work.inputs["base"] / "base.txt").read_text())
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

    first = Step("base", 1, {"a": 1}, {}, base)
    return first, Step("shards", 1, {"b": 2}, {"base": first}, shards)


@pytest.fixture
def made(tmp_path):
    calls = []
    first, second = make_steps(calls)
    store = Store(tmp_path)
    path = store.make(second)
    return tmp_path, calls, first, second, path


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_hash_follows_the_recipe_alone():
    _, step = make_steps([])
    same = Step("shards", 1, {"b": 2}, dict(step.inputs), lambda work: {}, label="another", weight=3)
    assert same.hash == step.hash
    changes = [
        Step("shards", 2, {"b": 2}, step.inputs, step.build),
        Step("shards", 1, {"b": 3}, step.inputs, step.build),
        Step("shards", 1, {"b": 2}, {}, step.build),
        Step("shards", 1, {"b": 2}, {"base": Step("base", 1, {"a": 9}, {}, step.build)}, step.build),
    ]
    assert len({step.hash, *(change.hash for change in changes)}) == 5


def test_made_once_and_described(made):
    folder, calls, _, step, path = made
    assert calls == ["base", *(f"shard {i}" for i in range(SHARDS))]
    manifest = Store(folder).manifest(step)
    assert manifest["counts"] == {"total": 7 * 15}
    assert len(manifest["files"]) == 2 * SHARDS
    assert damage(path) == []
    assert Store(folder).make(step) == path
    assert len(calls) == 1 + SHARDS, "a second run computes nothing"
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize("how", ["flip", "delete", "truncate"])
def test_damage_is_named_and_only_the_damaged_shard_is_recomputed(made, how, capsys):
    folder, calls, _, step, path = made
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
    Store(folder).make(step)
    assert calls == ["shard 3"]
    told = capsys.readouterr().err
    assert "value-3.txt is" in told
    assert step.hash in told
    after = contents(path)
    before.pop(MANIFEST)
    after.pop(MANIFEST)
    assert after == before


@pytest.mark.parametrize("change", [b"", b"{", b'{"files": {}, "counts": {}}'])
def test_a_damaged_manifest_is_not_trusted(made, change):
    folder, calls, _, step, path = made
    (path / MANIFEST).write_bytes(change)
    calls.clear()
    Store(folder).make(step)
    assert len(calls) == SHARDS
    assert damage(path) == []


def test_a_digit_changed_in_the_manifest_is_noticed(made):
    folder, _, _, step, path = made
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["counts"]["total"] = 1
    (path / MANIFEST).write_text(json.dumps(manifest))
    assert damage(path) == [f"{MANIFEST} is missing or damaged"]
    Store(folder).make(step)
    assert Store(folder).manifest(step)["counts"]["total"] == 105


def test_nothing_half_written_when_a_build_fails(tmp_path):
    def build(work):
        (work.path / "half.txt").write_text("half")
        raise RuntimeError("no")

    step = Step("fails", 1, {}, {}, build)
    with pytest.raises(RuntimeError):
        Store(tmp_path).make(step)
    assert not Store(tmp_path).has(step)
    assert not (tmp_path / "fails" / step.hash).exists()


PROGRAM = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from rdslib.pipeline.store import Step, Store
    def build(work):
        for i in range(40):
            def write(folder, i=i):
                time.sleep(0.01)
                (folder / f"{i}.bin").write_bytes(bytes([i]) * 20000)
                Path(sys.argv[2]).open("a").write(f"{i}\\n")
            if str(i) not in work.shards:
                work.shard(str(i), {}, write)
        return {}
    Store(Path(sys.argv[1])).make(Step("long", 1, {}, {}, build))
    """
)


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


def test_two_processes_share_the_work_of_one(tmp_path):
    log = tmp_path / "log"
    log.touch()
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "both"), str(log)]
    both = [subprocess.Popen(command) for _ in range(2)]
    time.sleep(0)
    assert [process.wait() for process in both] == [0, 0]
    assert sorted(map(int, log.read_text().split())) == list(range(40))
