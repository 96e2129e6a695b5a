"""Controls in front of `rdslib.figures.explore`, for a notebook: one function a part, each gives a widget.

A sample's text is anyone's: all that is shown as HTML is escaped, in `_html` and `_rows`.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ipywidgets as widgets
import pandas as pd
from matplotlib.figure import Figure

from rdslib.errors import UserError
from rdslib.figures.explore import Comparison, Explorer
from rdslib.figures.plain_text import text_of
from rdslib.figures.style import method_name, png

# A dropdown whose value is None has nothing chosen, so all tasks together are another value.
ALL = ""
LABEL = 90
# Each line in the direction of its own first letter, and none wider than its place.
READABLE = "white-space: pre-wrap; unicode-bidi: plaintext; overflow-wrap: anywhere; line-height: 1.45"
HEADING = "font-weight: bold; margin: .8em 0 .3em"
LINE = "border-top: 1px solid var(--jp-border-color2, #ccc)"
CELL = f"padding: .3em 1em .3em 0; vertical-align: top; text-align: start; min-width: 10em; {LINE}"
NUMBER = f"padding: .3em 1em .3em 0; vertical-align: top; text-align: right; white-space: nowrap; {LINE}"


def neighbours(explorer: Explorer) -> widgets.Widget:
    """A query in full, and the samples of the pool that a method finds nearest to it."""
    task = _dropdown("Task", [(name, name) for name in explorer.tasks])
    query = _dropdown("Query", [], "640px")
    method = _methods([name for name in explorer.methods if explorer.needs_queries(name)])
    asked, near = widgets.HTML(), widgets.HTML()

    def adjust() -> None:
        if query.value is None or query.value[0] != task.value:
            firsts = [" ".join(each.messages[0]["content"].split()) for each in explorer.queries(task.value)]
            query.options = [(f"{n}: {text[:LABEL]}", (task.value, n)) for n, text in enumerate(firsts)]
            query.index = 0

    def show() -> None:
        of, number = query.value
        found = explorer.neighbours(of, number, method.value)
        messages = explorer.queries(of)[number].messages
        asked.value = _html("div", text_of(messages), f"{READABLE}; max-height: 24em; overflow: auto")
        near.value = _html("p", f"Nearest to it by {method_name(method.value)}", HEADING) + _samples(found)

    return _part([task, query, method], [asked, near], adjust, show)


def mix(explorer: Explorer) -> widgets.Widget:
    """From which sources a method selects at a budget, beside those of its pool."""
    return _drawn(explorer, explorer.mix_figure)


def pool_map(explorer: Explorer) -> widgets.Widget:
    """The pool on a plane, with what a method selects at a budget, and a task's queries."""
    return _drawn(explorer, explorer.map_figure)


def _drawn(explorer: Explorer, draw: Callable[[str, int, str | None], Figure]) -> widgets.Widget:
    """A figure of a method, a budget and a task."""
    method, task, budget = _methods(explorer.methods), _tasks(explorer), _budget(explorer)
    picture = widgets.Image(format="png", layout=widgets.Layout(align_self="flex-start", max_width="100%"))

    def adjust() -> None:
        budget.max = max(1, explorer.largest(method.value, task.value or None))

    def show() -> None:
        figure = draw(method.value, budget.value, task.value or None)
        picture.value = png(figure)
        # A CSS inch has 96 pixels: the picture's own are finer.
        picture.layout.width = f"{96 * figure.get_figwidth():.0f}px"

    return _part([method, task, budget], [picture], adjust, show)


def comparison(explorer: Explorer) -> widgets.Widget:
    """What two methods' selections have in common, and what one of them alone took."""
    first, second = _methods(explorer.methods, "First"), _methods(explorer.methods, "Second")
    second.value = explorer.methods[0]
    task, budget, found = _tasks(explorer), _budget(explorer), widgets.HTML()

    def adjust() -> None:
        pool = explorer.pools(first.value, second.value)[0]
        most = [explorer.largest(each.value, task.value or None, pool) for each in (first, second)]
        budget.max = max(1, min(most))

    def show() -> None:
        compared = explorer.compare(first.value, second.value, budget.value, task.value or None)
        found.value = _compared(compared, budget.value, method_name(first.value), method_name(second.value))

    return _part([first, second, task, budget], [found], adjust, show)


def _part(
    controls: Sequence[Any], shown: Sequence[Any], adjust: Callable[[], None], show: Callable[[], None]
) -> widgets.Widget:
    """Controls over what they show, which follows them; an error stands there in one line instead.

    `adjust` brings the controls in line with one another, `show` fills what is shown.
    """
    error, body = widgets.HTML(), widgets.VBox(shown)
    busy = False

    def refresh(_: object = None) -> None:
        nonlocal busy
        if busy:  # `adjust` has moved a control; what it was called for is still to be shown
            return
        busy = True
        try:
            adjust()
            show()
            error.value, body.layout.display = "", None
        except Exception as problem:  # a traceback would end in a log that nobody sees
            kind = "" if isinstance(problem, UserError) else f"{type(problem).__name__}: "
            error.value = _html("div", kind + " ".join(str(problem).split()), READABLE)
            body.layout.display = "none"
        finally:
            busy = False

    for control in controls:
        control.observe(refresh, "value")
    refresh()
    return widgets.VBox([widgets.HBox(controls, layout=widgets.Layout(flex_flow="row wrap")), error, body])


def _dropdown(name: str, options: Sequence[tuple[str, Any]], width: str = "280px") -> Any:
    return widgets.Dropdown(
        description=name,
        options=options,
        layout=widgets.Layout(width=width, max_width="100%"),
        style={"description_width": "60px"},
    )


def _methods(methods: Sequence[str], name: str = "Method") -> Any:
    """A choice of methods, RDS+ first chosen."""
    control = _dropdown(name, [(method_name(method), method) for method in methods])
    control.value = "rds"
    return control


def _tasks(explorer: Explorer) -> Any:
    return _dropdown("Task", [("all tasks", ALL), *((name, name) for name in explorer.tasks)])


def _budget(explorer: Explorer) -> Any:
    """A slider that starts at the largest budget of figure 7, or at figure 1's."""
    grid = explorer.study.experiment.grid
    start = max(grid.source_budgets, default=grid.single_task_budget)
    return widgets.IntSlider(
        description="Budget",
        min=1,
        max=start,
        value=start,
        continuous_update=False,
        layout=widgets.Layout(width="560px", max_width="100%"),
        style={"description_width": "60px"},
    )


def _compared(found: Comparison, budget: int, first: str, second: str) -> str:
    summary = (
        f"Of {budget:,} samples each, from a pool of {found.pool_size:,}, both took {found.overlap:,} "
        f"(Jaccard {found.jaccard:.2f})."
    )
    sources = found.sources
    taken = sources[sources[["only_first", "both", "only_second"]].any(axis=1)]
    head = ("Source", f"{first} only", "Both", f"{second} only")
    parts = [_html("p", summary), _rows(head, taken.itertuples(index=False), {1, 2, 3})]
    for name, samples in ((first, found.only_first), (second, found.only_second)):
        if len(samples):
            parts += [_html("p", f"The first that only {name} took", HEADING), _samples(samples)]
    return "".join(parts)


def _samples(table: pd.DataFrame) -> str:
    rows = ((row.rank, f"{row.score:.4f}", row.source, row.text) for row in table.itertuples(index=False))
    return _rows(("Rank", "Score", "Source", "Sample"), rows, {0, 1})


def _rows(head: Sequence[str], rows: Iterable[Sequence[object]], numbers: set[int]) -> str:
    """A table; `numbers` are the columns of numbers."""
    styles = [NUMBER if place in numbers else f"{CELL}; {READABLE}" for place in range(len(head))]
    lines = [[_html("th", name, style) for name, style in zip(head, styles, strict=True)]]
    lines += [[_html("td", value, style) for value, style in zip(row, styles, strict=True)] for row in rows]
    body = "".join(f"<tr>{''.join(line)}</tr>" for line in lines)
    return f'<table style="border-collapse: collapse; line-height: 1.45">{body}</table>'


def _html(tag: str, text: object, style: str = "") -> str:
    """An element that shows a text as it is."""
    return f'<{tag} dir="auto" style="{style}">{html.escape(str(text))}</{tag}>'
