"""Readers of pool sources: raw bytes in, one `Sample` after another out, in the order of the file.

A reader takes the archives and the source's parameters; `READERS` lists them by the name a profile uses.
"""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rdslib.data.archives import Archives
from rdslib.data.chat import Message, Sample, user_assistant
from rdslib.data.containers import Found, Part, parse_lines
from rdslib.data.inputs import find_input
from rdslib.data.reader import Row, read_records, records_of, rows_of
from rdslib.params import Source
from rdslib.seeds import generator

Reader = Callable[[Archives, Source], Iterator[Sample]]

# A dialogue is cut after this many turns: two from each side, so that it ends with the assistant.
DIALOGUE_TURNS = 4


def tulu_jsonl(archives: Archives, source: Source) -> Iterator[Sample]:
    """Read lines of `{"messages": [...]}` with an optional `id`: the download, or members of an archive.

    The id is the row number, from 0, where a row gives none. The source is what the row says it is (`source`
    or `dataset`), or else the profile's name for all. A line that cannot be used, or an id that comes twice
    in a file, is a UserError that names the line.
    """
    for name, data in _files(archives, source).items():
        lines = records_of(Part(name, f"{name}:", "", source.name), parse_lines(io.BytesIO(data)))
        for row in rows_of(lines, "messages", queries=True, check=False):
            assert isinstance(row, Row)  # a bad one is an error
            yield Sample(f"{source.name}/{row.id}", row.source, row.messages)


def tulu_hub(archives: Archives, source: Source) -> Iterator[Sample]:
    """Read a data set of the hub in Tulu's form, one row after another, whatever its size and its files.

    A row is `{"messages": [...]}` and says where it is from, under `source` or `dataset`. Its id is its
    number, from 0: those of the rows were given by many authors, and need not be unique.
    """
    assert source.download is not None
    records = read_records(find_input(archives.folder(source.download)))
    without_ids = (
        (part, found._replace(value=found.value and {**found.value, "id": None})) for part, found in records
    )
    for row in rows_of(without_ids, "messages", queries=True, check=False):
        assert isinstance(row, Row)  # a bad one is an error
        yield Sample(f"{source.name}/{row.id}", row.source, row.messages)


def rows(archives: Archives, source: Source) -> Iterator[Sample]:
    """Read rows in any form that `rds select` reads (`formats.FORMS`), from lists of JSON.

    Their source is the profile's name. A row that cannot be used, such as one without a response, is left
    out.
    """
    for name, data in _files(archives, source).items():
        found = (Found(number, value) for number, value in enumerate(json.loads(data), start=1))
        for row in rows_of(records_of(Part(name, f"{name}: row ", "", ""), found), on_error="quarantine"):
            if isinstance(row, Row):
                yield Sample(f"{_stem(name)}/{row.id}", source.name, row.messages)


# How OpenAI's first fine-tuned models were told that a completion ends.
END = "<|endoftext|>"


def completions(archives: Archives, source: Source) -> Iterator[Sample]:
    """Read lines of prompt and completion, as OpenAI's first fine-tuned models took them.

    A row whose prompt or completion is empty is left out, and so are empty files.
    """
    for name, data in _files(archives, source).items():
        for number, line in enumerate(data.decode("utf-8").splitlines()):
            row = json.loads(line)
            prompt, completion = row["prompt"].strip(), row["completion"].removesuffix(END).strip()
            if prompt and completion:
                yield Sample(f"{_stem(name)}/{number}", source.name, user_assistant(prompt, completion))


def flan_cot(archives: Archives, source: Source) -> Iterator[Sample]:
    """Read FLAN's chains of thought, lines of question, answer and rationale with tabs between them.

    The response is the rationale, and then the answer. Line breaks within a text are written as two
    characters.
    """
    for name, data in _files(archives, source).items():
        for number, line in enumerate(data.decode("utf-8").split("\n")):
            if not line.strip():
                continue
            question, answer, rationale = (each.replace("\\n", "\n").strip() for each in line.split("\t"))
            response = f"{rationale} The answer is {answer.rstrip('.')}."
            yield Sample(f"{_stem(name)}/{number}", source.name, user_assistant(question, response))


def bigbench(archives: Archives, source: Source) -> Iterator[Sample]:
    """Read BIG-bench tasks: the instruction and an input, answered by the target or the best choice."""
    for task, index, content, example in _examples(archives, source):
        answer = _answer(example)
        if answer is not None:
            messages = user_assistant(_question(content, example), answer)
            yield Sample(f"{task}/{index}", source.name, messages)


def explained(archives: Archives, source: Source) -> Iterator[Sample]:
    """Read a BIG-bench task whose target is an answer and its explanation; the bare question asks."""
    for task, index, _, example in _examples(archives, source):
        messages = user_assistant(example["input"].strip(), example["target"].strip())
        yield Sample(f"{task}/{index}", source.name, messages)


def math_steps(archives: Archives, source: Source) -> Iterator[Sample]:
    """Read word problems with a hint, whose steps become a chain of thought before the answer."""
    for task, index, _, example in _examples(archives, source):
        question, _, hint = example["input"].rpartition("\n")
        steps = [step.strip(" ,") for step in hint.strip().split(". ")]
        steps = [step[0].upper() + step[1:].rstrip(".") + "." for step in steps if step.strip(".")]
        answer = _answer(example)
        if question and steps and answer is not None:
            response = f"{' '.join(steps)} The answer is {answer.strip()}."
            yield Sample(f"{task}/{index}", source.name, user_assistant(question.strip(), response))


def dialogue(archives: Archives, source: Source) -> Iterator[Sample]:
    """Read the first turns of conversations of which each prefix is one example, named by its `comment`."""
    turn = re.compile(r'agent_[AB]: "(.*?)"(?= agent_[AB]: "|\s*$)', re.DOTALL)
    seen: set[str] = set()
    for task, _, _, example in _examples(archives, source):
        name = f"{task}/{example['comment']}"
        # All earlier turns are in the input; only the example with just enough of them is parsed.
        if name in seen or example["input"].count("agent_") != DIALOGUE_TURNS - 1:
            continue
        turns = [*turn.findall(example["input"]), example["target"].strip().strip('"')]
        if len(turns) != DIALOGUE_TURNS or not all(text.strip() for text in turns):
            continue
        seen.add(name)
        roles = ("user", "assistant") * (DIALOGUE_TURNS // 2)
        messages: list[Message] = [
            {"role": role, "content": text.strip()} for role, text in zip(roles, turns, strict=True)
        ]
        yield Sample(name, source.name, messages)


def codeio(archives: Archives, source: Source) -> Iterator[Sample]:
    """Read gzipped JSONL of programming tasks: the task and its input and output, answered by the code."""
    for name, data in _files(archives, source).items():
        for index, line in enumerate(gzip.decompress(data).decode("utf-8").splitlines()):
            row = json.loads(line)
            prompt = f"{row['task_description'].strip()}\n\n{row['input_output_spec'].strip()}"
            yield Sample(
                f"{_stem(name)}/{index}", source.name, user_assistant(prompt, row["code_sample"].strip())
            )


def _stem(name: str) -> str:
    """Return `c` for `a/b/c.jsonl.gz`."""
    return name.rpartition("/")[2].partition(".")[0]


def _files(archives: Archives, source: Source) -> dict[str, bytes]:
    """The members of a source's download, or the whole of it where none are named."""
    assert source.download is not None
    if source.members:
        return archives.members(source.download, source.members)
    path = archives.path(source.download)
    return {str(path): path.read_bytes()}


def _examples(
    archives: Archives, source: Source
) -> Iterator[tuple[str, int, dict[str, Any], dict[str, Any]]]:
    """Each example of BIG-bench tasks: the task's path, the example's number, the task and the example."""
    for name, data in _files(archives, source).items():
        content = json.loads(data)
        for index, example in enumerate(content["examples"]):
            yield task_path(name), index, content, example


def task_path(member: str) -> str:
    """Return `a/b` for `x/benchmark_tasks/a/b/task.json`."""
    return member.partition("benchmark_tasks/")[2].removesuffix("/task.json")


def _answer(example: dict[str, Any]) -> str | None:
    """The first target, else the best choice; None where there is neither."""
    target = example.get("target")
    if isinstance(target, list):
        target = next(iter(target), None)
    scores: dict[str, float] = example.get("target_scores") or {}
    if target is None:
        target = max(scores, key=scores.__getitem__, default=None)
    return None if target is None else str(target).strip() or None


def _question(content: dict[str, Any], example: dict[str, Any]) -> str:
    """The user turn: instruction, input with the task's labels, and the choices where they are shown."""
    label = content.get("example_input_prefix", "").strip()
    parts = [_instruction(content.get("task_prefix", "")), f"{label} {example['input'].strip()}".strip()]
    shown = str(content.get("append_choices_to_input", True)).lower() == "true"
    if shown and example.get("target_scores"):
        parts += ["Options:", *(f"- {choice}" for choice in example["target_scores"])]
    parts.append(content.get("example_output_prefix", "").strip())
    return "\n".join(part for part in parts if part)


def _instruction(prefix: str) -> str:
    """The task's instruction; of Natural Instructions' long ones, the definition alone."""
    text = prefix.strip()
    if not text.startswith("Definition:"):
        return text
    # The rest would be most of the text of every sample of the task.
    definition = re.split(r"\s*(?:Things to Avoid|Emphasis|Prompt)\b", text)[0]
    return definition.removeprefix("Definition:").strip()


WORDS = (  # noqa: SIM905
    "apple river stone cloud green paper light table music water bread horse garden window winter "
    "summer silver forest letter market candle bridge basket valley pepper rabbit island mirror button ladder"
).split()


def made_up_sum(rng: np.random.Generator) -> tuple[str, str]:
    """Make up a sum of two numbers, with its result."""
    a, b = (int(number) for number in rng.integers(1, 500, size=2))
    return f"What is {a} plus {b}?", f"{a} + {b} = {a + b}. The answer is {a + b}."


def made_up_reversal(rng: np.random.Generator) -> tuple[str, str]:
    """Make up a reversal of three words."""
    words = [WORDS[int(at)] for at in rng.choice(len(WORDS), size=3, replace=False)]
    return f"Reverse the order: {' '.join(words)}", " ".join(reversed(words))


def made_up_code(rng: np.random.Generator) -> tuple[str, str]:
    """Make up a one-line function."""
    name = WORDS[int(rng.integers(len(WORDS)))]
    sign, number = "+-*"[int(rng.integers(3))], int(rng.integers(2, 100))
    prompt = f"Write a function {name} that returns x {sign} {number}."
    return prompt, f"def {name}(x):\n    return x {sign} {number}"


def _made_up(make: Callable[[np.random.Generator], tuple[str, str]]) -> Reader:
    """A reader of synthetic samples, always the same ones: twice as many as the source asks for."""

    def read(archives: Archives, source: Source) -> Iterator[Sample]:
        rng = generator(0, "made up", source.name)
        for index in range(2 * source.samples):
            yield Sample(f"{source.name}/{index}", source.name, user_assistant(*make(rng)))

    return read


READERS: dict[str, Reader] = {
    "bigbench": bigbench,
    "codeio": codeio,
    "completions": completions,
    "dialogue": dialogue,
    "explained": explained,
    "flan_cot": flan_cot,
    "made_up_code": _made_up(made_up_code),
    "made_up_reversals": _made_up(made_up_reversal),
    "made_up_sums": _made_up(made_up_sum),
    "math_steps": math_steps,
    "rows": rows,
    "tulu_hub": tulu_hub,
    "tulu_jsonl": tulu_jsonl,
}
