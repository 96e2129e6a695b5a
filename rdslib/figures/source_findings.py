"""What Figures 2 and 5 to 7 and Table 5 show, in words: of scores and sources of what was selected, and
of pools. See `findings.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from rdslib.figures.published import PRINTED_TOTALS
from rdslib.figures.style import distinct, human, method_name, span
from rdslib.figures.wording import (
    MOST_NAMES,
    counted,
    listed,
    missing,
    named,
    percent,
    plain,
    times,
)


def histogram(rows: pd.DataFrame) -> list[str]:
    tasks = distinct(rows["task"])[:2]
    scores = [rows.loc[rows["task"] == task, "score"] for task in tasks]
    said = []
    for task, each in zip(tasks, scores, strict=True):
        spread = f", standard deviation {each.std():.3f}" if len(each) > 1 else ""
        said.append(f"{plain(task)}: mean {each.mean():.3f}{spread}, n = {len(each):,} samples selected.")
    if len(tasks) < 2:
        return said
    above = np.greater.outer(scores[0].to_numpy(), scores[1].to_numpy()).mean()
    # Overlap without bins, which a picture may choose anew.
    every = np.sort(pd.concat(scores))
    shares = [np.searchsorted(np.sort(each), every, side="right") / len(each) for each in scores]
    return [
        *said,
        f"A sample selected for {plain(tasks[0])} scores above one for {plain(tasks[1])} in {percent(above)} "
        f"of all pairs. The shares of the two that lie below any one score differ by at most "
        f"{percent(np.abs(shares[0] - shares[1]).max())}, where 0% is full overlap and 100% none.",
    ]


def by_selection(rows: pd.DataFrame) -> list[str]:
    rows, gone = _complete(rows, ["selection"])
    start = f"Of {span(rows.groupby('selection')['count'].sum())} samples each"
    said = _taste(_mixes(rows, rows["selection"]), "Random", start)
    return said + missing(gone, lambda row: plain(row["selection"]))


def by_method(rows: pd.DataFrame) -> list[str]:
    rows, gone = _complete(rows, ["method", "pool_size", "budget"])
    largest = rows["pool_size"].max()
    names = [
        method_name(method) + ("" if size == largest else f" from {human(size)}")
        for method, size in zip(rows["method"], rows["pool_size"], strict=True)
    ]
    bars = pd.Series(names, rows.index, dtype=object)
    said, tops = [], dict[str, list[list[str]]]()
    for budget in sorted(rows["budget"].unique()):
        there = rows[rows["budget"] == budget]
        mixes = _mixes(there, bars[there.index])
        said += _taste(mixes, method_name("random"), f"At {human(budget)} samples from {human(largest)}")
        for bar, shares in mixes.items():
            tops.setdefault(bar, []).append(_top(shares))
    several = {bar: found for bar, found in tops.items() if len(found) > 1}
    if several:
        same = [plain(bar) for bar, found in several.items() if all(top == found[0] for top in found)]
        said.append(f"The largest source is the same at each size for {listed(same)}.")
    return said + missing(gone, lambda row: f"{named(row['method'])} at {human(row['budget'])}")


def _complete(rows: pd.DataFrame, by: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of selections that have all their counts, and the rows without a count of the others."""
    lacking = rows["count"].isna()
    return rows[~lacking.groupby([rows[column] for column in by]).transform("any")], rows[lacking]


def _mixes(rows: pd.DataFrame, bars: pd.Series) -> dict[str, pd.Series]:
    """The share of each source in each selection that holds anything."""
    counts = {bar: rows[bars == bar].groupby("source")["count"].sum() for bar in distinct(bars)}
    return {bar: count / count.sum() for bar, count in counts.items() if count.sum() > 0}


def _top(amounts: pd.Series) -> list[str]:
    """The sources that have most."""
    return [plain(source) for source in amounts.index[amounts == amounts.max()]]


def _largest(shares: pd.Series) -> str:
    """The largest source and its share, or how many are alike."""
    names = _top(shares)
    said = listed(names) if len(names) <= MOST_NAMES else f"{len(names)} alike"
    return f"{said} ({percent(shares.max())}{' each' if len(names) > 1 else ''})"


def _taste(mixes: Mapping[str, pd.Series], random: str, start: str) -> list[str]:
    """From where selections draw most, which of them from one source, and how far from random's shares."""
    if not mixes:
        return []
    tops = [f"{plain(bar)} {_largest(shares)}" for bar, shares in mixes.items()]
    most = [plain(bar) for bar, shares in mixes.items() if shares.max() > 0.5]
    said = [
        f"{start}, the largest sources are: {'; '.join(tops)}.",
        f"More than half comes from one source for {listed(most)}.",
    ]
    far = {
        bar: shares.sub(mixes[random], fill_value=0).abs().sum() / 2
        for bar, shares in mixes.items()
        if random in mixes and bar != random
    }
    if len(far) > 1:
        by_distance = [f"{plain(bar)} ({far[bar]:.3f})" for bar in sorted(far, key=far.__getitem__)]
        said.append(
            f"In total variation distance from {plain(random)}, itself one draw, {by_distance[-1]} is the "
            f"furthest and {by_distance[0]} the nearest."
        )
    return said


def pools(rows: pd.DataFrame) -> list[str]:
    """Figure 2 and Table 5: the size of each pool, and its largest source."""
    said = []
    for pool, part in _by_size(rows):
        counts = part[part["count"] > 0].set_index("source")["count"]
        text = f"{plain(pool)} has {counts.sum():,.0f} samples of {counted(len(counts), 'source')}"
        if len(counts) == 1:
            text += f", {plain(counts.index[0])}"
        elif len(counts):
            text += f", the largest {_largest(counts / counts.sum())}"
        said.append(f"{text}{_mixture(pool, part)}.")
    gone = rows[rows["count"].isna()]
    return said + missing(gone, lambda row: f"{plain(row['source'])} in {plain(row['pool'])}")


def _by_size(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Each pool and its rows that have a count, the largest first."""
    parts = [(str(pool), part) for pool, part in rows.dropna(subset="count").groupby("pool", sort=False)]
    return sorted(parts, key=lambda pair: -pair[1]["count"].sum())


def _mixture(pool: str, part: pd.DataFrame) -> str:
    """What the released mixture keeps of a pool, and totals that are not those that the paper prints."""
    kept = part.dropna(subset="in_mixture")
    if kept.empty:
        return ""
    cut = kept.iloc[(kept["count"] - kept["in_mixture"]).argmax()]
    totals = {"mixture": kept["in_mixture"].sum(), "pool": part["count"].sum()}
    printed = dict(zip(totals, PRINTED_TOTALS.get(pool, ()), strict=False))
    said = (
        f"; its mixture has {totals['mixture']:,.0f}, with {cut['in_mixture']:,.0f} of the "
        f"{cut['count']:,.0f} of {plain(cut['source'])}, which is cut most"
    )
    for what, total in printed.items():
        if total != totals[what]:
            said += f" (the paper prints {total:,} as the total of the {what})"
    return said


def pools_together(published: pd.DataFrame, measured: pd.DataFrame) -> list[str]:
    largest = [_by_size(rows)[:1] for rows in (published, measured)]
    counts = [part["count"] for found in largest for _, part in found]
    if len(counts) < 2 or not all(count.sum() for count in counts):
        return []
    names = [plain(found[0][0]) for found in largest]
    shares = [percent(count.max() / count.sum()) for count in counts]
    ratio = times(counts[0].sum() / counts[1].sum())
    return [
        f"The largest pool published, {names[0]}, is {ratio} as large as the largest here, {names[1]}; "
        f"their largest sources make up {' and '.join(shares)} of them."
    ]
