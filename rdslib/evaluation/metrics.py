"""What a response scores (paper, section 6).

The protocols name these functions, and lm-eval calls them with a test sample's row and the model's responses.
They return `{"score": from 0 to 1}`.
"""

from __future__ import annotations

import collections
import math
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from rdslib.errors import UserError
from rdslib.evaluation.sandbox import Trial, pass_all

Row = Mapping[str, Any]

NUMBER = re.compile(r"-?\d[\d,]*\.?\d*|-?\.\d+")
ANSWER = re.compile(r"the answer is[:\s]*(.+?)\s*(?:\.\s|\.$|\n|$)", re.IGNORECASE | re.DOTALL)


def last_number(row: Row, responses: Sequence[str]) -> dict[str, float]:
    """Score whether the last number of the response equals the reference's (GSM8k)."""
    found = NUMBER.findall(responses[0])
    return {"score": float(bool(found) and number(found[-1]) == number(row["references"][0]))}


def number(text: str) -> float:
    """Return the value of a number as people write it: `1,234.50`, `$5`, `7.`."""
    return float(text.replace(",", "").replace("$", "").strip().rstrip("."))


def after_the_answer_is(row: Row, responses: Sequence[str]) -> dict[str, float]:
    """Score whether what follows the last "the answer is" is the reference (BBH)."""
    found = ANSWER.findall(responses[0])
    answer = found[-1] if found else responses[0]
    return {"score": float(any(_bare(answer) == _bare(each) for each in row["references"]))}


def _bare(text: str) -> str:
    return text.strip().strip('"').rstrip(".").strip().lower()


def f1_of_answers(row: Row, responses: Sequence[str]) -> dict[str, float]:
    """Score the best F1 of the response's first line with any of the references (Squad, TydiQA)."""
    lines = responses[0].strip().splitlines()
    return {"score": max(f1(lines[0] if lines else "", each) for each in row["references"])}


def f1(answer: str, reference: str) -> float:
    """Return SQuAD 1.1's F1 of two answers' bags of words; two empty answers agree."""
    ours, theirs = normalised(answer).split(), normalised(reference).split()
    if not ours or not theirs:
        return float(ours == theirs)
    same = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(ours), same / len(theirs)
    return 2 * precision * recall / (precision + recall)


def normalised(text: str) -> str:
    """Return an answer as SQuAD 1.1 compares it: lower case, without punctuation, articles and extra spaces.

    Only ASCII punctuation goes, as in the official script, in whatever language.
    """
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def check_programs(rows: Sequence[Row]) -> None:
    """Run the reference program of each row, which is right, as those of a model are run.

    Raises:
        UserError: One fails its test: here, right programs of a model would be counted as wrong.
    """
    trials = [Trial(row["references"][0], row["entry_point"], row["test"]) for row in rows]
    failed = [row["id"] for row, right in zip(rows, pass_all(trials), strict=True) if not right]
    if failed:
        raise UserError(
            f"in the sandbox {len(failed)} of {len(rows)} reference programs, which are right, fail their "
            f"tests ({failed[0]} is the first); let other work end, raise the limits of this shell (ulimit), "
            f"or leave Codex out"
        )


def pass_at_10(row: Row, responses: Sequence[Sequence[str]]) -> dict[str, float]:
    """Score pass@10 of ten programs, run with the problem's test in the sandbox (Codex)."""
    trials = [Trial(row["program"] + each, row["entry_point"], row["test"]) for each in responses[0]]
    passed = pass_all(trials)
    return {"score": pass_at(len(passed), sum(passed), 10)}


def pass_at(n: int, correct: int, k: int) -> float:
    """Estimate, without bias, how often one of `k` programs passes, from `n` of which `correct` did.

    1 - C(n - correct, k) / C(n, k) (Chen et al. 2021); ValueError if there are fewer than `k` programs.
    """
    if n < k:
        raise ValueError(f"pass@{k} needs {k} programs, and there are {n}")
    return 1 - math.comb(n - correct, k) / math.comb(n, k)


def unjudged(row: Row, responses: Sequence[str]) -> dict[str, float]:
    """Give no score: a judge gives it (AlpacaEval)."""
    return {"score": math.nan}
