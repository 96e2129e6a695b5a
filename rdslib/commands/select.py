"""`rds select`, and the same from Python: the best samples of a user's pool."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, cast

import numpy as np
import pyarrow as pa
import typer

from rdslib import __version__
from rdslib.commands.outputs import (
    Written,
    check_apart,
    check_output,
    columns,
    left_out_of,
    read_record,
    record_of,
    write,
)
from rdslib.commands.request import SelectRequest, use_device, with_keywords, with_options
from rdslib.commands.text import hint
from rdslib.commands.user_data import LEFT_OUT, NUMBERS, RECORDS
from rdslib.commands.user_selection import UserSelection, code_of
from rdslib.data.formats import as_messages, form_of, holders
from rdslib.data.pool import rows_at
from rdslib.errors import UserError
from rdslib.methods import get_scorer
from rdslib.methods.blocks import blocks_of
from rdslib.pipeline.step import in_order
from rdslib.selection.topk import Block

if TYPE_CHECKING:
    from rdslib.data.reader import Table
    from rdslib.pipeline.pipeline import Request

    Data: TypeAlias = Table | str | Path

# Fields that trainers read as they are.
TRAINED = {"messages", "prompt", "completion"}
# The options by which rows are left out.
TAKEN_BY = {"rejected": "--on-error quarantine", "contaminated": "--exclude", "duplicate": "--dedup"}
# What is added to each picked row.
FIELDS = ("rds_score", "rds_rank", "rds_id", "rds_source", "rds_task", "rds_query")


@with_options()
def select_command(
    options: Mapping[str, Any],
    out: Annotated[Path, typer.Option(help="The .jsonl, .jsonl.gz or .parquet file to write.")],
) -> None:
    """Choose the K best samples of a pool: by RDS+, those nearest to your queries.

    The output has the pool's own rows, in the order of picking, each with rds_score, rds_rank, rds_id,
    rds_source and, for methods with queries, rds_task and rds_query (the number of the query, from 0, that
    chose it). Queries with a field "task" take turns by task. What was computed is kept: a selection that was
    stopped goes on, and another K of the same pool costs nothing.
    """
    use_device(options["device"])
    request = SelectRequest.of(options)
    typer.echo(write_selection(request, out))
    file = quote(str(out))
    why = (
        f"`rds explain {file} --sample=#0` says why the first was picked; "
        if get_scorer(request.method).needs_queries
        else ""
    )
    hint(f"{why}`rds compare {file} OTHER` sets another selection beside it")


@with_keywords
def select(
    pool: Data,
    queries: Data | None = None,
    *,
    model: str | Path | None = None,
    k: int | str,
    exclude: Data | Sequence[Data] = (),
    **options: Any,
) -> Any:
    """Choose the `k` best samples of a pool, as `rds select` does: by RDS+, those nearest to the queries.

    Args:
        pool: A pandas DataFrame, a pyarrow table, a `datasets.Dataset` or `IterableDataset`, an iterable of
            dicts, a dict of lists, or the name of a file, of a folder or of a data set of the hub. A null
            cell is a missing field. It is left as it is.
        queries: Samples of what the model should do, in any of these forms, or a list of prompts.
        model: The language model: a folder, a hub name, a GGUF file or a profile's name; by default that of
            `profile`. Methods that use none need none.
        k: How many, or a percent of the pool as "5%".
        exclude: A test set, or a list of them, in any of these forms.
        **options: The command's other options, with its defaults; `as_` is `--as`.

    Returns:
        The picked rows in the order of picking, each with `rds_score`, `rds_rank`, `rds_id` (its number where
        it has none), `rds_source` and, for methods with queries, `rds_task` and `rds_query` (the position,
        from 0, of the query that chose it). A DataFrame
        gives a DataFrame with the picked rows' index labels, a table a table, a Dataset or IterableDataset a
        Dataset, and anything else a list of dicts. Values are the pool's, but those of an iterable that is no
        sequence, of an IterableDataset and of files, which are as JSON holds them.

    Raises:
        rdslib.errors.UserError: Something cannot be read or selected. It names a row in memory by its
            position, as in `pool[3]`.

    Warns:
        UserWarning: Rows are left out (`on_error="quarantine"`, `dedup`, `exclude`): how many, and of each
            kind the first and its reason.

    Examples:
        >>> from rdslib import select
        >>> pool = [
        ...     {"instruction": "What is 17 + 25?", "output": "42"},
        ...     {"instruction": "Write a haiku about rain.", "output": "Rain falls on the roof ..."},
        ...     {"instruction": "What is 12 + 30?", "output": "42"},
        ... ]
        >>> best = select(pool, [{"prompt": "What is 17 + 24?", "completion": "41"}], model=model, k=1)
        >>> best[0]["instruction"], best[0]["rds_rank"], best[0]["rds_query"]
        ('What is 17 + 25?', 0, 0)

        A DataFrame keeps its index and its other columns:

        >>> import pandas as pd
        >>> frame = pd.DataFrame(pool, index=["sum", "haiku", "another sum"])
        >>> prompts = ["Write a haiku about snow.", "What is 17 + 26?"]
        >>> queries = pd.DataFrame({"prompt": prompts, "response": ["Snow falls on the hill ...", "43"]})
        >>> best = select(frame, queries, model=model, k=2)
        >>> list(best.index)
        ['haiku', 'sum']
        >>> [name for name in best.columns if name not in frame.columns]
        ['rds_score', 'rds_rank', 'rds_id', 'rds_source', 'rds_task', 'rds_query']
    """
    tables: dict[str, Table] = {}

    def name_of(data: Data, name: str) -> str:
        if isinstance(data, str | Path):
            return str(data)
        tables[name] = data
        return name

    tests = exclude if isinstance(exclude, list | tuple) else [cast("Data", exclude)]
    given = {
        "pool": name_of(pool, "pool"),
        "queries": None if queries is None else name_of(_prompts(queries), "queries"),
        "exclude": [name_of(each, f"exclude_{i}") for i, each in enumerate(tests)],
    }
    request = SelectRequest.of({**given, "model": model, "k": str(k), **options})
    with _chosen(request.device):
        selection = UserSelection(request, tables)
        asked = compute(selection)
        rows = list(picked_rows(selection, asked))
    if left_out := _left_out(selection):
        warnings.warn(left_out, UserWarning, stacklevel=2)
    return _like(pool, rows, _numbers(selection, asked), request.as_)


def _prompts(queries: Data) -> Data:
    """Queries, of which a list of texts are prompts alone."""
    if isinstance(queries, list) and all(isinstance(each, str) for each in queries):
        return [{"prompt": each} for each in queries]
    return queries


@contextmanager
def _chosen(device: str | None) -> Iterator[None]:
    """With a device for this call alone."""
    from rdslib.models.device import CHOICE, restored

    with restored(CHOICE):
        use_device(device)
        yield


def _left_out(selection: UserSelection) -> str:
    """How many rows were left out, and of each kind the first and its reason; empty if none were."""
    counts, first = counts_of(selection), dict[str, str]()
    path = selection.store.path(selection.pipeline.pool) / LEFT_OUT
    with path.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            first.setdefault(row["kind"], f"{row['where']}: {row['reason']}")
    kinds = "; ".join(f"{counts[kind]} {kind}, first {why}" for kind, why in first.items())
    left_out = counts["read"] - counts["kept"]
    return kinds and f"{left_out} of {counts['read']} rows of the pool were left out: {kinds}"


def _like(pool: Data, rows: list[dict[str, Any]], at: list[int], form: str) -> Any:
    """The picked `rows`, which are at the positions `at` of the pool, as what the pool is."""
    import datasets
    import pandas as pd

    if isinstance(pool, str | Path):
        return rows
    whole = form == "own"
    added = {name: [row[name] for row in rows] for name in FIELDS if name in rows[0]}
    if isinstance(pool, pd.DataFrame):
        return pool.iloc[at].assign(**added) if whole else pd.DataFrame(rows, index=pool.index[at])
    if isinstance(pool, pa.Table):
        if not whole:
            return pa.table(columns(rows))
        picked = pool.take(at).drop_columns([name for name in added if name in pool.column_names])
        for name, column in added.items():
            picked = picked.append_column(name, [column])
        return picked
    if isinstance(pool, datasets.Dataset) and whole:
        # In memory: else the picks would leave a file beside the pool's.
        picked = pool.select(at, keep_in_memory=True).flatten_indices(keep_in_memory=True)
        picked = picked.remove_columns([name for name in added if name in picked.column_names])
        for name, column in added.items():
            picked = picked.add_column(name, column)
        return picked
    if isinstance(pool, datasets.Dataset | datasets.IterableDataset):
        return datasets.Dataset.from_dict(columns(rows))
    if isinstance(pool, Sequence) and whole:
        given = [cast("Mapping[str, Any]", pool[position]) for position in at]
        return [
            row | {name: added[name][rank] for name in added} for rank, row in enumerate(map(dict, given))
        ]
    return rows


# --- the selection


def compute(selection: UserSelection) -> Request:
    """Make a selection; return what was asked of the pipeline. Without `resume` all of it is made anew."""
    pipeline = selection.pipeline
    # Whether the pool can give what is asked is known before a model is loaded.
    asked = _asked(selection)
    what, turns = selection.turns
    if asked.k < turns:
        selection.store.progress.note(
            f"-k {selection.request.k}: is less than the {turns} {what}, which pick in turns, so that it is "
            f"their order that decides; ask for {4 * turns} (four each), or give fewer {what}"
        )
    step = pipeline.selection(asked)
    if not selection.request.resume:
        selection.store.forget(*in_order([step]))
    try:
        pipeline.compute([step])
    except UserError as error:
        # A step's label says which of a study's it is; here there is one.
        raise UserError(str(error).replace(f"{step.label}: ", f"-k {asked.k}: ", 1)) from error
    return asked


def _asked(selection: UserSelection) -> Request:
    """What is asked of the pool, once that is made."""
    pipeline = selection.pipeline
    pipeline.compute([pipeline.pool, *pipeline.queries.values()])
    sources = pipeline.pool_file().sources if selection.limits else []
    return selection.asked(counts_of(selection), sources)


def counts_of(selection: UserSelection) -> dict[str, int]:
    """Rows of the pool, which has been made: read, kept, rejected, contaminated, duplicate."""
    return cast("dict[str, int]", selection.store.manifest(selection.pipeline.pool)["counts"])


def scores_at(
    selection: UserSelection, asked: Request, task: str | None, positions: Sequence[int]
) -> np.ndarray:
    """Scores of some samples for a task's queries, as the method gives them: [queries, positions]."""
    blocks = blocks_of(get_scorer(asked.method), selection.pipeline.scoring_inputs(asked, task))
    return columns_at(blocks, positions)


def columns_at(blocks: Iterable[Block], positions: Sequence[int]) -> np.ndarray:
    """Of score blocks the columns of some samples: [rows, positions]."""
    wanted = np.asarray(positions, dtype=np.int64)
    columns: dict[int, np.ndarray] = {}
    for start, block in blocks:
        inside = wanted[(wanted >= start) & (wanted < start + block.shape[1])]
        columns |= dict(zip(inside.tolist(), np.asarray(block)[:, inside - start].T, strict=True))
    return np.stack([columns[position] for position in wanted.tolist()], axis=1)


def picked_rows(selection: UserSelection, asked: Request) -> Iterator[dict[str, Any]]:
    """The rows of a selection, which has been made, as `--as` says, with `FIELDS`."""
    pipeline, picks = selection.pipeline, selection.pipeline.picks(asked).to_pylist()
    positions = [pick["position"] for pick in picks]
    records = rows_at(selection.store.path(pipeline.pool) / RECORDS, positions)
    queries = _queries_of(selection, asked, picks)
    request, forms = selection.request, dict[str, dict[str, None]]()
    for rank, (pick, kept) in enumerate(zip(picks, records, strict=True)):
        # What an earlier selection has added says nothing of this one.
        row = {name: value for name, value in json.loads(kept["record"]).items() if name not in FIELDS}
        if request.as_ == "messages":
            row = as_messages(row, request.format)
        else:
            form = request.format or form_of(row)
            forms.setdefault(form, {}).update(dict.fromkeys(holders(row, form)))
        row |= {"rds_score": round(pick["score"], 6), "rds_rank": rank}
        row |= {"rds_id": pick["id"], "rds_source": pick["source"]}
        yield row | queries.get(rank, {})
    if len(forms) > 1:
        names = " and ".join(sorted(forms))
        selection.store.progress.note(
            f"the picks are of the forms {names}, which trainers do not read from one file; --as messages "
            "gives all of them one form"
        )
    elif any(not TRAINED.issuperset(fields) for fields in forms.values()):
        (fields,) = forms.values()
        selection.store.progress.note(
            f"the picks have samples in {' and '.join(fields)}, which trainers such as TRL do not read; --as "
            "messages gives them messages"
        )


def _numbers(selection: UserSelection, asked: Request) -> list[int]:
    """Of each pick, the number of its row in the user's pool."""
    numbers = np.load(selection.store.path(selection.pipeline.pool) / NUMBERS)
    return cast("list[int]", numbers[selection.pipeline.picks(asked)["position"].to_numpy()].tolist())


def _queries_of(
    selection: UserSelection, asked: Request, picks: Sequence[Mapping[str, Any]]
) -> dict[int, dict[str, Any]]:
    """By rank, the task and the number of the query that a sample was picked for; none without queries.

    Without the number where all queries of a task pick together.
    """
    found: dict[int, dict[str, Any]] = {}
    for task in asked.targets:
        ranks = [rank for rank, pick in enumerate(picks) if not asked.by_task or pick["picked_by"] == task]
        if get_scorer(asked.method).joins_queries:
            found |= {rank: {"rds_task": task} for rank in ranks}
            continue
        if asked.by_task and ranks:
            # A task's list is of all of its queries: the best for the sample stands for them.
            queries = scores_at(selection, asked, task, [picks[rank]["position"] for rank in ranks]).argmax(0)
        else:
            queries = np.array([picks[rank]["picked_by"] for rank in ranks], dtype=np.int64)
        rows = selection.queries[task]
        numbers = {rank: rows[query].number for rank, query in zip(ranks, queries, strict=True)}
        found |= {rank: {"rds_task": task, "rds_query": number} for rank, number in numbers.items()}
    return found


# --- the command


def write_selection(request: SelectRequest, out: Path) -> Written:
    """Select what is requested, and write it to `out`, in the order of picking.

    What can be checked is checked before a model is loaded, and `out` is written whole or not at all.

    Raises:
        UserError: Something cannot be read, selected or written.
    """
    check_output(out)
    selection = UserSelection(request)
    check_apart((out, left_out_of(out), record_of(out)), selection.inputs)
    from rdslib.models.device import CHOICE  # loads torch, which what is refused has no need of
    from rdslib.pipeline import costs

    asked = compute(selection)
    counts, pool = counts_of(selection), selection.pipeline.pool
    counts = {**counts, "selected": asked.k, "left": counts["kept"] - asked.k}
    for kind, option in TAKEN_BY.items():
        if counts[kind] * 5 > counts["read"]:
            selection.store.progress.note(
                f"{option}: leaves out {counts[kind]:,} of {counts['read']:,} rows, more than a fifth; "
                f"{left_out_of(out)} lists them, with the reasons"
            )
    record = {
        "request": request.model_dump(),
        "pool": pool.hash,
        "selection": selection.pipeline.selection(asked).hash,
        "counts": counts,
        "streams": selection.streams,
        "flops": costs.measured(selection.pipeline, asked),
        "version": __version__,
        "device": os.environ.get(CHOICE),
    }
    left_out = selection.store.path(pool) / LEFT_OUT if counts["read"] > counts["kept"] else None
    typed = _typed(selection, asked) if out.suffix == ".parquet" else None
    write(out, picked_rows(selection, asked), left_out, record, typed)
    return Written(out, left_out and left_out_of(out), counts)


def _typed(selection: UserSelection, asked: Request) -> pa.Table | None:
    """Columns of a pool of Parquet at the picks, with their types, of which JSON has few; None of others."""
    table = selection.pool.take(_numbers(selection, asked))
    made = {*FIELDS, "messages"} if selection.request.as_ == "messages" else {*FIELDS}
    return table and table.drop_columns([name for name in table.column_names if name in made])


def reopen(out: Path, profile: str | None = None) -> tuple[UserSelection, Request]:
    """The selection that `write_selection` has written to `out`, and what was asked of its pipeline.

    What is missing of its artifacts is made again. A profile that runs code, which the record names, is used
    only if the user names it too, as `profile`: the record may come from anybody.

    Raises:
        UserError: Its record is not there, not whole or of another file, or the files that it was made from,
            or the methods' code, are others now; or it is of such a profile.
    """
    record = read_record(out)
    request: SelectRequest = record["request"]
    if streams := record.get("streams"):
        raise UserError(
            f"{out}: was selected from a stream ({', '.join(streams)}), which cannot be read again; keep it "
            "in a file, and select from that"
        )
    if profile is not None:
        request = SelectRequest.of({**request.model_dump(), "profile": profile})
    elif request.profile is not None and (code := code_of(request.profile)):
        raise UserError(
            f"{out}: was selected with the profile {request.profile}, which runs code ({', '.join(code)}); "
            "code that a file names is not run: look at it, and give --profile with that profile"
        )
    use_device(record["device"])
    selection = UserSelection(request)
    pipeline = selection.pipeline
    if pipeline.pool.hash != record["pool"]:
        raise UserError(f"{out}: the files that it was selected from have changed; select anew")
    asked = _asked(selection)
    if pipeline.selection(asked).hash != record["selection"]:
        raise UserError(f"{out}: its model, profile or method has changed since; select anew")
    pipeline.compute([pipeline.selection(asked)])
    return selection, asked
