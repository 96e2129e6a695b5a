"""What others measured: RDS+, Embed (GTR), LESS and random on five models, and three seeds of RDS+.

`published/others.csv` has the means over tasks of an independent study's runs (Nayak and others, 2026; made
by `tests/figures/others.py`), and `issue34.csv` what issue 34 of the paper's own repository reports of the
paper's setting.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from rdslib.figures import base
from rdslib.figures.base import (
    AVERAGE,
    ORIGINS,
    RDS,
    Figure,
    distinct,
    human,
    in_order,
    method_title,
    published,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rdslib.figures.style import Drawing

RANDOM, UNTUNED = "random", "untuned"
# What key numbers are of: a column, and whose.
DIFFERENCES = {
    "RDS+ minus random": ("diff_vs_random", RDS),
    "LESS minus RDS+": ("diff_vs_rds", "less"),
}
STUDY, AGAIN, FIRST = "Nayak and others, 2026", "Issue 34 of the paper's code", "The paper"
NOTES = {
    STUDY: "mean of five tasks; intervals over three seeds, by Student's t.",
    AGAIN: "three seeds of the paper's setting, with the spread given there; the average is of six tasks.",
    FIRST: "the average of seven tasks, AlpacaEval too; its scores by task have no source at hand.",
}


def others() -> pd.DataFrame:
    """The independent study's runs, with each one's score minus random's and RDS+'s of the same seed."""
    rows = published("others").assign(origin="others")
    for column, method in (("diff_vs_random", RANDOM), ("diff_vs_rds", RDS)):
        same = ["pool", "model", "budget", "seed"]
        of = rows[rows["method"] == method].set_index(same)["score"]
        theirs = rows.merge(of.rename("theirs"), "left", left_on=same, right_index=True)["theirs"]
        rows[column] = (rows["score"] - theirs).mask(rows["method"] == method)
    return rows


def half_width(values: pd.Series) -> float:
    """Half of the 95% interval of the mean of some values, by Student's t; NaN for fewer than two."""
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1) * values.std() / math.sqrt(len(values)))


def _published() -> pd.DataFrame:
    """Means over seeds with their intervals; issue 34 by task, and the paper's average of that setting."""
    groups = others().groupby(["pool", "model", "method", "budget"], sort=False)
    found = groups.agg(origin=("origin", "first"), n=("score", "size"), source=("source", "first"))
    for column in ("score", "diff_vs_random", "diff_vs_rds"):
        prefix = "" if column == "score" else f"{column}_"
        found[column], half = groups[column].mean(), groups[column].agg(half_width)
        found[f"{prefix}low"], found[f"{prefix}high"] = found[column] - half, found[column] + half
    again = published("issue34").assign(origin="others", study=AGAIN)
    again["low"], again["high"] = again["score"] - again["spread"], again["score"] + again["spread"]
    first = (
        published("fig1").query("method == @RDS").nsmallest(1, "pool_size").assign(study=FIRST, task=AVERAGE)
    )
    setting: dict[str, Any] = {"pool": "Tulu 2", "model": "Llama-2-7B", "method": RDS, "budget": 10_000}
    shared = ["origin", "study", "task", "score", "low", "high", "n", "source"]
    one = pd.concat([again[shared], first.assign(n=1)[shared]]).assign(**setting)
    rows = pd.concat([found.reset_index().assign(study=STUDY, task=AVERAGE), one], ignore_index=True)
    rows = rows.assign(better="higher", note=rows["study"].map(NOTES))
    leading = ["origin", "study", "pool", "model", "method", "task", "budget", "score", "low", "high", "n"]
    return rows[[*leading, *rows.columns.difference(leading, sort=False)]]


# The figure, and its key numbers.


@base.styled
def _draw(table: pd.DataFrame) -> Drawing:
    """A row of panels a pool, a panel a model; below them the paper's setting, run again."""
    from matplotlib.lines import Line2D

    from rdslib.figures import style

    runs, again = table[table["study"] == STUDY], table[table["study"] != STUDY]
    pools, models = distinct(runs["pool"]), distinct(runs["model"])
    figure = style.Drawing(figsize=(style.PAGE, 2.1 * len(pools) + 2.7))
    grid = figure.add_gridspec(len(pools) + 1, max(len(models), 1))
    for column, model in enumerate(models):
        above = None
        for row, pool in enumerate(pools):
            above = axes = figure.add_subplot(grid[row, column], sharey=above)
            _panel(axes, runs[(runs["model"] == model) & (runs["pool"] == pool)])
            axes.set_title(model if row == 0 else "")
            if column == 0:
                axes.set_ylabel(f"{pool} pool\nmean score, 5 tasks")
        axes.set_xlabel("Samples selected", fontsize=style.SMALL)
    _again(figure.add_subplot(grid[-1, :]), again)
    title = ORIGINS["others" if "others" in set(table["origin"]) else "published"]
    figure.suptitle(title, x=0.012, ha="left", weight="bold")
    methods = [name for name in in_order(runs["method"]) if name != UNTUNED]
    looks: dict[str, dict[str, Any]]
    looks = {method_title(name): {"color": style.method_colour(name), "marker": "o"} for name in methods}
    looks["before fine-tuning"] = {"color": style.GREY, "linestyle": "--"}
    keys = [Line2D([], [], label=name, markersize=4, **look) for name, look in looks.items()]
    if len(runs):
        figure.legend(handles=keys, loc="outside upper right", ncols=len(keys))
    style.footnotes(figure, [f"{study}: {NOTES[study]}" for study in distinct(table["study"])])
    return figure


def _panel(axes: Axes, rows: pd.DataFrame) -> None:
    """One model's scores against how much was selected, with its score before fine-tuning as a line."""
    from rdslib.figures import points, style

    axes.axhline(rows.loc[rows["method"] == UNTUNED, "score"].mean(), color=style.GREY, linestyle="--")
    rows = rows[rows["method"] != UNTUNED]
    # Moved sideways, so that intervals are seen apart.
    places = {method: place for place, method in enumerate(in_order(rows["method"]))}
    rows = rows.assign(x=rows["budget"] * 1.06 ** (rows["method"].map(places) - (len(places) - 1) / 2))
    points.lines(axes, rows.sort_values("budget"), "x", marker="o", markersize=4)
    style.count_axis(axes, rows["budget"])
    axes.tick_params(labelsize=style.SMALL)
    axes.set(xlabel="", ylabel="")


def _again(axes: Axes, rows: pd.DataFrame) -> None:
    """Three seeds of the paper's setting, by task, with the paper's average of seven tasks."""
    from rdslib.figures import style

    tasks = distinct(rows["task"])
    looks: dict[str, dict[str, Any]] = {
        AGAIN: {"color": style.method_colour(RDS), "marker": "o", "label": AGAIN},
        FIRST: {"color": style.GREY, "marker": "D", "label": ORIGINS["published"]},
    }
    for study, look in looks.items():
        part = rows[rows["study"] == study]
        x = part["task"].map(tasks.index) - 0.12 * (study == FIRST)
        axes.plot(x, part["score"], linestyle="", **look)
        for at, (_, row) in zip(x, part.iterrows(), strict=True):
            half = row["high"] - row["score"]
            words = f"{row['score']:.1f}" + ("" if math.isnan(half) else f" \N{PLUS-MINUS SIGN} {half:.2g}")
            side: dict[str, Any]
            side = {"xytext": (-9, 0), "ha": "right"} if study == FIRST else {"xytext": (9, 0), "ha": "left"}
            side |= {"textcoords": "offset points", "va": "center", "fontsize": style.SMALL}
            axes.annotate(words, (at, row["score"]), color=style.ink(look["color"]), **side)
    axes.set(xlim=(-0.5, len(tasks) - 0.2), ylim=(0, 100), ylabel="Score")
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_title("RDS+ in the paper's setting: Llama-2-7B, 10k of 200k for one task at a time")
    axes.legend(loc="upper left")


def key_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """What holds across models: differences by budget, of each model over seeds, and their mean over models.

    Intervals in brackets are of 95%, by Student's t: of a model over its seeds, of the mean over models.
    """
    found = []
    runs = table[table["study"] == STUDY]
    for pool in distinct(runs["pool"]):
        for says, (column, method) in DIFFERENCES.items():
            rows = runs[(runs["pool"] == pool) & (runs["method"] == method)]
            about = {"origin": "others", "pool": pool, "what": says}
            of_models = {
                model: {
                    row.budget: (row[column], row[f"{column}_high"] - row[column])
                    for _, row in part.iterrows()
                }
                for model, part in rows.groupby("model", sort=False)
            }
            groups = rows.groupby("budget")[column]
            means = {budget: (part.mean(), half_width(part)) for budget, part in groups}
            for model, cells in {f"mean of {len(of_models)}": means, **of_models}.items():
                found.append({**about, "model": model, **_cells(cells, "+")})
    for _, row in table[(table["study"] != STUDY) & (table["task"] == AVERAGE)].iterrows():
        about = {"origin": row["origin"], "pool": row["pool"], "what": f"RDS+ itself ({row['study']})"}
        cells = {row["budget"]: (row["score"], row["high"] - row["score"])}
        found.append({**about, "model": row["model"], **_cells(cells, "")})
    return pd.DataFrame(found).fillna("")


def _cells(found: dict[Any, tuple[float, float]], sign: str) -> dict[str, str]:
    """A column a budget: a value and the ends of its interval, if it has one."""
    return {
        human(budget): f"{value:{sign}.1f}"
        + ("" if math.isnan(half) else f" ({value - half:{sign}.1f} to {value + half:{sign}.1f})")
        for budget, (value, half) in found.items()
    }


FIGURES = {"replication": Figure("Replication", _published, None, _draw)}
