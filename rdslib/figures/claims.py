"""Claims of the paper and of a later study, each judged by a rule that was written down before the study ran.

A claim is a set of comparisons, each a margin: a number that is above 0 if the claim is right. What is judged
is its interval alone (`rules`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rdslib.evaluation.bootstrap import holm
from rdslib.figures import base, evidence
from rdslib.figures.base import BASELINE, RDS, Figure, human, method_title, number, published
from rdslib.figures.evidence import Evidence
from rdslib.figures.rules import CLAIMS, RULE
from rdslib.figures.typeset import DASH, MINUS, Cell, Part, Tables
from rdslib.methods import get_scorer
from rdslib.models.flops import PAPER as COUNTS
from rdslib.pipeline.study import Study

LEVEL = 0.05
HOLDS, FAILS, CANNOT_TELL, NOT_RUN = "holds", "does not hold", "cannot tell", "not run"


# The margins of each claim.


class Margin(NamedTuple):
    """A comparison, and what is above 0 if the claim is right; without rows it was not run.

    `premise`: not a margin of the claim, but one without which it means nothing. `unit` and `n`, if they are
    not those of scores.
    """

    of: str
    rows: pd.DataFrame
    premise: bool = False
    unit: str = ""
    n: int = 0


def minus(found: dict[Any, pd.DataFrame], ours: Any, theirs: Any) -> pd.DataFrame:
    """One score minus another, of the units that both have; nothing where one was not run."""
    return (found[ours] - found[theirs]).dropna() if ours in found and theirs in found else pd.DataFrame()


def table1() -> set[str]:
    """The methods of the paper's Table 1, and the embedding that stands for its embeddings."""
    return {*published("fig1")["method"], "embed_minilm"}


def pools(e: Evidence) -> list[float]:
    """The sizes of pools that RDS+ was run from, one task at a time, from the smallest."""
    return sorted(pool for pool, method in e.single if method == RDS)


def gains(e: Evidence) -> dict[int, pd.DataFrame]:
    """RDS+ minus balanced random, one model for all tasks, by budget below the whole pool, smallest first."""
    both = {budget: minus(e.multi, (budget, RDS), (budget, BASELINE)) for budget, _ in sorted(e.multi)}
    return {budget: rows for budget, rows in both.items() if len(rows) and budget < e.whole}


def _beats_random(e: Evidence) -> Iterator[Margin]:
    pool = max(pools(e), default=0)
    yield Margin(f"from {human(pool)}", minus(e.single, (pool, RDS), (pool, BASELINE)))


def _beats_all(e: Evidence) -> Iterator[Margin]:
    for pool, method in e.places:
        if method in table1() - {RDS}:
            rows = minus(e.single, (pool, RDS), (pool, method))
            yield Margin(f"{method_title(method)} from {human(pool)}", rows)


def _budget(e: Evidence) -> Iterator[Margin]:
    found = gains(e)
    if len(found) > 1:
        halvings = -np.log2([*found])
        weights = (halvings - halvings.mean()) / ((halvings - halvings.mean()) ** 2).sum()
        slope = sum(weight * rows for weight, rows in zip(weights, found.values(), strict=True))
        yield Margin(f"budgets {base.span(found)}", pd.DataFrame(slope).dropna())


def _pool_rds(e: Evidence) -> Iterator[Margin]:
    if len(known := pools(e)) > 1:
        yield Margin("", minus(e.single, (known[-1], RDS), (known[0], RDS)))


def _pool_others(e: Evidence) -> Iterator[Margin]:
    known = pools(e)
    methods = {method for _, method in e.single} & table1() - {RDS}
    found = (
        [minus(e.single, (known[-1], each), (known[0], each)) for each in sorted(methods)] if known else []
    )
    found = [rows for rows in found if len(rows)]
    if len(known) > 1 and len(found) >= 3:
        units = sorted(set.intersection(*(set(rows.index) for rows in found)))
        median = np.median([rows.loc[units] for rows in found], axis=0)
        yield Margin(f"median of {len(found)}", pd.DataFrame(-median, units))


def _frontier(e: Evidence) -> Iterator[Margin]:
    ours = (max(pools(e), default=0), RDS)
    for place in e.places if ours in e.single else ():
        # What a run costs that is not there is not known.
        cheaper = place not in e.flops or e.flops[place] <= e.flops[ours]
        if place != ours and place[1] in table1() and cheaper:
            of = f"{method_title(place[1])} from {human(place[0])}"
            yield Margin(of, minus(e.single, ours, place))


def _pooling(e: Evidence) -> Iterator[Margin]:
    for variant in ("rds_eos", "rds_uniform"):
        yield Margin(method_title(variant), minus(e.ablation, RDS, variant))


def _task_scores(e: Evidence) -> Iterator[Margin]:
    rows = minus(e.task_scores, evidence.FIRST, evidence.SECOND)
    yield Margin("", rows, unit="cosine", n=e.queries)


def _sources(e: Evidence) -> Iterator[Margin]:
    for (method, budget), rows in e.excess.items():
        if method in ("ifd", "top_ppl"):
            yield Margin(f"{method_title(method)}, {human(budget)}", rows, unit="share of picks", n=budget)


def _proxies(e: Evidence) -> Iterator[Margin]:
    largest: dict[str, float] = {}
    for pool, method in sorted(e.single):
        there = {(pool, RDS), (pool, BASELINE)} <= {*e.single}
        scorer = get_scorer(method)
        if there and scorer.needs_queries and scorer.paper_flops(1, 1, COUNTS) != 0:  # with a model
            cost = e.flops[pool, method]
            if e.flops[pool, BASELINE] < cost < e.flops[pool, RDS]:
                largest[method] = pool
    for pool in sorted(set(largest.values())):
        whole = minus(e.single, (pool, RDS), (pool, BASELINE))
        yield Margin(f"RDS+ from {human(pool)}", whole, premise=True)
        for method in (name for name, of in largest.items() if of == pool):
            kept = (minus(e.single, (pool, method), (pool, BASELINE)) - whole / 2).dropna()
            yield Margin(f"{method_title(method)} from {human(pool)}", kept)


def _gradients(e: Evidence) -> Iterator[Margin]:
    yield Margin("", minus(e.quantiles, "less", RDS), unit="rank correlation")


def _less(e: Evidence) -> Iterator[Margin]:
    for pool, method in e.places:
        if method == "less":
            yield Margin(f"from {human(pool)}", minus(e.single, (pool, "less"), (pool, RDS)))


def _vanish(e: Evidence) -> Iterator[Margin]:
    found = gains(e)
    if len(found) > 1:
        first, last = min(found), max(found)
        yield Margin(f"RDS+ at {human(first)}", found[first], premise=True)
        left = (found[first] - 2 * found[last]).dropna()
        yield Margin(f"{human(first)} and {human(last)}", left)


MARGINS: dict[str, Callable[[Evidence], Iterator[Margin]]] = {
    "beats_random": _beats_random,
    "beats_all": _beats_all,
    "budget": _budget,
    "pool_rds": _pool_rds,
    "pool_others": _pool_others,
    "frontier": _frontier,
    "pooling": _pooling,
    "task_scores": _task_scores,
    "sources": _sources,
    "proxies": _proxies,
    "gradients": _gradients,
    "less": _less,
    "vanish": _vanish,
}


# The verdict, by `RULE`.


def verdict(rows: pd.DataFrame) -> str:
    """Judge the comparisons of one claim: rows of `judged`, where a `margin` that was not run is NaN."""
    premises, rows = rows[rows["premise"]], rows[~rows["premise"]]
    run = rows[rows["margin"].notna()]
    if run.empty:
        return NOT_RUN
    if not ((premises["margin"] > 0) & (premises["p"] < LEVEL) & (premises["units"] != 1)).all():
        return CANNOT_TELL
    told = (holm(run["p"].tolist()) < LEVEL) & (run["units"] != 1)
    if (told & (run["margin"] < 0)).any():
        return FAILS
    return HOLDS if len(run) == len(rows) and (told & (run["margin"] > 0)).all() else CANNOT_TELL


def judged(e: Evidence) -> pd.DataFrame:
    """A row a comparison of each claim, and of a claim without any one row without a number."""
    rows = []
    for claim, margins in MARGINS.items():
        for each in [*margins(e)] or [Margin("", pd.DataFrame())]:
            row: dict[str, Any] = {"claim": claim, "of": each.of, "premise": each.premise}
            if len(each.rows):
                found = e.estimate(each.rows)
                row |= {
                    "unit": each.unit or e.unit,
                    "margin": found.value,
                    "low": found.low,
                    "high": found.high,
                    "p": found.p,
                }
                row |= {"n": each.n, "units": math.nan} if each.n else {"n": e.n, "units": len(each.rows)}
            rows.append(row)
    columns = ["claim", "of", "premise", "unit", "margin", "low", "high", "p", "n", "units"]
    return pd.DataFrame(rows).reindex(columns=columns)


# The table, and its key numbers.


def _published() -> pd.DataFrame:
    """The paper's margins and others', as far as there are numbers."""
    parts = {"published": evidence.of_the_paper(), "others": evidence.of_others()}
    found = [judged(each).assign(origin=origin) for origin, each in parts.items()]
    return pd.concat(found, ignore_index=True).dropna(subset="margin")


def _measured(study: Study) -> pd.DataFrame:
    rows = judged(evidence.of_a_study(study))
    verdicts = {str(claim): verdict(part) for claim, part in rows.groupby("claim")}
    return rows.assign(verdict=rows["claim"].map(verdicts))


def _corrected(rows: pd.DataFrame) -> pd.DataFrame:
    """One claim's comparisons with their p by Holm; those of premises, and what has none, as they are."""
    told = rows["p"].notna() & ~rows["premise"]
    corrected = rows["p"].copy()
    corrected[told] = holm(rows.loc[told, "p"].tolist())
    return rows.assign(p=corrected)


def _said(row: pd.Series) -> tuple[str, str]:
    """A margin and its interval as text."""
    margin, points = row["margin"], row["unit"] == evidence.POINTS
    places = 3 if not points else 1 if abs(margin) >= 0.05 else 2
    alike = row["low"] == row["high"]
    ends = "all resamples alike" if alike else base.interval(row["low"], row["high"], places)
    return number(margin, places, "+").replace("-", MINUS), ends.replace("-", MINUS)


def _cell(rows: pd.DataFrame) -> Cell:
    """The least margin of a claim in one column, and its premises."""
    run = rows[rows["margin"].notna() & ~rows["premise"]]
    if run.empty:
        return Cell(DASH)
    least = _corrected(run).sort_values("margin", kind="stable").iloc[0]
    p, of = number(least["p"], 3), least["of"]
    compared = (~rows["premise"]).sum()
    count = f"{len(run)} of {compared} that are to be run" if len(run) < compared else f"{len(run)}"
    alone = "one seed" if least["origin"] == "measured" and least["units"] == 1 else ""
    small = [f"p {p}" if p else "", f"least of {count}: {of}" if compared > 1 else of, alone]
    for _, premise in rows[rows["premise"] & rows["margin"].notna()].iterrows():
        small.append(f"premise {_in_full(premise)}")
    return Cell(_in_full(least), "; ".join(filter(None, small)))


def _in_full(row: pd.Series) -> str:
    """A margin with its unit, if it is in points, and its interval."""
    value, ends = _said(row)
    return value + (" points" if row["unit"] == evidence.POINTS else "") + (f" ({ends})" if ends else "")


def _set(table: pd.DataFrame) -> Tables:
    """A row a claim: the least margin of each origin, and the verdict on ours."""
    table = table.fillna({"of": ""})
    measured = table[table["origin"] == "measured"]
    verdicts: dict[str, str] = {}
    if len(measured):
        verdicts = dict(zip(measured["claim"], measured["verdict"], strict=True))
    cells = []
    for name, claim in CLAIMS.items():
        of = table[table["claim"] == name]
        shown = [_cell(of[of["origin"] == origin]) for origin in base.ORIGINS]
        cells.append([Cell(claim.says, claim.by), *shown, Cell(verdicts.get(name, NOT_RUN), bold=True)])
    header = [Cell("Claim"), *map(Cell, base.ORIGINS.values()), Cell("Verdict on what was measured")]
    details = "The least margin of each claim, above 0 where the claim is right"
    units = (
        f"Margins are in {evidence.POINTS} of score as published, and in {evidence.BITS}, as measured, but "
        "cosines, shares of picks and rank correlations where the rule says so. Others: the study of 2026, "
        "mean over five budgets (where the claim is not of budgets), two pools and three seeds of 10k and "
        "less for one task at a time, its uniform random in balanced random's place; intervals over models."
    )
    seeds = "Of one seed: what another would give is not in the interval, and no verdict rests on it."
    alone = [seeds] if (measured["units"] == 1).any() else []
    rules = [f"{claim.says}: {claim.margins}" for claim in CLAIMS.values()]
    return Tables([Part("Claims", [details], header, cells)], [*alone, units, RULE, *rules])


def key_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Every comparison of every claim, with its interval and its p after Holm's correction."""
    found = []
    for (origin, name), rows in table.fillna({"of": ""}).groupby(["origin", "claim"], sort=False):
        for _, row in _corrected(rows).iterrows():
            text, ends = _said(row)
            found.append(
                {
                    "origin": origin,
                    "claim": CLAIMS[str(name)].says,
                    "comparison": row["of"] + (" (premise)" if row["premise"] else ""),
                    "margin": text or NOT_RUN,
                    "95% interval": ends,
                    "p": number(row["p"], 3),
                }
            )
    return pd.DataFrame(found)


FIGURES = {"claims": Figure("Claims", _published, _measured, _set, evidence.runs, evidence.steps, "margin")}
