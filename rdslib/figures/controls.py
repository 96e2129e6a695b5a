"""Controls in front of `rdslib.figures.explore`, for a notebook: one function a part, and two figures.

A sample's text is anyone's: what is shown as HTML is escaped.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
from matplotlib.lines import Line2D
from traitlets import TraitError

from rdslib.data.chat import shortened, text_of
from rdslib.errors import UserError
from rdslib.figures import style
from rdslib.figures.base import human, method_title, styled
from rdslib.figures.explore import Explorer
from rdslib.figures.publish import csv_link
from rdslib.figures.typeset import Cell, Part, Tables
from rdslib.files import canonical, write_json

# A dropdown whose value is None has nothing chosen, so all tasks together are another value.
ALL = ""
# Characters of a query in a dropdown; samples that only one of two methods took, as far as they are listed.
LABEL, SHOWN = 90, 5
# Points of the pool's map that say on hover what they are, besides picks and queries.
NAMED = 3_000
BOLD = "font-weight: bold"
# What is shown is no wider than its place: pictures shrink, and tables scroll.
NARROW = "<style>.rds-shown > .widget-html-content {min-width: 0; overflow-x: auto}</style>"
# Each line in the direction of its first letter, and none wider than its place.
WHOLE = "margin: .5em 0; padding-left: 1em; border-left: 2px solid; max-height: 24em; overflow: auto"
READABLE = "white-space: pre-wrap; unicode-bidi: plaintext; overflow-wrap: anywhere; line-height: 1.45"


# Figures.


@styled
def mix_figure(explorer: Explorer, method: str, budget: int, task: str | None = None) -> style.Drawing:
    """Draw `Explorer.mix`, in the style of figure 7."""
    figure = style.Drawing(figsize=(5.2, 4.8))
    axes = figure.subplots()
    colours = style.source_colours(explorer.sources)
    style.stacked(axes, explorer.mix(method, budget, task), "selection", colours, "Share of the samples")
    style.title(axes, "Measured here", explorer.title(method, budget, task))
    return figure


@styled
def map_figure(explorer: Explorer, method: str, budget: int, task: str | None = None) -> style.Drawing:
    """Draw `Explorer.map`: the pool coloured by source, with the selection and the queries on top."""
    table = explorer.map(method, budget, task)
    pool, queries = table[table["kind"] == "pool"], table[table["kind"] == "query"]
    picked = pool[pool["selected"]]
    colours = style.source_colours(explorer.sources)
    figure = style.Drawing(figsize=(7.6, 5.4))
    axes = figure.subplots()
    axes.scatter(pool["x"], pool["y"], s=10, c=pool["source"].map(colours), alpha=0.6, linewidths=0)
    axes.scatter(queries["x"], queries["y"], s=16, c="black", marker="x", linewidths=0.7)
    faces = picked["source"].map(colours)
    axes.scatter(picked["x"], picked["y"], s=36, c=faces, edgecolors="black", linewidths=0.9)
    axes.grid(visible=True, axis="both")
    first, second = explorer.components.explained_variance_ratio_
    axes.set_xlabel(f"First principal component ({first:.0%} of the variance)")
    axes.set_ylabel(f"Second principal component ({second:.0%} of the variance)")
    style.title(axes, "Measured here", explorer.title(method, budget, task))
    key = partial(Line2D, [], [], linestyle="")
    keys = [key(marker="o", color=colours[name], markersize=4.5, label=name)
            for name in explorer.sources]  # fmt: skip
    ring = key(marker="o", markerfacecolor="none", markeredgecolor="black", label="picked by the method")
    keys.append(ring)
    keys.append(key(marker="x", color="black", markersize=4, label=f"query of {task or 'any task'}"))
    axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8)
    asked = {query.id: query.messages for name in explorer.tasks for query in explorer.queries(name)}
    for _, row in pd.concat([pool[~pool["selected"]].head(NAMED), picked, queries]).iterrows():
        messages = asked[row["id"]] if row["kind"] == "query" else explorer.messages(row["id"])
        words = f"{row['source']}, {row['id']}\n{shortened(messages)}"
        figure.named.append(style.Named(axes, row["x"], row["y"], words))
    return figure


# Controls, for a notebook.


def overview(explorer: Explorer) -> Tables:
    """Say what there is to look at: the pool, the tasks, and the methods with the pools that they have."""
    queries = [f"{len(explorer.queries(task))} queries of {task}" for task in explorer.tasks]
    pool = f"{len(explorer.samples):,} samples of {len(explorer.sources)} sources; {', '.join(queries)}"
    rows = [
        [
            Cell(method_title(method)),
            Cell("yes" if explorer.needs_queries(method) else "no"),
            Cell(human(explorer.pool_size(explorer.pools(method)[0]))),
        ]
        for method in explorer.methods
    ]
    heads = [Cell("Method"), Cell("Looks at queries"), Cell("Selects from up to")]
    return Tables([Part("What there is to look at", [pool], heads, rows)], [])


def neighbours(explorer: Explorer) -> widgets.VBox:
    """Show a query in full, and the samples of the pool that a method finds nearest to it."""
    first, number = explorer.clearest()
    task = widgets.Dropdown(options=explorer.tasks, value=first)
    query = widgets.Dropdown(layout=widgets.Layout(width="640px"))

    def list_queries(_: object = None) -> None:
        firsts = [" ".join(each.messages[0]["content"].split()) for each in explorer.queries(task.value)]
        query.options = [(f"{number}: {text[:LABEL]}", number) for number, text in enumerate(firsts)]
        query.index = 0

    def show(task: str, query: int, method: str) -> str:
        messages = explorer.queries(task)[query].messages
        found = explorer.neighbours(task, query, method)
        found["whole"] = found["id"].map(explorer.text)
        whole = f"{READABLE}; max-height: 24em; overflow: auto"
        near = _html("p", f"Nearest to it by {method_title(method)}", BOLD)
        return _html("div", text_of(messages), whole) + near + _samples(found)

    list_queries()
    query.index = number
    task.observe(list_queries, "value")
    methods = _choice(explorer, with_queries=True)
    return _part(explorer, "neighbours", show, task=task, query=query, method=methods)


def mix(explorer: Explorer) -> widgets.VBox:
    """Show from which sources a method selects at a budget, beside those of its pool."""
    return _drawn(explorer, mix_figure)


def pool_map(explorer: Explorer) -> widgets.VBox:
    """Show the pool on a plane, with what a method selects at a budget, and a task's queries.

    Points say on hover what they are: the picks, the queries, and the first `NAMED` others.
    """
    return _drawn(explorer, map_figure, always=True)


def _drawn(explorer: Explorer, draw: Callable[..., style.Drawing], always: bool = False) -> widgets.VBox:
    """A figure of a method, a budget and a task, and its picks; `always`: one of a task, whatever the method.

    What is chosen is kept by the figure's name.
    """

    def show(method: str, task: str, budget: int) -> str:
        chosen = method, budget, task or None
        figure = draw(explorer, *chosen)
        style.settle(figure)
        name = "-".join(filter(None, ["picks", method, str(budget), task]))
        link = csv_link(explorer.selection(*chosen), name, f"These {budget:,} picks, as CSV")
        return f"{figure.html(explorer.title(*chosen))}<p>{link}</p>"

    return _with_budget(explorer, draw.__name__, show, always, method=_choice(explorer))


def comparison(explorer: Explorer) -> widgets.VBox:
    """Show what two methods' selections have in common, and what one of them alone took."""

    def show(first: str, second: str, task: str, budget: int) -> str:
        found = explorer.compare(first, second, budget, task or None)
        titles = {"first": method_title(first), "second": method_title(second)}
        both = int((found["taken"] == "both").sum())
        pool = explorer.pool_size(explorer.pools(first, second)[0])
        summary = f"Of {budget:,} samples each, from a pool of {pool:,}, both took {both:,}"
        parts = [_html("p", f"{summary} (Jaccard {both / len(found):.2f}).")]
        counts = pd.crosstab(found["source"], found["taken"]).reindex(columns=["first", "both", "second"])
        heads = ["source", f"{titles['first']} only", "both", f"{titles['second']} only"]
        parts.append(_set(counts.fillna(0).astype(int).reset_index(), heads))
        for name, title in titles.items():
            if len(samples := found[found["taken"] == name].head(SHOWN)):
                samples = samples.assign(whole=samples["id"].map(explorer.text))
                parts += [_html("p", f"The first that only {title} took", BOLD), _samples(samples)]
        name = "-".join(filter(None, ["picks", first, second, str(budget), task]))
        link = csv_link(found.drop(columns="text"), name, f"All {len(found):,} picks, as CSV")
        return "".join([*parts, f"<p>{link}</p>"])

    second = _choice(explorer)
    second.value = explorer.methods[0]
    return _with_budget(explorer, "comparison", show, first=_choice(explorer), second=second)


def _with_budget(
    explorer: Explorer, name: str, show: Callable[..., Any], always: bool = False, **methods: Any
) -> widgets.VBox:
    """Controls of methods, of a task and of a budget, which ends where one of the methods has no more.

    Where none of the methods looks at queries the task has no effect, and is disabled, unless it is `always`
    shown.
    """
    task = widgets.Dropdown(options=[("all tasks", ALL), *((name, name) for name in explorer.tasks)])
    budget = widgets.IntSlider(
        min=1,
        max=explorer.budget,
        value=explorer.budget,
        continuous_update=False,
        layout=widgets.Layout(width="560px"),
    )

    def limit(_: object = None) -> None:
        chosen = [control.value for control in methods.values()]
        task.disabled = not always and not any(map(explorer.needs_queries, chosen))
        try:
            pool = explorer.pools(*chosen)[0]
        except UserError:  # which `show` meets as well, and shows
            return
        budget.max = max(1, min(explorer.largest(method, task.value or None, pool) for method in chosen))

    limit()
    for control in (*methods.values(), task):
        control.observe(limit, "value")
    return _part(explorer, name, show, **methods, task=task, budget=budget)


def _part(explorer: Explorer, name: str, show: Callable[..., str], **controls: Any) -> widgets.VBox:
    """Controls over the HTML that `show` makes of their values; an error is one line of it.

    They begin with what was chosen in the part `name` last, and while `show` works, a line says
    for what.
    """
    # Not ipywidgets.interactive: its Output makes papermill's client send while it waits, and hang at times.
    shown, busy = widgets.HTML(), widgets.HTML(layout=widgets.Layout(height="1.5em", margin="0 0 0 5em"))
    shown.add_class("rds-shown")

    def update(_: object = None) -> None:
        chosen = [getattr(control, "label", control.value) for control in controls.values()]
        busy.value = _html("em", f"Working on {', '.join(map(str, chosen))} \N{HORIZONTAL ELLIPSIS}")
        values = {name: control.value for name, control in controls.items()}
        try:
            shown.value = NARROW + show(**values)
            _remember(explorer, name, values)
        except Exception as problem:  # a traceback would end in a log that nobody sees
            kind = "" if isinstance(problem, UserError) else f"{type(problem).__name__}: "
            shown.value = _html("div", f"{kind}{problem}", READABLE)
        busy.value = ""

    for label, value in _remembered(explorer).get(name, {}).items():
        with suppress(KeyError, TraitError):  # no longer to be had
            controls[label].value = value
    for label, control in controls.items():
        control.description = label.capitalize()
        control.layout.max_width = "98%"
        control.observe(update, "value")
    update()
    row = widgets.HBox([*controls.values()], layout=widgets.Layout(flex_flow="row wrap"))
    return widgets.VBox([row, busy, shown])


def _remembered(explorer: Explorer) -> dict[str, dict[str, Any]]:
    """What was chosen last in each part, of what is looked at."""
    try:
        return dict(json.loads(_choices(explorer).read_bytes()))
    except (OSError, ValueError, TypeError):  # nothing yet; or it is damaged, and no result hangs on it
        return {}


def _remember(explorer: Explorer, part: str, values: Mapping[str, Any]) -> None:
    path = _choices(explorer)
    with suppress(OSError):  # a home that others may only read
        path.parent.mkdir(exist_ok=True)
        write_json(path, {**_remembered(explorer), part: values})


def _choices(explorer: Explorer) -> Path:
    # Of what is looked at: another selection from the same pool opens on itself.
    e = explorer
    about = [e.pipeline.pool.hash, e.first, e.budget, e.limits, e.selector, e.max_similarity, *e.tasks]
    name = hashlib.sha256(canonical(about).encode()).hexdigest()[:16]
    return e.pipeline.store.folder.parent / "explore" / f"{name}.json"


def _choice(explorer: Explorer, with_queries: bool = False) -> widgets.Dropdown:
    """A choice of methods, or of those with queries, the explorer's first one chosen."""
    methods = [name for name in explorer.methods if not with_queries or explorer.needs_queries(name)]
    options = [(method_title(method), method) for method in methods]
    return widgets.Dropdown(options=options, value=explorer.first)


def _samples(table: pd.DataFrame) -> str:
    """A table of samples; one that is `whole` longer than its text shows the rest on click."""
    texts = [
        html.escape(text)
        if text == whole
        else f"<details><summary>{html.escape(text)}</summary>"
        f'<div style="{WHOLE}">{html.escape(whole)}</div></details>'
        for text, whole in zip(table["text"], table["whole"], strict=True)
    ]
    return _set(table[["rank", "score", "source"]].assign(text=texts), made="text")


def _set(table: pd.DataFrame, heads: Sequence[str] = (), made: str = "") -> str:
    """A table as HTML, its text as it stands, but for the column `made`, which is HTML.

    `heads` are the names of its columns, if others.
    """
    name: Any = [html.escape(each) for each in heads or table.columns].__getitem__
    numbers = [pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]
    classes = pd.DataFrame([["number" if number else "text" for number in numbers]] * len(table))
    # Columns go by their number: two may have one name.
    plain = table.reset_index(drop=True).set_axis(range(len(numbers)), axis=1)
    shown: Any = {at: str for at, each in enumerate(table.columns) if each == made}
    cells = (
        plain.style.format(escape="html", precision=4)
        .format(shown, subset=[*shown])
        .format_index(name, axis="columns")
    )
    look: list[Any] = [
        {"selector": "th, td", "props": "vertical-align: top; text-align: start; padding: .15em .6em"},
        {"selector": ".number", "props": "text-align: right; white-space: nowrap; line-height: 1.45"},
        *(
            {"selector": f"th.col{at}", "props": "text-align: right"}
            for at, each in enumerate(numbers)
            if each
        ),
        {"selector": ".text", "props": f"min-width: 10em; {READABLE}"},
    ]
    whole = cells.set_td_classes(classes).set_table_styles(look).hide(axis="index").to_html()
    return f'<div class="sortable">{whole}</div>'


def _html(tag: str, text: object, css: str = "") -> str:
    """An element that shows a text as it is."""
    return f'<{tag} dir="auto" style="{css}">{html.escape(str(text))}</{tag}>'
