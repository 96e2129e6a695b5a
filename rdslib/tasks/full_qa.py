"""Readers of question answering with passages, whole: SQuAD 1.1, TydiQA's gold passages, and XQuAD.

All are read in SQuAD's form (`{"data": [{"title", "paragraphs": [{"context", "qas"}]}]}`), or as the hub has
it: Parquet with the columns `id`, `title`, `context`, `question` and `answers` (`{"text": [...]}`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from rdslib.data.chat import user_assistant
from rdslib.errors import UserError
from rdslib.params import Task
from rdslib.seeds import generator
from rdslib.tasks.malformed import malformed, text_of
from rdslib.tasks.readers import SQUAD_EXEMPLARS, Candidates, Files, TaskReader, TaskSample, only

SQUAD_DEV = "squaddev_v1.1.json"
# The dev set that everyone tests on has so many questions; the packaged one lacks a few.
SQUAD_TEST = 10_570
SQUAD_QUERIES = 500


@dataclass(frozen=True)
class Asked:
    """A question about a passage, and all answers that count as right, each once."""

    id: str
    title: str
    context: str
    question: str
    answers: list[str]

    def exemplar(self) -> dict[str, str]:
        """The question as it is shown before others."""
        return {"question": self.question, "context": self.context, "response": self.answers[0]}

    def sample(
        self, task: Task, subtask: str, exemplars: list[dict[str, str]] | None = None, prefix: str = ""
    ) -> TaskSample:
        """The question as a sample, whose gold response is the first answer."""
        return TaskSample(
            prefix + self.id,
            task.name,
            user_assistant(f"{self.context}\n\nQuestion: {self.question}", self.answers[0]),
            subtask,
            question=self.question,
            context=self.context,
            exemplars=exemplars,
            references=self.answers,
        )


def read_asked(task: Task, path: str, data: bytes) -> list[Asked]:
    """The questions of a file, in its order, from SQuAD's form or from Parquet (by the path's ending).

    Raises UserError, in one line, for a file or a question of another form, or one without an answer.
    """
    with malformed(task, path):
        if path.endswith(".parquet"):
            rows = [(row, row, row["answers"]["text"]) for row in pq.read_table(io.BytesIO(data)).to_pylist()]
        else:
            rows = [
                (
                    {"title": article.get("title", ""), **paragraph},
                    qa,
                    [each["text"] for each in qa["answers"]],
                )
                for article in json.loads(data)["data"]
                for paragraph in article["paragraphs"]
                for qa in paragraph["qas"]
            ]
    found = []
    for number, (paragraph, qa, answers) in enumerate(rows, start=1):
        with malformed(task, f"{path}: question {number}"):
            found.append(_asked(paragraph, qa, answers))
    if not found:
        raise UserError(
            f"task {task.name!r}: {path}: has no questions; pin the data that {task.reader} reads"
        )
    return found


def _asked(paragraph: Mapping[str, Any], qa: Mapping[str, Any], answers: Iterable[Any]) -> Asked:
    answers = list(answers)
    if not answers or not all(isinstance(each, str) and each.strip() for each in answers):
        raise ValueError("no answer, or one that is not a text")
    return Asked(
        text_of(qa, "id"),
        text_of(paragraph, "title"),
        text_of(paragraph, "context").strip(),
        text_of(qa, "question").strip(),
        list(dict.fromkeys(answers)),
    )


# --- SQuAD


def squad_full(files: Files, task: Task, seed: int) -> Candidates:
    """SQuAD 1.1's dev set. Queries are from the train set, where it is given as a second download.

    Otherwise whole articles are set apart at the front, as few as have 500 questions. Before each test
    question stand the same three: the first of each of the queries' first three passages.
    """
    test = read_asked(task, SQUAD_DEV, only(files[0], SQUAD_DEV))
    have = len(test)
    if len(files) > 1:
        queries = [each for path, data in files[1].items() for each in read_asked(task, path, data)]
        said = "queries are from its train set, as the paper's are"
    else:
        titles = list(dict.fromkeys(each.title for each in test))
        apart: set[str] = set()
        while titles and sum(each.title in apart for each in test) < SQUAD_QUERIES:
            apart.add(titles.pop(0))
        queries = [each for each in test if each.title in apart]
        test = [each for each in test if each.title not in apart]
        said = (
            f"queries are from articles set apart at its front ({len(apart)} of {len(apart) + len(titles)}), "
            f"so that {len(test)} are tested; the paper's are from its train set"
        )
    passages: dict[str, Asked] = {}
    for each in queries:
        passages.setdefault(each.context, each)
    exemplars = [each.exemplar() for each in list(passages.values())[:SQUAD_EXEMPLARS]]
    note = f"SQuAD 1.1's dev set as packaged ({have} of {SQUAD_TEST} questions); {said}."
    return (
        [each.sample(task, each.title) for each in queries],
        [each.sample(task, each.title, exemplars) for each in test],
        note,
    )


# --- TydiQA


def tydiqa_full(files: Files, task: Task, seed: int) -> Candidates:
    """TydiQA's secondary task: one train question a language, drawn with the seed, is query and exemplar.

    Of the files those with "train" in their name are the train set; the others are tested.
    """
    parts: dict[bool, list[Asked]] = {True: [], False: []}
    for path, data in files[0].items():
        parts["train" in PurePosixPath(path).name] += read_asked(task, path, data)
    if not parts[True] or not parts[False]:
        raise UserError(
            f"task {task.name!r}: needs a file with train in its name and one without; pin both splits"
        )
    shown: dict[str, list[Asked]] = {}
    for each in parts[True]:
        shown.setdefault(_language(each), []).append(each)
    drawn = {
        language: rows[int(generator(seed, "tydiqa", language).integers(len(rows)))]
        for language, rows in sorted(shown.items())
    }
    test = []
    for each in parts[False]:
        language = _language(each)
        if language not in drawn:
            raise UserError(
                f"task {task.name!r}: the train set has no question in {language!r}, which {each.id} is in; "
                f"pin both splits of the same data"
            )
        test.append(each.sample(task, language, [drawn[language].exemplar()]))
    note = (
        "TydiQA's secondary task (gold passages), whole; which train samples the paper took is not published."
    )
    return [each.sample(task, language) for language, each in drawn.items()], test, note


def _language(asked: Asked) -> str:
    """The language of an id such as `swahili-4268421131439115530-4`."""
    return asked.id.partition("-")[0]


# --- XQuAD


def xquad_full(files: Files, task: Task, seed: int) -> Candidates:
    """XQuAD, one file a language: its first question is query and exemplar, and is not tested.

    The first question is the same in all languages, and so are all others.
    """
    queries, test, have = [], [], 0
    for path, data in files[0].items():
        language = path.split(".")[-2]
        first, *others = read_asked(task, path, data)
        have += 1 + len(others)
        prefix = f"{language}/"
        queries.append(first.sample(task, language, prefix=prefix))
        test += [each.sample(task, language, [first.exemplar()], prefix) for each in others]
    note = (
        f"XQuAD, translated from SQuAD 1.1's dev set into {len(queries)} languages, in place of TydiQA; each "
        f"language's first question is its query and exemplar, so that {len(test)} of {have} are tested."
    )
    return queries, test, note


# --- all of them

_SQUAD = ("*/benchmark_tasks/squad_shifts/squaddev_v1.1.json",)

READERS: dict[str, TaskReader] = {
    "squad_full": TaskReader(squad_full, ("bigbench",), (_SQUAD,)),
    "squad_full_train": TaskReader(squad_full, ("bigbench", "SQuAD's train set"), (_SQUAD, ("*",))),
    "tydiqa_full": TaskReader(tydiqa_full, ("TydiQA",), (("*",),)),
    "xquad_full": TaskReader(xquad_full, ("xquad",), (("xquad.*.json",),)),
}
