"""A user's files: every container, and the error of whatever is wrong with one."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import json
import lzma
import os
import tracemalloc
from decimal import Decimal
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdslib.data import containers, reader
from rdslib.data.chat import Sample, user_assistant
from rdslib.data.containers import Found, Part
from rdslib.data.inputs import Input, find_input
from rdslib.data.reader import Rejected, Row, read_rows, rows_of, take_rows
from rdslib.errors import UserError

ONE = {"messages": user_assistant("q", "r")}


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def lines(*records):
    """JSONL of records; bytes are lines as they are."""
    texts = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
    return b"".join(text + b"\n" for text in texts)


def stored(table, **options):
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def parquet(records, **options):
    names = dict.fromkeys(name for record in records for name in record)
    return stored(pa.table({name: [record.get(name) for record in records] for name in names}), **options)


def ipc(table, whole):
    """A table as files of Arrow hold it: a whole file, or the stream that `datasets` saves."""
    file = io.BytesIO()
    with (pa.ipc.new_file if whole else pa.ipc.new_stream)(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def separated(records, delimiter=","):
    file = io.StringIO(newline="")
    names = list(dict.fromkeys(name for record in records for name in record))
    writer = csv.DictWriter(file, names, delimiter=delimiter)
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue().encode()


def zstd(data):
    file = pa.BufferOutputStream()
    with pa.CompressedOutputStream(file, "zstd") as stream:
        stream.write(data)
    return file.getvalue().to_pybytes()


CONTAINERS = {
    "a.jsonl": lambda records: lines(*records),
    "a.ndjson": lambda records: lines(*records).rstrip(b"\n"),
    "list.json": lambda records: json.dumps(records, indent=1).encode(),
    "data.json": lambda records: json.dumps({"version": 1, "data": records}).encode(),
    "lines.json": lambda records: lines(*records),
    "a.parquet": lambda records: parquet(records, row_group_size=2),
    "a.csv": separated,
    "semicolons.csv": lambda records: separated(records, ";"),
    "tabs.csv": lambda records: separated(records, "\t"),
    "A.TSV": lambda records: separated(records, "\t"),
}
COMPRESSIONS = {"": bytes, ".gz": gzip.compress, ".zst": zstd, ".xz": lzma.compress}

texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    st.sampled_from(['a "quote", and\tmore', "one\r\ntwo\rthree\n\nfour", "😀 é \u2028 \ufeff", "null"]),
).filter(lambda text: text.strip() and "<|" not in text)


@st.composite
def written(draw, flat):
    """Records, with the messages that they hold; flat ones fit in a table of texts."""
    found = []
    for number in range(draw(st.integers(1, 5))):
        prompt, response = draw(texts), draw(texts)
        messages = user_assistant(prompt, response)
        record = {"question": prompt, "answer": response} if flat else {"messages": messages}
        record |= draw(st.sampled_from([{}, {"id": f"id {number}"}, {"source": "a set"}, {"note": "x"}]))
        found.append((record, messages))
    return found


@pytest.mark.parametrize(
    ("header", "separator"),
    [
        ("prompt", ","),
        ('"prompt;x"', ","),
        ("prompt;answer,x", ","),
        ("\n\nprompt;answer\tx", ";"),
        ("prompt\tanswer", "\t"),
        ('"a\n;b",x', ","),
        ("prompt;answer\rq;r", ";"),
    ],
)
def test_the_header_says_what_separates(tmp_path, header, separator):
    """The first of comma, semicolon and tab by which it has several fields."""
    path = put(tmp_path / "a.csv", f"{header}\nq\n".encode())
    assert containers._separator(path, ",;\t") == separator


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_back_what_was_written(tmp_path, container, compression):
    path = tmp_path / (container + compression.upper() if container.isupper() else container + compression)
    flat = ".csv" in path.name or ".TSV" in path.name

    @given(rows=written(flat))
    @settings(max_examples=12, deadline=None)
    def check(rows):
        path.write_bytes(COMPRESSIONS[compression](CONTAINERS[container]([record for record, _ in rows])))
        found = list(read_rows(path))
        assert [row.messages for row in found] == [messages for _, messages in rows]
        assert [{k: v for k, v in row.record.items() if v is not None} for row in found] == [
            record for record, _ in rows
        ]
        ids = [record.get("id", str(number)) for number, (record, _) in enumerate(rows)]
        assert [row.id for row in found] == ids
        stem = container.partition(".")[0]
        assert [row.source for row in found] == [record.get("source", stem) for record, _ in rows]
        assert len({row.where for row in found}) == len(rows)
        assert all(row.where.startswith(str(path)) for row in found)

    check()


def made(count, **extra):
    return [{**ONE, **extra, "n": number} for number in range(count)]


def with_bytes(column, *texts):
    """A Parquet file of which one text column holds these bytes, whatever they are."""
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))]
    array = pa.Array.from_buffers(pa.string(), len(texts), buffers)
    return stored(pa.table({column: array, "completion": ["r"] * len(texts)}))


def with_times(*values, kind):
    """A Parquet file of good samples with these times besides, of which Python may not know all."""
    count = len(values)
    columns = {"prompt": ["q"] * count, "answer": ["r"] * count, "at": pa.array(values, kind)}
    return stored(pa.table(columns))


def talk(content):
    return {"messages": user_assistant("q", content)}


SURROGATE = b'{"prompt": "q", "completion": "\\ud800", "id": "x"}'
DEEP = b'{"prompt": "q", "completion": "r", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"

# Of each: the file's name, if it is not a.jsonl, its bytes, what its first bad row is called, and how many
# rows are good and bad.
# fmt: off
BAD_ROWS = {
    "broken UTF-8": (lines(ONE, b'{"prompt": "\xff"}', ONE), ":2: is not UTF-8 (byte 12 of", 2, 1),
    "UTF-16": (lines(ONE).decode().encode("utf-16"), ":1: is not UTF-8 (byte 0 of", 0, 2),
    "not JSON": (lines(ONE, b"prompt", ONE), ":2: is not valid JSON (Expecting value, c", 2, 1),
    "a byte order mark within": (lines(ONE, b"\xef\xbb\xbf{}"), ":2: is not valid JSON (Unexpected UTF-8 BOM",
        1, 1),
    "last line cut short": (lines(ONE, ONE)[:-9], ":2: is not valid JSON", 1, 1),
    "two objects on a line": (lines(ONE).strip() * 2, ":1: is not valid JSON (Extra data", 0, 1),
    "text in a list": ("a.json", b'["text", null, {"prompt": "q", "answer": "r"}]', ": record 1: is not", 1,
        2),
    "text in data": ("a.json", b'{"data": [3, {"prompt": "q", "answer": "r"}]}', ": record 1: is not a", 1,
        1),
    "nested too deeply": (lines(ONE, DEEP), ":2: cannot be read (nested too deeply); correct", 1, 1),
    "a number of too many digits": (lines(ONE, b'{"prompt": "q", "answer": "r", "x": ' + b"1" * 5000 + b"}"),
        ":2: cannot be read (Exceeds the limit", 1, 1),
    "half a surrogate pair": (lines(ONE, SURROGATE), ":2: escapes half of a surrogate pair", 1, 1),
    "half a surrogate pair in a list": ("a.json", b"[" + SURROGATE + b"]", ": record 1: escapes half", 0, 1),
    "half a surrogate pair elsewhere": (lines({**ONE, "note": "\udfff"}),
        ":1: escapes half of a surrogate pair", 0, 1),
    "a large sample": (lines(ONE, talk("x" * 10**7)), "too large (10000001 characters", 1, 1),
    "an id twice": (
        lines({**ONE, "id": "x"}, b"", {**ONE, "id": "y"}, {**ONE, "id": "x"}, {**ONE, "id": "x"}),
        "a.jsonl:1; ids must be unique in a file", 2, 2),
    "an id that is a row's number": (lines(ONE, ONE, {**ONE, "id": 1}, {**ONE, "id": "01"}),
        ":3: this sample has the id '1', the number of a row without an id", 3, 1),
    "a row's number that is an id": (lines({**ONE, "id": "2"}, ONE, ONE, ONE),
        ":3: this sample has no id, and its row number is the id '2' of", 3, 1),
    "an id of another type": (lines({**ONE, "id": True}), "has the field id of type bool; it must be", 0, 1),
    "a source of another type": (lines({**ONE, "source": {}}), "the field source of type dict", 0, 1),
    "other columns": ("a.parquet", parquet([{"text": "x"}, {"text": "y"}]), ": row 1: this sample has no f",
        0, 2),
    "broken UTF-8 in Parquet": ("a.parquet", with_bytes("prompt", b"a", b"b", b"c", b"\xff", b"d"),
        ": row 4: cannot be read ('utf-8' codec can't decode", 4, 1),
    "a date out of range": ("a.parquet", with_times(0, 2**61, 1, kind=pa.date64()),
        ": row 2: cannot be read (date value out of range); correct", 2, 1),
    "an unknown time zone": ("a.parquet", with_times(0, None, kind=pa.timestamp("us", "No/Where")),
        ": row 1: cannot be read ('No/Where'); correct", 1, 1),
    "too many fields": ("a.csv", b"prompt,answer\nq,r\nq,r,s\nq,r\n",
        ":3: has 3 fields, where the header has 2", 2, 1),
    "too few fields": ("a.csv", b"prompt,answer\n\nq\nq,r\n", ":3: has 1 fields, where the header has 2", 1,
        1),
    "fields after a long row": ("a.csv", b'prompt,answer\n"q\n\n",r\nq\n', ":5: has 1 fields", 1, 1),
    "an empty cell": ("a.csv", b"prompt,answer\nq,\nq,r\n", ":2: this sample has an empty answer; fill it", 1,
        1),
    "broken UTF-8 in CSV": ("a.csv", b'prompt,answer\nq,r\n"q\n\xe9",r\nq,\xc3\xa9\n',
        ":4: is not UTF-8 (byte 0 of the line)", 2, 1),
    "CSV in Latin-1": ("a.csv", b"prompt,answer\nq,\xe9\nq,\xe8\n", ":2: is not UTF-8 (byte 2 of", 0, 2),
}
# fmt: on


def error_of(path, on_error="stop"):
    """The one line that reading the file ends with: it names the place, and says what to do."""
    with pytest.raises(UserError) as error:
        list(read_rows(path, on_error=on_error))
    message = str(error.value)
    assert message.startswith(f"{path}:")
    assert "; " in message
    assert "\n" not in message
    assert len(message) < 400 + len(str(path))
    return message


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_stops_the_reading_or_is_set_aside(tmp_path, monkeypatch, case):
    *name, data, expected, good, bad = BAD_ROWS[case]
    monkeypatch.setattr(containers, "BATCH", 2)
    path = put(tmp_path / (name[0] if name else "a.jsonl"), data)
    message = error_of(path)
    assert expected in message
    found = list(read_rows(path, on_error="quarantine"))
    rejected = [row for row in found if isinstance(row, Rejected)]
    assert sum(isinstance(row, Row) for row in found) == good
    assert len(rejected) == bad
    assert len(found) == good + bad
    assert f"{rejected[0].where}: {rejected[0].reason}" == message
    assert len({row.id for row in found if isinstance(row, Row)}) == good
    assert len({row.where for row in found}) == len(found)


def test_what_is_set_aside_keeps_its_text(tmp_path):
    path = put(tmp_path / "a.jsonl", lines(b'  {"prompt": "\\ud800"} ', b"\xff{}", {"id": "x"}))
    found = [row.raw for row in read_rows(path, on_error="quarantine")]
    assert found == ['{"prompt": "\\ud800"}', "\\xff{}", '{"id": "x"}']
    path = put(tmp_path / "a.csv", b"prompt,answer\nq,r,s\nq,\n")
    found = [row.raw for row in read_rows(path, on_error="quarantine")]
    assert found == ['["q", "r", "s"]', '{"prompt": "q", "answer": null}']
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert containers.unusable({"x": deep}, True).startswith("cannot be read (nested too deeply)")
    (found,) = rows_of([(Part("p", "p[", "]", "p"), Found(0, {"x": deep}))], on_error="quarantine")
    assert found.raw is None


MANY = lines(*made(2000))
GZIPPED, ZSTD = gzip.compress(MANY), zstd(MANY)

# fmt: off
# Of each: the file's name, its bytes, and why it cannot be read.
UNREADABLE = {
    "Parquet without rows": ("a.parquet", parquet(made(1))[:0], "Parquet file size is 0"),
    "gzip cut at its end": ("a.jsonl.gz", GZIPPED[:-1], "Compressed file ended"),
    "broken gzip": ("a.jsonl.gz", GZIPPED[:10] + b"\xff" * 100, "Error -3 while decompressing data"),
    "gzip of another sum": ("a.jsonl.gz", GZIPPED[:-8] + b"sums" + GZIPPED[-4:], "CRC check failed"),
    "zstd cut at its end": ("a.jsonl.zst", ZSTD[:-1], "Truncated compressed stream)"),
    "xz cut at its end": ("a.jsonl.xz", lzma.compress(MANY)[:-1], "Compressed file ended"),
    "xz with another's bytes": ("a.jsonl.xz", MANY, "Input format not supported"),
    "zstd with another's bytes": ("a.jsonl.zst", MANY, "ZSTD decompress failed"),
    "gzipped CSV cut": ("a.csv.gz", gzip.compress(b"prompt,answer\n" + b"q,r\n" * 999)[:-1], ""),
    "gzipped Parquet cut": ("a.parquet.gz", gzip.compress(parquet(made(9)))[:-1], "Compressed"),
    "Parquet cut": ("a.parquet", parquet(made(9))[:-9], "Parquet magic bytes not found"),
    "Parquet with broken pages": ("a.parquet", parquet(made(9))[:4] + b"\xff" * 80 + parquet(made(9))[84:],
        ""),
    "a column's name that is not UTF-8": ("a.parquet",
        parquet([{"prompt": "q", "answer": "r"}]).replace(b"prompt", b"p\xffompt"),
        "'utf-8' codec can't decode"),
    "JSON nested too deeply": ("a.json", b"[" + DEEP + b"]", "nested too deeply); correct"),
    "JSON with too many digits": ("a.json", b"[" + b"1" * 5000 + b"]", "Exceeds the limit"),
}
# The others: the file's name, its bytes, and what is wrong with it.
BAD_FILES = {
    "a column twice in Parquet": ("a.parquet",
        stored(pa.Table.from_arrays([pa.array(["q"])] * 2, ["prompt"] * 2)),
        ": has the column 'prompt' twice; rename one"),
    "a column twice": ("a.csv", b"prompt,answer,prompt\nq,r,s\n", ": has the column 'prompt' twice; rename"),
    "a header that is not UTF-8": ("a.csv", b"prompt,r\xe9ponse\nq,r\n", ":1: is not UTF-8 (byte 8 of the"),
    "a quote that is not closed": ("a.csv", b'prompt,answer\nq,"r\nq,r\n',
        ":3: cannot be read further (unexp"),
    "text after a quote": ("a.csv", b'prompt,answer\nq,r\n"a "b" c",r\n',
        ":3: cannot be read further (',' exp"),
    "a lone carriage return": ("a.csv", b"prompt,answer\rq,r\r", ":1: cannot be read further (new-line"),
    "JSON that is cut": ("a.json", json.dumps(made(3), indent=1).encode()[:-9],
        " is not valid JSON (Unterminated string starting at, column"),
    "JSON of another kind": ("a.json", b"\n3\n", ": is not a list of records; write one"),
    "JSON lists on lines": ("a.json", b"[1]\n[2]\n",
        ":2: is not valid JSON (Extra data, column 1); correct it, or"),
    "JSON that is not UTF-8": ("a.json", b'[\n{"prompt": "\xff"}]', ":2: is not UTF-8 (byte 14 of it)"),
    "an unknown kind": ("a.txt", b"q", ": is of no known kind; give .jsonl, .ndjson, .json, .parquet, .arr"),
    "a spreadsheet": ("a.xlsx", b"q", ": is of no known kind; give .jsonl, .ndjson, .json, .parquet, .arr"),
    "an archive": ("a.tar.gz", b"q", ": is of no known kind"),
}
BAD_FILES |= {
    case: (name, data, f": cannot be read ({reason}") for case, (name, data, reason) in UNREADABLE.items()
}
# fmt: on


# Of each file's name: the bytes of files that hold nothing.
EMPTY = {
    "a.jsonl": [b"", b"\n \r\n\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"],
    "a.json": [b"", b" \n", b"[]", b'{"data": []}', b"\xef\xbb\xbf"],
    "a.csv": [b"", b"prompt,answer\n"],
    "a.parquet": [with_bytes("prompt")],
    "a.jsonl.gz": [b""],
    "a.jsonl.zst": [b""],
}
MIXED = [ONE, {"instruction": "a", "output": "b"}, {"question": "c", "answer": "d"}]
MIXED_MESSAGES = [user_assistant("q", "r"), user_assistant("a", "b"), user_assistant("c", "d")]


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_an_error_whatever_becomes_of_bad_rows(tmp_path, case):
    name, data, expected = BAD_FILES[case]
    path = put(tmp_path / name, data)
    for on_error in ("stop", "quarantine"):
        assert expected in error_of(path, on_error)


@pytest.mark.parametrize(("name", "data"), [(name, data) for name in EMPTY for data in EMPTY[name]])
def test_an_empty_file_counts_as_one_bad_row(tmp_path, name, data):
    path = put(tmp_path / name, data)
    assert error_of(path) == f"{path}: holds no samples; fill or remove it"
    (found,) = read_rows(path, on_error="quarantine")
    assert found == Rejected(str(path), "holds no samples; fill or remove it", None)


def test_what_comes_before_a_break_is_read_and_nothing_after_it(tmp_path):
    path = put(tmp_path / "a.jsonl.gz", gzip.compress(lines(*made(20_000)), 0)[:-1000])
    rows = []
    with pytest.raises(UserError, match="cannot be read"):
        rows.extend(read_rows(path, on_error="quarantine"))
    assert 15_000 < len(rows) < 20_000
    assert all(isinstance(row, Row) and row.record["n"] == number for number, row in enumerate(rows))


MARK = b"\xef\xbb\xbf"
ID = {**ONE, "id": "a"}
# Of each: the file's name, its bytes, where its rows are, and their messages, if these are not those of ONE.
# fmt: off
ODD_FILES = {
    "a byte order mark, ends of lines and blank lines": ("a.jsonl",
        b"\r\n".join([MARK + lines(ID).strip(), b"", b" \t", lines(ONE).strip(), b""]), [":1", ":4"], None),
    "the same in CSV": ("a.csv",
        MARK + b'\r\nprompt,answer\r\n\r\n"q\r\n\r\n2",r\r\n\r\na,b\r\n\r\n', [":4", ":8"],
        [user_assistant("q\r\n\r\n2", "r"), user_assistant("a", "b")]),
    "the same in JSON": ("a.json", MARK + b"\r\n" + json.dumps(ONE).encode(), [": record 1"], None),
    "JSON over several lines": ("a.json", MARK + json.dumps(ONE, indent=1).encode(), [": record 1"], None),
    "JSON by columns": ("a.json", b'{"prompt": ["a", "q"], "answer": ["b", "r"], "n": [1, null]}',
        [": record 1", ": record 2"], [user_assistant("a", "b"), ONE["messages"]]),
    "JSON by columns of turns": ("a.json", json.dumps({"id": ["x"], "messages": [ONE["messages"]]}).encode(),
        [": record 1"], None),
    "one conversation, and a list as long": ("a.json",
        json.dumps({"tools": ["{}", "{}"], "messages": ONE["messages"]}).encode(), [": record 1"],
        [[{"role": "system", "content": "<tools>\n{}\n{}\n</tools>"}, *ONE["messages"]]]),
    "JSONL under another name": ("a.json", MARK + b"\r\n\n" + lines(ONE, b"", ONE), [":3", ":5"], None),
    "several forms in JSONL": ("a.jsonl", lines(*MIXED), [":1", ":2", ":3"], MIXED_MESSAGES),
    "several forms in Parquet": ("a.parquet", parquet(MIXED), [": row 1", ": row 2", ": row 3"],
        MIXED_MESSAGES),
    "a pair of surrogates": ("a.jsonl", b'{"prompt": "\\ud83d\\uDE00", "answer": "r"}\n', [":1"],
        [user_assistant("😀", "r")]),
    "numbers beyond a float and keys twice": ("a.jsonl",
        b'{"prompt": "x", "prompt": "q", "answer": "r", "n": 1e999}\n', [":1"], None),
}
# fmt: on


@pytest.mark.parametrize("case", ODD_FILES)
def test_an_odd_file_is_read(tmp_path, case):
    name, data, places, messages = ODD_FILES[case]
    path = put(tmp_path / name, data)
    found = list(read_rows(path))
    assert [row.where for row in found] == [f"{path}{place}" for place in places]
    assert [row.messages for row in found] == (messages or [ONE["messages"]] * len(places))
    assert [row.number for row in found] == list(range(len(places)))


# Of each: a column, and what JSON has for its values.
UTC = datetime.UTC
TYPES = {
    "dates": (pa.array([datetime.date(2024, 2, 29), None]), ["2024-02-29", None]),
    "times": (pa.array([datetime.time(1, 2, 3, 4), None]), ["01:02:03.000004", None]),
    "nanoseconds": (
        pa.array([1, 10**18], pa.timestamp("ns")),
        ["1970-01-01T00:00:00.000000001", "2001-09-09T01:46:40"],
    ),
    "zones": (pa.array([datetime.datetime(2024, 1, 1, tzinfo=UTC)] * 2), ["2024-01-01T00:00:00+00:00"] * 2),
    "durations": (pa.array([datetime.timedelta(days=1, seconds=1), None]), ["P1DT0H0M1S", None]),
    "decimals": (
        pa.array([Decimal("1.10"), Decimal("-1234567890123456.78")]),
        ["1.10", "-1234567890123456.78"],
    ),
    "binary": (pa.array([b"\x00\xff", b""]), ["AP8=", ""]),
    "floats": (pa.array([float("nan"), float("-inf")]), [None, None]),
    "categories": (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
    "nested": (pa.array([[{"x": b"a", "y": 1.5}], None]), [[{"x": "YQ==", "y": 1.5}], None]),
    "maps": (pa.array([[("k", b"a")], []], pa.map_(pa.string(), pa.binary())), [[["k", "YQ=="]], []]),
}


@pytest.mark.parametrize("name", ["a.parquet", "a.parquet.zst", "stream.arrow", "file.arrow"])
def test_types_that_json_has_not_are_converted_by_one_rule_and_can_be_had_as_they_are(tmp_path, name):
    columns = {case: column for case, (column, _) in TYPES.items()}
    table = pa.table({"prompt": ["q", "p"], "answer": ["r", "s"], **columns})
    made = ipc(table, name.startswith("file")) if name.endswith("arrow") else stored(table)
    path = put(tmp_path / name, zstd(made) if name.endswith("zst") else made)
    rows = list(read_rows(path))
    for case, (_, expected) in TYPES.items():
        assert [row.record[case] for row in rows] == expected, case
    json.dumps([row.record for row in rows], allow_nan=False)
    put(tmp_path / "z.parquet", stored(pa.table({"prompt": ["x"], "answer": ["y"], "more": [b"z"]})))
    taken = take_rows(find_input(tmp_path), [2, 1, 0, 1])
    same, expected = taken.slice(1).select(table.column_names), table.take(pa.array([1, 0, 1]))
    assert same.schema == table.schema
    assert repr(same.to_pylist()) == repr(expected.to_pylist())
    assert taken["more"].to_pylist() == [b"z", None, None, None]
    put(tmp_path / "c.jsonl", lines(ONE))
    assert take_rows(find_input(tmp_path), [0]) is None


def test_numbers_that_json_has_not_are_null(tmp_path):
    put(tmp_path / "a.jsonl", lines({**ONE, "x": [float("nan"), -float("inf"), 0.5], "y": {"z": 1}}))
    put(tmp_path / "b.json", b'[{"prompt": "q", "answer": "r", "x": NaN, "y": [1e999, -Infinity, 1e3]}]')
    found = [row.record for row in read_rows(tmp_path)]
    assert [found[0]["x"], found[1]["x"], found[1]["y"]] == [[None, None, 0.5], None, [None, None, 1000.0]]


def test_a_named_form_is_read_and_an_unknown_one_is_an_error(tmp_path):
    path = put(tmp_path / "a.jsonl", lines({**ONE, "prompt": "other", "completion": "words"}))
    (row,) = read_rows(path, form="prompt_completion")
    assert row.messages == user_assistant("other", "words")
    with pytest.raises(UserError, match="--format chat: is unknown; use one of messages, sharegpt, alpaca"):
        list(read_rows(path, form="chat"))


def test_queries_may_be_prompts_alone_and_have_tasks(tmp_path):
    records = [{"prompt": "a", "task": "sums"}, {**ONE, "task": ""}, {**ONE, "task": 3}, {**ONE, "task": {}}]
    path = put(tmp_path / "a.jsonl", lines(*records))
    *rows, last = read_rows(path, queries=True, on_error="quarantine")
    assert [row.task for row in rows] == ["sums", None, "3"]
    assert rows[0].messages == [{"role": "user", "content": "a"}]
    assert last.reason == ("this sample has the field task of type dict; it must be text or a number")
    first, *rows = read_rows(path, on_error="quarantine")
    assert isinstance(first, Rejected)
    assert [row.task for row in rows] == [None] * 3


def test_numbers_ids_and_sources(tmp_path):
    records = [
        {**ONE, "id": 7, "source": "s", "dataset": "d"},
        {**ONE, "id": "", "dataset": "d"},
        {**ONE, "id": "x", "source": ""},
        {"prompt": "bad"},
        {**ONE, "id": None, "source": 5},
        *({**ONE, "id": name} for name in ("3", "9" * 5000, "²", "\u0660")),
    ]
    found = read_rows(put(tmp_path / "v1.2.jsonl", lines(*records)), on_error="quarantine")
    rows = [row for row in found if isinstance(row, Row)]
    assert [row.number for row in rows] == [0, 1, 2, 4, 5, 6, 7, 8]
    assert [row.id for row in rows] == ["7", "1", "x", "4", "3", "9" * 5000, "²", "\u0660"]
    assert [row.source for row in rows] == ["s", "d", "v1.2", "5", *["v1.2"] * 4]
    assert rows[0].sample == Sample("7", "s", ONE["messages"])
    path = put(tmp_path / "b.jsonl", lines(*({**ONE, "id": name} for name in (7.0, 7.5, 1e300, 2**70, -1))))
    assert [row.id for row in read_rows(path)] == ["7", "7.5", "1e+300", str(2**70), "-1"]


files = st.lists(
    st.lists(st.sampled_from([None, "x", "y", 0, 1, 2, 3.0]), max_size=4), min_size=1, max_size=4
)


@given(files)
def test_ids_are_unique_whatever_files_hold(given_ids):
    """A row's id is refused only where a row of its own file has it."""
    parts = [Part(f"{at}", f"{at}:", "", "s", f"{at}.jsonl") for at in range(len(given_ids))]
    records = [
        (part, Found(line, {**ONE, "id": name}))
        for part, names in zip(parts, given_ids, strict=True)
        for line, name in enumerate(names, start=1)
    ]
    found = list(rows_of(records, on_error="quarantine"))
    ids = [row.id for row in found if isinstance(row, Row)]
    assert len(set(ids)) == len(ids)
    own: list[tuple[str, str]] = []
    for number, ((part, record), row) in enumerate(zip(records, found, strict=True)):
        name = record.value["id"]
        one = (
            part.name,
            str(number) if name is None else f"{name:g}" if isinstance(name, float) else f"{name}",
        )
        assert isinstance(row, Rejected) == (one in own)
        if isinstance(row, Row):
            own.append(one)
            assert row.id in (one[1], f"{part.file}:{one[1]}")


def test_a_line_longer_than_can_be_held_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "MAX_LINE", 200)
    long, whole = lines(talk("x" * 1000)), lines(ONE).strip().ljust(199) + b"\n"
    path = put(tmp_path / "a.jsonl", whole + long + whole + long.rstrip())
    found = list(read_rows(path, on_error="quarantine"))
    assert [isinstance(row, Row) for row in found] == [True, False, True, False]
    assert found[1] == Rejected(f"{path}:2", "is a line of more than 200 bytes; split it", None)
    path = put(tmp_path / "a.csv", b"prompt,answer\nq,r\n" + b"x" * 300 + b",r\n")
    assert error_of(path, "quarantine") == f"{path}:3: is a line of more than 200 bytes; split it"
    assert len(list(read_rows(put(tmp_path / "a.json", json.dumps([talk("x" * 1000)]).encode())))) == 1


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.json", "a.csv.gz"])
def test_a_pool_is_not_held_in_memory(tmp_path, name):
    if name.startswith("a.csv"):
        data = separated([{"prompt": "q" * 10_000, "answer": f"{at}"} for at in range(2000)])
    else:
        data = lines(*[talk(f"{at} " + "x" * 10_000) for at in range(2000)])
    path = put(tmp_path / name, COMPRESSIONS.get(Path(name).suffix, bytes)(data))
    del data
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(path)) == 2000
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


def test_a_folder_is_its_files_in_order(tmp_path, monkeypatch):
    files = {
        "b.jsonl": lines(ONE),
        "a/2.csv": b"prompt,answer\nq,r\n",
        "a/10.parquet": parquet([ONE]),
        "c.json.gz": gzip.compress(json.dumps([ONE]).encode()),
        "d-00000-of-00002.jsonl": lines(ONE),
        "d-00001-of-00002.jsonl": lines(ONE),
    }
    for name in (".git/x.jsonl", ".hidden.jsonl", "README.md", "a/_SUCCESS"):
        put(tmp_path / name, b"")
    for name, data in files.items():
        put(tmp_path / name, data)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    found = find_input(tmp_path)
    files, ignored = (
        [path.relative_to(tmp_path).as_posix() for path in paths] for paths in (found.files, found.ignored)
    )
    shards = ["d-00000-of-00002.jsonl", "d-00001-of-00002.jsonl"]
    assert files == ["a/10.parquet", "a/2.csv", "b.jsonl", "c.json.gz", *shards]
    assert ignored == [".git", ".hidden.jsonl", "README.md", "a/_SUCCESS", "link"]
    rows = list(read_rows(str(tmp_path)))
    assert [row.id for row in rows] == ["0", "1", "2", "3", "4", "5"]
    # A data set in several files is one source.
    assert [row.source for row in rows] == ["10", "2", "b", "c", "d", "d"]
    # A path that exists is not sought on the hub, though it could be a name there.
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "org/name/a.jsonl", lines(ONE))
    assert find_input("org/name").files == (Path("org/name/a.jsonl"),)


def test_ids_and_empty_files_across_a_folder(tmp_path):
    put(tmp_path / "a.jsonl", lines(ONE, {**ONE, "id": "x"}, {**ONE, "id": 5}))
    put(tmp_path / "b/a.jsonl", lines({**ONE, "id": "0"}, {**ONE, "id": "x"}, ONE, {**ONE, "id": "y"}))
    put(tmp_path / "c.json", json.dumps([{**ONE, "id": name} for name in ("x", "y", "z")]).encode())
    found = ["0", "x", "5", "b/a.jsonl:0", "b/a.jsonl:x", "b/a.jsonl:5", "y", "c.json:x", "c.json:y", "z"]
    assert [row.id for row in read_rows(tmp_path)] == found
    put(tmp_path / "b/a.jsonl", lines(ONE, ONE, {**ONE, "id": "x"}, ONE, {**ONE, "id": "x"}))
    with pytest.raises(
        UserError, match=r"b/a\.jsonl:5: .* the id 'x' of .*b/a\.jsonl:3; ids must be unique in"
    ):
        list(read_rows(tmp_path))
    put(tmp_path / "b/a.jsonl", lines(ONE, {**ONE, "id": 3}))
    with pytest.raises(
        UserError, match=r"b/a\.jsonl:2: .* the id '3', the number of a row without an id; ids"
    ):
        list(read_rows(tmp_path))
    (tmp_path / "b/a.jsonl").unlink()
    (tmp_path / "c.json").unlink()
    put(tmp_path / "b.json", b"\n")
    with pytest.raises(UserError, match=r"b\.json: holds no samples; fill or remove it"):
        list(read_rows(tmp_path))


def test_folders_and_paths_without_data(tmp_path, monkeypatch):
    put(tmp_path / "notes.txt", b"")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"holds no data; give a folder with .jsonl, .ndjson, .json"):
        find_input(tmp_path)
    missing = ["none.jsonl", "none", "a/b/c", "x/none.json.gz"]
    for name in [*(tmp_path / name for name in missing), "data/pool.json.gz", "../pool", "org/name:a:b"]:
        with pytest.raises(UserError, match="there is no such file or folder; check the path"):
            find_input(name)


def refuse(*_, **__):
    raise PermissionError(13, "Permission denied")


def test_what_may_not_be_read_is_an_error(tmp_path, monkeypatch):
    path = put(tmp_path / "a.jsonl", lines(ONE))
    for on_error in ("stop", "quarantine"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", refuse)
            with pytest.raises(UserError, match=r"a\.jsonl: cannot be read .Permission denied.; check that"):
                list(read_rows(path, on_error=on_error))
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot be read .Permission denied.; check the path and its rights"):
        find_input(tmp_path)


def test_a_data_set_of_the_hub(monkeypatch):
    def load(name, split, streaming):
        assert (name, split, streaming) == ("org/a.set", "test", True)
        rows = [{**ONE, "id": None}, {"messages": []}, {**ONE, "id": "x"}]
        return datasets.Dataset.from_list(rows).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load)
    found = find_input("org/a.set:test")
    assert found == Input("org/a.set", split="test")
    first, second, third = read_rows("org/a.set:test", on_error="quarantine")
    assert (first.id, first.source, first.where) == ("0", "org/a.set", "org/a.set: row 1")
    assert first.messages == ONE["messages"]
    assert second.where == "org/a.set: row 2"
    assert (third.id, third.number, third.record["id"]) == ("x", 2, "x")
    with pytest.raises(UserError, match=r"org/a.set: row 2: this sample has no messages"):
        list(read_rows("org/a.set:test"))
    assert find_input("org/a.set").split == "train"


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize(
    "error", [ConnectionError("no\nway out"), RuntimeError("no way out"), TimeoutError()]
)
def test_a_data_set_that_cannot_be_had(monkeypatch, after, error):
    def broken(name, split, streaming):
        def rows():
            yield from [ONE] * after
            raise error

        if not after:
            raise error
        return rows()

    monkeypatch.setattr(datasets, "load_dataset", broken)
    monkeypatch.setattr(reader, "hub_commit", lambda name: "abc")
    with pytest.raises(UserError) as raised:
        list(read_rows("org/none", on_error="quarantine"))
    assert str(raised.value) == (
        "org/none: the split 'train' cannot be read from the hub "
        f"({'no way out' if str(error) else 'TimeoutError'}); check the split and the connection"
    )
    monkeypatch.undo()
    monkeypatch.setattr(datasets, "load_dataset", broken)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"^org/none: is no file or folder, and the hub is out of reach \("):
        list(read_rows("org/none", on_error="quarantine"))
