"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rdslib.files import replaced, write_json, write_whole


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda file: calls.append("fsync"))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    write_whole(tmp_path / "a", b"1")
    write_json(tmp_path / "b", {"é": 1})
    assert calls == ["fsync", "replace"] * 2
    assert (tmp_path / "a").read_bytes() == b"1"
    assert (tmp_path / "b").read_text() == '{\n "\\u00e9": 1\n}\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_after_an_error_the_old_file_is_there_alone(tmp_path: Path) -> None:
    def write(text: str | None, fails: bool) -> None:
        with replaced(tmp_path / "a") as path:
            if text is not None:
                path.write_text(text)
            if fails:
                raise OSError("no space")

    write("old", fails=False)
    for text in ("new", None):
        with pytest.raises(OSError, match="no space"):
            write(text, fails=True)
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]
    write(None, fails=False)
    assert list(tmp_path.iterdir()) == []
