"""Downloads that are folders: their files, pins and mistakes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from rdslib.data import download as fetching
from rdslib.data.archives import Archives
from rdslib.errors import UserError
from rdslib.params import ROOT, Download
from rdslib.profiles import load_profile

CONTENT = {"a/x.txt": b"x\n", "a/y.txt": b"y\n", "b.txt": b"b\n"}
PINS = {path: hashlib.sha256(data).hexdigest() for path, data in CONTENT.items()}
URI = "github:owner/repo@abc/data/"
NONE = "0" * 64


def one_line(error: pytest.ExceptionInfo[Any]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mirror, and an origin that gives nothing."""

    def refuse(url: str, part: Path) -> None:
        raise OSError("no network")

    monkeypatch.delenv("RDSLIB_MIRROR", raising=False)
    monkeypatch.setattr(fetching, "_fetch_url", refuse)


def test_a_folder_gives_members_as_an_archive_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def origin(url: str, part: Path) -> None:
        asked.append(url)
        part.write_bytes(CONTENT[url.partition("/data/")[2]])

    monkeypatch.setattr(fetching, "_fetch_url", origin)
    downloads = {"x": Download(uri=URI, files=PINS)}
    got = Archives(downloads, tmp_path / "cache").members("x", ["b*", "a/*"])
    assert list(got.items()) == [("b.txt", b"b\n"), ("a/x.txt", b"x\n"), ("a/y.txt", b"y\n")]
    assert asked == [f"https://github.com/owner/repo/raw/abc/data/{path}" for path in got]
    # From the cache from now on, and no more than is wanted.
    assert Archives(downloads, tmp_path / "cache").members("x", ["*x.txt"]) == {"a/x.txt": b"x\n"}
    assert len(asked) == len(CONTENT)
    with pytest.raises(UserError, match=r"data/: no member matches 'none"):
        Archives(downloads, tmp_path / "cache").members("x", ["*x*", "none*"])
    with pytest.raises(UserError, match=r"'x': .* is a folder, and a file is wanted"):
        Archives(downloads, tmp_path / "cache").path("x")


@pytest.fixture
def mirrored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of a mirror that holds the download."""
    folder = tmp_path / "mirror" / "github" / "owner" / "repo" / "abc" / "data"
    for path, data in CONTENT.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    monkeypatch.setenv("RDSLIB_MIRROR", str(tmp_path / "mirror"))
    return folder


def test_a_folder_comes_from_the_mirror_or_where_it_lies(mirrored: Path, tmp_path: Path) -> None:
    for uri in (f"file:{mirrored}/", URI):
        archives = Archives({"x": Download(uri=uri, files=PINS)}, tmp_path / "cache")
        assert archives.members("x", ["*"]) == CONTENT
    assert not (tmp_path / "cache").exists()


def test_a_changed_or_missing_file_of_a_folder_is_named(
    monkeypatch: pytest.MonkeyPatch, mirrored: Path, tmp_path: Path
) -> None:
    def members(uri: str, files: dict[str, str]) -> str:
        with pytest.raises(UserError) as error:
            Archives({"x": Download(uri=uri, files=files)}, tmp_path / "cache").members("x", ["*"])
        return one_line(error)

    text = members(URI, {**PINS, "a/y.txt": NONE})
    for part in ("'x'", "a/y.txt", PINS["a/y.txt"], NONE, "mirror"):
        assert part in text
    (mirrored / "a" / "y.txt").unlink()
    text = members(URI, PINS)
    for part in ("'x'", f"{URI}a/y.txt could not be fetched: no network", "RDSLIB_MIRROR"):
        assert part in text
    assert f"there is no file {mirrored}/a/y.txt" in members(f"file:{mirrored}/", PINS)
    monkeypatch.setattr(fetching, "_fetch_url", lambda url, part, *_: part.write_bytes(b"other"))
    text = members(URI, PINS)
    assert f"{URI}a/y.txt has the SHA-256" in text
    assert "it was removed" in text


@pytest.mark.parametrize(
    "given",
    [
        {"uri": "github:o/r@c/x"},
        {"uri": "github:o/r@c/x", "files": PINS},
        {"uri": "github:o/r@c/", "sha256": NONE},
        {"uri": "github:o/r@c/", "sha256": NONE, "files": PINS},
        {"uri": "github:o/r@c/x", "sha256": NONE, "files": PINS},
    ],
)
def test_a_download_is_either_a_file_or_a_folder(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="needs exactly one of sha256"):
        Download(**given)
    with pytest.raises(ValidationError, match="a listing is read in a profile alone"):
        Download.model_validate({"uri": URI, "files": "x.sha256"})


def test_a_file_is_hashed_as_it_was_before_there_were_folders() -> None:
    file = Download(uri="file:/x", sha256=NONE)
    assert file.model_dump() == {"uri": "file:/x", "sha256": NONE}
    assert Download.model_validate(file.model_dump()) == file
    folder = Download(uri="file:/x/", files=PINS)
    assert folder.model_dump(mode="json") == {"uri": "file:/x/", "files": PINS}


def profile_with(tmp_path: Path, **download: Any) -> Path:
    raw = yaml.safe_load((ROOT / "params" / "tiny.yaml").read_text())
    raw["experiment"]["downloads"] = {"x": {"uri": URI, **download}}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def listing(pins: Mapping[str, str]) -> str:
    return "".join(f"{digest}  {path}\n" for path, digest in pins.items())


def test_a_profile_holds_the_checksums_themselves(tmp_path: Path) -> None:
    (tmp_path / "pins").mkdir()
    path = profile_with(tmp_path, files="pins/x.sha256")

    def dumped() -> Any:
        experiment = load_profile(str(path)).experiment
        assert experiment is not None
        return experiment.downloads["x"].model_dump()

    (tmp_path / "pins" / "x.sha256").write_text(listing(PINS))
    assert dumped() == {"uri": URI, "files": PINS}
    # The same path with another content is another download.
    (tmp_path / "pins" / "x.sha256").write_text(listing({**PINS, "b.txt": NONE}))
    assert dumped()["files"]["b.txt"] == NONE


@pytest.mark.parametrize(
    ("files", "expected"), [(5, "files: got 5"), ({"b.txt": "12"}, r"files\.b\.txt: got '12'")]
)
def test_pins_of_another_type_are_named(tmp_path: Path, files: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as error:
        load_profile(str(profile_with(tmp_path, files=files)))
    one_line(error)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, r"downloads\.x\.files: .*cannot be read \(No such file"),
        (b"", "lists no files"),
        (b"\xff", "cannot be read .*invalid start byte"),
        (listing(PINS).encode() + b"oops\n", r"x\.sha256:4: is not `<sha256>  <path>`"),
        (listing(PINS).encode() + listing({"b.txt": NONE}).encode(), r"x\.sha256:4: lists 'b\.txt' again"),
        (listing({"../up.txt": NONE}).encode(), "'../up.txt', which is not below the folder"),
        (listing({"/etc/x": NONE}).encode(), "'/etc/x', which is not below the folder"),
    ],
)
def test_a_mistake_in_a_listing_is_told_in_one_line(
    tmp_path: Path, content: bytes | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / "x.sha256").write_bytes(content)
    with pytest.raises(UserError, match=expected) as error:
        load_profile(str(profile_with(tmp_path, files="x.sha256")))
    assert "mine.yaml: experiment.downloads.x" in one_line(error)
