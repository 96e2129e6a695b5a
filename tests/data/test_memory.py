"""Rows of tables in memory: the same as those of a file of them."""

from __future__ import annotations

import hashlib
import json

import datasets
import numpy as np
import pandas as pd
import pytest

from rdslib.data.chat import user_assistant
from rdslib.data.reader import Rejected, digest_of, read_rows, records_in_memory, rows_of
from rdslib.errors import UserError

ROWS = [
    {"id": "a", "messages": user_assistant("é 🙂", "r"), "n": 1},
    {"id": "b", "messages": user_assistant("q", "r"), "n": 2},
    {"id": "c", "messages": [], "n": 3},
]
KINDS = {
    "list": list,
    "generator": iter,
    "frame": pd.DataFrame,
    "dataset": datasets.Dataset.from_list,
    "columns": lambda rows: {name: [row[name] for row in rows] for name in rows[0]},
    "formatted": lambda rows: datasets.Dataset.from_list(rows).with_format("numpy"),
    "stream": lambda rows: datasets.Dataset.from_list(rows).to_iterable_dataset(),
}


def read(table, **options):
    return list(rows_of(records_in_memory("pool", table), **options))


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_gives_the_rows_of_a_file_of_it(tmp_path, kind):
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    *expected, rejected = read_rows(path, on_error="quarantine")
    *rows, last = read(KINDS[kind](ROWS), on_error="quarantine")
    assert [(r.number, r.sample, r.record) for r in rows] == [
        (r.number, r.sample, r.record) for r in expected
    ]
    assert [row.where for row in rows] == ["pool[0]", "pool[1]"]
    assert last == Rejected("pool[2]", rejected.reason, rejected.raw)
    # Of the rows as the table gives them: older releases of `datasets` sort keys of what is nested.
    given = [found.value for _, found in records_in_memory("pool", KINDS[kind](ROWS))]
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    digest = digest_of(records_in_memory("pool", KINDS[kind](ROWS)))
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_digest_is_of_all_that_rows_hold_in_their_order():
    tables = [ROWS, ROWS[::-1], ROWS[:2], [], [{**ROWS[0], "n": 0}, *ROWS[1:]]]
    assert len({digest_of(records_in_memory("pool", table)) for table in tables}) == len(tables)
    assert digest_of(records_in_memory("other", ROWS)) == digest_of(records_in_memory("pool", ROWS))


def test_no_value_is_a_missing_field_and_other_types_become_those_of_json():
    frame = pd.DataFrame({"prompt": ["q", "q"], "answer": ["r", None], "messages": [np.nan, None]})
    frame["id"] = pd.array([7, None], dtype="Int64")
    frame["when"] = pd.to_datetime(["2024-01-01", None])
    frame["vector"] = [np.arange(2), np.float32([0.5])]
    first, second = read(frame, queries=True)
    when = "2024-01-01T00:00:00"
    assert first.record == {
        "prompt": "q", "answer": "r", "messages": None, "id": 7, "when": when, "vector": [0, 1],
    }  # fmt: skip
    assert (first.id, second.id) == ("7", "1")
    assert (second.record["when"], second.record["vector"]) == (None, [0.5])


CIRCLE: list = []
CIRCLE.append(CIRCLE)
# fmt: off
REFUSED = {
    "a number": (3,
        "pool: is of type int; give a DataFrame, a pyarrow table, one split of a data set, a l"),
    "all splits": (datasets.DatasetDict(train=[]), "pool: is of type DatasetDict; give"),
    "one row": (ROWS[0], "pool: is a dict with values that are no lists; give a list for each column"),
    "columns of other lengths": ({"prompt": ["q"], "answer": []}, "pool: is a dict of lists of different"),
    "a column without a name": (pd.DataFrame([[1]]),
        "pool: has columns with the same name, or with one that"),
    "a column twice": (pd.DataFrame([["q", "r"]], columns=["prompt"] * 2), "pool: has columns with the"),
    "text": ([ROWS[0], "text"], "pool[1]: is of type str; give rows as dicts"),
    "a circle": ([{"x": CIRCLE}],
        "pool[0]: cannot be written as JSON (nested too deeply); correct"),
    "keys": ([ROWS[0], {"x": {(1, 2): 3}}], "pool[1]: cannot be written as JSON (keys must be"),
    "half a surrogate pair": ([{"prompt": "\ud800"}], "pool[0]: escapes half of a surrogate pair"),
    "no response": ([ROWS[0], {"prompt": "q"}], "pool[1]: this sample has no field that holds a resp"),
    "an id twice": ([*ROWS[:2], ROWS[0]], "pool[2]: this sample has the id 'a' of pool[0]; ids must"),
    "nothing": ([], "pool: holds no samples; fill or remove it"),
}
# fmt: on


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_one_line_that_names_the_row(case):
    table, expected = REFUSED[case]
    with pytest.raises(UserError) as error:
        read(table)
    assert str(error.value).startswith(expected)
    assert "\n" not in str(error.value)
