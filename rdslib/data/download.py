"""Where bytes come from: pinned, checksummed downloads.

Nothing that is downloaded is installed or built.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import filelock
from tqdm import tqdm

from rdslib.errors import UserError, reason_of
from rdslib.files import sha256_of
from rdslib.params import Download
from rdslib.processes import acquire

# Opens the answer to a request of a URL with some headers.
Ask = Callable[[str, Mapping[str, str]], AbstractContextManager[Any]]

# Origins that are kept in the cache, by scheme. `file:PATH` is used where it lies.
SHAPES = {
    "pip": "pip:NAME==VERSION/FILE",
    "github": "github:OWNER/REPO@COMMIT/PATH",
    "hf": "hf:REPO@REVISION/PATH",
    "hf-dataset": "hf-dataset:REPO@REVISION/PATH",
}
_PINNED = re.compile(r"([^=@]+)(==|@)([^/]+)/(.+)")
# So many attempts in a row that bring nothing end a download; seconds before the first of them.
ATTEMPTS, PAUSE = 3, 0.5
PARTIAL, NOTHING_LEFT = 206, 416
# Seconds after which the hub is out of reach, where it is asked for a commit.
TIMEOUT = 5.0
MAY_PASS = (None, 408, 429, 500, 502, 503, 504)


def home() -> Path:
    """Return the folder for artifacts and downloads: RDSLIB_HOME, or the user's cache folder.

    Raises:
        UserError: It is, or is to be in, something else than a folder.
    """
    given = os.environ.get("RDSLIB_HOME")
    if not given:
        import platformdirs

        given = platformdirs.user_cache_dir("rdslib")
    path = os.path.expanduser(given)
    if path.startswith("~"):
        raise UserError(
            f"there is no home folder for {path}; set RDSLIB_HOME to a folder that you may write to"
        )
    # In full from now on: this process, or one that it starts, may go to another folder.
    os.environ["RDSLIB_HOME"] = path = os.path.abspath(path)
    for each in (Path(path), *Path(path).parents):
        if os.path.lexists(each) and not each.is_dir():
            what = "a link to nothing" if not each.exists() else "a file"
            raise UserError(
                f"RDSLIB_HOME={path}: {each} is {what}; set it to a folder, or to where one can be"
            )
    return Path(path)


def cache_dir() -> Path:
    """Return the folder of downloads."""
    return home() / "downloads"


def fetch(download: Download, cache: Path, name: str) -> Path:
    """Get a local file with the bytes that `download` pins: from the cache, the mirror, or its origin.

    A `file:` origin and the mirror are used where they lie; the rest is kept under `cache`, and so is the
    part of a download that broke off, from which the next attempt goes on. Errors name the download by its
    `name` in the profile.

    Raises:
        UserError: The file cannot be had or has the wrong checksum, or the download is a folder.
    """
    pinned = download.sha256
    if pinned is None:
        raise UserError(f"download {name!r}: {download.uri} is a folder, and a file is wanted; pin that file")
    scheme, _, rest = download.uri.partition(":")
    if scheme == "file":
        path = Path(rest).expanduser()
        if not path.is_file():
            raise UserError(f"download {name!r}: there is no file {path}; correct the path")
        return _checked(path, pinned, f"download {name!r}: {path}", "correct the file or the pin")
    if scheme not in SHAPES:
        known = ", ".join([*SHAPES, "file"])
        raise UserError(f"download {name!r}: unknown origin {download.uri!r}; use {known}")
    match = _PINNED.fullmatch(rest)
    if match is None or (match[2] == "==") != (scheme == "pip") or ".." in Path(match[4]).parts:
        raise UserError(f"download {name!r}: {download.uri} is not of the form {SHAPES[scheme]}")
    owner, _, version, inner = match.groups()
    cached = cache / f"{pinned[:16]}-{Path(inner).name}"
    if cached.is_file() and _sum(cached) == pinned:
        return cached
    # A mirror has pip/FILE, github/OWNER/REPO/COMMIT/PATH and, of either kind, hf/REPO/REVISION/PATH.
    place = ("pip", inner) if scheme == "pip" else (scheme.partition("-")[0], owner, version, inner)
    mirror = os.environ.get("RDSLIB_MIRROR")
    if mirror and Path(mirror, *place).is_file():
        path, remedy = Path(mirror, *place), "correct the mirror, or unset RDSLIB_MIRROR"
        return _checked(path, pinned, f"download {name!r}: {path}", remedy)

    def bring() -> None:
        try:
            if scheme == "pip":
                _fetch_pip(owner, inner, part)
            elif scheme == "github":
                _fetch_url(f"https://github.com/{owner}/raw/{version}/{inner}", part)
            else:
                _fetch_hub(owner, version, inner, "dataset" if scheme == "hf-dataset" else "model", part)
        except UserError:
            raise
        # The index, HTTP and hub libraries each raise their types; all of them mean "could not be had".
        except Exception as error:
            why = _refusal(error, scheme, owner)
            raise UserError(f"download {name!r}: {download.uri} could not be fetched: {why}") from error

    with _locked(cached) as part:
        # Another process may have fetched it while this one waited.
        if cached.is_file() and _sum(cached) == pinned:
            return cached
        begun = part.stat().st_size > 0
        bring()
        if begun and _sum(part) != pinned:
            os.truncate(part, 0)  # what was there already was of another file
            bring()
        try:
            remedy = "it was removed: fetch again, or correct the pin"
            _checked(part, pinned, f"download {name!r}: {download.uri}", remedy)
        except UserError:
            os.truncate(part, 0)
            raise
        os.replace(part, cached)
    return cached


def fetch_folder(download: Download, name: str, patterns: Sequence[str]) -> tuple[Path, str]:
    """Get a folder of a data set of the hub, with those of its files that match, fetched where need be.

    They are kept in the hub's own cache, which goes on with what broke off. `RDSLIB_MIRROR` comes first.

    Returns:
        The folder, and the commit whose files they are; nothing of a mirror's.

    Raises:
        UserError: The hub does not give it, is out of reach, or has no such data set.
    """
    from huggingface_hub import snapshot_download

    match = _PINNED.fullmatch(download.uri.partition(":")[2] + "*")
    if match is None or match[2] != "@" or ".." in Path(match[4]).parts:
        shape = SHAPES["hf-dataset"].replace("PATH", "[FOLDER/]")
        raise UserError(f"download {name!r}: {download.uri} is not of the form {shape}")
    owner, _, revision, inner = match.groups()
    inner = inner.removesuffix("*")
    mirror = os.environ.get("RDSLIB_MIRROR")
    if mirror and (there := Path(mirror, "hf", owner, revision, inner)).is_dir():
        return there, ""
    try:
        snapshot = snapshot_download(
            owner,
            repo_type="dataset",
            revision=revision,
            allow_patterns=[inner + pattern for pattern in patterns],
            endpoint=os.environ.get("HF_ENDPOINT"),
            etag_timeout=TIMEOUT,
        )
    except Exception as error:  # of the hub's client, the network or the disk
        otherwise = "connect to the network, or set RDSLIB_MIRROR to a mirror folder"
        why = hub_refusal(error, owner, "dataset", otherwise)
        raise UserError(f"download {name!r}: {download.uri} could not be fetched: {why}") from error
    return Path(snapshot, inner), Path(snapshot).name


def hub_refusal(error: Exception, name: str, kind: str, otherwise: str) -> str:
    """Say why the hub does not give a model or data set, and what to do.

    Args:
        error: What its client raised.
        name: The model or data set.
        kind: "model" or "dataset".
        otherwise: What to do where neither its terms nor a token can help.
    """
    status = _status(error)
    if status is None:
        return f"the hub is out of reach ({reason_of(error)}); {otherwise}"
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{name}"
    if status == 403 or error.response.headers.get("X-Error-Code") == "GatedRepo":  # type: ignore[attr-defined]
        cure = f"accept its terms on {page}, and set HF_TOKEN to your token"
    elif status in (401, 404):
        cure = f"see whether there is {page}; if it is private, set HF_TOKEN to a token that may read it"
    else:
        cure = f"try again later, or {otherwise}"
    return f"the hub does not give it (status {status}); {cure}"


def hub_commit(name: str) -> str | None:
    """Return the commit of a data set on the hub; raises UserError if the hub does not give it."""
    from huggingface_hub import HfApi

    try:
        return HfApi(endpoint=os.environ.get("HF_ENDPOINT")).dataset_info(name, timeout=TIMEOUT).sha
    except Exception as error:  # of the hub's client or the network
        why = hub_refusal(error, name, "dataset", "check the name and the connection")
        raise UserError(f"{name}: is no file or folder, and {why}") from error


def _status(error: Exception) -> int | None:
    """The HTTP status that an error is about; None if no server answered."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _refusal(error: Exception, scheme: str, owner: str) -> str:
    """Say why a file cannot be fetched, and what to do."""
    otherwise = (
        "connect to the network, or set RDSLIB_MIRROR to a mirror folder, or RDSLIB_HOME to a folder "
        "whose downloads/ has it"
    )
    if scheme in ("hf", "hf-dataset"):
        return hub_refusal(error, owner, "dataset" if scheme == "hf-dataset" else "model", otherwise)
    if _status(error) in (401, 403):
        otherwise = {
            "pip": "give PIP_INDEX_URL with a name and password that may read it",
            "github": "only public repositories can be fetched; put the file into a mirror, and set "
            "RDSLIB_MIRROR",
        }[scheme]
    return f"{reason_of(error)}; {otherwise}"


def _checked(path: Path, pinned: str, where: str, remedy: str) -> Path:
    """The file, which has the pinned checksum; UserError if it does not."""
    found = _sum(path)
    if found != pinned:
        raise UserError(f"{where} has the SHA-256 {found}, but the profile pins {pinned}; {remedy}")
    return path


def _sum(path: Path) -> str:
    state = path.stat()
    # While a file's state is the same, it is hashed once, not at every use.
    return _sum_of(path, state.st_ino, state.st_size, state.st_mtime_ns)


@cache
def _sum_of(path: Path, *state: int) -> str:
    return sha256_of(path)


@contextmanager
def _locked(target: Path) -> Iterator[Path]:
    """The file in which `target` is made, kept if the block fails, unless it is empty; for one process."""
    part = target.with_name(f"{target.name}.part")
    lock = filelock.FileLock(target.with_name(f"{target.name}.lock"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        acquire(lock, lambda text: print(text, file=sys.stderr))
        part.touch()
    except OSError as error:
        raise UserError(
            f"{target.parent}: cannot be written ({error.strerror}); set RDSLIB_HOME to a writable folder"
        ) from error
    try:
        yield part
    finally:
        if part.is_file() and not part.stat().st_size:
            part.unlink()
        lock.release()


def _fetch_pip(project: str, filename: str, part: Path) -> None:
    """Find one file of a package index by its exact name, and stream it."""
    from unearth import PackageFinder

    # It logs a warning for an index that cannot be reached; an error is raised below.
    logging.getLogger("unearth").setLevel(logging.ERROR)
    index = _pip_index()
    finder = PackageFinder(index_urls=[index] if index else [], ignore_compatibility=True)
    # A password that is missing is an error, below, and not a question.
    finder.session.auth.prompting = False  # type: ignore[attr-defined]
    for package in finder.find_all_packages(project, allow_yanked=True):
        if package.link.filename == filename:
            _stream(
                lambda url, headers: finder.session.get_stream(url, headers=headers),
                package.link.url_without_fragment,
                part,
                filename,
            )
            return
    raise OSError("the package index could not be reached or has no such file")


def _pip_index() -> str | None:
    """The package index that pip is set to use, or None for the public one."""
    # Isolated: no module of the working folder is imported in place of pip.
    command = [sys.executable, "-I", "-m", "pip", "config", "get", "global.index-url"]
    given = os.environ.get("PIP_INDEX_URL")
    return given or subprocess.run(command, capture_output=True, text=True).stdout.strip() or None


def _fetch_hub(repo: str, revision: str, inner: str, kind: str, part: Path) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    endpoint = os.environ.get("HF_ENDPOINT")
    url = hf_hub_url(repo, inner, repo_type=kind, revision=revision, endpoint=endpoint)
    _fetch_url(url, part, build_hf_headers())


def _fetch_url(url: str, part: Path, headers: Mapping[str, str] = {}) -> None:
    from huggingface_hub import get_session

    def ask(url: str, more: Mapping[str, str]) -> AbstractContextManager[Any]:
        return get_session().stream("GET", url, headers={**headers, **more}, follow_redirects=True)

    _stream(ask, url, part, url.rpartition("/")[2])


def _stream(ask: Ask, url: str, part: Path, title: str) -> None:
    """Write what `url` gives to `part`, after what is there; go on after faults, as long as more comes."""
    vain = 0
    # Under the bar of a folder this one goes when it is full; alone it stays.
    with tqdm(unit="B", unit_scale=True, desc=title, leave=None) as bar:
        while True:
            have = part.stat().st_size
            try:
                return _go_on(ask, url, part, bar)
            # Each HTTP library raises its types; without a status it is the connection that failed.
            except Exception as error:
                vain = 1 if part.stat().st_size > have else vain + 1
                if vain == ATTEMPTS or _status(error) not in MAY_PASS:
                    raise
                time.sleep(PAUSE * 2**vain)


def _go_on(ask: Ask, url: str, part: Path, bar: tqdm[Any]) -> None:
    """Append to `part` what it lacks of `url`, or write all of it where the server knows no ranges."""
    have = part.stat().st_size
    # Compressed, the bytes would not be those of the file.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with ask(url, headers) as response:
        if response.status_code == NOTHING_LEFT:
            return
        response.raise_for_status()
        have = have if response.status_code == PARTIAL else 0
        bar.total = have + int(response.headers.get("content-length", 0)) or None
        bar.n = have
        with part.open("r+b") as file:
            file.truncate(have)
            file.seek(have)
            for chunk in response.iter_bytes():
                file.write(chunk)
                bar.update(len(chunk))
