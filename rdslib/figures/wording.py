"""The words that findings share: names and numbers as text, and scores compared. See `findings.py`.

"Better" and "worse" are said of intervals alone: a difference whose interval holds 0, or two scores whose
intervals overlap, "cannot be told apart". Of scores without intervals the words are "ahead" and "behind".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from rdslib.figures.published import AVERAGE
from rdslib.figures.style import distinct, human, in_order, method_name, span

# What the measured columns `less_random` and `less_rds` are less.
BASELINE, RDS = "random_balanced", "rds"
MINUS = "\N{MINUS SIGN}"
# More names than this are counted.
MOST_NAMES = 3
# Of two methods every rank correlation is 1 or -1.
FEWEST_TO_RANK = 3

# Method to 1 (better, or ahead), -1 (worse, or behind) or 0 (not to be told apart, or level).
Signs = Mapping[str, int]
Names = Callable[[list[str]], str]


def plain(name: object) -> str:
    """A name or a note as it stands, kept from being read as Markdown."""
    return re.sub(r"([\\`*_|<>\[\]$~#&])", r"\\\1", " ".join(str(name).split()))


def named(method: object) -> str:
    """The paper's name of a method, for Markdown."""
    return plain(method_name(str(method)))


def listed(names: Iterable[str]) -> str:
    """Names in a sentence: A, B and C."""
    *most, last = list(names) or ["none"]
    return f"{', '.join(most)} and {last}" if most else last


def counted(number: int, noun: str) -> str:
    """How many of something there are: 1 task, 2 tasks."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def few(names: list[str]) -> str:
    """The names of methods while they are few, or how many they are."""
    return listed(names) if len(names) <= MOST_NAMES else counted(len(names), "method")


def percent(share: float) -> str:
    """A share of 1 in percent."""
    return f"{100 * share:.1f}%"


def times(ratio: float) -> str:
    """How many times as large something is."""
    return f"{ratio:,.0f} times" if ratio >= 9.95 else f"{ratio:.1f} times"


def missing(rows: pd.DataFrame, name: Callable[[pd.Series], str]) -> list[str]:
    """A sentence for each reason that the notes of some missing rows give."""
    reasons: dict[str, dict[str, None]] = {}
    for _, row in rows.iterrows():
        reason = "no reason is noted" if pd.isna(row["note"]) or not row["note"] else plain(row["note"])
        reasons.setdefault(reason.rstrip("."), {})[name(row)] = None
    return [f"Missing: {listed(names)} ({reason})." for reason, names in reasons.items()]


class Scores:
    """One origin's scores: the rows that have one, which way is better, and how they are written."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self.rows, self.known = rows, rows.dropna(subset="score")
        self.lower = "lower" in set(rows["better"])
        self.digits = 1 if self.known["score"].abs().max() >= 10 else 3
        self.intervals = bool(self.known[["low", "high"]].notna().all(axis=1).any())
        self.pools = sorted(float(size) for size in rows["pool_size"].unique())

    def of(self, **values: object) -> pd.DataFrame:
        """The rows with a score that have some values in some columns."""
        rows = self.known
        for column, value in values.items():
            rows = rows[rows[column] == value]
        return rows

    def number(self, value: float) -> str:
        """A score."""
        return self.signed(value).removeprefix("+")

    def signed(self, value: float) -> str:
        """A difference, with its sign; one that rounds to 0 has none."""
        text = f"{value:+.{self.digits}f}"
        return text[1:] if float(text) == 0 else text.replace("-", MINUS)

    def gain(self, value: Any) -> Any:
        """A score or difference turned so that more is better."""
        return -value if self.lower else value

    def lead(self, what: str) -> str:
        """How many samples were selected, and what the scores are."""
        averages = self.rows[self.rows["task"] == AVERAGE] if "task" in self.rows else self.rows
        rows = averages if len(averages) else self.rows
        metric = listed(map(plain, distinct(rows["metric"].dropna()) or ["metric not named"]))
        bare = "" if self.intervals or self.known.empty else " (without intervals)"
        return (
            f"{span(rows['budget'])} samples selected{what} from {listed(map(human, self.pools))}; "
            f"{metric}, {'lower' if self.lower else 'higher'} is better{bare}; "
            f"n = {span(rows['n'], '{:,.0f}'.format)} test samples."
        )

    def ranked(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows with a score, the best first."""
        return rows.dropna(subset="score").sort_values("score", ascending=self.lower, kind="stable")

    def first(self, rows: pd.DataFrame) -> list[str]:
        """The methods that have the best score among some rows."""
        best = self.ranked(rows)["score"].head(1)
        return in_order(rows.loc[rows["score"].isin(best), "method"])

    def paired(self, row: pd.Series, prefix: str) -> int | None:
        """Whether a row is told apart from what the columns `prefix` compare it with; None: not known."""
        value, low, high = (float(row[prefix + end]) for end in ("", "_low", "_high"))
        if any(map(math.isnan, (value, low, high))):
            return None
        return self.gain(1) if low > 0 else self.gain(-1) if high < 0 else 0

    def apart(self, ours: pd.Series, theirs: pd.Series) -> int | None:
        """Whether two rows' own intervals lie apart; by the scores where no row of the origin has one."""
        if not self.intervals:
            return int(np.sign(self.gain(ours["score"] - theirs["score"])))
        ends = [float(row[end]) for row in (ours, theirs) for end in ("low", "high")]
        if any(map(math.isnan, ends)):
            return None
        return self.gain(1) if ends[0] > ends[3] else self.gain(-1) if ends[1] < ends[2] else 0

    def beside(self, rows: pd.DataFrame, prefix: str, other: str) -> dict[str, int]:
        """Where each method of some rows stands beside `other`, as far as that is known; the best first."""
        theirs = rows[rows["method"] == other].head(1)
        signs: dict[str, int] = {}
        for _, row in self.ranked(rows[rows["method"] != other]).iterrows():
            sign = None
            if self.intervals:
                sign = self.paired(row, prefix)
            elif len(theirs):
                sign = self.apart(row, theirs.iloc[0])
            if sign is not None:
                signs[str(row["method"])] = sign
        return signs

    def words(self, count: int = 1) -> dict[int, str]:
        """How to say where `count` methods stand; "better" and "worse" where intervals say so."""
        be = "is" if count == 1 else "are"
        if self.intervals:
            return {1: f"{be} better", -1: f"{be} worse", 0: "cannot be told apart"}
        return {1: f"{be} ahead", -1: f"{be} behind", 0: f"{be} level"}

    def verdict(
        self, signs: Signs, other: str, name: Callable[[str], str] = named, joined: Names = few
    ) -> list[str]:
        """One sentence on where methods stand beside `other`; none where no sign is known."""
        parts = []
        for sign in (1, -1, 0):
            names = [name(method) for method, found in signs.items() if found == sign]
            parts += [f"{joined(names)} {self.words(len(names))[sign]}"] if names else []
        return [f"Beside {named(other)}, {'; '.join(parts)}."] if parts else []


def agreement(
    question: str,
    published: Signs,
    measured: Signs,
    name: Callable[[str], str] = named,
    joined: Names = few,
) -> list[str]:
    """For which methods the measured sign is the published one; nothing where no method has both."""
    parts = []
    for sign, words in ((1, "agree for"), (-1, "disagree for"), (0, "leave it open for")):
        names = [
            name(method)
            for method, said in published.items()
            if said and method in measured and measured[method] * said == sign
        ]
        parts += [f"{words} {joined(names)}"] if names else []
    return [f"On {question}, published and measured {'; '.join(parts)}."] if parts else []


def correlation(
    ours: Scores, theirs: Scores, pairs: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]]
) -> list[str]:
    """Spearman's rank correlation of the methods that two sets of rows both score, for each named pair."""
    found = []
    for where, (our_rows, their_rows) in pairs.items():
        gains = (
            ours.gain(our_rows.groupby("method")["score"].first()),
            theirs.gain(their_rows.groupby("method")["score"].first()),
        )
        both = pd.concat(gains, axis=1, join="inner", keys=["ours", "theirs"])
        value = "not to be had"
        if len(both) >= FEWEST_TO_RANK and both.nunique().min() > 1:
            value = f"{both['ours'].rank().corr(both['theirs'].rank()):.2f}".replace("-", MINUS)
        found.append(f"{value}{where} (n = {counted(len(both), 'shared method')})")
    return [f"Spearman's rank correlation of how well methods do is {listed(found)}."]


def matched_pools(ours: Scores, theirs: Scores) -> list[tuple[str, float, float]]:
    """Pools to compare, by their rank in size: a name, the published one and the measured one."""
    if min(len(ours.pools), len(theirs.pools)) < 2:
        return [("", ours.pools[-1], theirs.pools[-1])]
    return [
        (" from the smaller pool", ours.pools[0], theirs.pools[0]),
        (" from the larger pool", ours.pools[-1], theirs.pools[-1]),
    ]
