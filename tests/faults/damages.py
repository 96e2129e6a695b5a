"""Files of artifacts that are truncated, changed, deleted or exchanged, whole or in the making."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rdslib.files import MANIFEST, read_manifest, sha256_of
from rdslib.pipeline.artifacts import SHARDS
from tests.faults.ground import STAGES, Ground


def rewrite(path: Path, data: bytes) -> None:
    """Give a file other contents; what it is linked to stays."""
    path.unlink()
    path.write_bytes(data)


def truncate(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    rewrite(path, data[: rng.randrange(len(data))])


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    rewrite(path, bytes(data))


def delete(path: Path, rng: random.Random) -> None:
    path.unlink()


def swap(path: Path, rng: random.Random) -> None:
    """Exchange a file with another of the artifacts, of the same name where there is one."""
    others = [
        each for each in path.parent.parent.parent.rglob("*") if each.is_file() and each.suffix == path.suffix
    ]
    others = [each for each in others if each.read_bytes() != path.read_bytes() and ".part" not in str(each)]
    other = rng.choice(others)
    one, two = path.read_bytes(), other.read_bytes()
    rewrite(path, two)
    rewrite(other, one)


HARM: dict[str, Callable[[Path, random.Random], None]] = {
    "truncated": truncate, "a bit flipped": flip, "deleted": delete, "swapped": swap,
}  # fmt: skip


def harmed(ground: Ground, stage: str, what: str, how: str, rng: random.Random) -> list[str]:
    """One trial: a file of the stage, which is whole, is damaged."""
    with ground.home(stage, whole=True) as home:
        files = [path for each in ground.of_stage(stage, home) for path in each.rglob("*") if path.is_file()]
        path = rng.choice(
            [
                each
                for each in files
                if (each.name == MANIFEST) == (what == "manifest") and each.stat().st_size
            ]
        )
        HARM[how](path, rng)
        if how == "a bit flipped" and what == "manifest" and read_manifest(path.parent):
            return []  # a digit of how long it took, which nothing hangs on: its checksum says so
        return ground.recover(stage, home)


def changed_together(ground: Ground, stage: str, rng: random.Random) -> list[str]:
    """One trial: a file and its checksum in the manifest are changed together."""
    with ground.home(stage, whole=True) as home:
        artifact = rng.choice(ground.of_stage(stage, home))
        path = rng.choice(
            [
                each
                for each in artifact.rglob("*")
                if each.is_file() and each.name != MANIFEST and each.stat().st_size
            ]
        )
        made = json.loads((artifact / MANIFEST).read_text())
        flip(path, rng)
        made["files"][str(path.relative_to(artifact))]["sha256"] = sha256_of(path)
        rewrite(artifact / MANIFEST, (json.dumps(made, indent=1) + "\n").encode())
        return ground.recover(stage, home)


def journal(ground: Ground, stage: str, how: str, rng: random.Random) -> list[str]:
    """One trial: a line of the journal, or a shard, of an artifact in the making is damaged."""
    while True:
        with ground.home(stage) as home:
            process = ground.start(stage, home)
            process.until_it_begins()
            until = time.monotonic() + 60
            wanted = rng.randint(2, 20)
            while not process.poll() and time.monotonic() < until:
                found = list((home / "artifacts").glob(f"*/*.part/{SHARDS}"))
                if any(each.exists() and each.read_bytes().count(b"\n") >= wanted for each in found):
                    break
                time.sleep(0.001)
            process.kill()
            process.end()
            found = [each for each in (home / "artifacts").glob(f"*/*.part/{SHARDS}") if each.stat().st_size]
            if not found:
                continue
            path = rng.choice(found)
            if how.startswith("shard"):
                path = rng.choice(sorted(path.parent.glob("*.npy")))
                HARM[how.removeprefix("shard ")](path, rng)
            elif how == "lines exchanged":
                lines = path.read_bytes().splitlines(keepends=True)
                rng.shuffle(lines)
                rewrite(path, b"".join(lines))
            else:
                HARM[how](path, rng)
            shutil.rmtree(home.parent / "tmp", ignore_errors=True)
            return ground.recover(stage, home)


def campaign(ground: Ground) -> Iterator[tuple[str, str, str, Any]]:
    """Each fault: its kind, name, stage and one trial of it."""
    together = "file and its checksum changed together"
    for stage in STAGES:
        if stage in ("download", "figures"):
            continue
        for how in HARM:
            yield "damage", f"manifest {how}", stage, partial(harmed, ground, stage, "manifest", how)
            if stage != "train":  # the files of models go once these are scored
                yield "damage", f"file {how}", stage, partial(harmed, ground, stage, "file", how)
        if stage != "train":
            yield "damage", together, stage, partial(changed_together, ground, stage)
    for stage in ("encode", "gradients"):
        for how in ("truncated", "a bit flipped", "deleted", "lines exchanged"):
            yield "journal", f"journal {how}", stage, partial(journal, ground, stage, how)
        for how in ("truncated", "a bit flipped", "deleted"):
            what = f"shard in the making {how}"
            yield "journal", what, stage, partial(journal, ground, stage, f"shard {how}")
    yield "damage", "cached download", "download", partial(cached, ground)


def cached(ground: Ground, rng: random.Random) -> list[str]:
    """One trial: a download that is in the cache is damaged, and the pool is to be made of it."""
    with ground.home("pool") as home:
        (path,) = (each for each in (home / "downloads").iterdir() if each.suffix != ".lock")
        HARM[rng.choice(["truncated", "a bit flipped", "deleted"])](path, rng)
        return ground.recover("pool", home)
