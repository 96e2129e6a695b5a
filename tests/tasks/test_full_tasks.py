"""Whole query and test sets: pinned folders of files, and the readers of all tasks as the paper has them."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import ValidationError

from rdslib.data import download as fetching
from rdslib.data.download import Archives, cache_dir
from rdslib.errors import UserError
from rdslib.params import ROOT, Download, Task, load_profile, read_pins
from rdslib.tasks.base import build_task, read_task, write_task
from rdslib.tasks.base import READERS
from rdslib.tasks.base import TaskSample

CONTENT = {"a/x.txt": b"x\n", "a/y.txt": b"y\n", "b.txt": b"b\n"}
PINS = {path: hashlib.sha256(data).hexdigest() for path, data in CONTENT.items()}
URI = "github:owner/repo@abc/data/"
NONE = "0" * 64


def one_line(error: pytest.ExceptionInfo[Any]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# --- folders


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mirror, no memory of earlier checks, and an origin that gives nothing."""

    def refuse(url: str, part: Path) -> None:
        raise OSError("no network")

    monkeypatch.delenv("RDSLIB_MIRROR", raising=False)
    monkeypatch.setattr(fetching, "_verified", set())
    monkeypatch.setattr(fetching, "_fetch_github", refuse)


def folder_of(place: Path, content: Mapping[str, bytes] = CONTENT) -> Path:
    for path, data in content.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(data)
    return place


@pytest.mark.usefixtures("alone")
def test_a_folder_gives_members_as_an_archive_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def origin(url: str, part: Path) -> None:
        asked.append(url)
        part.write_bytes(CONTENT[url.partition("/data/")[2]])

    monkeypatch.setattr(fetching, "_fetch_github", origin)
    downloads = {"x": Download(uri=URI, files=PINS)}
    got = Archives(downloads, tmp_path / "cache").members("x", ["b*", "a/*"])
    assert list(got.items()) == [("b.txt", b"b\n"), ("a/x.txt", b"x\n"), ("a/y.txt", b"y\n")]
    assert asked == [f"https://github.com/owner/repo/raw/abc/data/{path}" for path in CONTENT]
    # From the cache from now on, and no more than is wanted.
    assert Archives(downloads, tmp_path / "cache").members("x", ["*x.txt"]) == {"a/x.txt": b"x\n"}
    assert len(asked) == len(CONTENT)
    with pytest.raises(UserError, match=r"data/: no member matches 'none"):
        Archives(downloads, tmp_path / "cache").members("x", ["*x*", "none*"])
    with pytest.raises(UserError, match=r"'x': .* is a folder, and a file is wanted"):
        Archives(downloads, tmp_path / "cache").path("x")


@pytest.mark.usefixtures("alone")
def test_a_folder_comes_from_the_mirror_or_where_it_lies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mirrored = folder_of(tmp_path / "mirror" / "github" / "owner" / "repo" / "abc" / "data")
    lying = Archives({"x": Download(uri=f"file:{mirrored}/", files=PINS)}, tmp_path / "cache")
    assert lying.members("x", ["*"]) == CONTENT
    monkeypatch.setenv("RDSLIB_MIRROR", str(tmp_path / "mirror"))
    archives = Archives({"x": Download(uri=URI, files=PINS)}, tmp_path / "cache")
    assert archives.members("x", ["*"]) == CONTENT
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("alone")
def test_a_changed_or_missing_file_of_a_folder_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mirrored = folder_of(tmp_path / "mirror" / "github" / "owner" / "repo" / "abc" / "data")
    monkeypatch.setenv("RDSLIB_MIRROR", str(tmp_path / "mirror"))

    def members(uri: str, files: dict[str, str]) -> str:
        with pytest.raises(UserError) as error:
            Archives({"x": Download(uri=uri, files=files)}, tmp_path / "cache").members("x", ["*"])
        return one_line(error)

    text = members(URI, {**PINS, "a/y.txt": NONE})
    for part in ("'x'", "a/y.txt", PINS["a/y.txt"], NONE, "mend the mirror"):
        assert part in text
    (mirrored / "a" / "y.txt").unlink()
    text = members(URI, PINS)
    for part in ("'x'", f"{URI}a/y.txt could not be fetched (no network)", "RDSLIB_MIRROR"):
        assert part in text
    assert f"there is no file {mirrored}/a/y.txt" in members(f"file:{mirrored}/", PINS)
    monkeypatch.setattr(fetching, "_fetch_github", lambda url, part: part.write_bytes(b"other"))
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
    ("content", "expected"),
    [
        (None, r"downloads\.x\.files: .*cannot be read \(No such file"),
        ("", "lists no files"),
        (listing(PINS) + "oops\n", r"x\.sha256:4: is not `<sha256>  <path>`"),
        (listing(PINS) + listing({"b.txt": NONE}), r"x\.sha256:4: lists 'b\.txt' again"),
        (listing({"../up.txt": NONE}), "'../up.txt', which is not below the folder"),
        (listing({"/etc/x": NONE}), "'/etc/x', which is not below the folder"),
    ],
)
def test_a_mistake_in_a_listing_is_told_in_one_line(
    tmp_path: Path, content: str | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / "x.sha256").write_text(content)
    with pytest.raises(UserError, match=expected) as error:
        load_profile(str(profile_with(tmp_path, files="x.sha256")))
    assert "mine.yaml: experiment.downloads.x" in one_line(error)


def test_other_mistakes_in_a_folder_name_their_key(tmp_path: Path) -> None:
    for files, expected in ((5, "files: got 5"), ({"b.txt": "12"}, r"files\.b\.txt: got '12'")):
        with pytest.raises(UserError, match=expected) as error:
            load_profile(str(profile_with(tmp_path, files=files)))
        one_line(error)
    (tmp_path / "x.sha256").write_bytes(b"\xff")
    with pytest.raises(UserError, match="is not UTF-8"):
        load_profile(str(profile_with(tmp_path, files="x.sha256")))
    with pytest.raises(ValidationError, match="a listing is read in a profile alone"):
        Download.model_validate({"uri": URI, "files": "x.sha256"})


def test_the_listings_that_ship_are_well_formed() -> None:
    counts = {path.stem: len(read_pins(path)) for path in (ROOT / "params" / "pins").glob("*.sha256")}
    expected = {"alpaca_eval": 1, "bbh": 54, "gsm8k": 1, "mmlu": 114, "xquad": 12}
    assert {name: counts[name] for name in expected} == expected


# --- made-up data


def task_of(reader: str, queries: int = 1, test: int = 1) -> Task:
    return Task(name="T", reader=reader, queries=queries, test=test)


def squad_form(*articles: tuple[str, list[tuple[str, list[tuple[str, str, list[str]]]]]]) -> bytes:
    """(title, [(context, [(id, question, answers)])]) as SQuAD has it."""
    data = [
        {
            "title": title,
            "paragraphs": [
                {
                    "context": context,
                    "qas": [
                        {"id": key, "question": question, "answers": [{"text": text} for text in answers]}
                        for key, question, answers in asked
                    ],
                }
                for context, asked in passages
            ],
        }
        for title, passages in articles
    ]
    return json.dumps({"version": "1", "data": data}).encode()


def parquet_form(content: bytes) -> bytes:
    """What `squad_form` gives as the hub has it."""
    rows = [
        {
            "id": qa["id"],
            "title": article["title"],
            "context": paragraph["context"],
            "question": qa["question"],
            "answers": {"text": [each["text"] for each in qa["answers"]]},
        }
        for article in json.loads(content)["data"]
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


TRAIN = squad_form(
    (
        "A",
        [(" Passage one. ", [("finnish-1-1", " Who? ", ["I", "me", "I"]), ("finnish-1-2", "What?", ["It"])])],
    ),
    ("B", [("Passage two.", [("korean-2-1", "Where?", ["There"])])]),
)
DEV = squad_form(
    ("C", [("Passage three.", [("korean-3-1", "When?", ["Now"]), ("finnish-3-2", "Why?", ["So", "Thus"])])])
)


@pytest.mark.parametrize("parquet", [False, True])
def test_tydiqa_takes_one_train_question_a_language(parquet: bool) -> None:
    files = {"tydiqa-goldp-v1.1-dev.json": DEV, "tydiqa-goldp-v1.1-train.json": TRAIN}
    if parquet:
        files = {
            "train-00000-of-00001.parquet": parquet_form(TRAIN),
            "validation-00000-of-00001.parquet": parquet_form(DEV),
        }
    reader = READERS["tydiqa_full"]
    queries, test, note = reader.read([files], task_of("tydiqa_full"), 1)
    assert [sample.subtask for sample in queries] == ["finnish", "korean"]
    assert queries[1].id == "korean-2-1"
    assert queries[1].messages[0]["content"] == "Passage two.\n\nQuestion: Where?"
    assert queries[1].messages[1] == {"role": "assistant", "content": "There"}
    assert [sample.id for sample in test] == ["korean-3-1", "finnish-3-2"]
    assert test[0].exemplars == [{"question": "Where?", "context": "Passage two.", "response": "There"}]
    assert test[1].references == ["So", "Thus"]
    assert test[1].context == "Passage three."
    assert test[1].question == "Why?"
    # The seed draws, and the same seed draws the same.
    drawn = {reader.read([files], task_of("tydiqa_full"), seed)[0][0].id for seed in range(9)}
    assert drawn == {"finnish-1-1", "finnish-1-2"}
    assert reader.read([files], task_of("tydiqa_full"), 1) == (queries, test, note)


def test_tydiqa_needs_both_splits_of_the_same_data() -> None:
    read = READERS["tydiqa_full"].read
    with pytest.raises(UserError, match="needs a file with train in its name and one without") as error:
        read([{"tydiqa-goldp-v1.1-dev.json": DEV}], task_of("tydiqa_full"), 1)
    one_line(error)
    thai = squad_form(("D", [("Passage.", [("thai-1-1", "Who?", ["I"])])]))
    with pytest.raises(UserError, match="no question in 'thai', which thai-1-1 is in") as error:
        read([{"dev.json": thai, "train.json": TRAIN}], task_of("tydiqa_full"), 1)
    one_line(error)


def test_xquad_keeps_the_first_question_of_each_language(tmp_path: Path) -> None:
    content = {f"xquad.{language}.json": TRAIN for language in ("de", "th")}
    folder = folder_of(tmp_path / "xquad", content)
    pins = {path: hashlib.sha256(data).hexdigest() for path, data in content.items()}
    archives = Archives({"xquad": Download(uri=f"file:{folder}/", files=pins)}, tmp_path / "cache")
    task = Task(name="X", reader="xquad_full", downloads=("xquad",), queries=2, test=4)
    data = build_task(task, archives, 1)
    assert [sample.id for sample in data.queries] == ["de/finnish-1-1", "th/finnish-1-1"]
    assert [sample.subtask for sample in data.test] == ["de", "de", "th", "th"]
    assert data.test[0].exemplars == [{"question": "Who?", "context": "Passage one.", "response": "I"}]
    assert "4 of 6 are tested" in data.note
    write_task(data, tmp_path / "task")
    assert read_task(tmp_path / "task") == data


def test_squad_takes_queries_from_the_front_or_from_the_train_set() -> None:
    def article(name: str, passages: int) -> Any:
        return name, [(f"{name} {at}", [(f"{name}/{at}", "Who?", ["I", "me"])]) for at in range(passages)]

    name = "top/benchmark_tasks/squad_shifts/squaddev_v1.1.json"
    dev = {name: squad_form(article("A", 300), article("B", 200), article("C", 7))}
    queries, test, note = READERS["squad_full"].read([dev], task_of("squad_full"), 1)
    assert {sample.subtask for sample in queries} == {"A", "B"}
    assert {sample.subtask for sample in test} == {"C"}
    assert (len(queries), len(test)) == (500, 7)
    assert "507 of 10570 questions" in note
    assert "(2 of 3)" in note
    for sample in test:
        assert [each["context"] for each in sample.exemplars or []] == ["A 0", "A 1", "A 2"]
        assert sample.references == ["I", "me"]
    files = [dev, {"train-v1.1.json": TRAIN}]
    queries, test, note = READERS["squad_full_train"].read(files, task_of("squad_full_train"), 1)
    assert [sample.id for sample in queries] == ["finnish-1-1", "finnish-1-2", "korean-2-1"]
    assert queries[0].references == ["I", "me"]
    assert len(test) == 507
    assert [each["question"] for each in test[0].exemplars or []] == ["Who?", "Where?"]
    assert "from its train set, as the paper's are" in note


COT = yaml.safe_dump(
    {"fewshot_config": {"samples": [{"question": "1+1?", "target": "The answer is 2."}]}}
).encode()
PROMPTS = "Canary.\n-----\nDo it.\n" + "".join(
    f"\nQ: Question {at}\nA: Let's think step by step. \nThought. So the answer is {at}.\n" for at in range(3)
)
BBH = {
    "bbh/one.json": json.dumps({"examples": [{"input": "Question 4", "target": "4"}]}).encode(),
    "cot-prompts/one.txt": PROMPTS.encode(),
}
MMLU = b'question,choice0,choice1,choice2,choice3,answer\n"Which, ""really""?", a,b,c,d,2\n'


def test_made_up_rows_of_the_other_tasks() -> None:
    files: Any = [
        {"gsm8k-cot.yaml": COT},
        {"test.jsonl": b'{"question": "Q?", "answer": "a\\n2*3=<<2*3=6>>6 b\\n#### 6,000"}'},
    ]
    queries, (sample,), _ = READERS["gsm8k_full"].read(files, task_of("gsm8k_full"), 1)
    assert sample.messages[1]["content"] == "a. 2*3=6 b. The answer is 6000."
    assert sample.references == ["6000"]
    assert sample.exemplars == [{"question": "1+1?", "context": "", "response": "The answer is 2."}]
    assert queries[0].messages[0]["content"] == "Q: 1+1?\nA:"

    queries, (sample,), _ = READERS["bbh_full"].read([BBH], task_of("bbh_full"), 1)
    assert sample.messages[0]["content"] == "Do it.\n\nQ: Question 4\nA:"
    assert (sample.context, sample.references, sample.subtask) == ("Do it.", ["4"], "one")
    assert [each["response"] for each in sample.exemplars or []][2] == "Thought. So the answer is 2."
    assert queries[0].messages[0]["content"] == "Do it.\n\nQ: Question 0\nA: Let's think step by step."

    mmlu = {"dev/high_school_art_dev.csv": MMLU, "test/high_school_art_test.csv": MMLU}
    _, (sample,), _ = READERS["mmlu_full"].read([mmlu], task_of("mmlu_full"), 1)
    assert sample.question == 'Which, "really"?\nA. a\nB. b\nC. c\nD. d'
    assert "about high school art.\n\nWhich" in sample.messages[0]["content"]
    assert (sample.subtask, sample.answer, sample.references) == ("high_school_art", 2, ["C"])


def files_of(reader: str, data: bytes) -> Any:
    return {
        "alpaca_full": [{"model_outputs.json": data}],
        "bbh_full": [{**BBH, "bbh/one.json": data}],
        "codex_full": [{"HumanEval.jsonl.gz": data}],
        "gsm8k_full": [{"gsm8k-cot.yaml": COT}, {"test.jsonl": data}],
        "mmlu_full": [{"test/one_test.csv": data}],
        "squad_full": [{"squaddev_v1.1.json": data}],
        "tydiqa_full": [{"train.parquet": data}],
        "xquad_full": [{"xquad.de.json": data}],
    }[reader]


@pytest.mark.parametrize(
    ("reader", "data", "expected"),
    [
        (
            "alpaca_full",
            b'[{"instruction": "Do", "output": "ok"}, {"instruction": "Do"}]',
            "row 2.*no 'output'",
        ),
        ("alpaca_full", b'[{"instruction": " ", "output": "ok"}]', "row 1.*no instruction"),
        ("alpaca_full", b'[{"instruction": 5, "output": "ok"}]', "row 1.*instruction is not a text"),
        ("alpaca_full", b"[", r"model_outputs\.json: cannot be read \(Expecting value"),
        ("bbh_full", b'{"examples": [{"input": "x"}]}', r"bbh/one\.json: example 1: .*no 'target'"),
        ("bbh_full", b'{"rows": []}', r"bbh/one\.json: .*no 'examples'"),
        ("codex_full", b"plain", r"HumanEval\.jsonl\.gz: .*gzip"),
        ("gsm8k_full", b'{"question": "Q", "answer": "5"}', r"test\.jsonl: row 1: .*no number after ####"),
        ("gsm8k_full", b'{"question": "Q", "answer": "x #### many"}', "row 1: .*no number after ####"),
        ("gsm8k_full", b"[1]", "row 1"),
        ("mmlu_full", b"a,b\n", r"test/one_test\.csv: .*the header is not question,choice0"),
        ("mmlu_full", b"", r"test/one_test\.csv: cannot be read"),
        ("mmlu_full", b"\xff", "codec can't decode"),
        ("mmlu_full", MMLU + b"q,a,b,c,d\n", "row 2: .*not a question, four choices"),
        ("mmlu_full", MMLU + b"q,a,b,c,d,4\n", "row 2: .*'4' is not in list"),
        (
            "squad_full",
            squad_form(("A", [("C", [("1", "Q?", ["x"]), ("2", "Q?", [])])])),
            "question 2: .*no answer",
        ),
        ("squad_full", b'{"data": []}', "has no questions"),
        ("squad_full", b'{"data": [{"paragraphs": [{"qas": [{}]}]}]}', "no 'answers'"),
        ("tydiqa_full", b"plain", r"train\.parquet: cannot be read"),
        ("xquad_full", b'{"data": 5}', r"xquad\.de\.json: cannot be read"),
    ],
)
def test_a_malformed_row_is_named(reader: str, data: bytes, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as error:
        READERS[reader].read(files_of(reader, data), task_of(reader), 1)
    assert "task 'T': " in one_line(error)


def test_bbh_needs_three_exemplars() -> None:
    files = {**BBH, "cot-prompts/one.txt": PROMPTS.replace("\nA: Let's think", "\nA: Think", 1).encode()}
    with pytest.raises(
        UserError, match=r"cot-prompts/one\.txt: .*2 exemplars with a chain of thought, not 3"
    ):
        READERS["bbh_full"].read([files], task_of("bbh_full"), 1)


# --- the tasks themselves

GITHUB = {
    "alpaca_eval": "tatsu-lab/alpaca_eval@cd543a149df89434d8a54582c0151c0b945c3d20/results/text_davinci_003/",
    "bbh": "suzgunmirac/BIG-Bench-Hard@9ee07bd481feebf959a6b59d61ea57bdcf30964d/",
    "gsm8k": "openai/grade-school-math@3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data/",
    "mmlu": "HaeChan0305/MLILAB-FedLLM@d92730e8bacd7b3a61e551e015e40588e10234b4/data/mmlu/",
    "xquad": "deepmind/xquad@60cac411649156efb6aab9dd4c9cde787a2c0345/",
}
# (reader, downloads, queries, tests, subtasks that are tested)
FULL = {
    "MMLU": ("mmlu_full", ("mmlu",), 285, 14_042, 57),
    "GSM8k": ("gsm8k_full", ("lm_eval", "gsm8k"), 8, 1_319, 1),
    "BBH": ("bbh_full", ("bbh",), 81, 6_511, 27),
    "Codex": ("codex_full", ("human_eval",), 16, 148, 1),
    "Squad": ("squad_full", ("bigbench",), 810, 9_755, 47),
    "AlpacaEval": ("alpaca_full", ("alpaca_eval",), 50, 755, 1),
    "XQuAD": ("xquad_full", ("xquad",), 12, 14_268, 12),
}


@dataclass
class Full:
    """What the readers give, and how to build a task from the same data."""

    read: dict[str, tuple[list[TaskSample], list[TaskSample], str]]
    build: Callable[[str], Any]


@pytest.fixture(scope="module")
def full() -> Full:
    if not os.environ.get("RDSLIB_MIRROR"):
        pytest.skip("RDSLIB_MIRROR is not set, and the origins are not to be asked for 180 files by a test")
    experiment = load_profile("mini").experiment
    assert experiment is not None
    downloads = dict(experiment.downloads)
    for name, uri in GITHUB.items():
        pins = read_pins(ROOT / "params" / "pins" / f"{name}.sha256")
        downloads[name] = Download(uri=f"github:{uri}", files=pins)
    archives = Archives(downloads, cache_dir())
    tasks = {
        name: Task(name=name, reader=reader, downloads=given, queries=queries, test=test)
        for name, (reader, given, queries, test, _) in FULL.items()
    }
    read = {}
    for name, task in tasks.items():
        reader = READERS[task.reader]
        files = [archives.members(*each) for each in zip(task.downloads, reader.downloads.values(), strict=True)]
        read[name] = reader.read(files, task, 42)
    return Full(read, lambda name: build_task(tasks[name], archives, 42))


@pytest.mark.real
@pytest.mark.parametrize("name", FULL)
def test_counts_are_the_papers(full: Full, name: str) -> None:
    queries, test, note = full.read[name]
    _, _, asked, tested, subtasks = FULL[name]
    assert (len(queries), len(test)) == (asked, tested)
    assert len({sample.subtask for sample in test}) == subtasks
    ids = [sample.id for sample in [*queries, *test]]
    assert len(set(ids)) == len(ids)
    assert note
    # Nothing is lost when a task is built from all of it, so no query's prompt is a test's.
    data = full.build(name)
    assert data.test == test
    assert len(data.queries) == asked


@pytest.mark.real
def test_totals_and_exemplars(full: Full) -> None:
    queries, test, note = full.read["Squad"]
    assert len(queries) + len(test) == 10_565
    assert "10565 of 10570" in note
    assert {sample.subtask for sample in queries}.isdisjoint(sample.subtask for sample in test)
    queries, test, note = full.read["XQuAD"]
    assert set(Counter(sample.subtask for sample in test).values()) == {1_189}
    assert "14268 of 14280" in note
    shown = {"GSM8k": 8, "BBH": 3, "Squad": 3, "XQuAD": 1, "MMLU": 0, "Codex": 0, "AlpacaEval": 0}
    for name, count in shown.items():
        for sample in full.read[name][1]:
            exemplars = sample.exemplars or []
            assert len(exemplars) == count
            for each in exemplars:
                assert set(each) == {"question", "context", "response"}
                assert each["question"]
                assert each["response"]
                assert bool(each["context"]) == (name in ("Squad", "XQuAD"))
                # What is shown is not what is asked.
                assert (each["context"], each["question"]) != (sample.context, sample.question)
            assert sample.question not in {each["question"] for each in exemplars} or name == "Squad"


@pytest.mark.real
def test_fields_that_the_protocols_need(full: Full) -> None:
    for name, (_, test, _) in full.read.items():
        for sample in test:
            assert [turn["role"] for turn in sample.messages] == ["user", "assistant"]
            assert sample.source == name
            assert sample.question
            assert sample.references
            assert bool(sample.context) == (name in ("BBH", "Squad", "XQuAD"))
            assert (sample.choices is not None) == (name == "MMLU")
            assert bool(sample.program) == bool(sample.entry_point) == bool(sample.test) == (name == "Codex")
            if name not in ("GSM8k", "AlpacaEval"):
                assert sample.references[0] == sample.messages[-1]["content"]
                assert all(each.strip() for each in sample.references)
    for sample in full.read["MMLU"][1]:
        assert sample.choices == ["A", "B", "C", "D"]
        assert sample.answer is not None
        assert sample.references == [sample.choices[sample.answer]]
        assert sample.question in sample.messages[0]["content"]
    for sample in full.read["GSM8k"][1]:
        (number,) = sample.references or []
        assert float(number) == float(number.replace(",", ""))
        assert sample.messages[-1]["content"].endswith(f". The answer is {number}.")
        assert "<<" not in sample.messages[-1]["content"]
    for sample in full.read["Codex"][1]:
        assert f"def {sample.entry_point}(" in sample.program
        assert sample.test.startswith(sample.program)
        compile(sample.test, sample.id, "exec")
    assert max(len(sample.references or []) for sample in full.read["Squad"][1]) > 1
    for sample in (*full.read["Squad"][1], *full.read["XQuAD"][1]):
        assert all(each in sample.context for each in sample.references or [])
    # Two reference outputs of AlpacaEval are empty; none of them is a query.
    assert all(sample.messages[-1]["content"] for sample in full.read["AlpacaEval"][0])
    assert sum(not sample.messages[-1]["content"] for sample in full.read["AlpacaEval"][1]) == 2


@pytest.mark.real
def test_bbh_queries_are_the_packaged_ones(full: Full) -> None:
    from rdslib.tasks.base import READERS as ALL
    from rdslib.tasks.bbh import bbh

    experiment = load_profile("mini").experiment
    assert experiment is not None
    archives = Archives(experiment.downloads, cache_dir())
    packaged, _, _ = bbh([archives.members("lm_eval", ALL["bbh"].downloads["lm-eval"]), {}], task_of("bbh"), 42)
    assert {s.id: s.messages for s in packaged} == {s.id: s.messages for s in full.read["BBH"][0]}
