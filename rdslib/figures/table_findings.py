"""What Tables 1 to 4 and 6 show, in words. See `findings.py`."""

from __future__ import annotations

import pandas as pd

from rdslib.figures.published import AVERAGE
from rdslib.figures.style import distinct, human, in_order
from rdslib.figures.wording import (
    FEWEST_TO_RANK,
    RDS,
    Scores,
    agreement,
    correlation,
    counted,
    listed,
    matched_pools,
    missing,
    named,
    plain,
)


def by_task(rows: pd.DataFrame) -> list[str]:
    """Tables 1 to 3: what one origin shows."""
    scores = Scores(rows)
    said = [scores.lead("")]
    for size in scores.pools:
        where = f"From {human(size)} the" if len(scores.pools) > 1 else "The"
        known = scores.of(pool_size=size)
        averages = scores.ranked(known[known["task"] == AVERAGE])
        if len(averages):
            parts = [
                f"{named(row['method'])} with {scores.number(row['score'])}"
                for _, row in averages.head(2).iterrows()
            ]
            said.append(f"{where} first on average is {', then '.join(parts)}{_told(scores, averages)}.")
        tasks = known[known["task"] != AVERAGE]
        said += _leaders(scores, tasks) + _average_ranks(scores, tasks)
    return said + _missing_by_task(scores)


def _told(scores: Scores, ranked: pd.DataFrame) -> str:
    """What follows on the first two of some rows, the best first."""
    if len(ranked) < 2:
        return ", the only one"
    sign = scores.apart(ranked.iloc[0], ranked.iloc[1])
    if not scores.intervals:
        return "" if sign else ", level with it"
    return {None: "", 0: "; by their intervals the two cannot be told apart"}.get(sign, ", intervals apart")


def _leaders(scores: Scores, tasks: pd.DataFrame) -> list[str]:
    """Who is first on each task, and on which of them by more than the intervals."""
    led: dict[str, list[str]] = {}
    close: list[str] = []
    apart: list[str] = []
    for task in distinct(tasks["task"]):
        ranked = scores.ranked(tasks[tasks["task"] == task])
        if len(ranked) < 2:
            continue
        shown = f"{plain(task)} ({scores.number(ranked['score'].iloc[0])})"
        led.setdefault(listed(map(named, scores.first(ranked))), []).append(shown)
        sign = scores.apart(ranked.iloc[0], ranked.iloc[1]) if scores.intervals else None
        if sign is not None:
            (apart if sign else close).append(plain(task))
    leading = "; ".join(f"{names} on {listed(each)}" for names, each in led.items())
    said = [f"First by task: {leading}."] if led else []
    parts = [f"have intervals apart on {listed(apart)}"] if apart else []
    if close:
        everywhere = len(close) == sum(map(len, led.values()))
        parts.append(
            f"cannot be told apart by intervals on {'any of these' if everywhere else listed(close)}"
        )
    return said + ([f"The first and the next {' and '.join(parts)}."] if parts else [])


def _average_ranks(scores: Scores, tasks: pd.DataFrame) -> list[str]:
    wide = scores.gain(tasks.pivot_table(index="task", columns="method", values="score")).dropna(axis=1)
    if len(wide) < 2 or wide.shape[1] < FEWEST_TO_RANK:
        return []
    ranks = wide.rank(axis=1, ascending=False).mean()
    best = listed(map(named, in_order(ranks.index[ranks == ranks.min()])))
    return [
        f"The best average rank is {ranks.min():.1f}, of {best}, among {wide.shape[1]} methods with a score "
        f"on each of {len(wide)} tasks."
    ]


def _missing_by_task(scores: Scores) -> list[str]:
    """A method without any score from a pool is named once, and one that has its average alone too."""

    def name(row: pd.Series) -> str:
        known = scores.of(method=row["method"], pool_size=row["pool_size"])["task"]
        whole = named(row["method"])
        whole += f" from {human(row['pool_size'])}" if len(scores.pools) > 1 else ""
        if known.empty:
            return whole
        return f"{whole} on {plain(row['task']) if (known != AVERAGE).any() else 'each task'}"

    return missing(scores.rows[scores.rows["score"].isna()], name)


def by_task_together(published: pd.DataFrame, measured: pd.DataFrame) -> list[str]:
    """Tables 1 to 3: how the two origins' averages compare."""
    ours, theirs = Scores(published), Scores(measured)
    said, pairs = [], {}
    for where, our_pool, their_pool in matched_pools(ours, theirs):
        our_rows = ours.of(pool_size=our_pool, task=AVERAGE)
        their_rows = theirs.of(pool_size=their_pool, task=AVERAGE)
        shared = set(our_rows["method"]) & set(their_rows["method"])
        our_rows, their_rows = (rows[rows["method"].isin(shared)] for rows in (our_rows, their_rows))
        pairs[where] = our_rows, their_rows
        if len(shared) > 1:
            said += [_place(theirs, their_rows, first, where) for first in ours.first(our_rows)]
    return said + correlation(ours, theirs, pairs)


def _place(theirs: Scores, rows: pd.DataFrame, first: str, where: str) -> str:
    """Where a published first stands among the measured rows of the methods that both have."""
    ranked = theirs.ranked(rows)
    row = ranked[ranked["method"] == first].iloc[0]
    place = 1 + int((theirs.gain(ranked["score"]) > theirs.gain(row["score"])).sum())
    said = (
        f"{named(first)}, first of {len(ranked)} shared methods{where} as published, is number {place} here"
    )
    rival = ranked[ranked["method"] != first].iloc[0]
    sign = theirs.apart(row, rival) if theirs.intervals else None
    if sign is not None:
        told = "told apart" if sign else "cannot be told apart"
        said += f" ({told} by its interval from {named(rival['method'])})"
    return f"{said}."


def splits(rows: pd.DataFrame) -> list[str]:
    """Table 4: what one origin shows."""
    lacking = rows[["query", "test"]].isna().any(axis=1)
    known, said = rows[~lacking], []
    if len(known):
        tasks, queries, tests = counted(len(known), "task"), known["query"].sum(), known["test"].sum()
        said.append(f"In {tasks} there are {queries:,.0f} queries and {tests:,.0f} test samples.")
        for what, column in (("Queries", "query"), ("Test samples", "test")):
            ordered = known.sort_values(column, kind="stable")
            each = [
                f"{row[column]:,.0f} ({plain(row['task'])})" for _, row in ordered.iloc[[0, -1]].iterrows()
            ]
            said.append(f"{what} a task go from {' to '.join(each)}.")
    return said + missing(rows[lacking], lambda row: plain(row["task"]))


def splits_together(published: pd.DataFrame, measured: pd.DataFrame) -> list[str]:
    """Table 4: where the counts here differ from those published."""
    both = published.merge(measured, on="task", suffixes=("", "_here"))
    said = []
    for what, column in (("Queries", "query"), ("Test samples", "test")):
        same: list[str] = []
        other: list[str] = []
        for _, row in both.dropna(subset=[column, f"{column}_here"]).iterrows():
            here, there = row[f"{column}_here"], row[column]
            shown = f"{plain(row['task'])} ({here:,.0f} here, {there:,.0f} published)"
            same += [plain(row["task"])] if here == there else []
            other += [shown] if here != there else []
        parts = [f"are as published for {listed(same)}"] if same else []
        parts += [f"differ for {listed(other)}"] if other else []
        said += [f"{what} {'; they '.join(parts)}."] if parts else []
    return said


def ablation(rows: pd.DataFrame) -> list[str]:
    """Table 6: what one origin shows."""
    scores = Scores(rows)
    ranked = scores.ranked(rows)
    rds = ranked.loc[ranked["method"] == RDS, "score"]
    gaps = {}
    for _, row in ranked.iterrows():
        shown = [scores.signed(row[f"less_rds{end}"]) for end in ("", "_low", "_high")]
        if scores.intervals:
            gaps[row["method"]] = f" ({shown[0]}, interval {shown[1]} to {shown[2]})"
        elif len(rds):
            gaps[row["method"]] = f" ({scores.signed(row['score'] - rds.iloc[0])})"
    order = [f"{_variant(row['method'])} ({scores.number(row['score'])})" for _, row in ranked.iterrows()]
    signs = scores.beside(ranked, "less_rds", RDS)
    return [
        scores.lead(""),
        *([f"From the best score down: {listed(order)}."] if order else []),
        *scores.verdict(signs, RDS, lambda method: _variant(method) + gaps[method], listed),
        *missing(rows[rows["score"].isna()], lambda row: _variant(row["method"])),
    ]


def _variant(method: str) -> str:
    """A variant's name where RDS+ is spoken of."""
    return named(method).removeprefix(f"{named(RDS)}, ")


def ablation_together(published: pd.DataFrame, measured: pd.DataFrame) -> list[str]:
    """Table 6: whether the published order holds here."""
    ours, theirs = Scores(published), Scores(measured)
    here = theirs.gain(theirs.known.set_index("method")["score"])
    order = [float(here[method]) for method in ours.ranked(ours.known)["method"] if method in here]
    holds = "holds" if order == sorted(order, reverse=True) else "does not hold"
    signs = [scores.beside(scores.known, "less_rds", RDS) for scores in (ours, theirs)]
    return [
        *([f"The published order of {len(order)} shared variants {holds} here."] if order[1:] else []),
        *correlation(ours, theirs, {"": (ours.known, theirs.known)}),
        *agreement(f"which side of {named(RDS)} a variant is", signs[0], signs[1], _variant, listed),
    ]
