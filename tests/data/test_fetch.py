"""Downloads, their checksums and errors, and the members of archives."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rdslib.data import download as fetching
from rdslib.data.archives import Archives, read_members
from rdslib.data.download import cache_dir, fetch, home
from rdslib.errors import UserError
from rdslib.params import Download

DATA = b"some bytes\n"
SUM = hashlib.sha256(DATA).hexdigest()
NONE = "0" * 64
MEMBERS = {
    "top/b/task.json": b"B",
    "top/a/task.json": b"A",
    "top/c/other.txt": b"C",
    "top/deep/er/task.json": b"D",
}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mirror, and an index that nothing answers."""
    monkeypatch.delenv("RDSLIB_MIRROR", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")


def files_in(folder: Path) -> list[Path]:
    """What is in a cache, locks aside."""
    return [path for path in folder.iterdir() if path.suffix != ".lock"]


def archive_of(path: Path) -> Path:
    """A zip or a tar of the members, by the name's ending."""
    if path.suffix == ".gz":
        with tarfile.open(path, "w:gz") as tar:
            for name, data in MEMBERS.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    else:
        with zipfile.ZipFile(path, "w") as file:
            for name, data in MEMBERS.items():
                file.writestr(name, data)
    return path


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "downloads"
    monkeypatch.delenv("RDSLIB_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert home() == tmp_path / "cache" / "rdslib"


def test_a_file_is_used_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_bytes(DATA)
    assert fetch(Download(uri=f"file:{path}", sha256=SUM), tmp_path / "cache", "x") == path
    assert not (tmp_path / "cache").exists()
    with pytest.raises(UserError) as error:
        fetch(Download(uri=f"file:{path}", sha256=NONE), tmp_path / "cache", "x")
    assert SUM in one_line(error)
    assert NONE in one_line(error)
    assert path.exists()
    with pytest.raises(UserError, match="'x': there is no file"):
        fetch(Download(uri="file:/no/such", sha256=SUM), tmp_path, "x")


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("pip:name==1.0/name-1.0.tar.gz", "pip/name-1.0.tar.gz"),
        ("github:owner/repo@abc/data/x.txt", "github/owner/repo/abc/data/x.txt"),
        ("hf:owner/repo@abc/x.txt", "hf/owner/repo/abc/x.txt"),
        ("hf-dataset:owner/repo@abc/x.txt", "hf/owner/repo/abc/x.txt"),
    ],
)
def test_the_mirror_is_tried_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uri: str, place: str
) -> None:
    path = tmp_path / "mirror" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    monkeypatch.setenv("RDSLIB_MIRROR", str(tmp_path / "mirror"))
    assert fetch(Download(uri=uri, sha256=SUM), tmp_path / "cache", "x") == path
    path.write_bytes(b"changed")
    with pytest.raises(UserError, match="correct the mirror"):
        fetch(Download(uri=uri, sha256=NONE), tmp_path / "cache", "x")


def test_a_local_index_fills_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "index" / "name"
    folder.mkdir(parents=True)
    file = folder / "name-1.0.tar.gz"
    file.write_bytes(DATA)
    page = f'<!DOCTYPE html><html><body><a href="{file.name}">{file.name}</a></body></html>'
    (folder / "index.html").write_text(page)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "index").as_uri())
    download = Download(uri="pip:name==1.0/name-1.0.tar.gz", sha256=SUM)
    cache = tmp_path / "cache"
    got = fetch(download, cache, "x")
    assert got.read_bytes() == DATA
    assert files_in(cache) == [got]
    # From now on the index is not needed, unless the cached file is spoilt.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert fetch(download, cache, "x") == got
    got.write_bytes(b"spoilt")
    with pytest.raises(UserError, match="could not be fetched"):
        fetch(download, cache, "x")


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A package index over HTTP with one file: `faults` are what its next answers do, `asked` the ranges."""
    state = SimpleNamespace(data=bytes(range(256)) * 40, faults=[], asked=[], ranges=True)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            if self.path.startswith("/simple"):
                page = b'<!DOCTYPE html><html><body><a href="/x-1.0.tar.gz">x-1.0.tar.gz</a></body></html>'
                return self.answer(200, page, {"Content-Type": "text/html"})
            asked = self.headers.get("Range")
            state.asked.append(asked)
            fault = state.faults.pop(0) if state.faults else None
            start = int(asked[6:-1]) if asked and state.ranges else 0
            if isinstance(fault, HTTPStatus):
                return self.answer(fault, b"", {})
            if start >= len(state.data):
                return self.answer(416, b"", {})
            self.answer(206 if start else 200, state.data[start:], {}, fault)

        def answer(self, status: int, body: bytes, headers: dict[str, str], sent: int | None = None) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[:sent])
            self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(fetching, "PAUSE", 0)
    state.download = Download(uri="pip:x==1.0/x-1.0.tar.gz", sha256=hashlib.sha256(state.data).hexdigest())
    yield state
    server.shutdown()
    server.server_close()


BREAKS = {
    "a broken connection": ([5000], [None, "bytes=5000-"]),
    "a server that is busy": ([HTTPStatus.SERVICE_UNAVAILABLE] * 2, [None] * 3),
    # As long as more comes, it goes on.
    "many breaks": ([2000] * 5, [None, *(f"bytes={n}000-" for n in (2, 4, 6, 8, 10))]),
}


@pytest.mark.parametrize("case", BREAKS)
def test_a_download_that_breaks_off_goes_on(index: SimpleNamespace, tmp_path: Path, case: str) -> None:
    index.faults, asked = list(BREAKS[case][0]), BREAKS[case][1]
    assert fetch(index.download, tmp_path, "x").read_bytes() == index.data
    assert index.asked == asked


def test_the_next_attempt_goes_on_where_this_one_ended(index: SimpleNamespace, tmp_path: Path) -> None:
    index.faults = [4000, 0, 0]
    with pytest.raises(UserError, match="could not be fetched"):
        fetch(index.download, tmp_path, "x")
    (part,) = files_in(tmp_path)
    assert part.read_bytes() == index.data[:4000]
    index.asked.clear()
    assert fetch(index.download, tmp_path, "x").read_bytes() == index.data
    assert index.asked == ["bytes=4000-"]


@pytest.mark.parametrize(("left", "ranges"), [(b"other", True), (b"other" * 10_000, True), (b"other", False)])
def test_what_is_left_of_another_file_does_no_harm(
    index: SimpleNamespace, tmp_path: Path, left: bytes, ranges: bool
) -> None:
    index.ranges = ranges
    assert index.download.sha256 is not None
    (tmp_path / f"{index.download.sha256[:16]}-x-1.0.tar.gz.part").write_bytes(left)
    assert fetch(index.download, tmp_path, "x").read_bytes() == index.data
    assert [path.suffix for path in files_in(tmp_path)] == [".gz"]


PAGES = {
    "hf:o/r@abc/x.txt": "https://huggingface.co/o/r",
    "hf-dataset:o/r@abc/x.txt": "https://huggingface.co/datasets/o/r",
}


@pytest.mark.parametrize("status", [HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND])
@pytest.mark.parametrize("uri", ["pip:x==1.0/x-1.0.tar.gz", *PAGES])
def test_a_refusal_is_not_asked_again_and_says_what_may_open_it(
    index: SimpleNamespace, tmp_path: Path, status: HTTPStatus, uri: str
) -> None:
    index.faults = [status] * 5
    with pytest.raises(UserError) as error:
        fetch(Download(uri=uri, sha256=SUM), tmp_path, "x")
    if uri in PAGES and status == HTTPStatus.FORBIDDEN:
        cure = f"accept its terms on {PAGES[uri]}, and set HF_TOKEN"
    elif uri in PAGES:
        cure = f"see whether there is {PAGES[uri]}; if it is private, set HF_TOKEN"
    elif status == HTTPStatus.NOT_FOUND:
        cure = "connect to the network"
    else:
        cure = "give PIP_INDEX_URL with a name and password"
    assert cure in one_line(error)
    assert len(index.asked) == 1
    assert files_in(tmp_path) == []


def test_a_data_set_that_the_hub_refuses_names_its_page(index: SimpleNamespace) -> None:
    index.faults = [HTTPStatus.FORBIDDEN] * 5
    with pytest.raises(UserError) as error:
        fetching.hub_commit("o/r")
    assert "o/r: is no file or folder, and the hub does not give it (status 403)" in one_line(error)
    assert "accept its terms on https://huggingface.co/datasets/o/r, and set HF_TOKEN" in one_line(error)


@pytest.mark.parametrize("kind", ["hf", "hf-dataset"])
def test_files_of_the_hub_go_on_too(index: SimpleNamespace, tmp_path: Path, kind: str) -> None:
    index.faults = [5000]
    download = Download(uri=f"{kind}:o/r@abc/x.txt", sha256=index.download.sha256)
    assert fetch(download, tmp_path, "x").read_bytes() == index.data
    assert index.asked == [None, "bytes=5000-"]


def test_no_module_of_the_working_folder_is_executed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("pip", "unearth", "json"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PIP_INDEX_URL")
    fetching._pip_index()
    assert not (tmp_path / "executed").exists()


def test_a_wrong_checksum_names_both_sums_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fetching, "_fetch_url", lambda url, part: part.write_bytes(DATA))
    with pytest.raises(UserError) as error:
        fetch(Download(uri="github:o/r@abc/x.txt", sha256=NONE), tmp_path / "cache", "x")
    assert SUM in one_line(error)
    assert NONE in one_line(error)
    assert "'x'" in one_line(error)
    assert files_in(tmp_path / "cache") == []


def test_no_network_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        fetch(Download(uri="pip:name==1.0/name-1.0.tar.gz", sha256=SUM), tmp_path / "cache", "mine")
    text = one_line(error)
    for part in ("'mine'", "pip:name==1.0/name-1.0.tar.gz", "connect", "RDSLIB_MIRROR", "RDSLIB_HOME"):
        assert part in text
    assert files_in(tmp_path / "cache") == []


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("pip:name", "is not of the form pip"),
        ("github:o/r/x.txt", "is not of the form github"),
        ("hf:repo@main", "is not of the form hf"),
        ("github:o/r@abc/../../x", "is not of the form github"),
        ("ftp:x", "use pip, github, hf, hf-dataset, file"),
    ],
)
def test_a_malformed_or_unknown_origin_shows_what_is_known(tmp_path: Path, uri: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        fetch(Download(uri=uri, sha256=SUM), tmp_path, "x")


@pytest.mark.parametrize("name", ["x.whl", "x.zip", "x.tar.gz"])
def test_members_come_by_pattern_then_by_name(tmp_path: Path, name: str) -> None:
    archive = archive_of(tmp_path / name)
    found = read_members(archive, ["*.txt", "*/task.json"])
    assert list(found) == ["top/c/other.txt", "top/a/task.json", "top/b/task.json", "top/deep/er/task.json"]
    assert found["top/a/task.json"] == b"A"
    with pytest.raises(UserError, match="no member matches 'none"):
        read_members(archive, ["none*"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x.txt", "is not an archive that can be read"),
        ("x.zip", "cannot be read as an archive"),
        ("x.tar.gz", "cannot be read as an archive"),
    ],
)
def test_what_is_no_archive_is_named(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=expected):
        read_members(tmp_path / name, ["*"])


def test_an_archive_is_read_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = archive_of(tmp_path / "x.tar.gz")
    pin = hashlib.sha256(path.read_bytes()).hexdigest()
    reads = []

    def counted(archive: Path, patterns: list[str]) -> dict[str, bytes]:
        reads.append(patterns)
        return read_members(archive, patterns)

    monkeypatch.setattr("rdslib.data.archives.read_members", counted)
    archives = Archives({"x": Download(uri=f"file:{path}", sha256=pin)}, tmp_path / "cache")
    archives.prepare([("x", "*/a/*"), ("x", "*.txt"), ("x", "*/a/*")])
    assert list(archives.members("x", ["*.txt", "*/a/*"])) == ["top/c/other.txt", "top/a/task.json"]
    assert list(archives.members("x", ["*/a/*"])) == ["top/a/task.json"]
    assert reads == [["*/a/*", "*.txt"]]
    assert list(archives.members("x", ["*/b/*"])) == ["top/b/task.json"]
    assert len(reads) == 2
