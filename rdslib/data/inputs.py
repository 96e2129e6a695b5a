"""What a user's path or name stands for: files, which of a folder's splits, or a data set of the hub."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory

from rdslib.data.containers import KINDS, kind_of
from rdslib.data.streams import is_stream, keep
from rdslib.errors import UserError, reason_of

# `org/name`, or `org/name:split`.
_HUB = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?::([\w.-]+))?")
_FOLDER = re.compile(r"(.+):([\w.-]+)", re.DOTALL)

TRAIN = "train"
# The words that name a split, as `datasets` has them, and what stands around them.
_SPLITS = {
    split: re.compile(rf"(?:^|[-._ 0-9])(?:{words})(?:[-._ 0-9]|$)", re.IGNORECASE)
    for split, words in {
        TRAIN: "train|training",
        "validation": "validation|valid|dev|val",
        "test": "test|testing|eval|evaluation",
    }.items()
}
# A file of a split of any name, such as `train_sft`, in a data set of the hub.
_SHARD = re.compile(r"data/([\w.]+)-\d{5}-of-\d{5}\D")
# About a data set, as `datasets` and trainers write it.
_SAVED, _STATE = "dataset_dict.json", "state.json"
_ABOUT = ("dataset_info.json", "dataset_infos.json", _SAVED)


@dataclass(frozen=True)
class Input:
    """What a user's path or name stands for.

    `files` are read in this order; `ignored` is what else a folder has: hidden files, links to folders, files
    about the data and files of other kinds. Of a `folder` with splits, `others` has those that are not read.
    A data set of the hub has a `split`, and no files. A stream is `kept` in a file as long as there is this.
    """

    name: str
    files: tuple[Path, ...] = ()
    ignored: tuple[Path, ...] = ()
    split: str | None = None
    folder: Path | None = None
    others: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    kept: TemporaryDirectory[str] | None = None

    @property
    def notes(self) -> list[str]:
        """What a folder has that is not read, a line for each kind."""
        notes = [f"{self.name}: {len(self.ignored)} not read: {_names(self.ignored)}"] if self.ignored else []
        if self.others:
            splits = "; ".join(f"{split} ({_names(files)})" for split, files in self.others.items())
            how = f"{self.folder}:{next(iter(self.others))}"
            notes.append(
                f"{self.name}: its other splits are not read: {splits}; to read one, give {how} or its files"
            )
        return notes


def _names(files: Iterable[Path]) -> str:
    """The first names of files."""
    names = [path.name for path in files]
    return ", ".join([*names[:5], *(["..."] if len(names) > 5 else [])])


def in_full(name: str) -> str:
    """Return a path in full, also of `folder:split`; what is no path, such as a name on the hub, as it is."""
    if is_stream(name):
        return name
    path, split = folder_split(name)
    return f"{path.resolve()}{f':{split}' if split else ''}" if path.exists() else name


def folder_split(name: str) -> tuple[Path, str | None]:
    """The path that a name is, and the split that it names of a folder."""
    path = Path(name)
    if not path.exists() and (named := _FOLDER.fullmatch(name)) and Path(named[1]).is_dir():
        return Path(named[1]), named[2]
    return path, None


def find_input(name: str | Path) -> Input:
    """Find what a path or a name stands for: a file, a folder, a stream, or `org/name[:split]` of the hub.

    A folder's files are found in its subfolders too, in the order of their names. Where these tell splits, as
    `datasets` has it, train and what is of no split are taken, or the one of `folder:split`; a folder of one
    split alone is taken whole. Raises UserError if there is no such thing, or nothing in it can be read.
    """
    if is_stream(str(name)):
        folder, path = keep(str(name))
        return Input(str(name), (path,), kept=folder)
    path, split = folder_split(str(name))
    try:
        files, ignored = _find_files(path) if path.is_dir() else ([path] if path.exists() else [], [])
    except OSError as error:
        reason = reason_of(error)
        raise UserError(f"{path}: cannot be read ({reason}); check the path and its rights") from error
    if ignored and not files:
        raise UserError(f"{path}: holds no data; give a folder with {KINDS}")
    if files and kind_of(files[0]) is None:
        raise UserError(f"{path}: is of no known kind; give {KINDS}; save a spreadsheet as CSV")
    if files and path.is_dir():
        kept, others = _one_split(path, sorted(files), split)
        return Input(str(name), kept, tuple(sorted(ignored)), None, path, others)
    if files:
        return Input(str(name), (path,))
    hub = _HUB.fullmatch(str(name))
    if hub is None or kind_of(path) is not None:
        raise UserError(f"{path}: there is no such file or folder; check the path")
    return Input(hub[1], split=hub[2] or TRAIN)


def _find_files(folder: Path) -> tuple[list[Path], list[Path]]:
    def fail(error: OSError) -> None:
        raise error

    files: list[Path] = []
    ignored: list[Path] = []
    for root, folders, names in os.walk(folder, onerror=fail):
        here = Path(root)
        # Links to folders may lead round in a circle.
        skipped = [name for name in folders if name.startswith(".") or (here / name).is_symlink()]
        folders[:] = [name for name in folders if name not in skipped]
        ignored += [here / name for name in skipped]
        about, saved = _about(here, names)
        for path in (here / name for name in names):
            usable = kind_of(path) is not None and not path.name.startswith(".") and path.name not in about
            # What `datasets` has saved may have files of its cache beside it.
            usable = usable and (saved is None or path.suffix != ".arrow" or path.name in saved)
            (files if usable else ignored).append(path)
    return files, ignored


def _about(folder: Path, names: list[str]) -> tuple[tuple[str, ...], set[str] | None]:
    """The files about the data in a folder, and those of the data if `save_to_disk` has written it."""
    if _STATE not in names or _ABOUT[0] not in names:
        return _ABOUT, None
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        return (*_ABOUT, _STATE), {each["filename"] for each in state["_data_files"]}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        where = folder / _STATE
        raise UserError(f"{where}: is not what `save_to_disk` writes; save the data set anew") from error


def _one_split(
    folder: Path, files: list[Path], wanted: str | None
) -> tuple[tuple[Path, ...], dict[str, tuple[Path, ...]]]:
    """Take the files of one split, and those of none; the others by their splits."""
    saved = (folder / _SAVED).exists()
    splits = {path: _split_of(path.relative_to(folder), saved) for path in files}
    there = {split: None for split in splits.values() if split is not None}
    has = f"it has {', '.join(there)}" if there else "its files are of none"
    if wanted is not None:
        if wanted not in there:
            raise UserError(f"{folder}:{wanted}: there is no such split; {has}")
        return tuple(path for path in files if splits[path] == wanted), {}
    if len({*splits.values()}) == 1:
        return tuple(files), {}
    trained = [TRAIN] if TRAIN in there else [split for split in there if _kind(split) == TRAIN]
    taken = {None, *trained}
    if len(trained) > 1 or not taken.intersection(splits.values()):
        raise UserError(f"{folder}: say which split to read, as in {folder}:{next(iter(there))}; {has}")
    others: dict[str, tuple[Path, ...]] = {}
    for path, split in splits.items():
        if split not in taken and split is not None:
            others[split] = (*others.get(split, ()), path)
    return tuple(path for path in files if splits[path] in taken), others


def _split_of(path: PurePath, saved: bool) -> str | None:
    """The split that a file within a folder is of: by its folders, or else by its name; None for none."""
    if saved:  # a `DatasetDict`, with a folder for each
        return path.parts[0]
    if (shard := _SHARD.match(path.as_posix())) and _kind(shard[1]):
        return shard[1]
    folders = [split for part in path.parent.parts if (split := _kind(part))]
    return TRAIN if TRAIN in folders else folders[0] if folders else _kind(path.name)


def _kind(name: str) -> str | None:
    return next((split for split, words in _SPLITS.items() if words.search(name)), None)
