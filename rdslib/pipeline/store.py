"""Artifacts: folders named by the hash of the step that makes them, written whole or not at all.

`Store.make` computes what is missing:

- it works in `<hash>.part`, and renames that to `<hash>` when the artifact is whole;
- a long step writes shard by shard (`Work.shard`), and a killed one goes on after its last shard, or from
  the checkpoints that it keeps in the folder `CHECKPOINTS`;
- every file's checksum is in `manifest.json`. What is damaged, missing, out of its place or no part of an
  artifact is named and made again (or removed), and the shards that are sound are kept.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.metadata
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa
import pyarrow.parquet as pq

from rdslib.errors import UserError, reason_of
from rdslib.files import CHECKPOINTS, MANIFEST, canonical, write_manifest
from rdslib.pipeline.artifacts import (
    SHARDS,
    damage,
    describe,
    files_of,
    journal_line,
    manifest_of,
    read_journal,
    remove,
    sound,
    strange_files,
    take_apart,
)
from rdslib.pipeline.progress import Progress
from rdslib.pipeline.step import File, Step, artifacts_changed, in_order, map_arguments
from rdslib.processes import acquire

# How the system says that a folder can only be read.
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


class Work:
    """The folder in which a step's artifact is being made, with what an earlier run has left of it."""

    def __init__(self, store: Store, step: Step, path: Path) -> None:
        self.path = path
        self.progress = store.progress
        self.label = step.label or step.name
        self._store, self._step = store, step
        self._since = time.monotonic()
        if not path.is_dir():
            remove(path)
            path.mkdir()
        written, damaged = read_journal(path / SHARDS, step.hash)
        self.shards = {
            key: shard
            for key, shard in written.items()
            if all(sound(path / name, entry) for name, entry in shard["files"].items())
        }
        lost = damaged + len(written) - len(self.shards)
        if lost:
            store.progress.note(f"{step.name}/{step.hash}: {lost} shards are damaged; making them again")
        # Nothing else that lies here is of use, but for a training's checkpoints, which it removes itself.
        known = {SHARDS, *(name for shard in self.shards.values() for name in shard["files"])}
        for each in path.iterdir():
            if each.name != CHECKPOINTS and (each.name not in known or not each.is_file()):
                remove(each)

    def shard(self, key: str, counts: Mapping[str, Any], write: Callable[[Path], object]) -> None:
        """Keep one shard, which is then not made again: `self.shards` has it, with its counts.

        `write` gets an empty folder to write the files into; they move to the artifact's folder once they are
        whole.
        """
        folder = self.path / f"tmp-{key}"
        folder.mkdir()
        write(folder)
        files = {path.name: describe(path) for path in sorted(folder.iterdir())}
        for name in files:
            os.replace(folder / name, self.path / name)
        folder.rmdir()
        now = time.monotonic()
        shard = {"files": files, "counts": dict(counts), "seconds": now - self._since}
        self._since = now
        self.shards[key] = shard
        with (self.path / SHARDS).open("a", encoding="utf-8") as stream:
            stream.write(journal_line(self._step.hash, key, shard))
            stream.flush()
            os.fsync(stream.fileno())

    def siblings(self, but: Sequence[str]) -> list[Path]:
        """Artifacts that are there whose keys differ from this one's in some arguments, the newest first."""
        return self._store.siblings(self._step, but)

    @property
    def shard_seconds(self) -> float:
        """Seconds that the shards took, over all the runs it needed."""
        return float(sum(shard["seconds"] for shard in self.shards.values()))


class Store:
    """The artifacts under one folder (`RDSLIB_HOME/artifacts`)."""

    def __init__(self, folder: Path, progress: Progress | None = None) -> None:
        self.folder = folder
        self.progress = progress or Progress()
        # Artifacts that are as their manifests say, and of these, those whose files were dropped.
        self._verified: set[str] = set()
        self._dropped: set[str] = set()
        # Whether a manifest in some state is sound and in its place.
        self._read: dict[tuple[Any, ...], bool] = {}

    def path(self, step: Step) -> Path:
        """Where the step's artifact is, or will be."""
        return self.folder / step.name / step.hash

    def has(self, step: Step) -> bool:
        """Whether the artifact is there. Its bytes are checked when it is made use of, by `make`.

        Its manifest is read once for as long as nothing has been written to it.
        """
        path = self.path(step)
        try:
            at = (path / MANIFEST).stat()
        except OSError:
            return False
        state = (path, at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns)
        if state not in self._read:
            self._read[state] = manifest_of(path) is not None
        return self._read[state]

    def has_files(self, step: Step) -> bool:
        """Whether the artifact is there with all its files: none were dropped, and it is no record."""
        return self.has(step) and not self.manifest(step)["dropped"]

    def manifest(self, step: Step) -> dict[str, Any]:
        """What made an artifact that exists: key, files, counts and seconds."""
        manifest = manifest_of(self.path(step))
        if manifest is None:
            problem = damage(self.path(step))[0]
            raise UserError(f"{self.path(step)}: {problem}; start the command again, which makes it again")
        return manifest

    def file(self, step: Step, name: str) -> File:
        """A file of a step's artifact, to key other steps by what it holds."""
        return File(step, name, self._checksum)

    def _checksum(self, step: Step, name: str) -> str | None:
        manifest = manifest_of(self.path(step))
        return None if manifest is None else manifest["files"][name]["sha256"]

    def missing(self, steps: Iterable[Step]) -> list[Step]:
        """Of the steps and all they rest on, those without an artifact, in the order to make them."""
        return [each for each in in_order(steps) if not self.has(each)]

    def siblings(self, step: Step, but: Sequence[str]) -> list[Path]:
        """Artifacts that are there whose keys differ from a step's in some arguments, the newest first."""

        def fixed(key: Mapping[str, Any]) -> str:
            arguments = {name: value for name, value in key["arguments"].items() if name not in but}
            return canonical([key["version"], key["marks"], arguments])

        path, found = self.path(step), []
        for each in path.parent.glob("*"):
            manifest = manifest_of(each) if each != path and each.suffix != ".part" else None
            if manifest is None or manifest["dropped"]:
                continue
            if fixed(manifest) == fixed(step.key):
                found.append(each)
        return sorted(found, key=lambda each: (each / MANIFEST).stat().st_mtime_ns, reverse=True)

    def forget(self, *steps: Step) -> None:
        """Remove the artifacts of some steps, whole or in the making; `make` then starts from nothing."""
        for each in steps:
            with self._locked([each], wait=True):
                for place in (self.path(each), self._part(each)):
                    remove(place)
            self._verified.discard(each.hash)
            artifacts_changed()

    def drop(self, step: Step) -> None:
        """Remove an artifact's files and keep its manifest; a step that reads them has them made again.

        They stay where the home can only be read.
        """
        with contextlib.suppress(UserError), self._locked([step], wait=True):
            manifest = manifest_of(self.path(step))
            if manifest is not None and not manifest["dropped"]:
                dropped = {**manifest, "dropped": sorted(manifest["files"])}
                write_manifest(self.path(step), dropped)
                for each in self.path(step).iterdir():
                    if each.name != MANIFEST:
                        remove(each)
                self._dropped.add(step.hash)

    def take(
        self, step: str, digest: str, manifest: Mapping[str, Any], tables: Mapping[str, pa.Table]
    ) -> None:
        """Put a record of an artifact there, with these of its files alone, unless the artifact is there."""
        path = self.folder / step / digest
        if manifest_of(path) is not None:
            return
        part = path.with_name(f"{digest}.part")
        with _writing(self.folder):
            for each in (path, part):
                remove(each)
            part.mkdir(parents=True)
        files = dict(manifest["files"])
        for name, table in tables.items():
            pq.write_table(table, part / name)
            files[name] = describe(part / name)
        dropped = sorted(files.keys() - tables.keys())
        write_manifest(part, {**manifest, "files": files, "dropped": dropped, "recorded": True})
        os.replace(part, path)
        artifacts_changed()

    def make(self, step: Step) -> Path:
        """Return the artifact's folder, with every byte as its manifest says; make it if it is not so."""
        self._make([step], wait=True, whole=True)
        return self.path(step)

    def try_make(self, steps: Sequence[Step]) -> bool:
        """Make the steps of one group as `make` does.

        Returns:
            Whether they are made: False where another process is making one of them, or of their inputs.
        """
        try:
            self._make(steps, wait=False, whole=False)
        except filelock.Timeout:
            return False
        return True

    def locks(self, steps: Sequence[Step]) -> list[Path]:
        """The locks that are held while steps are made, in the order in which they are taken."""
        return [path.with_name(f"{path.name}.lock") for path in sorted(self.path(each) for each in steps)]

    def _make(self, steps: Sequence[Step], wait: bool, whole: bool) -> None:
        """Make what is missing; unless it must be `whole`, an artifact whose files were dropped is there."""
        for each in steps[0].unsettled:
            self._make([each], wait, whole=True)
        known = self._verified - self._dropped if whole else self._verified
        left = [each for each in steps if each.hash not in known]
        if not left:
            return
        with contextlib.ExitStack() as locks:
            try:
                locks.enter_context(self._locked(left, wait))
            except UserError:
                # Of a home that can only be read, what is whole can be.
                if not all(self._is_readable(each, whole) for each in left):
                    raise
            else:
                self._make_missing(left, wait, whole)
        self._verified |= {each.hash for each in left}
        artifacts_changed()

    def _make_missing(self, steps: Sequence[Step], wait: bool, whole: bool) -> None:
        """Make those steps that are not there; they are locked."""
        broken = [each for each in steps if not self._is_there(each, whole)]
        if broken:
            for each in broken[0].inputs:
                self._make([each], wait, whole=True)
            with self.progress.step(broken):
                self._call(broken)

    @contextlib.contextmanager
    def _locked(self, steps: Sequence[Step], wait: bool) -> Iterator[None]:
        # In one order everywhere, so that no two processes wait for each other. As the umask says, whatever
        # the version of filelock, since a group may share the store.
        with contextlib.ExitStack() as locks:
            for path in self.locks(steps):
                with _writing(path.parent):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    lock = filelock.FileLock(path, mode=0o666 & ~_umask())
                    if wait:
                        acquire(lock, self.progress.note)
                    else:
                        lock.acquire(blocking=False)
                    locks.callback(lock.release)
            yield

    def _is_readable(self, step: Step, whole: bool) -> bool:
        """Whether a step's artifact is whole, or, unless it must be, but for files that were dropped."""
        manifest = manifest_of(self.path(step))
        return manifest is not None and not (whole and manifest["dropped"]) and not damage(self.path(step))

    def _is_there(self, step: Step, whole: bool) -> bool:
        """Whether a step's artifact is whole; what is wrong with it is named, and it is taken apart."""
        path, part = self.path(step), self._part(step)
        # A run that was killed at the very end has left it whole, but for its name.
        place = path if os.path.lexists(path) else part
        if place is part and not (part / MANIFEST).exists():
            return False
        if (manifest := manifest_of(place)) is not None:
            if manifest["dropped"] and whole:
                remove(place)
                self._dropped.discard(step.hash)
                return False
            if manifest["dropped"]:
                self._dropped.add(step.hash)
            for each in strange_files(place, manifest):
                self.progress.note(f"{step.name}/{step.hash}: {each.name} is no part of it; removed")
                remove(each)
        problems = damage(place)
        if problems:
            self.progress.note(f"{step.name}/{step.hash}: {'; '.join(problems)}; recomputing")
            if place is path:
                remove(part)
                os.replace(path, part)
            take_apart(part)
            return False
        if place is part:
            (part / SHARDS).unlink(missing_ok=True)
            os.replace(part, path)
        self.progress.drop(step)
        return True

    def _call(self, steps: Sequence[Step]) -> None:
        """Call the function of one group's steps, and keep what it made of each."""
        started = time.monotonic()
        works = [Work(self, each, self._part(each)) for each in steps]
        before = [work.shard_seconds for work in works]
        first = steps[0]
        arguments = {**map_arguments(first.arguments, self._folder), **first.given}
        try:
            if first.joined_by is None:
                all_counts = [first.function(works[0], **arguments)]
            else:
                values = [each.arguments[first.joined_by] for each in steps]
                del arguments[first.joined_by]
                found = first.function(dict(zip(values, works, strict=True)), **arguments)
                all_counts = [found[value] for value in values]
        except Exception as error:
            for each in first.inputs:
                if problems := damage(self.path(each), deep=False):
                    raise UserError(
                        f"{self.path(each)}: {problems[0]}, since it was checked; start the command again, "
                        "which makes it again"
                    ) from error
            raise
        seconds = time.monotonic() - started
        for each, work, counts, shards in zip(steps, works, all_counts, before, strict=True):
            self._finish(each, work, counts, seconds + shards)

    def _folder(self, value: Any) -> Any:
        if isinstance(value, File):
            return self.path(value.step)
        return self.path(value) if isinstance(value, Step) else value

    def _finish(self, step: Step, work: Work, counts: Mapping[str, Any], seconds: float) -> None:
        """Write the manifest, and give the folder its name; the journal goes only after the manifest."""
        part = work.path
        files = {str(f.relative_to(part)): describe(f) for f in files_of(part) if f != part / SHARDS}
        if changed := [
            name for name, entry in files.items() if step.known(name) not in (None, entry["sha256"])
        ]:
            raise UserError(
                f"{self.path(step)}: {changed[0]} came out otherwise than before; start the command again"
            )
        shards = {
            key: {"files": sorted(shard["files"]), "counts": shard["counts"]}
            for key, shard in work.shards.items()
        }
        about = {"label": step.label, "shards": shards, "files": files, "counts": dict(counts)}
        made = {"seconds": round(seconds, 3), "versions": _versions()}
        write_manifest(part, {**step.key, **about, **made})
        (part / SHARDS).unlink(missing_ok=True)
        os.replace(part, self.path(step))

    def _part(self, step: Step) -> Path:
        """Where the step's artifact is while it is being made."""
        return self.path(step).with_name(f"{step.hash}.part")


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Name a folder of artifacts that can only be read, where it is written to."""
    try:
        yield
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        raise UserError(
            f"{folder}: cannot be written to ({reason_of(error)}); make it writable, or set RDSLIB_HOME to a "
            "folder of yours"
        ) from error


@functools.cache
def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


@functools.cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
