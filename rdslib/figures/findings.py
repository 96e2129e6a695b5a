"""What each figure shows, in words that are computed from its table, so that they cannot disagree with it.

`findings` gives a notebook a section: a paragraph on what is published, one on what was measured, and one on
how the two compare. What is missing is named with its note; rows that do not say what they are rows of
(`keys`) are passed over. This file has Figures 1, 3 and 4; the others are in `source_findings.py` and
`table_findings.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import pandas as pd

from rdslib.errors import UserError
from rdslib.figures.pareto import pareto_frontier
from rdslib.figures.source_findings import by_method, by_selection, histogram, pools, pools_together
from rdslib.figures.style import human, in_order, span
from rdslib.figures.table_findings import (
    ablation,
    ablation_together,
    by_task,
    by_task_together,
    splits,
    splits_together,
)
from rdslib.figures.wording import (
    BASELINE,
    MOST_NAMES,
    RDS,
    Scores,
    agreement,
    correlation,
    counted,
    few,
    listed,
    matched_pools,
    missing,
    named,
    percent,
    times,
)

HEADING = "## What it shows"
NOTHING = "Nothing was measured and nothing is published."
ORIGINS = {"published": "**Published.**", "measured": "**Measured here.**"}
TOGETHER = "**Together.**"
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

# One origin's rows in sentences, and both origins' rows in sentences on how they compare.
Side = Callable[[pd.DataFrame], list[str]]
Both = Callable[[pd.DataFrame, pd.DataFrame], list[str]]


@dataclass(frozen=True)
class Text:
    """How a figure is put in words: what a row must have to count, what it may lack, and who writes."""

    keys: tuple[str, ...]
    others: tuple[str, ...]
    side: Side
    together: Both | None = None


def findings(name: str, table: pd.DataFrame) -> str:
    """What a figure's tidy table shows, as Markdown under a heading of its own.

    Raises UserError for an unknown figure.
    """
    if name not in TEXTS:
        raise UserError(f"unknown figure {name!r}; figures: {', '.join(TEXTS)}")
    text = TEXTS[name]
    table = table.reindex(columns=list(dict.fromkeys(["origin", *text.keys, *text.others])))
    table = table.dropna(subset=["origin", *text.keys])
    sides = {origin: table[table["origin"] == origin] for origin in ORIGINS}
    said = [(ORIGINS[origin], text.side(rows)) for origin, rows in sides.items() if len(rows)]
    if text.together is not None and len(said) == len(ORIGINS):
        said.append((TOGETHER, text.together(*sides.values())))
    paragraphs = [" ".join([start, *sentences]) for start, sentences in said if sentences]
    return "\n\n".join([HEADING, *(paragraphs or [NOTHING])])


def _fig1(rows: pd.DataFrame) -> list[str]:
    scores = Scores(rows)
    said = [scores.lead(" for one task at a time")]
    for size in scores.pools:
        known = scores.of(pool_size=size)
        if len(known):
            said.append(f"From {human(size)} {_first(scores, known)}.")
            said += scores.verdict(scores.beside(known, "less_random", BASELINE), BASELINE)
    said += _larger_pool(scores) + _untuned(scores)
    said += _frontier_in_words(scores, lambda row: f"from {human(row['pool_size'])}")
    gone = rows[rows["score"].isna()]
    return said + missing(gone, lambda row: f"{named(row['method'])} from {human(row['pool_size'])}")


def _first(scores: Scores, rows: pd.DataFrame) -> str:
    """The best score among some rows, and by how much it differs from balanced random's."""
    first = scores.first(rows)
    row = rows[rows["method"] == first[0]].iloc[0]
    said = f"the first is {listed(map(named, first))} with {scores.number(row['score'])}"
    theirs = rows.loc[rows["method"] == BASELINE, "score"]
    if BASELINE in first or theirs.empty:
        return said
    said += f", {scores.signed(row['score'] - theirs.iloc[0])} against {named(BASELINE)}"
    if scores.paired(row, "less_random") is None:
        return said
    ends = [scores.signed(row[f"less_random_{end}"]) for end in ("low", "high")]
    return f"{said} (paired interval {' to '.join(ends)})"


def _moves(scores: Scores) -> dict[str, tuple[int, float]]:
    """Where each method's score from the largest pool stands beside that from the smallest; by how much."""
    moves = {}
    for method in in_order(scores.known["method"]):
        ends = [scores.of(method=method, pool_size=size) for size in (scores.pools[0], scores.pools[-1])]
        if len(scores.pools) > 1 and all(map(len, ends)):
            small, large = (rows.iloc[0] for rows in ends)
            sign = scores.apart(large, small)
            if sign is not None:
                moves[method] = (sign, large["score"] - small["score"])
    return moves


def _larger_pool(scores: Scores) -> list[str]:
    groups: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for method, (sign, gap) in _moves(scores).items():
        groups[sign].append(named(method) + (f" ({scores.signed(gap)})" if sign else ""))
    parts = [f"{listed(groups[1])} {'gains' if len(groups[1]) == 1 else 'gain'}"] if groups[1] else []
    parts += [f"{listed(groups[-1])} {'loses' if len(groups[-1]) == 1 else 'lose'}"] if groups[-1] else []
    level = "cannot be told apart by the intervals" if scores.intervals else "level"
    parts += [f"{level}: {few(groups[0])}"] if groups[0] else []
    return [f"From the smaller pool to the larger, {'; '.join(parts)}."] if parts else []


def _untuned(scores: Scores) -> list[str]:
    """How the scores stand beside that of the model before fine-tuning, which a relative score has as 1."""
    known = scores.known[scores.known["metric"].astype(str).str.contains("relative to untuned")]
    known = known.dropna(subset=["low", "high"])
    below, above = int((known["high"] < 1).sum()), int((known["low"] > 1).sum())
    if known.empty:
        return []
    of = counted(len(known), "interval")
    return [f"Of {of}, {below} lie below 1, the model before fine-tuning, and {above} above it."]


def _frontier(scores: Scores) -> pd.DataFrame:
    """The points on the Pareto frontier, the cheapest first."""
    known = scores.known.dropna(subset="flops")
    better = "lower" if scores.lower else "higher"
    return known.iloc[pareto_frontier(known["flops"].to_numpy(), known["score"].to_numpy(), better)]


def _frontier_in_words(scores: Scores, where: Callable[[pd.Series], str]) -> list[str]:
    places: dict[str, list[str]] = {}
    for _, row in _frontier(scores).iterrows():
        word, _, place = where(row).partition(" ")
        places.setdefault(f"{named(row['method'])} {word}", []).append(place)
    points = "; ".join(f"{start} {listed(each)}" for start, each in places.items())
    costs = span(scores.known["flops"], _power)
    said = f"Costs are {costs} FLOPs; on the Pareto frontier, by the scores alone: {points}."
    return [said] if points else []


def _power(value: float) -> str:
    lead, exponent = f"{value:.1e}".split("e")
    return f"{lead} \N{MULTIPLICATION SIGN} 10{str(int(exponent)).translate(SUPERSCRIPT)}"


def _fig1_together(published: pd.DataFrame, measured: pd.DataFrame) -> list[str]:
    ours, theirs = Scores(published), Scores(measured)
    said, pairs = [], {}
    for where, our_pool, their_pool in matched_pools(ours, theirs):
        pairs[where] = ours.of(pool_size=our_pool), theirs.of(pool_size=their_pool)
        our_signs = ours.beside(pairs[where][0], "less_random", BASELINE)
        their_signs = theirs.beside(pairs[where][1], "less_random", BASELINE)
        said += agreement(f"which side of {named(BASELINE)} a method is{where}", our_signs, their_signs)
    said += correlation(ours, theirs, pairs)
    moves = [{method: sign for method, (sign, _) in _moves(scores).items()} for scores in (ours, theirs)]
    return said + agreement("whether the larger pool helps", moves[0], moves[1])


def _missing_sizes(scores: Scores) -> list[str]:
    gone = scores.rows[scores.rows["score"].isna()]
    return missing(gone, lambda row: f"{named(row['method'])} at {human(row['budget'])}")


def _fig3(rows: pd.DataFrame) -> list[str]:
    scores = Scores(rows)
    said = [scores.lead(" for all tasks at once")]
    said += _frontier_in_words(scores, lambda row: f"at {human(row['budget'])}")
    costs = scores.known[scores.known["flops"] > 0].pivot_table(
        index="budget", columns="method", values="flops"
    )
    for method in in_order(costs.columns.drop(BASELINE, errors="ignore")):
        if BASELINE in costs:
            ratios = (costs[method] / costs[BASELINE]).dropna()
            ends = dict(zip(ratios.index[[0, -1]], ratios.iloc[[0, -1]], strict=True)) if len(ratios) else {}
            each = [f"{times(ratio)} as much at {human(budget)}" for budget, ratio in ends.items()]
            said += [f"Beside {named(BASELINE)}, {named(method)} costs {listed(each)}."] if each else []
    return said + _missing_sizes(scores)


def _fig3_together(published: pd.DataFrame, measured: pd.DataFrame) -> list[str]:
    ends = [_frontier(Scores(rows)).tail(1) for rows in (published, measured)]
    if not all(map(len, ends)):
        return []
    where = [f"{named(end['method'].iloc[0])} at {human(end['budget'].iloc[0])}" for end in ends]
    return [f"The frontier ends, at its best score, with {where[0]} as published and {where[1]} here."]


def _fig4(rows: pd.DataFrame) -> list[str]:
    scores = Scores(rows)
    said = [scores.lead(" for all tasks at once")]
    led: dict[str, list[float]] = {}
    budgets = sorted(scores.known["budget"].unique())
    for budget in budgets:
        led.setdefault(listed(map(named, scores.first(scores.of(budget=budget)))), []).append(budget)
    if led:
        parts = [f"{names} {_at(there, len(budgets))}" for names, there in led.items()]
        said.append(f"The first by score is {'; '.join(parts)}.")
    for method, signs in _signs_by_size(scores).items():
        if scores.intervals:
            said.append(f"By paired intervals, {named(method)} {_tally(scores, signs)}.")
        told = [(budget, sign) for budget, sign in signs.items() if sign]
        turns = [f"between {human(a)} and {human(b)}" for (a, one), (b, two) in pairwise(told) if one != two]
        said += [f"It changes sides {listed(turns)}."] if turns else []
    for method in in_order(scores.known["method"]):
        said += _trend(scores, scores.of(method=method).sort_values("budget"))
    return said + _passing(scores) + _missing_sizes(scores)


def _at(budgets: list[float], of: int) -> str:
    """Sizes, by name while they are few."""
    if len(budgets) <= MOST_NAMES:
        return f"at {listed(map(human, budgets))}"
    return f"at all {of} sizes" if len(budgets) == of else f"at {len(budgets)} of {of} sizes"


def _signs_by_size(scores: Scores) -> dict[str, dict[float, int]]:
    """Where each method stands beside balanced random, by size, the smallest first."""
    signs: dict[str, dict[float, int]] = {}
    for budget in sorted(scores.known["budget"].unique()):
        for method, sign in scores.beside(scores.of(budget=budget), "less_random", BASELINE).items():
            signs.setdefault(method, {})[budget] = sign
    return signs


def _tally(scores: Scores, signs: Mapping[float, int]) -> str:
    """At which sizes a method stands where beside balanced random."""
    parts: list[str] = []
    for sign, link in ((1, " than"), (-1, " than"), (0, " from")):
        there = [budget for budget, found in signs.items() if found == sign]
        other = "it" if parts else named(BASELINE)
        if there:
            link = link if scores.intervals else {1: " of", -1: "", 0: " with"}[sign]
            parts.append(f"{scores.words()[sign]}{link} {other} {_at(there, len(signs))}")
    return "; ".join(parts)


def _trend(scores: Scores, points: pd.DataFrame) -> list[str]:
    """What becomes of a method from the smallest to the largest selection."""
    first, last = points.iloc[0], points.iloc[-1]
    if len(points) < 2:
        return []
    told = ", which cannot be told apart" if scores.intervals and scores.apart(last, first) == 0 else ""
    best = scores.ranked(points).iloc[0]
    said = (
        f"{named(first['method'])} goes from {scores.number(first['score'])} at {human(first['budget'])} to "
        f"{scores.number(last['score'])} at {human(last['budget'])}{told}"
    )
    if best["budget"] != last["budget"]:
        said += f"; its best is {scores.number(best['score'])} at {_part(best)}"
    return [f"{said}."]


def _part(row: pd.Series) -> str:
    """A size, and what part of the pool it is."""
    part = "" if math.isnan(row["percent"]) else f" ({percent(row['percent'] / 100)} of the pool)"
    return f"{human(row['budget'])}{part}"


def _passing(scores: Scores) -> list[str]:
    """From which size on RDS+ passes whatever any other method reaches at any size."""
    ours = scores.of(method=RDS).sort_values("budget")
    theirs = scores.ranked(scores.known[scores.known["method"] != RDS])
    if ours.empty or theirs.empty:
        return []
    best = theirs.iloc[0]
    passed = [_part(row) for _, row in ours.iterrows() if scores.apart(row, best) == 1]
    other = f"the best score of any other ({scores.number(best['score'])}, {named(best['method'])})"
    if passed:
        clear = ", its interval clear of the other's" if scores.intervals else ""
        return [f"{named(RDS)} first passes {other} at {passed[0]}{clear}."]
    return [
        f"{named(RDS)} passes {other} at no size{' by more than the intervals' if scores.intervals else ''}."
    ]


def _fig4_together(published: pd.DataFrame, measured: pd.DataFrame) -> list[str]:
    ours, theirs = Scores(published), Scores(measured)
    here = _signs_by_size(theirs)
    said = [
        f"As published, {named(method)} {_tally(ours, signs)}; here it {_tally(theirs, here[method])}."
        for method, signs in _signs_by_size(ours).items()
        if method in here
    ]
    parts = [rows["percent"].dropna() / 100 for rows in (ours.known, theirs.known)]
    if all(map(len, parts)):
        spans = [span(part, percent) for part in parts]
        said.append(f"The published selections are {spans[0]} of their pool, those here {spans[1]}.")
    return said


_SCORE_KEYS = ("method", "pool_size", "budget", "better")
_SCORE = ("score", "low", "high", "n", "metric", "note")
_LESS_RANDOM = ("less_random", "less_random_low", "less_random_high")
_LESS_RDS = ("less_rds", "less_rds_low", "less_rds_high")
_BY_TASK = Text((*_SCORE_KEYS, "task"), _SCORE, by_task, by_task_together)
_POOLS = Text(("pool", "source"), ("count", "in_mixture", "note"), pools, pools_together)

TEXTS = {
    "fig1_pareto": Text(_SCORE_KEYS, (*_SCORE, "flops", *_LESS_RANDOM), _fig1, _fig1_together),
    "fig2_pools": _POOLS,
    "fig3_flops": Text(_SCORE_KEYS, (*_SCORE, "flops", *_LESS_RANDOM), _fig3, _fig3_together),
    "fig4_scaling": Text(_SCORE_KEYS, (*_SCORE, "percent", *_LESS_RANDOM), _fig4, _fig4_together),
    "fig5_score_histogram": Text(("task", "score"), (), histogram),
    "fig6_sources_by_task": Text(("selection", "source"), ("count", "note"), by_selection),
    "fig7_sources_by_method": Text(("method", "pool_size", "budget", "source"), ("count", "note"), by_method),
    "tab1_single_task": _BY_TASK,
    "tab2_multi_task": _BY_TASK,
    "tab3_second_pool": _BY_TASK,
    "tab4_splits": Text(("task",), ("query", "test", "note"), splits, splits_together),
    "tab5_pool_sources": _POOLS,
    "tab6_rds_ablation": Text(_SCORE_KEYS, (*_SCORE, *_LESS_RDS), ablation, ablation_together),
}
