"""Which files of a folder are read: those of its split train, as `datasets` tells splits."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import PurePosixPath

import datasets
import pytest
from datasets.data_files import DEFAULT_PATTERNS_SPLIT_IN_FILENAME, DataFilesDict, get_data_patterns
from hypothesis import given
from hypothesis import strategies as st

from rdslib.data.chat import user_assistant
from rdslib.data.inputs import _kind, find_input
from rdslib.data.reader import read_rows
from rdslib.errors import UserError

ONE = {"messages": user_assistant("q", "r")}
# The files of a folder, of which the first are those that are read.
LAYOUTS = {
    "files": (["train.jsonl"], ["test.jsonl", "validation.jsonl"]),
    "other words": (["my-training_set.jsonl"], ["dev.jsonl", "my.eval.jsonl", "v1 valid.jsonl"]),
    "shards": (
        ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl"],
        ["data/test-00000-of-00001.jsonl", "data/validation-00000-of-00001.jsonl"],
    ),
    "folders": (["data/train/0.jsonl", "data/train/1.jsonl"], ["data/test/0.jsonl", "data/val_2/0.jsonl"]),
    "folders before files": (["train/test.jsonl"], ["test/train.jsonl"]),
    "a folder in a folder": (["a/train-1/eval/x.jsonl"], ["a/evaluation/x.jsonl"]),
    "no words": (["latest.jsonl", "retrained.jsonl", "devices/tests.jsonl"], []),
    "no split": (["a.jsonl", "b/c.jsonl"], []),
}


def folder_of(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps({**ONE, "id": name}) + "\n")
    return root


def ids(name):
    return [row.id for row in read_rows(name)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_train_is_what_datasets_takes_for_it(tmp_path, layout):
    taken, left = LAYOUTS[layout]
    folder = folder_of(tmp_path / "set", [*taken, *left])
    patterns = get_data_patterns(str(folder))
    expected = DataFilesDict.from_patterns(patterns, base_path=str(folder))["train"]
    assert sorted(str(PurePosixPath(each).relative_to(folder)) for each in expected) == sorted(taken)
    found = find_input(folder)
    assert ids(folder) == sorted(taken)
    assert sorted(path for files in found.others.values() for path in files) == sorted(
        folder / name for name in left
    )
    # The other ones are said, and can be had.
    assert len(found.notes) == bool(left)
    for split, files in found.others.items():
        assert split in found.notes[0]
        assert all(path.name in found.notes[0] for path in files)
        assert find_input(f"{folder}:{split}").files == files
        assert find_input(files[0]).files == (files[0],)


words = st.lists(
    st.sampled_from(["train", "training", "test", "eval", "dev", "valid", "x", "", "_", "-", ".", " ", "7"]),
    min_size=1,
)


@given(words)
def test_the_words_in_a_name_are_those_of_datasets(parts):
    name = f"{''.join(parts)}.jsonl"
    patterns = {
        split: [each.removeprefix("**/") for each in named]
        for split, named in DEFAULT_PATTERNS_SPLIT_IN_FILENAME.items()
    }
    expected = [str(split) for split, named in patterns.items() if any(fnmatch(name, each) for each in named)]
    assert _kind(name) == (expected[0] if expected else None)


def test_what_has_no_split_is_read_with_train(tmp_path):
    folder = folder_of(tmp_path, ["chat.jsonl", "a/train.jsonl", "a/Test.jsonl"])
    assert ids(folder) == ["a/train.jsonl", "chat.jsonl"]
    assert find_input(folder).notes == [
        f"{folder}: its other splits are not read: test (Test.jsonl); to read one, give {folder}:test or its "
        "files"
    ]


def test_a_folder_of_one_split_is_read_and_of_several_without_train_is_not(tmp_path):
    folder = folder_of(tmp_path / "a", ["test-1.jsonl", "test-2.jsonl"])
    assert ids(folder) == ["test-1.jsonl", "test-2.jsonl"]
    folder_of(folder, ["dev.jsonl"])
    with pytest.raises(UserError, match=r"/a: say which split to read, as in \S+/a:validation; it has"):
        find_input(folder)
    with pytest.raises(UserError, match=r"/a:none: there is no such split; it has validation, test"):
        find_input(f"{folder}:none")
    assert ids(f"{folder}:validation") == ["dev.jsonl"]
    assert ids(folder / "dev.jsonl") == ["dev.jsonl"]


def test_splits_of_other_names_are_told_apart(tmp_path):
    names = [f"data/{split}-00000-of-00001.jsonl" for split in ("test_sft", "train_gen", "train_sft")]
    folder = folder_of(tmp_path / "a", names)
    with pytest.raises(UserError, match=r"say which split .*; it has test_sft, train_gen, train_sft"):
        find_input(folder)
    assert ids(f"{folder}:train_sft") == names[2:]
    (folder / names[1]).unlink()
    assert ids(folder) == names[2:]


@pytest.mark.parametrize("shards", [1, 2])
def test_what_datasets_has_saved_is_read(tmp_path, shards):
    rows = [{**ONE, "id": f"{number}"} for number in range(4)]
    one = datasets.Dataset.from_list(rows)
    one.save_to_disk(tmp_path / "one", num_shards=shards)
    # As `map` leaves it beside the data.
    (tmp_path / "one" / "cache-1.arrow").write_bytes(b"")
    assert ids(tmp_path / "one") == ["0", "1", "2", "3"]
    assert {path.name for path in find_input(tmp_path / "one").ignored} == {
        "cache-1.arrow", "state.json", "dataset_info.json",
    }  # fmt: skip
    splits = {"train": one.select([0, 1]), "other": one.select([2]), "test": one.select([3])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "several")
    assert ids(tmp_path / "several") == ["0", "1"]
    assert list(find_input(tmp_path / "several").others) == ["other", "test"]
    assert ids(f"{tmp_path / 'several'}:other") == ["2"]
    (tmp_path / "one" / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"state\.json: is not what `save_to_disk` writes; save"):
        find_input(tmp_path / "one")


def test_files_about_the_data_are_no_rows(tmp_path):
    folder = folder_of(tmp_path, ["train.jsonl"])
    for name in ("dataset_infos.json", "a/dataset_info.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps({"default": {"splits": {}}}))
    # Without what else `datasets` saves, it is a file like any other.
    (folder / "state.json").write_text(json.dumps([ONE]))
    assert ids(folder) == ["0", "train.jsonl"]
    assert find_input(folder).notes[0].endswith("2 not read: dataset_info.json, dataset_infos.json")
