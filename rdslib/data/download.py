"""Where bytes come from: pinned, checksummed downloads, and the members of archives among them.

Nothing that is downloaded is installed, built or unpacked to disk: a package is read as an archive of data.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
from tqdm import tqdm

from rdslib.errors import UserError
from rdslib.files import sha256_of
from rdslib.params import Download

if TYPE_CHECKING:
    from unearth.fetchers import Fetcher, PyPIClient

SCHEMES = ("pip", "github", "hf", "hf-dataset", "file")
SHAPES = {
    "pip": "pip:NAME==VERSION/FILE",
    "github": "github:OWNER/REPO@COMMIT/PATH",
    "hf": "hf:REPO@REVISION/PATH",
    "hf-dataset": "hf-dataset:REPO@REVISION/PATH",
}
CHUNK = 1 << 20

# Files whose checksum this process has seen to be right: a cached file is hashed once, not at every use.
_verified: set[tuple[Path, str]] = set()


def home() -> Path:
    """The folder for artifacts and downloads: RDSLIB_HOME, or the user's cache folder."""
    given = os.environ.get("RDSLIB_HOME")
    if given:
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("rdslib"))


def cache_dir() -> Path:
    """The folder in which downloads are kept."""
    return home() / "downloads"


def fetch(download: Download, cache: Path, name: str) -> Path:
    """A local file with the bytes that `download` pins: from the cache, the mirror, or its origin.

    A `file:` origin and the mirror are used where they lie; the rest is kept under `cache`. `name` is the
    download's name in the profile. Raises UserError if the file cannot be had or has the wrong checksum, or
    if the download is a folder.
    """
    pinned = download.sha256
    if pinned is None:
        raise UserError(f"download {name!r}: {download.uri} is a folder, and a file is wanted; pin that file")
    scheme, _, rest = download.uri.partition(":")
    if scheme not in SCHEMES:
        raise UserError(f"download {name!r}: unknown origin {download.uri!r}; use {', '.join(SCHEMES)}")
    if scheme == "file":
        path = Path(rest).expanduser()
        if not path.is_file():
            raise UserError(f"download {name!r}: there is no file {path}; correct the path")
        _check(path, pinned, name, "replace the file, or correct the pin in the profile")
        return path
    owner, version, inner = _parse(scheme, rest, name)
    cached = cache / f"{pinned[:16]}-{Path(inner).name}"
    if (cached, pinned) in _verified and cached.is_file():
        return cached
    if cached.is_file() and sha256_of(cached) == pinned:
        _verified.add((cached, pinned))
        return cached
    mirrored = _mirror_path(scheme, owner, version, inner)
    if mirrored is not None and mirrored.is_file():
        _check(mirrored, pinned, name, "mend the mirror, or unset RDSLIB_MIRROR")
        return mirrored
    with _new_file(cache, cached) as part:
        try:
            if scheme == "pip":
                _fetch_pip(owner, inner, part)
            elif scheme == "github":
                _fetch_github(f"https://github.com/{owner}/raw/{version}/{inner}", part)
            else:
                _fetch_hub(owner, version, inner, "dataset" if scheme == "hf-dataset" else "model", part)
        # The index, HTTP and hub libraries each raise their own types; all of them mean "could not be had".
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(
                f"download {name!r}: {download.uri} could not be fetched ({reason}); connect to the network, "
                f"or set RDSLIB_MIRROR to a mirror folder, or RDSLIB_HOME to a folder whose downloads/ has it"
            ) from error
        found = sha256_of(part)
        if found != pinned:
            raise UserError(
                f"download {name!r}: {download.uri} has the SHA-256 {found}, but the profile pins "
                f"{pinned}; it was removed: fetch again, or correct the pin"
            )
    _verified.add((cached, pinned))
    return cached


def fetch_folder(download: Download, patterns: Sequence[str], cache: Path, name: str) -> dict[str, bytes]:
    """The files of a pinned folder whose paths below it match, each as `fetch` gets it.

    Patterns and order are those of `read_members`. Raises UserError as `fetch` does for each file, or for a
    pattern that matches nothing.
    """
    files = download.files or {}
    wanted = [path for path in files if _rank(path, patterns) is not None]
    _all_match(wanted, patterns, download.uri)
    found = {}
    # What is there already is read at once; the bar is for the rest.
    for path in tqdm(wanted, desc=name, unit="file", leave=False, delay=2):
        one = Download(uri=download.uri + path, sha256=files[path])
        found[path] = fetch(one, cache, name).read_bytes()
    return _ordered(found, patterns)


def _parse(scheme: str, rest: str, name: str) -> tuple[str, str, str]:
    """`OWNER@VERSION/PATH` (or `NAME==VERSION/FILE`) in its three parts."""
    if scheme == "pip":
        owner, _, tail = rest.partition("==")
        version, _, inner = tail.partition("/")
    else:
        owner, _, tail = rest.partition("@")
        version, _, inner = tail.partition("/")
    if not (owner and version and inner) or ".." in Path(inner).parts:
        raise UserError(f"download {name!r}: {scheme}:{rest} is not of the form {SHAPES[scheme]}")
    return owner, version, inner


def _mirror_path(scheme: str, owner: str, version: str, inner: str) -> Path | None:
    """Where the mirror folder would have a file: `pip/FILE`, `github/...` or `hf/...` (both hub kinds)."""
    mirror = os.environ.get("RDSLIB_MIRROR")
    if not mirror:
        return None
    if scheme == "pip":
        return Path(mirror) / "pip" / inner
    return Path(mirror) / ("github" if scheme == "github" else "hf") / owner / version / inner


def _check(path: Path, pinned: str, name: str, remedy: str) -> None:
    """Raise UserError unless the file has the pinned checksum."""
    if (path, pinned) in _verified:
        return
    found = sha256_of(path)
    if found != pinned:
        raise UserError(
            f"download {name!r}: {path} has the SHA-256 {found}, but the profile pins {pinned}; {remedy}"
        )
    _verified.add((path, pinned))


@contextmanager
def _new_file(folder: Path, target: Path) -> Iterator[Path]:
    """A temporary file that takes its place only when the block ends well; one process at a time."""
    part = target.with_name(f"{target.name}.part")
    lock = filelock.FileLock(target.with_name(f"{target.name}.lock"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        part.touch()
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); set RDSLIB_HOME to a writable folder"
        ) from error
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
        lock.release()


def _fetch_pip(project: str, filename: str, part: Path) -> None:
    """Find one file of a package index by its exact name, and stream it."""
    from unearth import PackageFinder

    # It logs a warning of its own for an index that cannot be reached; ours is raised below.
    logging.getLogger("unearth").setLevel(logging.ERROR)
    index = _pip_index()
    finder = PackageFinder(index_urls=[index] if index else [], ignore_compatibility=True)
    for package in finder.find_all_packages(project, allow_yanked=True):
        if package.link.filename == filename:
            _stream(finder.session, package.link.url_without_fragment, part, filename)
            return
    raise OSError("the package index could not be reached or has no such file")


def _pip_index() -> str | None:
    """The package index that pip is set to use, or None for the public one."""
    given = os.environ.get("PIP_INDEX_URL")
    if given:
        return given
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return asked.stdout.strip() or None if asked.returncode == 0 else None


def _fetch_github(url: str, part: Path) -> None:
    from unearth.fetchers import PyPIClient

    with PyPIClient(follow_redirects=True) as client:
        _stream(client, url, part, url.rpartition("/")[2])


def _stream(client: Fetcher | PyPIClient, url: str, part: Path, title: str) -> None:
    """Write what `url` gives to `part`, with a progress bar (rate, time left)."""
    with client.get_stream(url) as response, part.open("wb") as file:
        response.raise_for_status()
        total = int(response.headers.get("content-length", 0)) or None
        # Under the bar of a folder this one goes when it is full; alone it stays.
        with tqdm(total=total, unit="B", unit_scale=True, desc=title, leave=None) as bar:
            for chunk in response.iter_bytes(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))


def _fetch_hub(repo: str, revision: str, inner: str, kind: str, part: Path) -> None:
    from huggingface_hub import hf_hub_download

    with tempfile.TemporaryDirectory(dir=part.parent) as folder:
        got = hf_hub_download(repo, inner, revision=revision, repo_type=kind, local_dir=folder)
        os.replace(got, part)


def read_members(archive: Path, patterns: Sequence[str]) -> dict[str, bytes]:
    """The files in a `.whl`, `.zip` or `.tar.gz` whose names match, in one pass over the archive.

    Patterns are globs in which `*` also matches `/`. The result is ordered by the first pattern that a
    name matches, then by name. Raises UserError for another kind of file, a broken archive, or a pattern
    that matches nothing.
    """
    found: dict[str, bytes] = {}
    try:
        if archive.name.endswith((".whl", ".zip")):
            with zipfile.ZipFile(archive) as zipped:
                for name in zipped.namelist():
                    if not name.endswith("/") and _rank(name, patterns) is not None:
                        found[name] = zipped.read(name)
        elif archive.name.endswith((".tar.gz", ".tgz")):
            # A stream, because seeking back in a gzip file decompresses it from the start.
            with tarfile.open(archive, "r|gz") as tar:
                for member in tar:
                    if member.isfile() and _rank(member.name, patterns) is not None:
                        file = tar.extractfile(member)
                        assert file is not None
                        found[member.name] = file.read()
        else:
            raise UserError(f"{archive}: is not an archive that can be read; use .whl, .zip or .tar.gz")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{archive}: cannot be read as an archive ({error}); fetch it again") from error
    _all_match(found, patterns, archive)
    return _ordered(found, patterns)


def _all_match(names: Collection[str], patterns: Sequence[str], where: Path | str) -> None:
    """Raise UserError for a pattern that matches none of the names."""
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise UserError(f"{where}: no member matches {pattern!r}; correct the pattern in the profile")


def _rank(name: str, patterns: Sequence[str]) -> int | None:
    """The position of the first pattern that matches."""
    matches = (rank for rank, pattern in enumerate(patterns) if fnmatch.fnmatchcase(name, pattern))
    return next(matches, None)


def _ordered(members: Mapping[str, bytes], patterns: Sequence[str]) -> dict[str, bytes]:
    """The members that match, by pattern and then by name."""
    ranked = [(rank, name) for name in members if (rank := _rank(name, patterns)) is not None]
    return {name: members[name] for _, name in sorted(ranked)}


class Archives:
    """The downloads of a profile, and the members that have been read from them, kept in memory.

    Reading a large archive takes seconds however little is wanted of it, so a caller says all that it
    will want with `prepare`, which goes through each archive once.
    """

    def __init__(self, downloads: Mapping[str, Download], cache: Path) -> None:
        self.downloads = downloads
        self.cache = cache
        self._members: dict[str, dict[str, bytes]] = {}
        self._patterns: dict[str, set[str]] = {}

    def path(self, name: str) -> Path:
        """The download as a local file. Raises UserError as `fetch` does."""
        return fetch(self.downloads[name], self.cache, name)

    def prepare(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Read all members that the (download, pattern) pairs name, in one pass over each download."""
        missing: dict[str, list[str]] = {}
        for name, pattern in wanted:
            if pattern not in self._patterns.get(name, ()):
                missing.setdefault(name, []).append(pattern)
        for name, patterns in missing.items():
            unique = list(dict.fromkeys(patterns))
            download = self.downloads[name]
            if download.files is None:
                read = read_members(self.path(name), unique)
            else:
                read = fetch_folder(download, unique, self.cache, name)
            self._members.setdefault(name, {}).update(read)
            self._patterns.setdefault(name, set()).update(unique)

    def members(self, name: str, patterns: Sequence[str]) -> dict[str, bytes]:
        """The members of a download that match, as `read_members` orders them; read now if not prepared."""
        self.prepare((name, pattern) for pattern in patterns)
        return _ordered(self._members[name], patterns) if patterns else {}
