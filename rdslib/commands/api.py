"""Selection from Python: `rds select` in one call, on tables and lists that are in memory, or on files.

What is in memory is written to a temporary file and read as any file is, so that it gives the same picks as
that file would, and artifacts that are kept by the contents of files are found again.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

from rdslib.errors import UserError

# All else is imported in functions: `import rdslib` must not take the seconds that torch takes.
if TYPE_CHECKING:
    import datasets
    import pandas as pd

    from rdslib.commands.output import Form, Written
    from rdslib.commands.own_pool import Dedup

    Rows: TypeAlias = pd.DataFrame | datasets.Dataset | datasets.IterableDataset | Iterable[Mapping[str, Any]]
    Data: TypeAlias = Rows | str | Path

_FOLDER = "rdslib-select-"
# A place in a temporary file: of this call, or of the one that made an artifact that is used again.
_PLACE = re.compile(rf"\S*{_FOLDER}\w+/(\w+)\.jsonl(?::(\d+))?")


def select(
    pool: Data,
    queries: Data | None = None,
    *,
    model: str | Path,
    k: int | str,
    method: str = "rds",
    format: str | None = None,
    as_: Form = "own",
    on_error: Literal["stop", "quarantine"] = "stop",
    dedup: Dedup = "none",
    exclude: Data | Sequence[Data] = (),
    balance_sources: bool = False,
    max_per_source: int | None = None,
    profile: str | Path | None = None,
    device: str | None = None,
    engine: Literal["local", "ray"] = "local",
    resume: bool = True,
    seed: int = 42,
) -> Any:
    """Choose the `k` best samples of a pool, as `rds select` does: by RDS+, those nearest to the queries.

    `pool`, `queries` and `exclude`, or each of its list, are a pandas DataFrame, a `datasets.Dataset` or
    `IterableDataset`, an iterable of dicts, or the name of a file, of a folder or of a data set of the hub.
    A null cell is a missing field. `k` is a count, or a percent of the pool as "5%". The options are those of
    the command, with its defaults; `as_` is `--as`. Temporary files go to the system's folder for them.

    Returns the picked rows in the order of picking, each with `rds_score`, `rds_rank` and, for methods with
    queries, `rds_task` and `rds_query` (the position, from 0, of the query that chose it). A DataFrame gives
    a DataFrame with the picked rows' own index labels; a Dataset or IterableDataset gives a Dataset, and
    anything else a list of dicts. Values are the pool's own, but those of an iterable that is no sequence,
    of an IterableDataset and of files, which are as JSON holds them. `pool` is left as it is.

    Rows that are left out (`on_error="quarantine"`, `dedup`, `exclude`) are told of in one UserWarning: how
    many, and of each kind the first and its reason. Raises `rdslib.errors.UserError` for whatever cannot be
    read or selected; it names a row in memory by its position, as in `pool[3]`.

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
    >>> list(best.columns)
    ['instruction', 'output', 'rds_score', 'rds_rank', 'rds_task', 'rds_query']

    A path gives a list of dicts; some methods need no queries:

    >>> frame.to_json("pool.jsonl", orient="records", lines=True)
    >>> best = select("pool.jsonl", model=model, k="70%", method="random", as_="messages")
    >>> [sorted(row) for row in best]
    [['messages', 'rds_rank', 'rds_score'], ['messages', 'rds_rank', 'rds_score']]
    """
    from rdslib.commands.output import Form, select_own
    from rdslib.commands.own_pool import Dedup, Request

    # The command knows these by their types.
    _check("as_", as_, get_args(Form))
    _check("on_error", on_error, ("stop", "quarantine"))
    _check("dedup", dedup, get_args(Dedup))
    _check("engine", engine, ("local", "ray"))
    if max_per_source is not None and max_per_source < 1:
        raise UserError(f"max_per_source={max_per_source}: leaves nothing; give at least 1")
    test_sets = list(exclude) if isinstance(exclude, list | tuple) else [exclude]
    with tempfile.TemporaryDirectory(prefix=_FOLDER) as name, _chosen(device):
        folder = Path(name)
        out = folder / "selection.jsonl"
        try:
            request = Request(
                pool=_as_file(pool, folder, "pool"),
                model=str(model),
                k=str(k),
                queries=None if queries is None else _as_file(queries, folder, "queries"),
                method=method,
                form=format,
                on_error=on_error,
                dedup=dedup,
                exclude=tuple(_as_file(each, folder, f"exclude_{i}") for i, each in enumerate(test_sets)),
                balance_sources=balance_sources,
                max_per_source=max_per_source,
                profile=None if profile is None else str(profile),
                engine=engine,
                seed=seed,
            )
            written = select_own(request, out, as_, resume)
        except UserError as error:
            raise UserError(_in_memory(str(error))) from None
        told = _left_out(written)
        with out.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        found = _like(pool, rows, out, as_)
    if told:
        warnings.warn(told, UserWarning, stacklevel=2)
    return found


def _check(option: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise UserError(f"{option}={given!r}: is unknown; use {' or '.join(map(repr, known))}")


@contextmanager
def _chosen(device: str | None) -> Iterator[None]:
    """With a device for this call alone."""
    if device is None:
        yield
        return
    from rdslib.models.device import CHOICE, choose

    before = os.environ.get(CHOICE)
    choose(device)
    try:
        yield
    finally:
        del os.environ[CHOICE]
        if before is not None:
            os.environ[CHOICE] = before


def _as_file(data: Data, folder: Path, name: str) -> str:
    """A name that `rdslib.data.reader` reads: the one given, or that of a file with a row a line."""
    if isinstance(data, str | Path):
        return str(data)
    path = folder / f"{name}.jsonl"
    with path.open("w", encoding="ascii") as stream:
        for position, row in enumerate(_rows(data, name)):
            if not isinstance(row, Mapping):
                raise UserError(f"{name}[{position}]: is of type {type(row).__name__}; give rows as dicts")
            try:
                # Escaped, so that half a surrogate pair gets to the reader, which says what is wrong.
                stream.write(json.dumps(_with_nulls(row), default=_plain) + "\n")
            except (TypeError, ValueError, RecursionError) as error:
                reason = " ".join(str(error).split())[:150]
                raise UserError(
                    f"{name}[{position}]: cannot be written as JSON ({reason}); mend it"
                ) from error
    return str(path)


def _rows(data: Rows, name: str) -> Iterable[Any]:
    import datasets
    import pandas as pd

    if isinstance(data, pd.DataFrame):
        columns = list(data.columns)
        if len(set(columns)) < len(columns) or not all(isinstance(column, str) for column in columns):
            raise UserError(
                f"{name}: has columns with the same name, or with one that is no text; rename them"
            )
        return (dict(zip(columns, row, strict=True)) for row in data.itertuples(index=False, name=None))
    if isinstance(data, datasets.Dataset | datasets.IterableDataset):
        return data.with_format(None)
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        raise UserError(
            f"{name}: is of type {type(data).__name__}; give a DataFrame, one split of a data set, a list of "
            f"dicts or a path"
        )
    return data


def _with_nulls(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with null for pandas' several kinds of no value."""
    import pandas as pd

    return {
        key: None if pd.api.types.is_scalar(value) and pd.isna(value) else value for key, value in row.items()
    }


def _plain(value: Any) -> Any:
    """What JSON has no form for: arrays and numbers of numpy in plain Python, else as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _in_memory(text: str) -> str:
    """A message with places of temporary files, whose lines are numbered from 1, as positions in memory."""
    return _PLACE.sub(lambda place: place[1] + (f"[{int(place[2]) - 1}]" if place[2] else ""), text)


def _left_out(written: Written) -> str:
    """How many rows were left out, and of each kind the first and its reason; empty if none were."""
    if written.left_out is None:
        return ""
    first: dict[str, str] = {}
    with written.left_out.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            first.setdefault(row["kind"], f"{row['where']}: {row['reason']}")
    kinds = "; ".join(f"{getattr(written, kind)} {kind}, first {why}" for kind, why in first.items())
    count = written.rejected + written.contaminated + written.duplicate
    return _in_memory(f"{count} of {written.read} rows of the pool were left out: {kinds}")


def _like(pool: Data, rows: list[dict[str, Any]], out: Path, form: Form) -> Any:
    """The selected `rows`, read from `out`, as what the pool is."""
    import datasets
    import pandas as pd

    from rdslib.commands.output import FIELDS

    if isinstance(pool, str | Path):
        return rows
    own = form == "own"
    added = {name: [row[name] for row in rows] for name in FIELDS if name in rows[0]}
    if isinstance(pool, pd.DataFrame):
        at = _positions(out)
        return pool.iloc[at].assign(**added) if own else pd.DataFrame(rows, index=pool.index[at])
    if isinstance(pool, datasets.Dataset) and own:
        # In memory: else the picks would leave a file beside the pool's own.
        picked = pool.select(_positions(out), keep_in_memory=True).flatten_indices(keep_in_memory=True)
        picked = picked.remove_columns([name for name in added if name in picked.column_names])
        for name, column in added.items():
            picked = picked.add_column(name, column)
        return picked
    if isinstance(pool, datasets.Dataset | datasets.IterableDataset):
        names = dict.fromkeys(name for row in rows for name in row)
        return datasets.Dataset.from_dict({name: [row.get(name) for row in rows] for name in names})
    if isinstance(pool, Sequence) and own:
        given = cast("Sequence[Mapping[str, Any]]", pool)
        picks = zip(_positions(out), rows, strict=True)
        return [{**given[position], **{name: row[name] for name in added}} for position, row in picks]
    return rows


def _positions(out: Path) -> list[int]:
    """Where in a pool in memory the rows of a selection are, from 0."""
    from rdslib.commands.output import reopen
    from rdslib.commands.own_pool import RECORDS
    from rdslib.data.pool import rows_at
    from rdslib.pipeline.steps import read_selection

    study, run = reopen(out)
    picks = read_selection(study.store.path(study.selection(run)))["position"].to_pylist()
    kept = rows_at(study.store.path(study.data) / RECORDS, picks)
    return [int(row["where"].rpartition(":")[2]) - 1 for row in kept]
