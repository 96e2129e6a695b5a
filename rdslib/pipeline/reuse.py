"""Features that other artifacts have of the same samples, so that no sample passes through a model twice.

A feature's artifact holds a digest of what the extractor saw of each sample. Where features of another pool
or of other queries are to be made, with all else equal, rows are copied from the artifacts that have them.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from rdslib.data.chat import Sample
from rdslib.errors import UserError
from rdslib.files import canonical, read_manifest
from rdslib.methods import COST, Extracted, features
from rdslib.pipeline.artifacts import sound
from rdslib.pipeline.store import Work

# uint8 [samples, 16], beside each feature.
DIGEST = "digest"
# What may differ between the keys of artifacts of which one has rows for the other.
SAMPLES = ("samples", "draw", "shard_size")


def digests_of(samples: Sequence[Sample], sees: Sequence[str]) -> np.ndarray:
    """Digests of some fields of samples: uint8 [samples, 16]."""
    texts = (canonical([getattr(sample, name) for name in sees]).encode() for sample in samples)
    found = b"".join(hashlib.blake2b(text, digest_size=16).digest() for text in texts)
    return np.frombuffer(found, dtype=np.uint8).reshape(-1, 16)


class Part:
    """One shard of what is to be made: the samples that are `new`, and those whose rows are `known` (`old`).

    `offset` is where its new samples start in their pass; positions are int64.
    """

    def __init__(self, start: int, digests: np.ndarray, places: Mapping[str, _Places]) -> None:
        self.start, self.digests, self._places = start, digests, places
        known = _known(places, start, len(digests))
        self.old, self.new = start + np.flatnonzero(known), start + np.flatnonzero(~known)
        self.offset = 0

    def rows(self, feature: str, name: str, made: Extracted | None) -> np.ndarray:
        """The shard's rows of a feature (or of what else `name` is of it), from what its pass has made."""
        if made is None:
            return self._places[feature].rows(name, self.old)
        new = made.rows[name][self.offset : self.offset + len(self.new)]
        if not len(self.old):
            return new
        rows = np.empty((len(self.digests), *new.shape[1:]), dtype=new.dtype)
        rows[self.new - self.start] = new
        rows[self.old - self.start] = self._places[feature].rows(name, self.old)
        return rows


class Todo:
    """The shards that are to be made of some samples, and what of them is to go through the model.

    Holds some 30 bytes for each sample, and for each row of one artifact that rows may be copied from.

    Args:
        works: What is being made, by feature: rows are copied of samples that other artifacts have for all.
        samples: All samples, of which those in shards at the positions `starts` are to be made.
        size: That of a shard.
        sees: The fields of a sample that the features depend on.
    """

    def __init__(
        self,
        works: Mapping[str, Work],
        samples: Sequence[Sample],
        starts: Sequence[int],
        size: int,
        sees: Sequence[str],
    ) -> None:
        self._samples = samples
        self.known: list[Part] = []  # shards of which every sample is known
        self.passes: list[list[Part]] = []  # the others: what goes through the model together
        digests = np.zeros((len(samples), 16), dtype=np.uint8)
        for start in starts:
            digests[start : start + size] = digests_of(samples[start : start + size], sees)
        places = _places({feature: work.siblings(SAMPLES) for feature, work in works.items()}, digests)
        room = 0
        for start in starts:
            part = Part(start, digests[start : start + size], places)
            if not len(part.new):
                self.known.append(part)
                continue
            # As many as a shard has, so that batches are as full, and a kill costs no more.
            if len(part.new) > room:
                self.passes.append([])
                room = size
            part.offset = size - room
            self.passes[-1].append(part)
            room -= len(part.new)

    @property
    def new(self) -> int:
        """How many samples are to go through the model."""
        return sum(len(part.new) for some in self.passes for part in some)

    def samples(self, number: int) -> list[Sample]:
        """The samples of a pass, in order."""
        return [self._samples[at] for part in self.passes[number] for at in part.new.tolist()]


def known_rows(siblings: Mapping[str, Sequence[Path]], digests: np.ndarray) -> np.ndarray:
    """Return which samples have sound rows of every feature, bool [samples].

    Args:
        siblings: By feature the artifacts that may have its rows.
        digests: Those of the samples, uint8 [samples, 16].
    """
    return _known(_places(siblings, digests), 0, len(digests))


def _places(siblings: Mapping[str, Sequence[Path]], digests: np.ndarray) -> dict[str, _Places]:
    return {
        feature: _Places([_Folder(path, feature) for path in paths], digests)
        for feature, paths in siblings.items()
    }


def _known(places: Mapping[str, _Places], start: int, samples: int) -> np.ndarray:
    """Which of the next samples have rows of every feature, bool [samples]."""
    return np.logical_and.reduce([each.known(start, samples) for each in places.values()])


class _Folder:
    """An artifact that rows are copied from."""

    def __init__(self, path: Path, feature: str) -> None:
        self.path, self.feature = path, feature
        self.files = (read_manifest(path) or {"files": {}})["files"]
        self.starts = np.empty(0, dtype=np.int64)
        self._sound: dict[int, bool] = {}

    def digests(self) -> np.ndarray:
        """Those of its samples, uint8 [samples, 16]; none if it has none, or if they do not fit together."""
        parts, total = [np.empty((0, 16), dtype=np.uint8)], 0
        with contextlib.suppress(UserError):
            for start, rows in features.read_shards(self.path, DIGEST):
                if start != total or rows.shape[1:] != (16,) or rows.dtype != np.uint8:
                    return parts[0]
                parts.append(rows)
                total += len(rows)
        self.starts = np.cumsum([0, *(len(rows) for rows in parts[1:-1])])
        return np.concatenate(parts)

    def sound(self, shard: int) -> bool:
        """Whether all that a shard has is as the manifest says."""
        if shard not in self._sound:
            names = [features.shard_name(name, shard) for name in (self.feature, COST, DIGEST)]
            self._sound[shard] = all(
                name in self.files and sound(self.path / name, self.files[name]) for name in names
            )
        return self._sound[shard]


class _Places:
    """Where the rows of one feature are: of each sample the number of a folder (or -1), and the position."""

    def __init__(self, folders: Sequence[_Folder], digests: np.ndarray) -> None:
        self.folders = folders
        self.number = np.full(len(digests), -1, dtype=np.int32)
        self.position = np.zeros(len(digests), dtype=np.int64)
        for number, folder in enumerate(folders):
            left = np.flatnonzero(self.number < 0)
            if not left.size:
                break
            there = folder.digests()
            keys, wanted = _key(there), _key(digests[left])
            order = np.argsort(keys, kind="stable")
            at = np.searchsorted(keys, wanted, sorter=order)
            left, at = left[at < len(order)], order[at[at < len(order)]]
            same = (there[at] == digests[left]).all(axis=1)
            self.number[left[same]], self.position[left[same]] = number, at[same]

    def known(self, start: int, samples: int) -> np.ndarray:
        """Which of the next samples have rows, bool [samples]; these are checked, byte for byte."""
        positions = np.arange(start, start + samples)
        for folder, shard, inside in self._shards(positions):
            if not folder.sound(shard):
                self.number[positions[inside]] = -1
        found: np.ndarray = self.number[positions] >= 0
        return found

    def rows(self, name: str, positions: np.ndarray) -> np.ndarray:
        found: np.ndarray | None = None
        for folder, shard, inside in self._shards(positions):
            path = folder.path / features.shard_name(name, shard)
            try:
                rows = np.load(path, mmap_mode="r", allow_pickle=False)
            except Exception as error:  # whatever numpy's reader of headers raises
                raise UserError(f"{path}: was removed while it was read; start the command again") from error
            if found is None:
                found = np.empty((len(positions), *rows.shape[1:]), dtype=rows.dtype)
            found[inside] = rows[self.position[positions[inside]] - shard]
        assert found is not None
        return found

    def _shards(self, positions: np.ndarray) -> Iterator[tuple[_Folder, int, np.ndarray]]:
        """Each shard that has rows of samples, with its folder, and which of the `positions` these are."""
        for number in np.unique(self.number[positions]).tolist():
            if number < 0:
                continue
            folder, inside = self.folders[number], np.flatnonzero(self.number[positions] == number)
            shards = np.searchsorted(folder.starts, self.position[positions[inside]], side="right") - 1
            for shard in np.unique(shards).tolist():
                yield folder, int(folder.starts[shard]), inside[shards == shard]


def _key(digests: np.ndarray) -> np.ndarray:
    """The first half of digests, as uint64 [samples]: what is looked up first."""
    return np.ascontiguousarray(digests[:, :8]).view(np.uint64)[:, 0]
