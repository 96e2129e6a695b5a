"""Artifacts: folders named by the hash of the step that makes them, written whole or not at all.

`Store.make` computes what is missing:

- it works in `<hash>.part`, and renames that to `<hash>` when the artifact is whole;
- a long step writes shard by shard (`Work.shard`), and a killed one goes on after its last shard;
- every file's checksum is in `manifest.json`. A damaged or missing file is named and recomputed, and
  the shards that are sound are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from rdslib.files import sha256_of, write_json
from rdslib.pipeline.progress import Progress
from rdslib.pipeline.step import File, Step, canonical, in_order, map_arguments

MANIFEST = "manifest.json"
# Of an artifact in the making: one line a shard that is whole, so that a shard costs a line, not a list.
SHARDS = "shards.jsonl"


class Work:
    """The folder in which a step's artifact is being made."""

    def __init__(self, store: Store, step: Step, path: Path) -> None:
        self.path = path
        self.progress = store.progress
        self.label = step.label or step.name
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
            stream.write(canonical({key: shard}) + "\n")
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
        return self.folder / step.name / step.hash

    def has(self, step: Step) -> bool:
        """Whether the artifact is there. Its bytes are checked when it is made use of, by `make`."""
        return (self.path(step) / MANIFEST).is_file()

    def manifest(self, step: Step) -> dict[str, Any]:
        """What made an artifact that exists: key, files, counts and seconds."""
        manifest: dict[str, Any] = json.loads((self.path(step) / MANIFEST).read_text(encoding="utf-8"))
        return manifest

    def file(self, step: Step, name: str) -> File:
        """A file of a step's artifact, to key other steps by what it holds."""
        return File(step, name, self._checksum)

    def _checksum(self, step: Step, name: str) -> str | None:
        manifest = _read_manifest(self.path(step))
        return None if manifest is None else manifest["files"][name]["sha256"]

    def missing(self, steps: Iterable[Step]) -> list[Step]:
        """Of the steps and all they rest on, those without an artifact, in the order to make them."""
        return [each for each in in_order(steps) if not self.has(each)]

    def forget(self, *steps: Step) -> None:
        """Remove the artifacts of some steps, whole or in the making; `make` then starts from nothing."""
        for each in steps:
            path = self.path(each)
            with self._locked([each], wait=True):
                for place in (path, path.with_name(f"{each.hash}.part")):
                    shutil.rmtree(place, ignore_errors=True)
            self._verified.discard(each.hash)

    def make(self, step: Step) -> Path:
        """Return the artifact's folder, with every byte as its manifest says; make it if it is not so."""
        self._make([step], wait=True)
        return self.path(step)

    def try_make(self, steps: Sequence[Step]) -> bool:
        """Make the steps of one group as `make` does.

        Returns:
            Whether they are made: False where another process is making one of them, or of their inputs.
        """
        try:
            self._make(steps, wait=False)
        except filelock.Timeout:
            return False
        return True

    def _make(self, steps: Sequence[Step], wait: bool) -> None:
        for each in steps[0].unsettled:
            self._make([each], wait)
        left = [each for each in steps if each.hash not in self._verified]
        if not left:
            return
        with self._locked(left, wait):
            broken = [each for each in left if not self._is_there(each)]
            if broken:
                for each in broken[0].inputs:
                    self._make([each], wait)
                with self.progress.step(broken):
                    self._call(broken)
        self._verified |= {each.hash for each in left}

    @contextlib.contextmanager
    def _locked(self, steps: Sequence[Step], wait: bool) -> Iterator[None]:
        # In one order everywhere, so that no two processes wait for each other.
        with contextlib.ExitStack() as locks:
            for path in sorted(self.path(each) for each in steps):
                path.parent.mkdir(parents=True, exist_ok=True)
                locks.enter_context(filelock.FileLock(path.with_name(f"{path.name}.lock"), blocking=wait))
            yield

    def _is_there(self, step: Step) -> bool:
        """Whether a step's artifact is whole; a damaged one is named and taken apart."""
        path, part = self.path(step), self._part(step)
        # A run that was killed at the very end has left it whole, but for its name.
        place = path if path.exists() else part
        if place is part and not (part / MANIFEST).exists():
            return False
        problems = damage(place)
        if problems:
            self.progress.note(f"{step.name}/{step.hash}: {'; '.join(problems)}; recomputing")
            if place is path:
                shutil.rmtree(part, ignore_errors=True)
                os.replace(path, part)
            _take_apart(part)
            return False
        if place is part:
            _give_name(part, path)
        self.progress.drop(step)
        return True

    def _call(self, steps: Sequence[Step]) -> None:
        """Call the function of one group's steps, and keep what it made of each."""
        started = time.monotonic()
        works = [self._work(each) for each in steps]
        before = [work.shard_seconds for work in works]
        first = steps[0]
        arguments = {**map_arguments(first.arguments, self._folder), **first.given}
        if first.joined_by is None:
            all_counts = [first.function(works[0], **arguments)]
        else:
            values = [each.arguments[first.joined_by] for each in steps]
            del arguments[first.joined_by]
            found = first.function(dict(zip(values, works, strict=True)), **arguments)
            all_counts = [found[value] for value in values]
        seconds = time.monotonic() - started
        for each, work, counts, shards in zip(steps, works, all_counts, before, strict=True):
            self._finish(each, work, counts, seconds + shards)

    def _folder(self, value: Any) -> Any:
        if isinstance(value, File):
            return self.path(value.step)
        return self.path(value) if isinstance(value, Step) else value

    def _work(self, step: Step) -> Work:
        part = self._part(step)
        part.mkdir(exist_ok=True)
        for leftover in part.glob("tmp-*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        return Work(self, step, part)

    def _finish(self, step: Step, work: Work, counts: Mapping[str, Any], seconds: float) -> None:
        """Write the manifest, and give the folder its name."""
        part = work.path
        names = sorted(str(f.relative_to(part)) for f in part.rglob("*") if f.is_file() and f.name != SHARDS)
        manifest = {
            **step.key,
            "label": step.label,
            "shards": {
                key: {"files": sorted(entry["files"]), "counts": entry["counts"]}
                for key, entry in work.shards.items()
            },
            "files": {name: _describe(part / name) for name in names},
            "counts": dict(counts),
            "seconds": round(seconds, 3),
        }
        manifest["checksum"] = _checksum(manifest)
        write_json(part / MANIFEST, manifest)
        _give_name(part, self.path(step))

    def _part(self, step: Step) -> Path:
        """Where the step's artifact is while it is being made."""
        return self.path(step).with_name(f"{step.hash}.part")


def _give_name(part: Path, path: Path) -> None:
    """Make an artifact of work that has a manifest; the journal goes only after the manifest has come."""
    (part / SHARDS).unlink(missing_ok=True)
    os.replace(part, path)


def _take_apart(part: Path) -> None:
    """Turn a damaged artifact back into work in progress that keeps its sound files."""
    manifest = _read_manifest(part)
    if manifest is None:
        shutil.rmtree(part)  # without a manifest to trust, no file can be trusted
        return
    sound = {name: entry for name, entry in manifest["files"].items() if _sound(part / name, entry)}
    for file in [f for f in part.rglob("*") if f.is_file()]:
        if str(file.relative_to(part)) not in sound and file.name != MANIFEST:
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
    (part / SHARDS).write_text("".join(f"{canonical({key: shard})}\n" for key, shard in kept.items()))
    # Last, so that a kill before leaves it to be taken apart again.
    (part / MANIFEST).unlink()


def damage(path: Path) -> list[str]:
    """What is wrong with an artifact's files, one phrase each; empty if all is as the manifest says."""
    manifest = _read_manifest(path)
    if manifest is None:
        return [f"{MANIFEST} is missing or damaged"]
    problems = []
    for name, entry in manifest["files"].items():
        if not (path / name).is_file():
            problems.append(f"{name} is missing")
        elif not _sound(path / name, entry):
            problems.append(f"{name} is damaged (its checksum differs)")
    return problems


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of an artifact; None if it is missing or damaged."""
    try:
        value = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    sound = isinstance(value, dict) and value.get("checksum") == _checksum(value)
    return value if sound else None


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


def _checksum(manifest: Mapping[str, Any]) -> str:
    body = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(canonical(body).encode()).hexdigest()


def _describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _sound(path: Path, entry: Mapping[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == entry["bytes"] and sha256_of(path) == entry["sha256"]
