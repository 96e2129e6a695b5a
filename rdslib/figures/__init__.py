"""The figures and tables of the paper, each as a tidy table of published and measured rows, and drawn.

A figure stands in one place, a section of `scores`, `sources` or `tables`, or a file of its own; here they
are by name. Plots are loaded when something is drawn.
"""

from __future__ import annotations

from typing import cast

import pandas as pd

from rdslib.errors import UserError, needs, unknown
from rdslib.figures import base, claims, everything, quantiles, replication, scores, sources, spread, tables
from rdslib.figures.base import Drawn, Figure, visible
from rdslib.params import Show
from rdslib.pipeline.step import Step
from rdslib.pipeline.study import Run, Study

__all__ = ["FIGURES", "checked", "draw", "get_figure", "key_numbers", "runs", "steps", "table", "why_absent"]

_PARTS = (scores, sources, tables, claims, replication, spread, quantiles, everything)
# Key numbers of their own, by a column that no other table has.
_KEY_NUMBERS = {
    "claim": claims.key_numbers,
    "part": quantiles.key_numbers,
    "model": replication.key_numbers,
    "seed": spread.key_numbers,
    "selector": everything.key_numbers,
}
FIGURES: dict[str, Figure] = dict(sorted(each for part in _PARTS for each in part.FIGURES.items()))


def table(study: Study, name: str, show: str = "both") -> pd.DataFrame:
    """Make the tidy table of a figure, computing what its measured rows need.

    A row is an observation; its column `origin` is `measured` or `published`, or `others`, which goes with
    the published. `show` is one of the first two or `both`. Raises UserError for an unknown figure or `show`.
    """
    figure = get_figure(name)
    parts = []
    if _wants(study, show, "published") and figure.published is not None:
        parts.append(figure.published())
    if figure.measured is not None and _measures(study, name, show):
        study.compute(steps(study, name, show))
        parts.append(figure.measured(study).assign(origin="measured"))
    if not parts:
        return pd.DataFrame(columns=["origin"])
    rows = pd.concat(parts, ignore_index=True)
    return rows[["origin", *(column for column in rows.columns if column != "origin")]]


def runs(study: Study, name: str, show: str = "both") -> list[Run]:
    """List the runs that a figure's measured rows are of; none where only published numbers are shown."""
    figure = get_figure(name)
    return figure.runs(study) if figure.runs and _wants(study, show, "measured") else []


def steps(study: Study, name: str, show: str = "both") -> list[Step]:
    """List the steps that a figure's measured rows rest on; none where only published ones are shown."""
    if not _measures(study, name, show):
        return []
    return get_figure(name).steps(study, runs(study, name, show))


def why_absent(study: Study, name: str, show: str = "both") -> str:
    """Return why a figure cannot be drawn: it has no number of what is to be shown. Nothing if it has."""
    figure, measured = get_figure(name), _measures(study, name, show)
    published = _wants(study, show, "published") and figure.published is not None
    return "" if measured or published else _why_absent(figure)


def key_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Gather what a figure's tidy table comes to, as a small table to stand under it (`base.key_numbers`)."""
    found = [gather for column, gather in _KEY_NUMBERS.items() if column in table]
    return found[0](table) if found else base.key_numbers(table)


def draw(name: str, table: pd.DataFrame) -> Drawn:
    """Draw a figure or set a table, from its tidy table; raises UserError if it has no number."""
    figure = get_figure(name)
    if table.empty or table[figure.value].isna().all():
        raise UserError(
            f"{figure.title}: {_why_absent(figure)}; use a profile that measures it, such as mini"
        )
    needs("study", "matplotlib", "seaborn", "sklearn", "tabulate")
    # Names are anyone's.
    return figure.draw(table.map(lambda value: visible(value) if isinstance(value, str) else value))


def _why_absent(figure: Figure) -> str:
    # What is not of the paper's own was published in no form.
    picture = figure.published is None and figure.title.startswith("Figure")
    return "published as a picture, without numbers" if picture else "not measured"


def checked(show: str) -> Show:
    """Return `show`, if it is one of what there is to show; raises UserError."""
    if show not in ("measured", "published", "both"):
        raise UserError(f"show={show!r}: use measured, published or both")
    return cast("Show", show)


def get_figure(name: str) -> Figure:
    """Return a figure by name; raises UserError with the names there are."""
    if name not in FIGURES:
        raise unknown("figure", name, FIGURES)
    return FIGURES[name]


def _measures(study: Study, name: str, show: str) -> bool:
    """Whether a figure has measured rows: they are to be shown, and of a partial study there are some."""
    figure = get_figure(name)
    if not _wants(study, show, "measured") or figure.measured is None or not study.there([study.untuned()]):
        return False
    return figure.runs is None or bool(figure.runs(study))


def _wants(study: Study, show: str, origin: str) -> bool:
    """Whether rows of an origin are to be shown; a profile without an experiment has nothing measured."""
    if origin == "measured" and study.profile.experiment is None:
        if checked(show) == "measured":
            raise UserError(f"profile {study.profile.name}: measures nothing; use show=published")
        return False
    return checked(show) in (origin, "both")
