"""The pool: reading, drawing, de-duplication, contamination, and its file."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdslib.data import pool as pools
from rdslib.data.archives import Archives
from rdslib.data.chat import Sample, user_assistant
from rdslib.data.dedup import NGRAM, Contamination, text_key
from rdslib.data.download import cache_dir
from rdslib.data.pool import PoolFile, rows_at, write_pool
from rdslib.data.sources import READERS
from rdslib.errors import UserError
from rdslib.params import Download, Pool, Source
from rdslib.profiles import load_profile
from rdslib.tasks import base as tasking

NOTHING = Archives({}, Path("unused"))
GOOD = '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}'


def pool_of(*sources: Source, max_chars: int = 200) -> Pool:
    return Pool(sources=sources, max_chars=max_chars)


def made_up(name: str, samples: int, reader: str = "made_up_sums") -> Source:
    return Source(name=name, reader=reader, samples=samples)


def build(pool, archives, seed, held_out):
    """The samples of a pool, and its counts."""
    stats = {}
    return list(pools.build_pool(pool, archives, seed, held_out, stats)), stats


TINY = pool_of(
    made_up("sums", 60), made_up("reversals", 40, "made_up_reversals"), made_up("code", 20, "made_up_code")
)


def test_tiny_pool_from_end_to_end(tmp_path: Path) -> None:
    samples, stats = build(TINY, NOTHING, 7, [])
    assert list(stats) == ["sums", "reversals", "code"]
    for name, size in (("sums", 60), ("reversals", 40), ("code", 20)):
        counts = stats[name]
        assert counts["read"] == 2 * size
        assert counts["drawn"] == size
        assert counts["drawn"] == counts["kept"] + counts["duplicate"] + counts["contaminated"]
    assert len({sample.id for sample in samples}) == len(samples)
    assert list(dict.fromkeys(sample.source for sample in samples)) == list(stats)
    write_pool(samples, tmp_path / "pool.parquet")
    assert list(PoolFile(tmp_path / "pool.parquet")) == samples
    assert build(TINY, NOTHING, 7, [])[0] == samples
    assert build(TINY, NOTHING, 8, [])[0] != samples


def test_a_source_is_drawn_the_same_beside_others() -> None:
    alone, _ = build(pool_of(made_up("b", 10)), NOTHING, 1, [])
    beside, _ = build(pool_of(made_up("a", 5), made_up("b", 10)), NOTHING, 1, [])
    assert [s for s in beside if s.source == "b"] == alone
    positions = [int(s.id.rpartition("/")[2]) for s in alone]
    assert positions == sorted(positions)


@pytest.mark.parametrize(
    ("reader", "max_chars", "expected"),
    [
        ("made_up_sums", 3, "source 'a': 5 samples are asked for, but it has 0 of at most 3 char"),
        ("nope", 200, "source 'a': unknown reader 'nope'; use one of bigbench, codeio"),
        ("bigbench", 200, "the reader bigbench needs a download"),
    ],
)
def test_a_source_that_cannot_be_drawn_is_named(reader: str, max_chars: int, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        build(pool_of(made_up("a", 5, reader), max_chars=max_chars), NOTHING, 1, [])


def rows_pool(tmp_path: Path, files: dict[str, list[Any]]) -> tuple[Pool, Archives]:
    """A pool of JSONL sources with these rows of messages."""
    downloads, sources = {}, []
    for name, rows in files.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows), encoding="utf-8")
        pin = hashlib.sha256(path.read_bytes()).hexdigest()
        downloads[name] = Download(uri=f"file:{path}", sha256=pin)
        sources.append(Source(name=name, reader="tulu_jsonl", samples=len(rows), download=name))
    return pool_of(*sources, max_chars=10_000), Archives(downloads, tmp_path)


# Short texts repeat often, also with other blanks around or another role; long ones share runs of words.
texts = st.sampled_from(["a", " a\n"]) | st.lists(st.sampled_from("aBc"), min_size=1, max_size=30).map(
    " ".join
)
turns = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": texts})
conversations = st.lists(turns, min_size=1, max_size=2)


@given(
    one=st.lists(conversations, min_size=1, max_size=6),
    two=st.lists(conversations, min_size=1, max_size=6),
    held=st.lists(conversations, max_size=2),
)
def test_dropping_equals_a_naive_reading(
    tmp_path_factory: pytest.TempPathFactory, one: list[Any], two: list[Any], held: list[Any]
) -> None:
    pool, archives = rows_pool(tmp_path_factory.mktemp("rows"), {"one": one, "two": two})
    held_out = [Sample(str(at), "test", messages) for at, messages in enumerate(held)]
    samples, stats = build(pool, archives, 0, held_out)

    def grams(messages: Any) -> list[str]:
        out = []
        for message in messages:
            found = re.findall(r"\w+", message["content"].lower())
            out += [" ".join(found[at : at + 13]) for at in range(len(found) - 12)]
        return out

    tested = [gram for messages in held for gram in grams(messages)]
    kept: list[Any] = []
    dropped = 0
    earlier: list[Any] = []
    for messages in one + two:
        stripped = [(turn["role"], turn["content"].strip()) for turn in messages]
        if stripped not in earlier:
            earlier.append(stripped)
            if any(gram in tested for gram in grams(messages)):
                dropped += 1
            else:
                kept.append(messages)
    assert [sample.messages for sample in samples] == kept
    assert sum(counts["contaminated"] for counts in stats.values()) == dropped
    assert sum(counts["duplicate"] for counts in stats.values()) == len(one + two) - len(earlier)


def read_bigbench(monkeypatch: pytest.MonkeyPatch, reader: str, folder: str, content: Any) -> list[Sample]:
    members = {f"p/benchmark_tasks/{folder}/task.json": json.dumps(content).encode()}
    monkeypatch.setattr(NOTHING, "members", lambda name, patterns: members, raising=False)
    source = Source(name="s", reader=reader, samples=1, download="d", members=("*",))
    return list(READERS[reader](NOTHING, source))


def test_bigbench_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    content = {
        "task_prefix": "Definition: Answer it. Things to Avoid: All. Prompt: Answer it.",
        "example_output_prefix": "\nReply: ",
        "examples": [
            {"input": "Which? ", "target_scores": {"x": 0, "y": 1}},
            {"input": "What?", "target": ["first", "second"], "target_scores": {}},
            {"input": "Nothing", "target": []},
        ],
    }
    found = read_bigbench(monkeypatch, "bigbench", "a/b", content)
    assert [sample.id for sample in found] == ["a/b/0", "a/b/1"]
    assert found[0].messages == user_assistant("Answer it.\nWhich?\nOptions:\n- x\n- y\nReply:", "y")
    assert found[1].messages == user_assistant("Answer it.\nWhat?\nReply:", "first")


def test_math_steps_and_dialogue_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {"input": "how much ?\nadd 1 to 2, halve it. double it,", "target_scores": {"3": 1, "4": 0}}
    (maths,) = read_bigbench(monkeypatch, "math_steps", "m", {"examples": [steps]})
    response = "Add 1 to 2, halve it. Double it. The answer is 3."
    assert maths.messages == user_assistant("how much ?", response)
    spoken = [
        {"input": 'agent_A: "a"', "target": '"b"', "comment": "t"},
        {"input": 'agent_B: "a" agent_A: "b"', "target": '"c"', "comment": "t"},
        {"input": 'agent_A: "a" agent_B: "b" agent_A: "c"', "target": '"d"', "comment": "t"},
    ]
    (dialogue,) = read_bigbench(monkeypatch, "dialogue", "m", {"examples": spoken})
    assert dialogue.messages == user_assistant("a", "b") + user_assistant("c", "d")
    assert dialogue.id == "m/t"


@given(total=st.integers(1, 50), data=st.data())
def test_subset_is_sorted_without_repeats(total: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, total))
    drawn = pools.subset(total, size, 3)
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    assert len(drawn) == size
    assert np.array_equal(drawn, pools.subset(total, size, 3))
    with pytest.raises(UserError, match="cannot be drawn"):
        pools.subset(total, total + 1, 3)


def read_lines(monkeypatch: pytest.MonkeyPatch, data: bytes) -> list[Sample]:
    monkeypatch.setattr(NOTHING, "members", lambda name, patterns: {"mine.jsonl": data}, raising=False)
    source = Source(name="s", reader="tulu_jsonl", samples=1, download="d", members=("*",))
    return list(READERS["tulu_jsonl"](NOTHING, source))


def test_lines_of_messages_are_read_with_their_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [GOOD, "", GOOD[:-1] + ', "id": 7}', GOOD[:-1] + ', "dataset": "flan"}']
    data = b"\xef\xbb\xbf" + "\r\n".join(rows).encode() + b"\r\n"
    samples = read_lines(monkeypatch, data)
    assert [(sample.id, sample.source) for sample in samples] == [("s/0", "s"), ("s/7", "s"), ("s/2", "flan")]
    assert samples[0].messages == user_assistant("hi", "yo")


BAD_LINES = {
    b"{bad": ":1: is not valid JSON",
    GOOD.encode() + b"\n\xff": ":2: is not UTF-8",
    b"null": ":1: is not a JSON object",
    b'{"prompt": "x"}': ":1: this sample has no field messages",
    b'{"messages": []}': ":1: this sample has no messages",
    b'{"messages": [{"role": "robot", "content": "x"}]}': ":1: this sample has the unknown role 'robot'",
    "\n".join([GOOD[:-1] + ', "id": "a"}'] * 2).encode(): ":2: this sample has the id 'a' of mine.jsonl:1",
}


@pytest.mark.parametrize("text", BAD_LINES)
def test_a_bad_line_of_a_source_is_named(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    with pytest.raises(UserError) as error:
        read_lines(monkeypatch, text)
    assert str(error.value).startswith(f"mine.jsonl{BAD_LINES[text]}")
    assert "\n" not in str(error.value)
    assert "; " in str(error.value)


@pytest.mark.real
@pytest.mark.slow
def test_the_mini_pool_is_large_varied_and_clean() -> None:
    experiment = load_profile("mini").experiment
    assert experiment is not None
    archives = Archives(experiment.downloads, cache_dir())
    archives.prepare([*pools.wanted_members(experiment.pool), *tasking.wanted_members(experiment.tasks)])
    tests = [
        sample
        for task in experiment.tasks
        for sample in tasking.build_task(task, archives, experiment.seed).test
    ]
    samples, stats = build(experiment.pool, archives, experiment.seed, tests)
    assert len(stats) >= 8
    assert len(samples) >= 1_200
    sizes = list(Counter(sample.source for sample in samples).values())
    assert max(sizes) > 5 * min(sizes)
    held = Contamination(tests, shortest=NGRAM)
    assert not any(held.found(sample) for sample in samples)
    assert len({text_key(sample) for sample in samples}) == len(samples)
    parents = {sample.id.partition("/")[0] for sample in samples}
    assert parents.isdisjoint({sample.id.partition("/")[0] for sample in tests})


def test_a_pool_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rdslib.data.pool.GROUP", 7)
    samples, _ = build(TINY, NOTHING, 7, [])
    write_pool(samples, tmp_path / "pool.parquet")
    pool = PoolFile(tmp_path / "pool.parquet")
    assert len(pool) == len(samples)
    assert pool[0] == samples[0]
    assert pool[-1] == samples[-1]
    assert pool[5:23] == samples[5:23]
    assert pool[len(samples) :] == []
    wanted = [30, 2, 2, 29, 0]
    assert pool.take(wanted) == [samples[i] for i in wanted]
    assert pool.sources == [sample.source for sample in samples]
    with pytest.raises(IndexError):
        pool[len(samples)]

    write_pool(samples, tmp_path / "again.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "pool.parquet").read_bytes()
    assert rows_at(tmp_path / "pool.parquet", wanted) == [asdict(samples[i]) for i in wanted]

    some = PoolFile(tmp_path / "pool.parquet", np.array([3, 8, 50]))
    assert list(some) == [samples[3], samples[8], samples[50]]
    assert some.ids.to_pylist() == [samples[i].id for i in (3, 8, 50)]
    assert some.sources == [samples[i].source for i in (3, 8, 50)]


def test_length_ids_and_sources_need_no_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, _ = build(TINY, NOTHING, 7, [])
    write_pool(samples, tmp_path / "pool.parquet")
    read: list[Any] = []
    whole = pq.ParquetFile.read
    monkeypatch.setattr(
        pq.ParquetFile, "read", lambda file, columns: read.extend(columns) or whole(file, columns=columns)
    )
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", None)
    pool = PoolFile(tmp_path / "pool.parquet")
    assert len(pool) == len(pool.ids) == len(pool.sources) == len(samples)
    assert read == ["id", "source"]


NOT_ITS_OWN = ["no JSON", "[1, 2]", '{"a": 1}', "null", "a\tb", ""]


@pytest.mark.parametrize("reader", sorted(name for name in READERS if not name.startswith("made_up")))
@pytest.mark.parametrize("text", NOT_ITS_OWN)
def test_a_download_that_is_not_what_the_reader_reads_is_one_line(reader, text, tmp_path):
    if reader == "tulu_hub":
        return  # a folder
    path = tmp_path / "data.json"
    path.write_text(text)
    download = Download(uri=f"file:{path}", sha256=hashlib.sha256(text.encode()).hexdigest())
    source = Source(name="mine", reader=reader, samples=1, download="data")
    with pytest.raises(UserError) as error:
        build(pool_of(source), Archives({"data": download}, tmp_path), 7, [])
    assert re.search("mine|data.json", str(error.value))
