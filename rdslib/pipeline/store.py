"""Artifacts: folders named by the hash of what makes them, written whole or not at all.

A `Step` is a recipe: a stage, its version, its parameters, the steps it reads and the function that
builds it. Its hash follows from the recipe alone, so the whole study can be laid out, looked up and
counted before anything is computed. `Store.make` builds what is missing:

- it works in `<hash>.part`, and renames that to `<hash>` when the artifact is whole;
- a long stage writes shard by shard (`Work.shard`), and a killed one goes on after its last shard;
- every file's checksum is in `manifest.json`. A damaged or missing file is named and recomputed, and
  the shards that are sound are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import filelock

from rdslib.files import sha256_of, write_json
from rdslib.pipeline.progress import Progress

MANIFEST = "manifest.json"
# Of an artifact in the making: one line a shard that is whole, so that a shard costs a line, not a list.
SHARDS = "shards.jsonl"


@dataclass(frozen=True)
class Step:
    """The recipe of one artifact. Two steps with equal hashes are the same artifact.

    `label` is what a person reads while the step runs; `weight` is its expected share of the time, in
    any unit that is common to the steps of one stage. Neither is part of the hash.
    """

    stage: str
    version: int
    params: Mapping[str, Any]
    inputs: Mapping[str, Step]
    build: Callable[[Work], Mapping[str, Any]] = field(compare=False, repr=False)
    label: str = field(default="", compare=False)
    weight: float = field(default=1.0, compare=False)

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits that stand for the recipe and, through the inputs, for all before it."""
        return hashlib.sha256(_canonical(self.recipe).encode()).hexdigest()[:16]

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """What the hash is made of."""
        return {
            "stage": self.stage,
            "version": self.version,
            "params": dict(self.params),
            "inputs": {name: step.hash for name, step in self.inputs.items()},
        }

    def upstream(self) -> Iterator[Step]:
        """This step and all it rests on, inputs first; a step may come more than once."""
        for step in self.inputs.values():
            yield from step.upstream()
        yield self


def in_order(steps: Iterator[Step] | list[Step]) -> list[Step]:
    """The steps and all they rest on, inputs first, each once."""
    ordered: dict[str, Step] = {}
    for step in steps:
        for each in step.upstream():
            ordered.setdefault(each.hash, each)
    return list(ordered.values())


class Work:
    """The folder in which a step is being built, with what it reads."""

    def __init__(self, store: Store, step: Step, path: Path) -> None:
        self.path = path
        self.progress = store.progress
        self.label = step.label or step.stage
        self.inputs = {name: store.path(each) for name, each in step.inputs.items()}
        # What an earlier run has left; the last line may be half written.
        self.shards = {
            key: shard
            for key, shard in _read_shards(path / SHARDS).items()
            if all(_sound(path / name, entry) for name, entry in shard["files"].items())
        }
        self._since = time.monotonic()

    def shard(self, key: str, counts: Mapping[str, Any], write: Callable[[Path], object]) -> None:
        """Keep one shard, which is then not made again: `self.shards` has it, with its counts.

        `write` gets an empty folder to write the files into; they move to the artifact's folder once they are
        whole.
        """
        folder = self.path / f"tmp-{key}"
        folder.mkdir()
        write(folder)
        files = {path.name: _describe(path) for path in sorted(folder.iterdir())}
        for name in files:
            os.replace(folder / name, self.path / name)
        folder.rmdir()
        now = time.monotonic()
        shard = {"files": files, "counts": dict(counts), "seconds": now - self._since}
        self._since = now
        self.shards[key] = shard
        with (self.path / SHARDS).open("a", encoding="utf-8") as stream:
            stream.write(_canonical({key: shard}) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    @property
    def shard_seconds(self) -> float:
        """Seconds that the shards took, over all the runs it needed."""
        return float(sum(shard["seconds"] for shard in self.shards.values()))


class Store:
    """The artifacts under one folder (`RDSLIB_HOME/artifacts`)."""

    def __init__(self, folder: Path, progress: Progress | None = None) -> None:
        self.folder = folder
        self.progress = progress or Progress()
        self._verified: set[str] = set()

    def path(self, step: Step) -> Path:
        """Where the step's artifact is, or will be."""
        return self.folder / step.stage / step.hash

    def has(self, step: Step) -> bool:
        """Whether the artifact is there. Its bytes are checked when it is made use of, by `make`."""
        return (self.path(step) / MANIFEST).is_file()

    def manifest(self, step: Step) -> dict[str, Any]:
        """What made an artifact that exists: recipe, files, counts and seconds."""
        manifest = _read_json(self.path(step) / MANIFEST)
        if manifest is None:
            raise FileNotFoundError(self.path(step) / MANIFEST)
        return manifest

    def forget(self, *steps: Step) -> None:
        """Remove the artifacts of some steps, whole or in the making; `make` then starts from nothing."""
        for step in steps:
            path = self.path(step)
            path.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(path.with_name(f"{step.hash}.lock")):
                for each in (path, path.with_name(f"{step.hash}.part")):
                    shutil.rmtree(each, ignore_errors=True)
            self._verified.discard(step.hash)

    def make(self, step: Step) -> Path:
        """Return the artifact's folder, with every byte as its manifest says; build it if it is not so."""
        self._make(step, wait=True)
        return self.path(step)

    def try_make(self, step: Step) -> bool:
        """As `make`, unless another process is making the step, or one that it rests on: then False."""
        try:
            self._make(step, wait=False)
        except filelock.Timeout:
            return False
        return True

    def _make(self, step: Step, wait: bool) -> None:
        path = self.path(step)
        if step.hash in self._verified:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(f"{step.hash}.lock"), blocking=wait):
            if path.exists():
                problems = damage(path)
                if not problems:
                    self._verified.add(step.hash)
                    self.progress.drop(step)
                    return
                self.progress.note(f"{step.stage}/{step.hash}: {'; '.join(problems)}; recomputing")
                self._take_apart(path)
            for each in step.inputs.values():
                self._make(each, wait)
            with self.progress.step(step):
                self._build(step, path)
        self._verified.add(step.hash)

    def _build(self, step: Step, path: Path) -> None:
        part = path.with_name(f"{step.hash}.part")
        part.mkdir(exist_ok=True)
        for leftover in part.glob("tmp-*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        started = time.monotonic()
        work = Work(self, step, part)
        shards_before = work.shard_seconds
        counts = dict(step.build(work))
        seconds = time.monotonic() - started + shards_before
        (part / SHARDS).unlink(missing_ok=True)
        names = sorted(
            str(f.relative_to(part)) for f in part.rglob("*") if f.is_file() and f.name != MANIFEST
        )
        manifest = {
            **step.recipe,
            "label": step.label,
            "shards": {
                key: {"files": sorted(entry["files"]), "counts": entry["counts"]}
                for key, entry in work.shards.items()
            },
            "files": {name: _describe(part / name) for name in names},
            "counts": counts,
            "seconds": round(seconds, 3),
        }
        manifest["checksum"] = _checksum(manifest)
        write_json(part / MANIFEST, manifest)
        os.replace(part, path)

    def _take_apart(self, path: Path) -> None:
        """Turn a damaged artifact back into work in progress that keeps its sound files."""
        part = path.with_name(f"{path.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        os.replace(path, part)
        manifest = _read_json(part / MANIFEST)
        (part / MANIFEST).unlink(missing_ok=True)
        if manifest is None or manifest.get("checksum") != _checksum(manifest):
            shutil.rmtree(part)  # without a manifest to trust, no file can be trusted
            return
        sound = {name: entry for name, entry in manifest["files"].items() if _sound(part / name, entry)}
        for file in [f for f in part.rglob("*") if f.is_file()]:
            if str(file.relative_to(part)) not in sound:
                file.unlink()
        kept = {
            key: {
                "files": {name: sound[name] for name in shard["files"]},
                "counts": shard["counts"],
                "seconds": 0.0,
            }
            for key, shard in manifest["shards"].items()
            if all(name in sound for name in shard["files"])
        }
        (part / SHARDS).write_text("".join(f"{_canonical({key: shard})}\n" for key, shard in kept.items()))


def damage(path: Path) -> list[str]:
    """What is wrong with an artifact's files, one phrase each; empty if all is as the manifest says."""
    manifest = _read_json(path / MANIFEST)
    if manifest is None or manifest.get("checksum") != _checksum(manifest):
        return [f"{MANIFEST} is missing or damaged"]
    problems = []
    for name, entry in manifest["files"].items():
        if not (path / name).is_file():
            problems.append(f"{name} is missing")
        elif not _sound(path / name, entry):
            problems.append(f"{name} is damaged (its checksum differs)")
    return problems


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _read_shards(path: Path) -> dict[str, Any]:
    """The shards of a journal; what a kill has left half written at its end is cut off."""
    if not path.is_file():
        return {}
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        os.truncate(path, len(whole))
    shards: dict[str, Any] = {}
    for line in whole.splitlines():
        try:
            shards |= json.loads(line)
        except ValueError:  # damaged: the shard is made again
            continue
    return shards


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _checksum(manifest: Mapping[str, Any]) -> str:
    body = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(_canonical(body).encode()).hexdigest()


def _describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _sound(path: Path, entry: Mapping[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == entry["bytes"] and sha256_of(path) == entry["sha256"]
