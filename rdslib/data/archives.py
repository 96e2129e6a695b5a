"""The members of downloads: of packages and archives, which are read and never unpacked, and of folders."""

from __future__ import annotations

import fnmatch
import re
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from rdslib.data.download import fetch, fetch_folder
from rdslib.errors import UserError
from rdslib.params import Download

T = TypeVar("T")


def read_members(archive: Path, patterns: Sequence[str]) -> dict[str, bytes]:
    """Read the files in a `.whl`, `.zip` or `.tar.gz` whose names match, in one pass over the archive.

    Patterns are globs in which `*` also matches `/`. The files are ordered by the first pattern that matches,
    then by name.

    Raises:
        UserError: It is another kind of file or a broken archive, or a pattern matches nothing.
    """
    wanted = re.compile("|".join(map(fnmatch.translate, patterns))).match
    found: dict[str, bytes] = {}
    try:
        if archive.name.endswith((".whl", ".zip")):
            with zipfile.ZipFile(archive) as zipped:
                for entry in zipped.infolist():
                    if not entry.is_dir() and wanted(entry.filename):
                        found[entry.filename] = zipped.read(entry)
        elif archive.name.endswith((".tar.gz", ".tgz")):
            # A stream, because seeking back in a gzip file decompresses it from the start.
            with tarfile.open(archive, "r|gz") as tar:
                for member in tar:
                    if member.isfile() and wanted(member.name) and (file := tar.extractfile(member)):
                        found[member.name] = file.read()
        else:
            raise UserError(f"{archive}: is not an archive that can be read; use .whl, .zip or .tar.gz")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{archive}: cannot be read as an archive ({error}); fetch it again") from error
    return _matching(found, patterns, archive)


def _matching(members: Mapping[str, T], patterns: Iterable[str], where: Path | str) -> dict[str, T]:
    """The members that match, by pattern and then by name; UserError for a pattern without any."""
    found: dict[str, T] = {}
    for pattern in patterns:
        names = sorted(fnmatch.filter(members, pattern))
        if not names:
            raise UserError(f"{where}: no member matches {pattern!r}; correct the pattern in the profile")
        found |= {name: members[name] for name in names}  # a name keeps its first place
    return found


class Archives:
    """The downloads of a profile, and the members that have been read from them, kept in memory.

    Reading a large archive takes seconds, so a caller lists all that it will want with `prepare`.
    """

    def __init__(self, downloads: Mapping[str, Download], cache: Path) -> None:
        self.downloads, self.cache = downloads, cache
        self._members: dict[str, dict[str, bytes]] = defaultdict(dict)
        self._prepared: set[tuple[str, str]] = set()
        # What a person should know of what was fetched.
        self.notes: list[str] = []

    def path(self, name: str) -> Path:
        """Return the download as a local file. Raises UserError as `fetch` does."""
        return fetch(self.downloads[name], self.cache, name)

    def folder(self, name: str, patterns: Sequence[str] = ("*",)) -> Path:
        """Return a folder of the hub, or on this machine, as one here, with those files that match.

        What the checksums of one on this machine say of its files is checked.

        Raises:
            UserError: As `fetch_folder` does, or it is a folder of another origin.
        """
        download = self.downloads[name]
        if download.files is None:
            found, commit = fetch_folder(download, name, patterns)
            if commit and f"@{commit}/" not in download.uri:
                cure = f"it is at {commit} today; to have the same again, put that in its place"
                self.notes.append(f"download {name!r}: {download.uri} is not pinned to a commit: {cure}")
            return found
        scheme, _, rest = download.uri.partition(":")
        if scheme != "file":
            raise UserError(
                f"download {name!r}: {download.uri} is read as a whole; give hf-dataset: or file:"
            )
        for path, pin in _matching(download.files, patterns, download.uri).items():
            fetch(Download(uri=download.uri + path, sha256=pin), self.cache, name)
        return Path(rest)

    def prepare(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Read all members that the (download, pattern) pairs name, in one pass over each download."""
        missing: dict[str, list[str]] = defaultdict(list)
        for name, pattern in dict.fromkeys(wanted):
            if (name, pattern) not in self._prepared:
                missing[name].append(pattern)
        for name, patterns in missing.items():
            download, found = self.downloads[name], self._members[name]
            if download.uri.endswith("/") and download.files is None:
                folder = self.folder(name, patterns)
                there = {
                    file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()
                }
                found |= {path: file.read_bytes() for path, file in _matching(there, patterns, name).items()}
            elif download.files is None:
                found |= read_members(self.path(name), patterns)
            else:
                pins = _matching(download.files, patterns, download.uri)
                # What is there already is read at once; the bar is for the rest.
                for path, pin in tqdm(pins.items(), desc=name, unit="file", leave=False, delay=2):
                    file = Download(uri=download.uri + path, sha256=pin)
                    found[path] = fetch(file, self.cache, name).read_bytes()
            self._prepared.update((name, pattern) for pattern in patterns)

    def members(self, name: str, patterns: Sequence[str]) -> dict[str, bytes]:
        """Return the members of a download that match, in the order of `read_members`; read if need be."""
        self.prepare((name, pattern) for pattern in patterns)
        return _matching(self._members[name], patterns, name)
