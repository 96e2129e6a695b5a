"""What an artifact's folder holds: its files by their checksums, and the journal of one in the making."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rdslib.files import MANIFEST, canonical, read_manifest, sha256_of
from rdslib.pipeline.step import hash_of

# Of an artifact in the making: one line a shard that is whole, so that a shard costs a line, not a list.
SHARDS = "shards.jsonl"


def damage(path: Path, deep: bool = True) -> list[str]:
    """What is wrong with an artifact, one phrase each; empty if all is as the manifest says.

    Unless it is `deep`, the sizes of files are looked at alone.
    """
    manifest = read_manifest(path)
    if manifest is None:
        return [f"{MANIFEST} is missing or damaged"]
    if not _in_its_place(path, manifest):
        return [f"it is another artifact, {manifest.get('step')}/{hash_of(manifest)}, in this one's place"]
    problems = []
    for name, entry in kept_files(manifest).items():
        if not (path / name).is_file():
            problems.append(f"{name} is missing")
        elif not sound(path / name, entry, deep):
            problems.append(f"{name} is damaged (its checksum differs)")
    return problems + [f"{each.relative_to(path)} is no part of it" for each in strange_files(path, manifest)]


def manifest_of(path: Path) -> dict[str, Any] | None:
    """The manifest of the artifact that a path is for; None if it is missing, damaged or another's."""
    manifest = read_manifest(path)
    return manifest if manifest is not None and _in_its_place(path, manifest) else None


def _in_its_place(path: Path, manifest: Mapping[str, Any]) -> bool:
    return (path.parent.name, path.name.removesuffix(".part")) == (manifest.get("step"), hash_of(manifest))


def files_of(folder: Path) -> list[Path]:
    """All files and links below a folder, in order."""
    return sorted(each for each in folder.rglob("*") if each.is_symlink() or not each.is_dir())


def strange_files(path: Path, manifest: Mapping[str, Any]) -> list[Path]:
    """Files that an artifact does not list, but for the journal of one in the making."""
    listed = {MANIFEST, SHARDS, *kept_files(manifest)}
    return [each for each in files_of(path) if str(each.relative_to(path)) not in listed]


def kept_files(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The files of an artifact, without those that were dropped."""
    return {name: entry for name, entry in manifest["files"].items() if name not in manifest["dropped"]}


def size_of(manifest: Mapping[str, Any]) -> int:
    """The bytes that an artifact takes on the disk."""
    return sum(entry["bytes"] for entry in kept_files(manifest).values())


def take_apart(part: Path) -> None:
    """Turn a damaged artifact back into work in progress that keeps its sound shards."""
    manifest = manifest_of(part)
    if manifest is None:
        remove(part)  # without a manifest to trust, no file can be trusted
        return
    files = manifest["files"]
    kept = {
        key: {**shard, "files": {name: files[name] for name in shard["files"]}, "seconds": 0.0}
        for key, shard in manifest["shards"].items()
        if all(sound(part / name, files[name]) for name in shard["files"])
    }
    lines = [journal_line(hash_of(manifest), key, shard) for key, shard in kept.items()]
    (part / SHARDS).write_text("".join(lines), encoding="utf-8")
    # Last, so that a kill before leaves it to be taken apart again.
    (part / MANIFEST).unlink()


def journal_line(step_hash: str, key: str, shard: Mapping[str, Any]) -> str:
    """A line of a journal: a checksum of it, which only the step's journal can have, and the shard."""
    text = canonical([key, shard])
    return f"{hashlib.sha256((step_hash + text).encode()).hexdigest()[:16]} {text}\n"


def read_journal(path: Path, step_hash: str) -> tuple[dict[str, Any], int]:
    """The shards of a journal, and how many lines are damaged; a kill's half line at the end is cut off."""
    if not path.is_file():
        return {}, 0
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    shards: dict[str, Any] = {}
    lines = whole.split(b"\n")[:-1]
    for line in lines:
        checksum, _, text = line.partition(b" ")
        if hashlib.sha256(step_hash.encode() + text).hexdigest()[:16].encode() == checksum:
            key, shard = json.loads(text)
            shards[key] = shard
    return shards, len(lines) - len(shards)


def remove(path: Path) -> None:
    """Remove whatever is there, if anything."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def describe(path: Path) -> dict[str, Any]:
    """A file's entry in a manifest: its bytes and its checksum."""
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def sound(path: Path, entry: Mapping[str, Any], deep: bool = True) -> bool:
    """Whether a file is as the entry of a manifest says; unless it is `deep`, of that size."""
    if not path.is_file() or path.stat().st_size != entry["bytes"]:
        return False
    return not deep or sha256_of(path) == entry["sha256"]
