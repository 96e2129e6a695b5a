"""What figures are made of: the paper's numbers, and how names and numbers are written. Loads no plots."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar, cast

import pandas as pd

from rdslib.methods import SCORERS, get_scorer
from rdslib.models.flops import PAPER, training_flops
from rdslib.pipeline.step import Step
from rdslib.pipeline.study import Run, Study

PUBLISHED = Path(__file__).parent / "published"
TASKS = ("MMLU", "GSM8k", "BBH", "TydiQA", "Codex", "Squad", "AlpacaEval")
AVERAGE = "Average"
# The note of a number that the paper has, and that is in nothing at hand.
NO_SOURCE = "no source at hand"
# What the other methods are compared with, on the same test samples; and what the ablation's are.
BASELINE, RDS = "random_balanced", "rds"
# Origin to the words over its panel, in the order in which panels stand.
ORIGINS = {
    "published": "Published in the paper",
    "others": "Published by others",
    "measured": "Measured here",
}

# Rows of the paper's tables that are no methods of ours.
_ROWS = {
    "rds_wildchat": "RDS+ (WildChat)",
    "rds_arena_hard": "RDS+ (Arena Hard)",
    "tulu2_mixture": "Tulu 2 mixture",
    "tulu3_sft": "Tulu 3 SFT",
}


P = ParamSpec("P")
T = TypeVar("T")


class Drawn(Protocol):
    """A figure or table as a notebook shows it."""

    def files(self) -> dict[str, bytes]:
        """What it is written as: the content of a file of each kind, such as `png`."""


@dataclass(frozen=True)
class Figure:
    """A figure or table of the paper.

    Attributes:
        title: What the paper calls it.
        published: Its rows in the paper; None where the paper gives no numbers.
        measured: Its rows as a study measures them; None where nothing is measured.
        draw: The figure of rows of either origin, or of both.
        runs: The runs behind the measured rows; None of figures of the pool and the tasks.
        steps: What of these runs the rows rest on; by default the pool and the tasks.
        value: The column of its numbers; rows without one are not drawn.
    """

    title: str
    published: Callable[[], pd.DataFrame] | None
    measured: Callable[[Study], pd.DataFrame] | None
    draw: Callable[[pd.DataFrame], Drawn]
    runs: Callable[[Study], list[Run]] | None = None
    steps: Callable[[Study, list[Run]], list[Step]] = lambda study, _: study.data_steps
    value: str = "score"


def styled(function: Callable[P, T]) -> Callable[P, T]:
    """Run a drawing function under the project's style, leaving the caller's style as it was."""

    @functools.wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> T:
        # Here, since figures are listed and measured without it.
        import matplotlib.style

        with matplotlib.style.context("rdslib.figures.rdslib", after_reset=True):
            return function(*args, **kwargs)

    return inside


def evaluated(study: Study, runs: list[Run]) -> list[Step]:
    """Steps of figures of scores: the runs' evaluations and the untuned model's, and what runs cost."""
    return [*study.evaluations([study.untuned(), *runs]), *study.costs(runs)]


def picked(study: Study, runs: list[Run]) -> list[Step]:
    """Steps of figures of selections."""
    return [study.selection(run) for run in runs]


def published(file: str) -> pd.DataFrame:
    """Read numbers of the paper, from a CSV file of the folder `published`.

    Where a number comes from is in the column `source` (`provenance` in the tables of pools, where a source
    is a data set): "review" a public review's tables, "ref" the authors' public code, "card" their public
    model cards, "fig" read off a figure's pixels (within 0.1), "cited" the cited work's paper. A number
    that was never run is NaN, and so is one that the paper has and for which there is no source at hand
    (a `gap`); `note` says which of the two it is.
    """
    rows = pd.read_csv(PUBLISHED / f"{file}.csv", dtype={"note": "str", "source": "str"})
    rows.insert(0, "origin", "published")
    return rows.fillna(dict.fromkeys({"note", "source"} & set(rows.columns), ""))


def gaps(rows: pd.DataFrame) -> pd.Series:
    """Of each row, whether its number is in the paper, and in nothing at hand: none is known to be best."""
    return rows["score"].isna() & (rows["note"] == NO_SOURCE)


def paper_flops(rows: pd.DataFrame) -> list[float]:
    """FLOPs of selection and training by the paper's formula (Appendix E) and with its model, by row."""
    columns = (rows[column].tolist() for column in ("method", "budget", "pool_size"))
    return [
        training_flops(budget) + get_scorer(method).paper_flops(pool_size, budget, PAPER)
        for method, budget, pool_size in zip(*columns, strict=True)
    ]


def method_title(method: str) -> str:
    """The paper's name of a method, or the registry's of one that the paper does not have."""
    return SCORERS[method].title if method in SCORERS else _ROWS.get(method, method)


def method_colour(method: str) -> str | None:
    """The colour of a method, such as "#0072B2"; None for one that brings none."""
    return SCORERS[method].colour if method in SCORERS else None


def in_order(methods: Iterable[object]) -> list[str]:
    """The distinct methods in the order of the paper's tables, others last."""
    there = distinct(methods)
    known = [name for name in (*SCORERS, *_ROWS) if name in there]
    return known + [name for name in there if name not in known]


def distinct(values: Iterable[object]) -> list[str]:
    """The distinct values, as text, in the order in which they come."""
    return [str(value) for value in dict.fromkeys(values)]


def visible(text: str) -> str:
    r"""A text in one line, of which nothing is invisible or unfit for a file: `\x1b` for an escape."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", lambda found: repr(found[0])[1:-1], text)


def human(value: float) -> str:
    """A count as people say it: 326,000 is 326k, 5,817,792 is 5.8M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        # 999,600 would round to 1000k, so the larger unit begins where rounding reaches it.
        if value >= 0.9995 * size:
            number = f"{value / size:.0f}" if value >= 99.95 * size else f"{value / size:.1f}"
            return number.removesuffix(".0") + unit
    return f"{value:,.0f}"


def span(values: Iterable[float], form: Callable[[float], str] = human) -> str:
    """One number, or the range of several, as text; missing values are passed over."""
    known = sorted({float(value) for value in values if not math.isnan(value)})
    ends = list(dict.fromkeys(form(value) for value in known[:1] + known[-1:]))
    return " to ".join(ends) if ends else "unknown"


def by_origin(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The title and the rows of each origin that the table has, in the order in which panels stand."""
    parts = [(title, table[table["origin"] == origin]) for origin, title in ORIGINS.items()]
    return [(title, rows) for title, rows in parts if len(rows)]


def one_metric(rows: pd.DataFrame) -> tuple[str, str]:
    """The metric of a panel's rows, with a capital, and which way it is better."""
    metrics = set(zip(rows["metric"], rows["better"], strict=True))
    if len(metrics) != 1:
        raise ValueError(f"one panel shows one metric, not {sorted(metrics)}")
    metric, better = metrics.pop()
    return metric[:1].upper() + metric[1:], better


def notes(table: pd.DataFrame, name: Callable[[pd.Series], str], value: str = "score") -> list[str]:
    """The notes on what is drawn, then the rows without a `value`, by name, gathered by the reason why."""
    why = table["note"].fillna("").astype(str)
    missing: dict[str, list[str]] = {}
    for _, row in table.assign(note=why)[table[value].isna()].iterrows():
        place = "in the paper" if row["origin"] == "published" else "here"
        reason = f"Missing {place} ({row['note'] or 'not run'})"
        reason = "In the paper, with no source at hand" if row["note"] == NO_SOURCE else reason
        missing.setdefault(reason, []).append(name(row))
    drawn = distinct(why[table[value].notna()])
    return drawn + [f"{reason}: {', '.join(distinct(names))}." for reason, names in missing.items()]


def digits(scores: pd.Series) -> int:
    """Decimals for percentages, or for ratios."""
    return 1 if scores.abs().max() >= 10 else 3


def number(value: float, digits: int, sign: str = "") -> str:
    """A number as text; nothing for NaN."""
    return "" if math.isnan(value) else f"{value:{sign}.{digits}f}"


def interval(low: float, high: float, digits: int) -> str:
    """An interval as text; nothing where there is none.

    Without a width it is of so few samples that every resample is the same, or of two models that are (0).
    """
    if low == high != 0:
        return "n too small"
    return "" if math.isnan(low) else f"{low:.{digits}f} to {high:.{digits}f}"


def key_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Gather what a figure's tidy table comes to, as a small table to stand under it.

    Of scores, for each origin, pool and budget (and of tasks the average): the best method, and RDS+ where
    that is another, with its difference from balanced random (of the ablation: from RDS+) and Spearman's rank
    correlation of the methods' scores with the published ones, the pools matched by size. Where there are
    gaps none is best, and none has a rank. Of sources: the size and the largest source of each bar. Of other
    tables: the mean or the sum of a column.

    Returns:
        A row a group, as text; what is not known is empty.
    """
    if "method" in table and "score" in table:
        found = _key_scores(table)
    elif "source" in table and "count" in table:
        known = table.dropna(subset="count")
        keys = ["origin", *(key for key in ("pool", "selection", "method", "budget") if key in known)]
        groups = known.groupby(keys, sort=False)["count"]
        largest = known.loc[groups.idxmax()].set_index(keys)
        columns = {"samples": groups.sum(), "largest source": largest["source"]}
        shares = (largest["count"] / columns["samples"]).map("{:.1%}".format)
        found = pd.DataFrame({**columns, "its share": shares}).reset_index()
    elif "score" in table:
        groups = table.groupby(["origin", "task"], sort=False)["score"]
        found = groups.agg(samples="size", mean="mean", median="median").round(3).reset_index()
    else:
        found = table.groupby("origin", sort=False)[["query", "test"]].sum().astype(int).reset_index()
    if "method" in found:
        found["method"] = found["method"].map(method_title)
    return found.loc[:, (found != "").any()]


def _key_scores(table: pd.DataFrame) -> pd.DataFrame:
    table = table[table["task"] == AVERAGE] if "task" in table else table
    keys = ["origin", "pool_size", "budget"]
    gapped = set(table.loc[gaps(table), keys].itertuples(index=False, name=None))
    rows = table.dropna(subset="score")
    # Turned so that more is better.
    rows = rows.assign(gain=rows["score"].where(rows["better"] == "higher", -rows["score"]))
    other, column = (BASELINE, "diff_vs_random") if BASELINE in set(rows["method"]) else (RDS, "diff_vs_rds")
    ends = [f"{column}_low", f"{column}_high"]
    rows = rows.reindex(columns=rows.columns.union([column, *ends]))
    paper = rows[rows["origin"] == "published"]
    found = []
    for key, group in rows.groupby(keys, sort=False):
        origin, pool, budget = cast("tuple[str, float, float]", key)
        group = group.sort_values("gain", ascending=False, kind="stable").set_index("method")
        places = digits(group["score"])
        theirs = _matched(paper, rows[rows["origin"] == origin], pool) if origin == "measured" else paper[:0]
        best = [] if key in gapped else [group.index[0]]
        for method in dict.fromkeys([*best, *group.index.intersection([RDS])]):
            row = group.loc[method]
            difference = row[column]
            if math.isnan(difference) and other in group.index and method != other:
                difference = row["score"] - group.loc[other, "score"]
            found.append(
                {
                    "origin": origin,
                    "pool": human(pool),
                    "selected": human(budget),
                    "method": method,
                    "rank": f"{(group['gain'] > row['gain']).sum() + 1} of {len(group)}" if best else "",
                    "score": number(row["score"], places),
                    "95% interval": interval(row["low"], row["high"], places),
                    f"minus {method_title(other)}": number(difference, places, "+"),
                    "its 95% interval": interval(row[ends[0]], row[ends[1]], places),
                    "rank correlation with the paper": _spearman(group["gain"], theirs),
                }
            )
    return pd.DataFrame(found)


def _matched(paper: pd.DataFrame, measured: pd.DataFrame, pool: float) -> pd.DataFrame:
    """The paper's scores from the pool that is as large among its pools as `pool` is among those measured."""
    ours, theirs = (sorted(rows["pool_size"].unique()) for rows in (measured, paper))
    if paper["budget"].nunique() != 1 or pool not in (ours[0], ours[-1]):
        return paper[:0]
    return paper[paper["pool_size"] == theirs[0 if pool == ours[0] != ours[-1] else -1]]


def _spearman(gains: pd.Series, paper: pd.DataFrame) -> float | str:
    """Spearman's rank correlation over the methods that both have; nothing for fewer than three."""
    both = pd.concat([gains, paper.set_index("method")["gain"]], axis=1, join="inner", keys=["a", "b"])
    if len(both) < 3 or both.nunique().min() < 2:
        return ""
    return round(both["a"].rank().corr(both["b"].rank()), 2)
