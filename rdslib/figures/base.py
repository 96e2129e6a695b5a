"""What figures are made of: the paper's numbers, and how names and numbers are written. Loads no plots."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pandas as pd

from rdslib.methods import SCORERS
from rdslib.models.flops import total_flops
from rdslib.pipeline.recipes import Run
from rdslib.pipeline.store import Step
from rdslib.pipeline.study import Study

PUBLISHED = Path(__file__).parent / "published"
TASKS = ("MMLU", "GSM8k", "BBH", "TydiQA", "Codex", "Squad", "AlpacaEval")
AVERAGE = "Average"
# What the other methods are compared with, on the same test samples; and what the ablation's are.
BASELINE, RDS = "random_balanced", "rds"
# Origin to the words over its panel, in the order in which panels stand.
ORIGINS = {"published": "Published in the paper", "measured": "Measured here"}

# Rows of the paper's tables that are no methods of ours.
_ROWS = {
    "rds_wildchat": "RDS+ (WildChat)",
    "rds_arena_hard": "RDS+ (Arena Hard)",
    "tulu2_mixture": "Tulu 2 mixture",
    "tulu3_sft": "Tulu 3 SFT",
}
# Until methods carry them: these two go once `Scorer` has `title` and `colour`.
_TITLES = {
    "random": "Random (unbal.)",
    "random_balanced": "Random (bal.)",
    "less": "LESS",
    "embed_nv": "Embed (NV)",
    "embed_gtr": "Embed (GTR)",
    "embed_minilm": "Embed (MiniLM)",
    "top_ppl": "Top-PPL",
    "mid_ppl": "Mid-PPL",
    "ifd": "IFD",
    "rds": "RDS+",
    "rds_eos": "RDS+, EOS token only",
    "rds_uniform": "RDS+, uniform mean-pool",
    "rds_prompt": "RDS+, prompt only",
    "rds_label": "RDS+, label only",
}
_COLOURS = {
    "random": "#8C8C8C",
    "random_balanced": "#4D4D4D",
    "rds": "#0072B2",
    "embed_gtr": "#009E73",
    "embed_nv": "#56B4E9",
    "less": "#D55E00",
    "ifd": "#CC79A7",
    "top_ppl": "#E69F00",
    "mid_ppl": "#A89200",
    "embed_minilm": "#882255",
}


class Drawn(Protocol):
    """A figure or table as a notebook shows it."""

    def save(self, folder: Path, name: str) -> None:
        """Write it to a folder, in the forms that it has."""


@dataclass(frozen=True)
class Figure:
    """A figure or table of the paper.

    Attributes:
        title: What the paper calls it.
        published: Its rows in the paper; None where the paper gives no numbers.
        measured: Its rows as a study measures them.
        runs: The runs behind the measured rows.
        steps: What of these runs the rows rest on.
        draw: The figure of rows of either origin, or of both.
    """

    title: str
    published: Callable[[], pd.DataFrame] | None
    measured: Callable[[Study], pd.DataFrame]
    runs: Callable[[Study], list[Run]]
    steps: Callable[[Study, list[Run]], list[Step]]
    draw: Callable[[pd.DataFrame], Drawn]


def evaluated(study: Study, runs: list[Run]) -> list[Step]:
    """Steps of figures of scores: the runs' evaluations and the untuned model's."""
    return study.evaluations([study.untuned(), *runs])


def picked(study: Study, runs: list[Run]) -> list[Step]:
    """Steps of figures of selections."""
    return [study.selection(run) for run in runs]


def data_only(study: Study, _: list[Run]) -> list[Step]:
    """Steps of figures of the pool and the tasks."""
    return [study.data]


def no_runs(_: Study) -> list[Run]:
    """Runs of figures of the pool and the tasks."""
    return []


def drawing(what: str) -> Callable[[Callable[[pd.DataFrame], Drawn]], Callable[[pd.DataFrame], Drawn]]:
    """Mark a function that draws `what`: it runs under the project's style, and has rows to draw.

    The style, and matplotlib with it, is loaded when something is drawn.
    """

    def decorate(function: Callable[[pd.DataFrame], Drawn]) -> Callable[[pd.DataFrame], Drawn]:
        @functools.wraps(function)
        def inside(table: pd.DataFrame) -> Drawn:
            from rdslib.figures import style

            return style.nothing(what) if table.empty else style.styled(function)(table)

        return inside

    return decorate


def published(file: str) -> pd.DataFrame:
    """Read numbers of the paper, from a CSV file of the folder `published`.

    Where a number comes from is in the column `source` (`provenance` in the tables of pools, where a source
    is a data set): "review" a public review's tables, "ref" the authors' public code, "card" their public
    model cards, "fig" read off a figure's pixels (within 0.1), "cited" the cited work's own paper. A number
    that was never run or that is not public is NaN, and `note` says which of the two it is.
    """
    rows = pd.read_csv(PUBLISHED / f"{file}.csv", dtype={"note": "str", "source": "str"})
    rows.insert(0, "origin", "published")
    return rows.fillna(dict.fromkeys({"note", "source"} & set(rows.columns), ""))


def paper_flops(method: str, budget: int, pool_size: int) -> float:
    """FLOPs of selection and training by the paper's formula (Appendix E), with the paper's model."""
    return total_flops(method, budget, pool_size)


def method_title(method: str) -> str:
    """The paper's name of a method, or the registry's of one that the paper does not have."""
    return _ROWS.get(method) or getattr(SCORERS.get(method), "title", "") or _TITLES.get(method, method)


def method_colour(method: str) -> str | None:
    """The colour of a method, such as "#0072B2"; None for one that has none of its own."""
    return getattr(SCORERS.get(method), "colour", None) or _COLOURS.get(method)


def in_order(methods: Iterable[object]) -> list[str]:
    """The distinct methods in the order of the paper's tables, others last."""
    there = distinct(methods)
    known = [name for name in (*_TITLES, *_ROWS) if name in there]
    return known + [name for name in there if name not in known]


def distinct(values: Iterable[object]) -> list[str]:
    """The distinct values, as text, in the order in which they come."""
    return [str(value) for value in dict.fromkeys(values)]


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
        missing.setdefault(reason, []).append(name(row))
    drawn = distinct(why[table[value].notna()])
    return drawn + [f"{reason}: {', '.join(distinct(names))}." for reason, names in missing.items()]


def key_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Gather what a figure's tidy table comes to, as a small table to stand under it.

    Of scores, for each origin, pool and budget (and of tasks the average): the best method, and RDS+ where
    that is another; its rank, its score, and the difference from balanced random (of the ablation: from RDS+),
    with 95% intervals where the table has them; and Spearman's rank correlation of the methods' scores with
    the published ones, pools matched by size, where at least three methods have both. Of sources: the size
    and the largest source of each bar. Of other tables: the sum or the mean of each column.

    Returns:
        A row a group; what is not known is an empty text.
    """
    if "method" in table and "score" in table:
        found = _key_scores(table)
    elif "source" in table and "count" in table:
        known = table.dropna(subset="count")
        keys = ["origin", *(key for key in ("pool", "selection", "method", "budget") if key in known)]
        rows = known.loc[known.groupby(keys, sort=False)["count"].idxmax()].set_index(keys)
        samples = known.groupby(keys, sort=False)["count"].sum()
        found = pd.DataFrame({"samples": samples, "largest source": rows["source"]})
        found = found.assign(share=(rows["count"] / samples).round(3)).reset_index()
    elif "score" in table:
        scores = table.groupby(["origin", "task"], sort=False)["score"]
        found = scores.agg(samples="size", mean="mean", median="median").round(3).reset_index()
    elif "query" in table:
        counts = table.dropna(subset="query").groupby("origin", sort=False)
        found = counts.agg(
            tasks=("task", "size"), queries=("query", "sum"), test=("test", "sum")
        ).reset_index()
    else:
        found = table
    if "method" in found:
        found = found.assign(method=found["method"].map(method_title))
    return found.dropna(axis=1, how="all").astype(object).fillna("")


def _key_scores(table: pd.DataFrame) -> pd.DataFrame:
    if "task" in table:
        table = table[table["task"] == AVERAGE]
    table = table.dropna(subset="score")
    methods = set(table["method"])
    other, column = (BASELINE, "diff_vs_random") if BASELINE in methods else (RDS, "diff_vs_rds")
    table = table.reindex(columns=[*table.columns.union([column, f"{column}_low", f"{column}_high"])])
    found = []
    for (origin, pool, budget), rows in table.groupby(["origin", "pool_size", "budget"], sort=False):
        lower = (rows["better"] == "lower").all()
        rows = rows.sort_values("score", ascending=lower, kind="stable").set_index("method")
        ranks = rows["score"].rank(method="min", ascending=lower).astype(int)
        for method in dict.fromkeys([rows.index[0], *({RDS} & set(rows.index))]):
            row = rows.loc[method]
            apart = row[column]
            if math.isnan(apart) and other in rows.index and method != other:
                apart = row["score"] - rows.loc[other, "score"]
            found.append(
                {
                    "origin": origin,
                    "pool": human(pool),
                    "selected": human(budget),
                    "method": method,
                    "rank": f"{ranks[method]} of {len(rows)}",
                    "score": round(row["score"], 3),
                    "95% interval": _interval(row["low"], row["high"]),
                    f"minus {method_title(other)}": round(apart, 3),
                    "its 95% interval": _interval(row[f"{column}_low"], row[f"{column}_high"]),
                    "rank correlation with the paper": _agreement(table, origin, pool, rows["score"], lower),
                }
            )
    return pd.DataFrame(found)


def _interval(low: float, high: float) -> str | None:
    return None if math.isnan(low) else f"{low:.3f} to {high:.3f}"


def _agreement(table: pd.DataFrame, origin: str, pool: float, scores: pd.Series, lower: bool) -> float | None:
    """Spearman's correlation of measured scores with those published of the pool of the same rank in size."""
    paper = table[table["origin"] == "published"]
    if origin == "published" or paper.empty or paper["budget"].nunique() > 1:
        return None
    ours, theirs = (sorted(rows["pool_size"].unique()) for rows in (table[table["origin"] == origin], paper))
    # Of a single pool and several, the largest is meant.
    place = ours.index(pool) if min(len(ours), len(theirs)) > 1 else -1
    matched = paper[paper["pool_size"] == theirs[max(place, -1) if place < len(theirs) else -1]]
    both = pd.concat([scores, matched.set_index("method")["score"]], axis=1, join="inner").set_axis(
        [0, 1], axis=1
    )
    if len(both) < 3 or both.nunique().min() < 2:
        return None
    return round((both[0] * (-1 if lower else 1)).corr(both[1], method="spearman"), 2)
