"""`rds push`: the folder and its card, and that nothing is uploaded unless that is asked for."""

from __future__ import annotations

import json
import shlex
from typing import ClassVar

import datasets
import pytest
import yaml

from rdslib.commands.push import push
from rdslib.errors import UserError
from tests.command import rds, refused
from tests.commands.test_select import POOL, ask, given, read, row, write  # noqa: F401


class Hub:
    """The hub's client, which writes down what it is asked for."""

    asked: ClassVar[list[tuple[str, dict]]] = []

    def create_repo(self, repo_id, **options):
        self.asked.append(("create_repo", {"repo_id": repo_id, **options}))

    def upload_folder(self, **options):
        files = {path.name: path.read_bytes() for path in options["folder_path"].iterdir()}
        self.asked.append(("upload_folder", {**options, "files": files}))
        return "https://hub/datasets/me/best"


@pytest.fixture
def hub(monkeypatch):
    """A fake of the hub, to which somebody is logged in."""
    monkeypatch.setattr(Hub, "asked", [])
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "token")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return Hub


@pytest.fixture
def selected(ask, tmp_path):  # noqa: F811
    """A selection whose sources have names that are Markdown."""
    pool = [row(f"What is {i}?", f"{i}", source=["a|b", "<b>c</b>"][i % 2]) for i in range(12)]
    pool.append(pool[0])
    path = write(tmp_path / "pool.jsonl", pool)
    return ask(pool=path, dedup="exact", selector="max", max_per_source=5, exclude=[])[1].path


def front(folder):
    """The card's YAML, and its text."""
    _, about, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(about), text


def test_the_folder_is_a_data_set_with_a_card_and_nothing_is_uploaded(selected, tmp_path, hub):
    out = tmp_path / "data set"
    assert push(selected, out) == str(out)
    assert hub.asked == []
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "train.jsonl"]
    assert (out / "train.jsonl").read_bytes() == selected.read_bytes()
    about, text = front(out)
    assert about["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "train.jsonl"}]}
    ]
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))["train"]
    assert loaded["rds_id"] == [each["rds_id"] for each in read(selected)]
    assert "# 9 samples of pool.jsonl" in text
    assert "| rows of the pool | 13 |" in text
    assert "| of these left out | 1 duplicate |" in text
    assert r"| a\|b | " in text
    assert "| &lt;b&gt;c&lt;/b&gt; | " in text
    assert " FLOPs |" in text
    assert "| sums | " in text
    assert "Licence: not known here" in text
    # Of the user's own files there are names alone.
    assert str(tmp_path) not in text


def test_the_command_of_the_card_makes_the_selection_again(selected, given, tmp_path, hub, monkeypatch):  # noqa: F811
    push(selected, tmp_path / "out")
    _, text = front(tmp_path / "out")
    (line,) = [each for each in text.splitlines() if each.startswith("rds select")]
    words = shlex.split(line)
    assert "--dedup exact --max-per-source 5" in line
    assert "--resume" not in words
    words[words.index("--model") + 1] = given["model"]
    done = rds(*words[1:], home=tmp_path / "again", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "train.jsonl").read_bytes() == selected.read_bytes()


def test_it_is_uploaded_where_that_is_asked_for(selected, tmp_path, hub):
    said = push(selected, tmp_path / "out", "me/best")
    assert said.endswith("and on the hub: https://hub/datasets/me/best")
    (made, of), (sent, what) = hub.asked
    assert (made, sent) == ("create_repo", "upload_folder")
    assert of == {"repo_id": "me/best", "repo_type": "dataset", "private": True, "exist_ok": True}
    assert (what["repo_id"], what["repo_type"]) == ("me/best", "dataset")
    assert what["files"].keys() == {"README.md", "train.jsonl"}
    push(selected, tmp_path / "again", "me/best", public=True)
    assert hub.asked[2][1]["private"] is False


def test_the_licence_is_that_of_the_pools_card(ask, tmp_path, hub):  # noqa: F811
    folder = tmp_path / "pool"
    folder.mkdir()
    write(folder / "data.jsonl", POOL)
    (folder / "README.md").write_text("---\nlicense: odc-by\n---\n# A pool\n")
    push(ask(pool=str(folder))[1].path, tmp_path / "out")
    about, text = front(tmp_path / "out")
    assert about["license"] == "odc-by"
    assert "Licence: the pool's: odc-by." in text


def test_what_cannot_be_pushed_is_one_line(selected, tmp_path, hub, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise OSError("no rights there")

    plain = write(tmp_path / "plain.jsonl", POOL[:2])
    for path, to, message in (
        (selected, "me", "--to me: is no name of a data set; give it as USER/NAME"),
        (tmp_path / "plain.jsonl", None, f"{plain}.rds.json: there is no such file"),
    ):
        with pytest.raises(UserError, match=message):
            push(path, tmp_path / "out", to)
    with monkeypatch.context() as patched:
        patched.setattr("huggingface_hub.get_token", lambda: None)
        line = refused(capsys, "push", selected, "--out", tmp_path / "out", "--to", "me/best", home=tmp_path)
        assert line.startswith("rds: --to me/best: nobody is logged in to the hub; run `hf auth login`")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(Hub, "upload_folder", fail)
    with pytest.raises(UserError, match=r"the hub does not take it \(no rights there\); the folder is"):
        push(selected, tmp_path / "out", "me/best")
    with pytest.raises(UserError, match="is there already"):
        push(selected, tmp_path / "out")
    selected.write_text(json.dumps(POOL[0]) + "\n")
    with pytest.raises(UserError, match="is not the file that"):
        push(selected, tmp_path / "other")
