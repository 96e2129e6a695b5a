"""All that was compared, in one picture: methods and selectors by pool and budget.

A cell is a score; its colour is what it gains over balanced random at the same pool and budget.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from rdslib.figures import base
from rdslib.figures.base import (
    BASELINE,
    Figure,
    distinct,
    evaluated,
    human,
    in_order,
    interval,
    method_title,
    number,
    one_metric,
    published,
)
from rdslib.figures.scores import difference, measured_note, measured_score
from rdslib.figures.spread import MULTI, SINGLE, settings
from rdslib.pipeline.runs import multi_task_runs, runs_of, selector_runs, single_task_runs
from rdslib.pipeline.study import Run, Study
from rdslib.selection.round_robin import ROUND_ROBIN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rdslib.figures.style import Drawing

PLACE, LINE = ["setting", "pool_size", "budget"], ["method", "selector"]
DIFFERENCE = ["diff_vs_random", "diff_vs_random_low", "diff_vs_random_high"]


def _runs(study: Study) -> list[Run]:
    return list(dict.fromkeys([*single_task_runs(study), *selector_runs(study), *multi_task_runs(study)]))


def _published() -> pd.DataFrame:
    """What Figures 1 and 4 hold, with each score's difference from balanced random's."""
    parts = [published(name).assign(setting=setting) for name, setting in (("fig1", SINGLE), ("fig4", MULTI))]
    rows = pd.concat(parts, ignore_index=True).assign(selector=ROUND_ROBIN.name)
    random = rows.loc[rows["method"] == BASELINE, [*PLACE, "score"]]
    theirs = rows.merge(random, how="left", on=PLACE, suffixes=("", "_random"))["score_random"]
    gaps = (rows["score"] - theirs).where(rows["method"] != BASELINE).round(6)
    return rows.assign(**dict.fromkeys(DIFFERENCE, math.nan)).assign(diff_vs_random=gaps)


def _measured(study: Study) -> pd.DataFrame:
    """A row a method, selector, pool and budget that was run."""
    selectors = dict.fromkeys([ROUND_ROBIN.name, *(study.experiment.grid.selectors or ())])
    others = {(run.method, run.pool, run.selector) for run in selector_runs(study)}
    rows: list[dict[str, Any]] = []
    for setting, pool, budget, methods in settings(study):
        multi = setting == MULTI
        place = {"setting": setting, "pool_size": study.pool_size(pool), "budget": budget}
        for method, selector in itertools.product(methods, selectors):
            if selector != ROUND_ROBIN.name and (multi or (method, pool, selector) not in others):
                continue
            if runs := runs_of(study, method, pool, budget, multi, selector=selector):
                compared = difference(study, runs, BASELINE, BASELINE in methods, DIFFERENCE[0])
                line = {"method": method, "selector": selector}
                rows.append({**place, **line, **measured_score(study, runs), **compared})
    columns = [*PLACE, "method", "selector", "score", "low", "high", "n", "metric", "better", *DIFFERENCE]
    return pd.DataFrame(rows, columns=columns).assign(note=measured_note(study))


@base.styled
def _draw(table: pd.DataFrame) -> Drawing:
    """A panel an origin: a row a method and selector, a column a pool and budget."""
    from rdslib.figures import style

    parts = [rows for _, rows in base.by_origin(table.dropna(subset="score"))]
    lines = [rows[LINE].drop_duplicates().shape[0] for rows in parts]
    figure = style.Drawing(figsize=(style.PAGE, 1.7 * len(parts) + 0.27 * sum(lines)))
    panels = figure.subplots(len(parts), 1, squeeze=False, height_ratios=lines)[:, 0]
    for axes, rows in zip(panels, parts, strict=True):
        _cells(axes, rows)
    marked = "Bold: the 95% interval of the difference from balanced random does not hold 0."
    small = base.notes(table, lambda row: f"{method_title(row.method)} from {human(row.pool_size)}")
    style.footnotes(figure, [*small, marked if table[DIFFERENCE[1]].notna().any() else ""])
    return figure


def _name(row: pd.Series) -> str:
    by = "" if row["selector"] == ROUND_ROBIN.name else f", {row['selector']}"
    return f"{method_title(row['method'])}{by}"


def _cells(axes: Axes, rows: pd.DataFrame) -> None:
    import seaborn as sns

    from rdslib.figures import style

    metric, better = one_metric(rows)
    order = in_order(rows["method"])
    lines = rows[LINE].drop_duplicates()
    lines = lines.sort_values("method", key=lambda names: names.map(order.index), kind="stable")
    places = rows[PLACE].drop_duplicates().sort_values(PLACE, kind="stable")
    at = [
        places.merge(rows[rows[LINE].eq(line).all(axis=1)], how="left", on=PLACE)
        for _, line in lines.iterrows()
    ]
    scores, gains, low, high = (
        np.array([each[column] for each in at], dtype=float) for column in ("score", *DIFFERENCE)
    )
    gains[[line == BASELINE for line in lines["method"]]] = 0  # from itself
    widest = np.nanmax(np.abs(gains), initial=0.0) or 1.0
    digits = base.digits(rows["score"])
    sns.heatmap(
        gains if better == "higher" else -gains, mask=np.isnan(scores), ax=axes, linewidths=1.5,
        annot=np.array([[number(score, digits) for score in line] for line in scores]), fmt="",
        annot_kws={"size": style.SMALL}, cmap="RdBu", vmin=-widest, vmax=widest,
        cbar_kws={"label": f"gain over {method_title(BASELINE)}", "pad": 0.02},
    )  # fmt: skip
    told = ((low > 0) | (high < 0))[~np.isnan(scores)]
    for text, is_told in zip(axes.texts, told, strict=True):
        text.set_fontweight("bold" if is_told else "normal")
    names = [_name(line) for _, line in lines.iterrows()]
    axes.set_yticks(np.arange(len(names)) + 0.5, names, rotation=0, fontsize=style.SMALL)
    heads = [f"{human(place.budget)} of {human(place.pool_size)}" for _, place in places.iterrows()]
    axes.set_xticks(np.arange(len(heads)) + 0.5, heads, rotation=30, ha="right", fontsize=style.SMALL)
    axes.set(xlabel="", ylabel="")
    axes.grid(visible=False)
    of_setting = places["setting"].tolist()
    for setting in distinct(of_setting)[1:]:
        axes.axvline(of_setting.index(setting), color=style.GREY, linewidth=1.5)
    style.heading(axes, rows, f"{metric} ({better} is better). {', then '.join(distinct(of_setting))}")


def key_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Of each pool and budget: the best, RDS+, and how many are told from balanced random, and which way."""
    found = []
    rows = table.dropna(subset="score")
    for key, part in rows.groupby(["origin", *PLACE], sort=False):
        origin, setting, pool, budget = cast("tuple[str, str, float, float]", key)
        sign = 1 if part["better"].iloc[0] == "higher" else -1
        part = part.sort_values("score", ascending=sign < 0, kind="stable")
        best = part.iloc[0]
        told = (part[DIFFERENCE[1]] * sign > 0) & (part[DIFFERENCE[2]] * sign > 0)
        lost = (part[DIFFERENCE[1]] * sign < 0) & (part[DIFFERENCE[2]] * sign < 0)
        places = base.digits(part["score"])
        found.append(
            {
                "origin": origin,
                "setting": setting,
                "pool": human(pool),
                "selected": human(budget),
                "compared": len(part),
                "best": _name(best),
                "score": number(best["score"], places),
                f"minus {method_title(BASELINE)}": number(best[DIFFERENCE[0]], places, "+"),
                "its 95% interval": interval(best[DIFFERENCE[1]], best[DIFFERENCE[2]], places),
                "better than it": int(told.sum()) if told.any() or lost.any() else "",
                "worse than it": int(lost.sum()) if told.any() or lost.any() else "",
            }
        )
    return pd.DataFrame(found)


FIGURES = {"compare_methods": Figure("Methods compared", _published, _measured, _draw, _runs, evaluated)}
