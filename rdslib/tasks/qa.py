"""Question answering with passages: Squad, TydiQA's gold passages, and XQuAD.

All are read in SQuAD's form (`{"data": [{"title", "paragraphs": [{"context", "qas"}]}]}`), or as the hub has
it: Parquet with the columns `id`, `title`, `context`, `question` and `answers` (`{"text": [...]}`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from rdslib.data.chat import user_assistant
from rdslib.errors import UserError
from rdslib.files import read_table
from rdslib.params import Task
from rdslib.seeds import generator
from rdslib.tasks.base import Candidates, Files, TaskSample, exemplar, malformed, only, register, text_of


def read_questions(task: Task, path: str, data: bytes) -> list[TaskSample]:
    """Read the questions of a file, in its order; its ending says whether it is Parquet or SQuAD's form.

    Each has all answers that count as right, each once, and its article's title as its subtask. The first
    answer is its gold response.

    Raises:
        UserError: The file or a question has another form, or a question has no answer.
    """
    with malformed(task, path):
        if path.endswith(".parquet"):
            rows = read_table(io.BytesIO(data)).to_pylist()
        else:
            rows = [
                {"title": "", **article, **paragraph, **qa}
                for article in json.loads(data)["data"]
                for paragraph in article["paragraphs"]
                for qa in paragraph["qas"]
            ]
        if not rows:
            raise ValueError("has no questions")
    samples = []
    for number, row in enumerate(rows, start=1):
        with malformed(task, f"{path}: question {number}"):
            samples.append(_sample(task, row))
    return samples


def _sample(task: Task, row: Mapping[str, Any]) -> TaskSample:
    given = row["answers"]
    answers = given["text"] if isinstance(given, dict) else [each["text"] for each in given]
    if not answers or not all(isinstance(each, str) and each.strip() for each in answers):
        raise ValueError("no answer, or one that is not a text")
    context, question = text_of(row, "context").strip(), text_of(row, "question").strip()
    return TaskSample(
        text_of(row, "id"),
        task.name,
        user_assistant(f"{context}\n\n{question}", answers[0]),
        text_of(row, "title"),
        question=question,
        context=context,
        references=list(dict.fromkeys(answers)),
    )


def _after(shown: Iterable[TaskSample], test: Iterable[TaskSample]) -> list[TaskSample]:
    """The test samples, each with the same exemplars."""
    exemplars = [exemplar(each.question, each.messages[-1]["content"], each.context) for each in shown]
    return [replace(each, exemplars=exemplars) for each in test]


# --- Squad

SQUAD_DEV = "squaddev_v1.1.json"
SQUAD = {"bigbench": (f"*/benchmark_tasks/squad_shifts/{SQUAD_DEV}",)}
# The dev set that everyone tests on has so many questions; the packaged one lacks a few.
SQUAD_SIZE = 10_570
SQUAD_QUERIES = 500
SQUAD_EXEMPLARS = 3
# The longest passage of the small task, in characters.
SQUAD_CONTEXT = 600


@register("squad", downloads=SQUAD)
def squad(files: Files, task: Task, seed: int) -> Candidates:
    """Read SQuAD 1.1's dev set, its articles halved at random: queries from one half, tests from the other.

    The exemplars are the first questions of the first three of the queries' articles.
    """
    samples = read_questions(task, SQUAD_DEV, only(files[0], SQUAD_DEV))
    titles = list(dict.fromkeys(each.subtask for each in samples))
    order = generator(seed, "squad").permutation(len(titles))
    half = {titles[at] for at in order[: len(order) // 2]}
    short = [each for each in samples if len(each.context) <= SQUAD_CONTEXT]
    queries = [each for each in short if each.subtask in half]
    test = [each for each in short if each.subtask not in half]
    by_title = {each.subtask: each for each in reversed(queries)}
    note = (
        f"Queries and tests are from SQuAD 1.1's dev set, from different articles, with contexts of at most "
        f"{SQUAD_CONTEXT} characters; the paper's queries are from its train set."
    )
    return queries, _after(list(by_title.values())[-SQUAD_EXEMPLARS:], test), note


@register("squad_full", downloads=SQUAD)
def squad_full(files: Files, task: Task, seed: int) -> Candidates:
    """Read SQuAD 1.1's dev set; queries are whole articles at its front, as few as have 500 questions."""
    samples = read_questions(task, SQUAD_DEV, only(files[0], SQUAD_DEV))
    articles = len({each.subtask for each in samples})
    apart = {each.subtask for each in samples[:SQUAD_QUERIES]}
    queries = [each for each in samples if each.subtask in apart]
    test = [each for each in samples if each.subtask not in apart]
    note = (
        f"queries are from articles set apart at its front ({len(apart)} of {articles}), so that {len(test)} "
        f"are tested; the paper's are from its train set"
    )
    return _whole_squad(len(samples), queries, test, note)


@register("squad_full_train", downloads={**SQUAD, "SQuAD's train set": ("*",)})
def squad_full_train(files: Files, task: Task, seed: int) -> Candidates:
    """Read SQuAD 1.1's dev set to test on, and queries from its train set."""
    test = read_questions(task, SQUAD_DEV, only(files[0], SQUAD_DEV))
    queries = [each for path, data in files[1].items() for each in read_questions(task, path, data)]
    return _whole_squad(len(test), queries, test, "queries are from its train set, as the paper's are")


@register("squad_hub", downloads={"squad": ("plain_text/train-*", "plain_text/validation-*")})
def squad_hub(files: Files, task: Task, seed: int) -> Candidates:
    """Read SQuAD 1.1 as the hub has it: queries are from its train set, its dev set is tested."""
    splits: dict[bool, list[TaskSample]] = {True: [], False: []}
    for path, data in files[0].items():
        splits[path.startswith("plain_text/train-")] += read_questions(task, path, data)
    queries, test = splits[True], splits[False]
    return _whole_squad(len(test), queries, test, "queries are from its train set, as the paper's are")


def _whole_squad(size: int, queries: list[TaskSample], test: list[TaskSample], note: str) -> Candidates:
    """The exemplars are the first questions of the queries' first three passages."""
    passages = {each.context: each for each in reversed(queries)}
    shown = [each for each in queries if passages[each.context] is each][:SQUAD_EXEMPLARS]
    note = f"SQuAD 1.1's dev set as packaged ({size} of {SQUAD_SIZE} questions); {note}."
    return queries, _after(shown, test), note


# --- TydiQA


@register("tydiqa_full", downloads={"TydiQA": ("*",)})
def tydiqa_full(files: Files, task: Task, seed: int) -> Candidates:
    """Read TydiQA's secondary task; one train question a language, drawn with the seed, is a query.

    It is also the exemplar of that language's tests. Files with "train" in their name are the train set.
    """
    train: dict[str, list[TaskSample]] = {}
    tested: list[TaskSample] = []
    for path, data in files[0].items():
        for each in read_questions(task, path, data):
            # The language of an id such as `swahili-4268421131439115530-4`.
            sample = replace(each, subtask=each.id.partition("-")[0])
            if "train" in PurePosixPath(path).name:
                train.setdefault(sample.subtask, []).append(sample)
            else:
                tested.append(sample)
    if not train or not tested:
        raise UserError(
            f"task {task.name!r}: needs a file with train in its name and one without; pin both splits"
        )
    queries = {
        language: samples[int(generator(seed, "tydiqa", language).integers(len(samples)))]
        for language, samples in sorted(train.items())
    }
    for each in tested:
        if each.subtask not in queries:
            raise UserError(
                f"task {task.name!r}: the train set has no question in {each.subtask!r}, which {each.id} is "
                f"in; pin both splits of the same data"
            )
    test = [sample for each in tested for sample in _after([queries[each.subtask]], [each])]
    note = (
        "TydiQA's secondary task (gold passages), whole; which train samples the paper took is not published."
    )
    return list(queries.values()), test, note


# --- XQuAD


@register("xquad_full", downloads={"xquad": ("xquad.*.json",)})
def xquad_full(files: Files, task: Task, seed: int) -> Candidates:
    """Read XQuAD, one file a language: its first question is query and exemplar, and is not tested.

    The first question is the same in all languages, and so are all others.
    """
    queries, test = [], []
    for path, data in files[0].items():
        language = path.split(".")[-2]
        first, *others = [
            replace(each, id=f"{language}/{each.id}", subtask=language)
            for each in read_questions(task, path, data)
        ]
        queries.append(first)
        test += _after([first], others)
    note = (
        f"XQuAD, translated from SQuAD 1.1's dev set into {len(queries)} languages, in place of TydiQA; each "
        f"language's first question is its query and exemplar, so that {len(test)} of "
        f"{len(queries) + len(test)} are tested."
    )
    return queries, test, note
