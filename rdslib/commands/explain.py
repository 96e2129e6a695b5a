"""`rds explain`: why a sample is in a selection, or why not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import typer
from rich.console import RenderableType

from rdslib.commands.select import columns_at, counts_of, reopen
from rdslib.commands.text import MARGIN, line, show, table
from rdslib.commands.user_data import LEFT_OUT, RECORDS
from rdslib.data.chat import WIDTH, shortened
from rdslib.data.pool import rows_at
from rdslib.data.reader import Rejected, Row
from rdslib.errors import UserError
from rdslib.methods import get_scorer
from rdslib.methods.base import TILE
from rdslib.methods.blocks import blocks_of
from rdslib.selection import get_selector
from rdslib.selection.topk import Block, Ranked, Ranking

# Neighbours of a sample; and of more lists or queries of a task, those that are shown.
NEIGHBOURS, SHOWN = 5, 10
# Columns that are cut where a table is too wide.
CUT = ("task", "id", "source", "text")

_QUERY = ["task", "query", "score", "rank", "text"]
_TURN = ["task", "query", "score", "rank", "picks", "last_score", "last_rank", "text"]
_RANK = re.compile(r"#(\d{1,15})")


def explain_command(
    selection: Annotated[Path, typer.Argument(help="The file that `rds select` wrote.")],
    sample: Annotated[
        str,
        typer.Option(help="Its id (its row number in the pool, if it has none), or --sample=#3, its rank."),
    ],
    profile: Annotated[
        str | None, typer.Option(help="The profile it was made with, where that has plug-ins.")
    ] = None,
) -> None:
    """Say why a sample was picked, or why not: its rank under each query, what picked it, what is like it."""
    show(shown(explain(selection, sample, profile)))


@dataclass(frozen=True)
class Explanation:
    """What a selection made of a row of its pool.

    Lists take turns in picking: a list is a query of the one task, or with several tasks, or another selector
    than round-robin, a task with its best query for the sample, or what a method without queries goes by.

    Attributes:
        where: Its place in the input.
        text: Its first messages.
        state: picked, not picked, or of what was left out of the pool rejected, contaminated or duplicate;
            then the fields after `why` say nothing of the row.
        rank: Of a pick, from 0.
        score: Of a pick.
        reach: How deep the walk went to the last pick.
        turns: A row for each list: task, query (its number in the input) and text say which; score and rank
            (from 1; NA: never offered) are the sample's there, of the whole pool; picks, how many the list
            has made; last_score and last_rank, of the last of these.
        by: What the list of a task goes by, where tasks have one each.
        queries: The same of each query of tasks that have one list each, up to the rank.
        neighbours: The nearest in the pool: cosine, id, source, picked (the rank, or NA) and text; None where
            a method looks at no vectors.
    """

    id: str
    where: str
    source: str
    text: str
    state: str
    why: str
    rank: int | None = None
    score: float | None = None
    reach: int | None = None
    turns: pd.DataFrame = field(default_factory=pd.DataFrame)
    by: str = ""
    queries: pd.DataFrame = field(default_factory=pd.DataFrame)
    neighbours: pd.DataFrame | None = None


class _Opened:
    """A selection that `rds select` has written, with all that it was made from."""

    def __init__(self, path: Path, profile: str | None) -> None:
        self.selection, self.asked = reopen(path, profile)
        self.pipeline = self.selection.pipeline
        self.data = self.selection.store.path(self.pipeline.pool)
        self.picks = self.pipeline.picks(self.asked).to_pandas()
        self.pool = self.pipeline.pool_file()
        self.scorer = get_scorer(self.asked.method)
        # Whether it is tasks that pick, each by one list of all of its queries.
        self.by_task = self.asked.by_task


def explain(selection: Path | str, sample: str, profile: str | None = None) -> Explanation:
    """Explain a sample of a selection that `rds select` has written.

    Scores are made anew, a tile at a time: at most twice, and features are read once or twice more for
    neighbours.

    Args:
        selection: The file.
        sample: Its id in the pool, or "#3" for the pick of rank 3, where no sample has that for an id.
        profile: As `reopen` takes it.

    Raises:
        UserError: As of `reopen`, or there is no such sample.
    """
    opened = _Opened(Path(selection), profile)
    picks, by_task = opened.picks, opened.by_task
    position = pc.index(opened.pool.ids, sample).as_py()
    if position < 0 and (given := _RANK.fullmatch(sample)):
        if int(given[1]) >= len(picks):
            raise UserError(f"--sample {sample}: the picks are #0 to #{len(picks) - 1}; give one of them")
        position = int(picks["position"].iloc[int(given[1])])
    if position < 0:
        return _left_out(opened, sample)
    by_query = by_task and not opened.scorer.joins_queries
    tables = [_lists(opened, target, position) for target in opened.asked.targets or (None,)]
    turns = pd.concat([table.tail(1) if by_task else table for table in tables], ignore_index=True)
    last = _list_of(opened, picks["picked_by"].iloc[-1])
    reach = int(turns["last_rank"].iloc[last])
    # Lists that come after the one that picked last have offered one sample less.
    offered = turns["rank"] <= reach - (np.arange(len(turns)) > last)
    ranks = np.flatnonzero(picks["position"] == position)
    rank = score = None
    if ranks.size:
        rank, score = int(ranks[0]), float(picks["score"].iloc[ranks[0]])
        row = turns.iloc[_list_of(opened, picks["picked_by"].iloc[rank])]
        least = ", the least of the tasks that offered it" if len(opened.asked.targets) > 1 else ""
        why = (
            f"Pick #{rank} of {opened.asked.method}. Picked by {_name(opened, row)}, which has it at rank "
            f"{row['rank']:,}. Its score is {score:.4f}{least}."
        )
    else:
        reason = _why_not(opened, turns, offered.fillna(False).to_numpy(dtype=bool))
        why = f"Not picked by {opened.asked.method}. {reason}"
    (found,), (kept,) = opened.pool.take([position]), rows_at(opened.data / RECORDS, [position])
    return Explanation(
        found.id,
        kept["where"],
        found.source,
        shortened(found.messages),
        "not picked" if rank is None else "picked",
        f"{why} {len(picks):,} of {len(opened.pool):,} samples were picked; the list that picked last was "
        f"at its rank {reach:,} then.",
        rank,
        score,
        reach,
        # What a method without queries goes by may be of some of the pool alone, such as a source.
        turns if opened.asked.targets else turns[turns["rank"].notna()],
        get_selector(opened.asked.selector).by if by_query else "",
        pd.concat([table[_QUERY].head(len(table) - 1 if by_query else 0) for table in tables]),
        _neighbours(opened, position),
    )


def ranks_of(blocks: Iterable[Block], scores: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Ranks of samples in each list of a pool: 1 is the best, ties go to the smaller position.

    Args:
        blocks: The score blocks.
        scores: Of some samples in each list: float [lists, samples].
        places: Their positions: int64 [lists, samples].

    Returns:
        int64 [lists, samples]; 0 for what has no finite score, and is never offered.
    """
    ranks = np.ones(scores.shape, dtype=np.int64)
    for start, block in blocks:
        columns = np.arange(start, start + block.shape[1])
        for which in range(scores.shape[1]):
            score, at = scores[:, which, None], places[:, which, None]
            ranks[:, which] += ((block > score) | ((block == score) & (columns < at))).sum(axis=1)
    return np.where(np.isfinite(scores), ranks, 0)


def _lists(opened: _Opened, target: str | None, position: int) -> pd.DataFrame:
    """The columns `_TURN` of each query of a task, or list of a method without queries.

    Where tasks pick by one list each, the last row is that list.
    """
    inputs = opened.pipeline.scoring_inputs(opened.asked, target)
    one = opened.pipeline.lists(opened.asked, target) if target and opened.by_task else None

    def blocks() -> Iterator[Block]:
        for start, block in blocks_of(opened.scorer, inputs):
            reduce = one and one.reduce
            yield start, np.vstack([block, reduce(start, block)]) if reduce else block

    picks = opened.picks[opened.picks["picked_by"] == target] if one else opened.picks
    lists = picks["picked_by"].map(lambda each: -1 if one else _list_of(opened, each))
    lasts = picks["position"].groupby(lists).last()
    found = columns_at(blocks(), [position, *lasts])
    # The sample's score in each list, and that of the list's last pick.
    scores, places = np.full((len(found), 2), np.nan), np.full((len(found), 2), position)
    scores[:, 0] = found[:, 0]
    scores[lasts.index, 1], places[lasts.index, 1] = found[lasts.index, range(1, found.shape[1])], lasts
    ranks = pd.DataFrame(ranks_of(blocks(), scores, places), dtype="Int64").replace(0, pd.NA)
    names: list[tuple[Any, str]] = [(number, "") for number in range(len(scores))]
    if target is not None and opened.scorer.joins_queries:
        names = [(pd.NA, "")]
    elif target is not None:
        names = [(row.number, shortened(row.messages)) for row in opened.selection.queries[target]]
    if one:
        scores[-1] = one.shown(Ranked(scores[-1], places[-1])).scores
        names.append(names[int(scores[:-1, 0].argmax())])
    made = np.bincount(lists % len(scores), minlength=len(scores))
    table = pd.DataFrame(names, columns=["query", "text"]).assign(task=target or "", picks=made)
    table[["score", "last_score"]], table[["rank", "last_rank"]] = scores, ranks
    return table[_TURN]


def _list_of(opened: _Opened, picked_by: str) -> int:
    """Which of the lists that take turns a pick is of; a window names none, and has one."""
    return opened.asked.targets.index(picked_by) if opened.by_task else int(picked_by or 0)


def _name(opened: _Opened, turn: pd.Series) -> str:
    """A list, in words."""
    if opened.scorer.joins_queries:
        return f"the task {turn['task']}"
    if opened.by_task:
        return f"the task {turn['task']} (for query {turn['query']})"
    return f"query {turn['query']} of the task {turn['task']}" if opened.asked.targets else "the method"


def _why_not(opened: _Opened, turns: pd.DataFrame, offered: np.ndarray) -> str:
    if turns["rank"].isna().all():
        return "The method never offers it, since it has no score for it."
    best = turns.sort_values("rank", kind="stable").iloc[0]
    passed_over = int(opened.scorer.skip * len(opened.pool))
    if best["rank"] <= passed_over:
        return f"Its rank is {best['rank']:,}, and the method passes over the best {passed_over:,}."
    if offered.any():
        by = _name(opened, turns[offered].iloc[0])
        source = "its source had as many picks by then as it may" if opened.asked.limits else ""
        like = "it is too like an earlier pick" if opened.asked.max_similarity is not None else ""
        return f"Offered by {by}, but {' or '.join(filter(None, (source, like)))}."
    if not opened.asked.targets:
        return f"Its rank is {best['rank']:,}."
    return f"Its best rank is {best['rank']:,}, by {_name(opened, best)}."


def _neighbours(opened: _Opened, position: int) -> pd.DataFrame | None:
    """What is nearest to a sample in the pool by the cosine of the feature that the method compares.

    None where it compares no vectors; empty if the sample has none.
    """
    if not opened.asked.targets or len(opened.scorer.features) != 1 or opened.scorer.joins_queries:
        return None
    (feature,) = opened.scorer.features
    inputs = opened.pipeline.scoring_inputs(opened.asked, opened.asked.targets[0])
    change = opened.scorer.change(inputs)

    def tiles() -> Iterator[Block]:
        for start, shard in inputs.pool(feature):
            for at in range(0, len(shard), TILE):
                yield start + at, shard[at : at + TILE].astype(np.float32)

    its = next(rows[position - start] for start, rows in tiles() if start <= position < start + len(rows))
    if its.ndim != 1:
        return None
    its = change(its[None])[0] if its.any() else its
    ranking = Ranking(NEIGHBOURS)
    for start, states in tiles():
        rows = np.where(states.any(axis=1, keepdims=True), change(states), 0)
        lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(its)
        # Row by row: BLAS may give equal rows different sums, and ties would go astray.
        cosines = (rows * its).sum(axis=1) / np.where(lengths > 0, lengths, 1)
        there = (lengths > 0) & (np.arange(start, start + len(rows)) != position)
        ranking.add(start, np.where(there, cosines, -np.inf)[None])
    (best,) = ranking.lists()
    samples = opened.pool.take(best.positions)
    ranks = dict(zip(opened.picks["position"], opened.picks.index, strict=True))
    return pd.DataFrame(
        {
            "cosine": best.scores,
            "id": [each.id for each in samples],
            "source": [each.source for each in samples],
            "picked": pd.array([ranks.get(at) for at in best.positions.tolist()], dtype="Int64"),
            "text": [shortened(each.messages) for each in samples],
        }
    )


def _left_out(opened: _Opened, sample: str) -> Explanation:
    """What is known of a row that is not in the pool; raises UserError if there is no such row either."""
    pool = opened.selection.pool
    if counts_of(opened.selection)["read"] > len(opened.pool):
        # What was left out is listed by its place; ids are the input's.
        rows = enumerate(pool.rows(opened.selection.request.format, "quarantine"))
        row = next((row for number, row in rows if sample in _ids(row, number)), None)
        if row is not None:
            with (opened.data / LEFT_OUT).open(encoding="utf-8") as lines:
                found = next(each for each in map(json.loads, lines) if each["where"] == row.where)
            text = (row.raw or "")[:WIDTH] if isinstance(row, Rejected) else shortened(row.messages)
            source = "" if isinstance(row, Rejected) else row.source
            return Explanation(sample, row.where, source, text, found["kind"], found["reason"])
    known = ", ".join(repr(each[:30]) for each in opened.pool.ids[:3].to_pylist())
    raise UserError(
        f"--sample {sample[:60]!r}: {pool.name} has no sample of that id; its ids are such as "
        f"{known}, and the picks are #0 to #{len(opened.picks) - 1}"
    )


def _ids(row: Row | Rejected, number: int) -> set[str]:
    """By what a row can be asked for; a bad one by its number, and by its id if that much can be read."""
    if isinstance(row, Row):
        return {row.id}
    try:
        return {str(number), str(json.loads(row.raw or "")["id"])}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {str(number)}


# --- for a terminal


def shown(explanation: Explanation) -> list[RenderableType]:
    """An explanation for a terminal."""
    e = explanation
    source = f", of the source {e.source}" if e.source else ""
    parts = [line(f"Sample {e.id}{source}, from {e.where}")]
    parts += [*(line(each, MARGIN) for each in e.text.splitlines()), ""]
    if e.reach is None:
        return [*parts, line(f"Left out as {e.state}: {e.why}")]
    by = f"for each task by {e.by}" if e.by else "for each query"
    by = by if e.turns["query"].notna().any() else "for all queries together"
    by = by if e.turns["task"].any() else "for the method"
    last = "; how many picks the list made, and score and rank of the last of them"
    parts += [line(e.why), *_listing(e.turns, f"Score and rank in the pool {by}{last}")]
    for task, rows in e.queries.groupby("task", sort=False):
        parts += _listing(rows, f"Score and rank in the pool for each query of the task {task}")
    if e.neighbours is None:
        return [*parts, "", "No neighbours: the method looks at no vectors."]
    if e.neighbours.empty:
        return [*parts, "", "No neighbours: it has no vector, or no other sample has one."]
    picked = ["" if pd.isna(rank) else f"#{rank}" for rank in e.neighbours["picked"]]
    return [*parts, "", "Nearest in the pool, by cosine", _table(e.neighbours.assign(picked=picked))]


def _listing(rows: pd.DataFrame, title: str) -> list[RenderableType]:
    """The best ranks of some lists, under a title that says of how many."""
    more = f" (the best {SHOWN} of {len(rows):,})" if len(rows) > SHOWN else ""
    best = rows.sort_values("rank", kind="stable").head(SHOWN)
    empty = ["task"] if rows["task"].any() else ["task", "query", "text"]
    return ["", line(title + more), _table(best if rows["task"].nunique() > 1 else best.drop(columns=empty))]


def _table(rows: pd.DataFrame) -> RenderableType:
    return table({str(name).replace("_", " "): rows[name].map(_cell) for name in rows}, CUT)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value) or not np.isfinite(value):
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
