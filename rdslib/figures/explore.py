"""A study's pool, queries and selections, looked at by hand: as tidy tables, and with controls in a notebook.

A method's scores are made once for each pool and task, and stay in memory (4 bytes a query and sample), so
that a selection of any budget is a walk over them. A sample's text is anyone's: what is shown as HTML is
escaped.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from functools import cached_property, partial, reduce
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from sklearn.decomposition import PCA

from rdslib.data.chat import Message, Sample
from rdslib.data.pool import subset
from rdslib.errors import UserError
from rdslib.figures import style
from rdslib.figures.base import RDS, distinct, human, in_order, method_title
from rdslib.methods import ScoringInputs, features, get_extractor, get_scorer
from rdslib.pipeline.pipeline import Request
from rdslib.pipeline.step import Step
from rdslib.pipeline.steps import picked_by
from rdslib.pipeline.study import Study
from rdslib.selection import round_robin
from rdslib.selection.topk import Block, Ranker, over

POOL = "The pool"
# A dropdown whose value is None has nothing chosen, so all tasks together are another value.
ALL = ""
# A shortened sample: characters of a message, and messages. Characters of a query in a dropdown.
WIDTH, TURNS, LABEL = 240, 4, 90
# Samples that only one of two methods took, as far as they are listed.
SHOWN = 5
BOLD = "font-weight: bold"
# Each line in the direction of its first letter, and none wider than its place.
READABLE = "white-space: pre-wrap; unicode-bidi: plaintext; overflow-wrap: anywhere; line-height: 1.45"


# What can be asked.


class Explorer:
    """A study to look into.

    Wherever it is asked for, `task` is the name of a task, or None for all of them together; a method without
    queries selects the same for each. A budget is any number from 1 to `largest`. A name that the study does
    not know raises UserError.
    """

    def __init__(self, study: Study) -> None:
        """Raises UserError if the study's profile has published numbers alone."""
        if study.profile.experiment is None:
            raise UserError(
                f"profile {study.profile.name}: has no pool to explore; use another, such as mini"
            )
        self.study = study
        self.methods = in_order(study.methods)
        self.tasks = study.task_names
        self._blocks: dict[tuple[str, str, str | None], list[Block]] = {}

    def steps(self) -> list[Step]:
        """List what exploring rests on; `Study.compute` makes what is missing, with progress."""
        wanted = list(self.study.data_steps)
        for method in self.methods:
            for task in (None, *(self.tasks if self.needs_queries(method) else ())):
                wanted += self._features(method, self.pools(method)[0], task).values()
        return wanted

    @cached_property
    def samples(self) -> pd.DataFrame:
        """The whole pool: id, source and messages of each sample, by its position."""
        return self.study.pool_table()

    @cached_property
    def sources(self) -> list[str]:
        """The sources of the whole pool, in the order in which they come."""
        return distinct(self.samples["source"])

    def queries(self, task: str) -> list[Sample]:
        """Return the queries of a task."""
        if task not in self.tasks:
            raise UserError(f"unknown task {task!r}; tasks: {', '.join(self.tasks)}")
        return self._queries[task]

    @cached_property
    def _queries(self) -> dict[str, list[Sample]]:
        return {task: self.study.task_data(task).queries for task in self.tasks}

    def needs_queries(self, method: str) -> bool:
        """Whether a method looks at queries."""
        if method not in self.methods:
            raise UserError(f"unknown method {method!r}; methods of this study: {', '.join(self.methods)}")
        return get_scorer(method).needs_queries

    def pools(self, *methods: str) -> list[str]:
        """List the pools from which each of these methods can select, the largest first.

        They are all those of the study. Where a method's features are made for each pool apart (LESS), they
        are those that the study's grid names for it. Raises UserError if there is none.
        """
        e = self.study.experiment
        names = ["all", *sorted(e.pool.subsets, key=self.study.pool_size, reverse=True)]
        for method in methods:
            self.needs_queries(method)
            if any(get_extractor(feature).per_pool for feature in get_scorer(method).features):
                there = {pool for pool, named in e.grid.single_task.items() if method in named}
                there |= {e.grid.ablation_pool} if method in e.grid.ablation_methods else set()
                there |= {"all"} if method in e.grid.multi_task_methods else set()
                names = [name for name in names if name in there]
        if not names:
            raise UserError(f"{', '.join(methods)}: this study has no pool from which all of these select")
        return names

    def largest(self, method: str, task: str | None = None, pool: str | None = None) -> int:
        """The largest budget: how many samples of a pool (see `selection`) a method has to offer."""
        pool = self._pool(method, pool)
        size = self.pool_size(pool)
        refused = [ranker(1, True, None).refused for ranker in self._rankers(method, pool, task)]
        return size - len(reduce(np.intersect1d, refused)) - int(get_scorer(method).skip * size)

    def neighbours(self, task: str, query: int, method: str, k: int = 10) -> pd.DataFrame:
        """Find the `k` samples that score best for a query, given by its number from 0.

        Returns:
            A row a sample: rank (from 1), score, source, id, text (shortened); fewer than `k` where the pool
            has fewer to offer.
        """
        if k < 1:
            raise UserError(f"{k} neighbours are asked for; ask for at least 1")
        if not self.needs_queries(method):
            having = [name for name in self.methods if self.needs_queries(name)]
            raise UserError(f"method {method}: does not look at queries; use one of {', '.join(having)}")
        count = len(self.queries(task))
        if not 0 <= query < count:
            raise UserError(f"query {query} of {task}: there are {count}; use a number from 0 to {count - 1}")
        pool = self.pools(method)[0]
        ranked = self._ranker(method, pool, task)(k, False, None).lists()[query]
        picks = pd.DataFrame({"position": self._positions(pool)[ranked.positions], "score": ranked.scores})
        return self._listed(picks)

    def selection(
        self, method: str, budget: int, task: str | None = None, pool: str | None = None
    ) -> pd.DataFrame:
        """Select as the study does, with any budget.

        `pool` is one of the method's `pools`, by default the largest.

        Returns:
            What `Study.picks` gives: position, id, source, score, picked_by, in order of picking.
        """
        pool = self._pool(method, pool)
        positions, scorer = self._positions(pool), get_scorer(method)
        rankers = self._rankers(method, pool, task)
        try:
            picked = round_robin.choose(rankers, budget, int(scorer.skip * len(positions)))
        except ValueError as error:
            raise UserError(f"method {method}: {error}; choose another budget") from error
        at = positions[picked.indices]
        names = picked_by(picked, method, self.tasks if len(rankers) > 1 else ())
        rows = self.samples[["id", "source"]].iloc[at].reset_index(drop=True)
        return rows.assign(position=at, score=picked.scores, picked_by=names)[
            ["position", "id", "source", "score", "picked_by"]
        ]

    def mix(self, method: str, budget: int, task: str | None = None) -> pd.DataFrame:
        """Count the sources of a selection, and of the pool that it was made from.

        Returns:
            A row a selection (`The pool`, or the method's title) and source: selection, source, count.
        """
        pool = self.samples["source"].iloc[self._positions(self.pools(method)[0])]
        groups = {POOL: pool, method_title(method): self.selection(method, budget, task)["source"]}
        parts = [
            pd.DataFrame({"selection": name, "source": self.sources, "count": self._counts(sources)})
            for name, sources in groups.items()
        ]
        return pd.concat(parts, ignore_index=True)

    def compare(self, first: str, second: str, budget: int, task: str | None = None) -> pd.DataFrame:
        """Compare two methods' selections from the largest pool that both select from.

        Returns:
            A row a sample that either took: taken (`both`, `first` or `second`, by whom), and the columns of
            `neighbours`; what only one took stands in the order in which it picked, with its rank there.
        """
        pool = self.pools(first, second)[0]
        ours, theirs = (self.selection(method, budget, task, pool) for method in (first, second))
        in_both = ours["position"].isin(theirs["position"])
        only_theirs = theirs[~theirs["position"].isin(ours["position"])]
        parts = {"both": ours[in_both], "first": ours[~in_both], "second": only_theirs}
        return pd.concat(
            [self._listed(picks).assign(taken=name) for name, picks in parts.items()], ignore_index=True
        )

    def map(self, method: str, budget: int, task: str | None = None) -> pd.DataFrame:
        """Place the pool and the task's queries on the plane in which the pool's RDS+ vectors vary most.

        Returns:
            A row a sample, those of the pool first, by position: kind (`pool` or `query`), id, source, x, y
            (the first two principal components) and selected (whether the method took it).
        """
        selected = np.zeros(len(self.samples), dtype=bool)
        selected[self.selection(method, budget, task)["position"]] = True
        parts = [self.samples[["id", "source"]].assign(kind="pool", selected=selected)]
        vectors = [self._vectors(None)]
        for name in self.tasks if task is None else (task,):
            rows = [{"id": query.id, "source": query.source} for query in self.queries(name)]
            parts.append(pd.DataFrame(rows).assign(kind="query", selected=False))
            vectors.append(self._vectors(name))
        x, y = self.components.transform(np.concatenate(vectors)).T
        table = pd.concat(parts, ignore_index=True).assign(x=x, y=y)
        return table[["kind", "id", "source", "x", "y", "selected"]]

    @cached_property
    def components(self) -> PCA:
        """The first two principal components of the pool's RDS+ vectors."""
        # By the eigenvectors of the covariance, which is exact, and quick for many samples.
        return PCA(2, svd_solver="covariance_eigh").fit(self._vectors(None))

    def pool_size(self, pool: str) -> int:
        """How many samples a pool holds."""
        return len(self._positions(pool))

    def title(self, method: str, budget: int, task: str | None) -> str:
        """Say in a line what was selected, from how many and for which task."""
        size = self.pool_size(self.pools(method)[0])
        aim = f" for {task or 'all tasks'}" if self.needs_queries(method) else ""
        samples = "1 sample" if budget == 1 else f"{budget:,} samples"
        return f"{method_title(method)}: {samples} selected from {human(size)}{aim}"

    def _pool(self, method: str, pool: str | None) -> str:
        there = self.pools(method)
        if pool is not None and pool not in there:
            raise UserError(f"method {method}: selects from the pools {', '.join(there)}, not from {pool!r}")
        return pool or there[0]

    def _rankers(self, method: str, pool: str, task: str | None) -> list[Ranker]:
        """A ranker for each task that the method is to select for; one if it does not look at queries."""
        if not self.needs_queries(method):
            return [self._ranker(method, pool, None)]
        if task is not None:
            self.queries(task)
        return [self._ranker(method, pool, each) for each in (self.tasks if task is None else (task,))]

    def _ranker(self, method: str, pool: str, task: str | None) -> Ranker:
        if (method, pool, task) not in self._blocks:
            inputs = self._inputs(method, pool, task)
            self._blocks[method, pool, task] = list(get_scorer(method).blocks(inputs))
        return over(lambda: self._blocks[method, pool, task])

    def _inputs(self, method: str, pool: str, task: str | None) -> ScoringInputs:
        e = self.study.experiment
        for each in (None, task):
            self.study.compute(self._features(method, pool, each).values())
        seed = e.grid.seeds[0] if get_scorer(method).seeded else e.seed
        return self.study.pipeline.scoring_inputs(Request(method, 1, pool=pool, seed=seed), task)

    def _features(self, method: str, pool: str, task: str | None) -> dict[str, Step]:
        names = get_scorer(method).features
        return {feature: self.study.pipeline.features(feature, task, pool) for feature in names}

    def _positions(self, pool: str) -> np.ndarray:
        """Where the samples of a pool are in the whole pool: int64 [samples], sorted."""
        e, total = self.study.experiment, len(self.samples)
        return np.arange(total) if pool == "all" else subset(total, e.pool.subsets[pool], e.seed)

    def _vectors(self, task: str | None) -> np.ndarray:
        """RDS+ vectors of the whole pool (None) or of a task's queries: float32 [samples, hidden size]."""
        ((feature, step),) = self._features(RDS, "all", task).items()
        self.study.compute([step])
        found = features.read_all(self.study.store.path(step), features.split_feature(feature)[1])
        return found.astype(np.float32)

    def _counts(self, sources: pd.Series) -> np.ndarray:
        """How many there are of each of the pool's sources."""
        return sources.value_counts().reindex(self.sources, fill_value=0).to_numpy()

    def _listed(self, picks: pd.DataFrame) -> pd.DataFrame:
        """Some picks, as a person reads them: rank (their place, from 1), score, source, id, text."""
        rows = self.samples.iloc[picks["position"].to_numpy()]
        return pd.DataFrame(
            {
                "rank": picks.index + 1,
                "score": picks["score"].to_numpy(),
                "source": rows["source"].to_numpy(),
                "id": rows["id"].to_numpy(),
                "text": [shortened(messages) for messages in rows["messages"]],
            }
        )


def text_of(messages: Sequence[Message]) -> str:
    """Write a conversation as plain text, each message on lines of its own, an arrow before a response."""
    return "\n".join(_marked(message["role"], message["content"].strip()) for message in messages)


def shortened(messages: Sequence[Message]) -> str:
    """Write the first messages as `text_of` does, each cut to one line."""
    lines = []
    for message in messages[:TURNS]:
        words = " ".join(message["content"].split())
        lines.append(_marked(message["role"], words if len(words) <= WIDTH else words[: WIDTH - 1] + "…"))
    more = len(messages) - TURNS
    return "\n".join([*lines, *([f"… {more} more messages"] if more > 0 else [])])


def _marked(role: str, text: str) -> str:
    # Nothing but the arrow, which has no direction, stands before a message: so each is shown in the
    # direction in which its words are read.
    return f"→ {text}" if role == "assistant" else text


# Figures.


@style.styled
def mix_figure(explorer: Explorer, method: str, budget: int, task: str | None = None) -> style.Drawing:
    """Draw `Explorer.mix`, in the style of figure 7."""
    figure = style.Drawing(figsize=(5.2, 4.8))
    axes = figure.subplots()
    colours = style.source_colours(explorer.sources)
    style.stacked(axes, explorer.mix(method, budget, task), "selection", colours, "Share of the samples")
    style.title(axes, "Measured here", explorer.title(method, budget, task))
    return figure


@style.styled
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
    keys = [key(marker="o", color=colours[name], markersize=4.5, label=style.literal(name))
            for name in explorer.sources]  # fmt: skip
    ring = key(marker="o", markerfacecolor="none", markeredgecolor="black", label="picked by the method")
    keys.append(ring)
    keys.append(key(marker="x", color="black", markersize=4, label=f"query of {task or 'any task'}"))
    axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8)
    return figure


# Controls, for a notebook.


def neighbours(explorer: Explorer) -> widgets.VBox:
    """Show a query in full, and the samples of the pool that a method finds nearest to it."""
    task = widgets.Dropdown(options=explorer.tasks)
    query = widgets.Dropdown(layout=widgets.Layout(width="640px", max_width="100%"))

    def list_queries(_: object = None) -> None:
        firsts = [" ".join(each.messages[0]["content"].split()) for each in explorer.queries(task.value)]
        query.options = [(f"{number}: {text[:LABEL]}", number) for number, text in enumerate(firsts)]
        query.index = 0

    def show(task: str, query: int, method: str) -> str:
        messages = explorer.queries(task)[query].messages
        found = explorer.neighbours(task, query, method)
        whole = f"{READABLE}; max-height: 24em; overflow: auto"
        near = _html("p", f"Nearest to it by {method_title(method)}", BOLD)
        return _html("div", text_of(messages), whole) + near + _samples(found)

    list_queries()
    task.observe(list_queries, "value")
    methods = [name for name in explorer.methods if explorer.needs_queries(name)]
    return _part(show, task=task, query=query, method=_choice(methods))


def mix(explorer: Explorer) -> widgets.VBox:
    """Show from which sources a method selects at a budget, beside those of its pool."""
    return _drawn(explorer, mix_figure)


def pool_map(explorer: Explorer) -> widgets.VBox:
    """Show the pool on a plane, with what a method selects at a budget, and a task's queries."""
    return _drawn(explorer, map_figure)


def _drawn(explorer: Explorer, draw: Callable[..., style.Drawing]) -> widgets.VBox:
    """A figure of a method, a budget and a task."""

    def show(method: str, task: str, budget: int) -> str:
        figure = draw(explorer, method, budget, task or None)
        data = base64.b64encode(style.png(figure)).decode("ascii")
        alt = html.escape(explorer.title(method, budget, task or None))
        # A CSS inch has 96 pixels: the picture's are finer.
        width = f"width: {96 * figure.get_figwidth():.0f}px; max-width: 100%"
        return f'<img src="data:image/png;base64,{data}" alt="{alt}" style="{width}">'

    return _with_budget(explorer, show, method=_choice(explorer.methods))


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
                parts += [_html("p", f"The first that only {title} took", BOLD), _samples(samples)]
        return "".join(parts)

    second = _choice(explorer.methods)
    second.value = explorer.methods[0]
    return _with_budget(explorer, show, first=_choice(explorer.methods), second=second)


def _with_budget(explorer: Explorer, show: Callable[..., Any], **methods: Any) -> widgets.VBox:
    """Controls of methods, of a task and of a budget, which ends where one of the methods has no more."""
    task = widgets.Dropdown(options=[("all tasks", ALL), *((name, name) for name in explorer.tasks)])
    grid = explorer.study.experiment.grid
    start = max(grid.source_budgets, default=grid.single_task_budget)
    budget = widgets.IntSlider(
        min=1,
        max=start,
        value=start,
        continuous_update=False,
        layout=widgets.Layout(width="560px", max_width="100%"),
    )

    def limit(_: object = None) -> None:
        chosen = [control.value for control in methods.values()]
        try:
            pool = explorer.pools(*chosen)[0]
        except UserError:  # which `show` meets as well, and shows
            return
        budget.max = max(1, min(explorer.largest(method, task.value or None, pool) for method in chosen))

    limit()
    for control in (*methods.values(), task):
        control.observe(limit, "value")
    return _part(show, **methods, task=task, budget=budget)


def _part(show: Callable[..., str], **controls: Any) -> widgets.VBox:
    """Controls over the HTML that `show` makes of their values; an error is one line of it."""
    # Not ipywidgets.interactive: its Output makes papermill's client send while it waits, and hang at times.
    shown = widgets.HTML()

    def update(_: object = None) -> None:
        try:
            shown.value = show(**{name: control.value for name, control in controls.items()})
        except Exception as problem:  # a traceback would end in a log that nobody sees
            kind = "" if isinstance(problem, UserError) else f"{type(problem).__name__}: "
            shown.value = _html("div", f"{kind}{problem}", READABLE)

    for name, control in controls.items():
        control.description = name.capitalize()
        control.observe(update, "value")
    update()
    row = widgets.HBox([*controls.values()], layout=widgets.Layout(flex_flow="row wrap"))
    return widgets.VBox([row, shown])


def _choice(methods: Sequence[str]) -> widgets.Dropdown:
    """A choice of methods, RDS+ first chosen."""
    return widgets.Dropdown(options=[(method_title(method), method) for method in methods], value=RDS)


def _samples(table: pd.DataFrame) -> str:
    return _set(table[["rank", "score", "source", "text"]])


def _set(table: pd.DataFrame, heads: Sequence[str] = ()) -> str:
    """A table as HTML, its text as it stands; `heads` are the names of its columns, if others."""
    name: Any = [html.escape(each) for each in heads or table.columns].__getitem__
    numbers = [pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]
    classes = pd.DataFrame([["number" if number else "text" for number in numbers]] * len(table))
    # Columns go by their number: two may have one name.
    plain = table.reset_index(drop=True).set_axis(range(len(numbers)), axis=1)
    cells = plain.style.format(escape="html", precision=4).format_index(name, axis="columns")
    look: list[Any] = [
        {"selector": "td", "props": "vertical-align: top; text-align: start"},
        {"selector": ".number", "props": "text-align: right; white-space: nowrap"},
        {"selector": ".text", "props": f"min-width: 10em; {READABLE}"},
    ]
    return cells.set_td_classes(classes).set_table_styles(look).hide(axis="index").to_html()


def _html(tag: str, text: object, css: str = "") -> str:
    """An element that shows a text as it is."""
    return f'<{tag} dir="auto" style="{css}">{html.escape(str(text))}</{tag}>'
