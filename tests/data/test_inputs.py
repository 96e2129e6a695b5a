"""A user's own files: every container, and what is said of whatever is wrong with one."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import tracemalloc
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdslib.data import containers
from rdslib.data import reader as inputs
from rdslib.data.chat import user_assistant
from rdslib.data.reader import Input, Rejected, Row, find_input, read_rows
from rdslib.errors import UserError

ONE = {"messages": user_assistant("q", "r")}


def lines(*records):
    """JSONL of records; bytes are lines as they are."""
    texts = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
    return b"".join(text + b"\n" for text in texts)


def parquet(records, **options):
    file = io.BytesIO()
    names = dict.fromkeys(name for record in records for name in record)
    table = pa.table({name: [record.get(name) for record in records] for name in names})
    pq.write_table(table, file, **options)
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
    "A.TSV": lambda records: separated(records, "\t"),
}
COMPRESSIONS = {"": bytes, ".gz": gzip.compress, ".zst": zstd}

texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    st.sampled_from(['a "quote", and\tmore', "one\r\ntwo\rthree\n\nfour", "😀 é \u2028 \ufeff", "null"]),
).filter(lambda text: text.strip() and "<|" not in text)


@st.composite
def written(draw, flat):
    """Records of one form, with the messages that they hold; flat ones fit in a table of texts."""
    form = draw(st.sampled_from(["alpaca", "pair"] if flat else ["messages", "sharegpt", "alpaca", "pair"]))
    count = draw(st.integers(1, 5))
    found = []
    for number in range(count):
        turns = 2 if flat else 2 * draw(st.integers(1, 3))
        said = [draw(texts) for _ in range(turns)]
        messages = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(said)]
        system = draw(st.none() | texts)
        whole = messages if system is None else [{"role": "system", "content": system}, *messages]
        if form == "messages":
            record = {"messages": whole}
        elif form == "sharegpt":
            names = {"user": "human", "assistant": "gpt", "system": "system"}
            record = {"conversations": [{"from": names[m["role"]], "value": m["content"]} for m in whole]}
        elif form == "alpaca":
            record = {"instruction": said[-2], "output": said[-1]}
            record |= {"system": system} if system else {}
            record |= {"history": [said[at : at + 2] for at in range(0, turns - 2, 2)]} if turns > 2 else {}
        elif flat:
            record = {"question": said[0], "answer": said[1]} | ({"system_prompt": system} if system else {})
        else:
            record = {"prompt": whole[:-1], "completion": whole[-1:]}
        record |= draw(st.sampled_from([{}, {"id": f"own {number}"}, {"source": "a set"}, {"note": "x"}]))
        found.append((record, whole))
    return found


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_back_what_was_written(tmp_path, container, compression):
    path = tmp_path / (container + compression.upper() if container.isupper() else container + compression)
    flat = path.name.lower().startswith(("a.csv", "a.tsv"))

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
    offsets = [0]
    for text in texts:
        offsets.append(offsets[-1] + len(text))
    array = pa.Array.from_buffers(
        pa.string(),
        len(texts),
        [None, pa.array(offsets, pa.int32()).buffers()[1], pa.py_buffer(b"".join(texts))],
    )
    file = io.BytesIO()
    pq.write_table(pa.table({column: array, "completion": ["r"] * len(texts)}), file)
    return file.getvalue()


def with_times(*values, kind):
    """A Parquet file of good samples with these times besides, of which Python may not know all."""
    count, file = len(values), io.BytesIO()
    pq.write_table(
        pa.table({"prompt": ["q"] * count, "answer": ["r"] * count, "at": pa.array(values, kind)}), file
    )
    return file.getvalue()


def columns_twice():
    file = io.BytesIO()
    table = pa.Table.from_arrays([pa.array(["q"]), pa.array(["r"])], names=["prompt", "prompt"])
    pq.write_table(table, file)
    return file.getvalue()


def said(content):
    return {"messages": user_assistant("q", content)}


SURROGATE = b'{"prompt": "q", "completion": "\\ud800", "id": "x"}'
DEEP = b'{"prompt": "q", "completion": "r", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
TURNS = {"u": {"role": "user", "content": "q"}, "a": {"role": "assistant", "content": "r"}}
TURNS["s"] = {"role": "system", "content": "s"}


def order(roles):
    return {"messages": [TURNS[role] for role in roles]}


# Of each: the file's name, if it is not a.jsonl, its bytes, what its first bad row is called, and how many
# rows are good and bad.
# fmt: off
BAD_ROWS = {
    "broken UTF-8": (lines(ONE, b'{"prompt": "\xff"}', ONE), ":2: is not UTF-8 (byte 12 of", 2, 1),
    "UTF-16": (lines(ONE).decode().encode("utf-16"), ":1: is not UTF-8 (byte 0 of", 0, 2),
    "not JSON": (lines(ONE, b"prompt", ONE), ":2: is not valid JSON (Expecting value, c", 2, 1),
    "a byte order mark within": (lines(ONE, b"\xef\xbb\xbf{}"), ":2: is not valid JSON (Unexpected UTF-8 BOM",
        1, 1),
    "single quotes": (lines(b"{'prompt': 'q'}"), ":1: is not valid JSON (Expecting prop", 0, 1),
    "last line cut short": (lines(ONE, ONE)[:-9], ":2: is not valid JSON", 1, 1),
    "two objects on a line": (lines(ONE).strip() * 2, ":1: is not valid JSON (Extra data", 0, 1),
    "text on a line": (lines(ONE, b'"text"'), ":2: is not a JSON object; write one on", 1, 1),
    "null on a line": (lines(b"null", ONE), ":1: is not a JSON object", 1, 1),
    "a list in JSONL": (lines([ONE, ONE]), ":1: is not a JSON object; write one on each", 0, 1),
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
    "NUL": (lines(ONE, said("\0")), ":2: this sample has a NUL character in message 1", 1, 1),
    "NaN": (lines(said(float("nan")), ONE), ":1: this sample has no text in message 1", 1, 1),
    "null": (lines(ONE, said(None)), ":2: this sample has no text in message 1", 1, 1),
    "a number": (lines(ONE, said(7)), ":2: this sample has no text in message 1", 1, 1),
    "an image": (lines(said([{"type": "text", "text": "x"}]), said([{"type": "image_url"}])),
        ":2: this sample has no text in message 1", 1, 1),
    "an empty record": (lines({}, ONE), ":1: this sample has none of the fields", 1, 1),
    "no messages": (lines({"messages": []}, ONE), ":1: this sample has no messages; correct", 1, 1),
    "only blanks": (lines(ONE, said(" \n")), ":2: this sample has an empty assistant turn", 1, 1),
    "assistant first": (lines(order("au"), ONE), ":1: this sample has the role assistant in", 1, 1),
    "two users in a row": (lines(order("uua")), "has the role user in message 1", 0, 1),
    "system in the middle": (lines(order("usa")), "has the role system in message 1", 0, 1),
    "unknown role": (lines({"messages": [{"role": "tool", "content": "x"}]}),
        "has the unknown role 'tool' in message 0", 0, 1),
    "a marker in the text": (lines(said("x\n<|user|>\ny")), "format's marker <|user|> at the start", 0, 1),
    "a large sample": (lines(ONE, said("x" * 10**7)), "too large (10000001 characters", 1, 1),
    "a large sample in CSV": ("a.csv",
        separated([{"prompt": "q", "completion": "x" * 10**7}, {"prompt": "q", "completion": "r"}]),
        ":2: this sample is too large", 1, 1),
    "two forms in one record": (lines({**ONE, "prompt": "q"}, ONE),
        ":1: this sample has the fields of the forms messages and prompt_completion; say which with --format",
        1, 1),
    "a prompt alone": (lines(ONE, {"prompt": "q"}), ":2: this sample has no response", 1, 1),
    "an id twice": (
        lines({**ONE, "id": "x"}, b"", {**ONE, "id": "y"}, {**ONE, "id": "x"}, {**ONE, "id": "x"}),
        "a.jsonl:1; ids must be unique", 2, 2),
    "an id that is a row's number": (lines(ONE, ONE, {**ONE, "id": 1}, {**ONE, "id": "01"}),
        ":3: this sample has the id '1', the number of a row without an id", 3, 1),
    "a row's number that is an id": (lines({**ONE, "id": "2"}, ONE, ONE, ONE),
        ":3: this sample has no id, and its row number is the id '2' of", 3, 1),
    "an id of another type": (lines({**ONE, "id": 1.5}), "has the field id of type float", 0, 1),
    "an id that is a truth": (lines({**ONE, "id": True}), "has the field id of type bool", 0, 1),
    "a source of another type": (lines({**ONE, "source": {}}), "the field source of type dict", 0, 1),
    "a data set of another type": (lines({**ONE, "dataset": [1]}), "field dataset of type list", 0, 1),
    "other columns": ("a.parquet", parquet([{"text": "x"}, {"text": "y"}]), ": row 1: this sample has none",
        0, 2),
    "a column of numbers": ("a.parquet", parquet([{"prompt": 1, "answer": "r"}]), "prompt of type int", 0, 1),
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
    "no known columns": ("a.tsv", b"text\tlabel\nx\ty\nx\ty\n", ":2: this sample has none of the fields", 0,
        2),
    "semicolons": ("a.csv", b"prompt;answer\nq;r\n", ":2: this sample has none of the fields", 0, 1),
    "an empty cell": ("a.csv", b"prompt,answer\nq,\nq,r\n", ":2: this sample has no response", 1, 1),
    "broken UTF-8 in CSV": ("a.csv", b'prompt,answer\nq,r\n"q\n\xe9",r\nq,\xc3\xa9\n',
        ":4: is not UTF-8 (byte 0 of the line)", 2, 1),
    "CSV in Latin-1": ("a.csv", b"prompt,answer\nq,\xe9\nq,\xe8\n", ":2: is not UTF-8 (byte 2 of", 0, 2),
}
# fmt: on


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_stops_the_reading_or_is_set_aside(tmp_path, monkeypatch, case):
    *name, data, expected, good, bad = BAD_ROWS[case]
    monkeypatch.setattr(containers, "BATCH", 2)
    path = tmp_path / (name[0] if name else "a.jsonl")
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        list(read_rows(path))
    told = str(error.value)
    assert told.startswith(f"{path}:")
    assert expected in told
    assert "; " in told
    assert "\n" not in told
    assert len(told) < 400 + len(str(path))

    found = list(read_rows(path, on_error="quarantine"))
    rejected = [row for row in found if isinstance(row, Rejected)]
    assert sum(isinstance(row, Row) for row in found) == good
    assert len(rejected) == bad
    assert len(found) == good + bad
    assert f"{rejected[0].where}: {rejected[0].reason}" == told
    assert len({row.id for row in found if isinstance(row, Row)}) == good
    assert len({row.where for row in found}) == len(found)


def test_what_is_set_aside_keeps_its_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(b'  {"prompt": "\\ud800"} ', b"\xff{}", {"id": "x"}))
    texts = [row.raw for row in read_rows(path, on_error="quarantine")]
    assert texts == ['{"prompt": "\\ud800"}', "\\xff{}", '{"id": "x"}']
    (tmp_path / "a.csv").write_bytes(b"prompt,answer\nq,r,s\nq,\n")
    texts = [row.raw for row in read_rows(tmp_path / "a.csv", on_error="quarantine")]
    assert texts == ['["q", "r", "s"]', '{"prompt": "q", "answer": null}']
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert inputs._as_text(deep) is None
    assert containers.unusable({"x": deep}, True).startswith("cannot be read (nested too deeply)")


def cut(data, at=-1):
    return data[:at]


MANY = lines(*made(2000))

# fmt: off
BAD_FILES = {
    "empty": ("a.jsonl", b"", ": holds no samples; fill or remove it"),
    "blank lines": ("a.jsonl", b"\n \r\n\n", ": holds no samples"),
    "a byte order mark": ("a.jsonl", b"\xef\xbb\xbf", ": holds no samples"),
    "a byte order mark and a blank line": ("a.jsonl", b"\xef\xbb\xbf\n", ": holds no samples"),
    "a byte order mark in JSON": ("a.json", b"\xef\xbb\xbf", ": holds no samples"),
    "empty JSON": ("a.json", b"", ": holds no samples"),
    "blank JSON": ("a.json", b" \n", ": holds no samples"),
    "an empty list": ("a.json", b"[]", ": holds no samples"),
    "empty data": ("a.json", b'{"data": []}', ": holds no samples"),
    "empty CSV": ("a.csv", b"", ": holds no samples"),
    "a header alone": ("a.csv", b"prompt,answer\n", ": holds no samples"),
    "Parquet without rows": ("a.parquet", parquet(made(1))[:0], ": cannot be read (Parquet file size is 0"),
    "a table without rows": ("a.parquet", with_bytes("prompt"), ": holds no samples"),
    "an empty gzip file": ("a.jsonl.gz", b"", ": holds no samples"),
    "an empty zstd file": ("a.jsonl.zst", b"", ": holds no samples"),
    "gzip cut at its end": ("a.jsonl.gz", cut(gzip.compress(MANY)),
        ": cannot be read (Compressed file ended"),
    "gzip cut in two": ("a.jsonl.gz", cut(gzip.compress(MANY), 2000),
        ": cannot be read (Compressed file ended"),
    "gzip with another's bytes": ("a.jsonl.gz", MANY, ": cannot be read (Not a gzipped file"),
    "gzip with bytes after it": ("a.jsonl.gz", gzip.compress(MANY) + b"x", ": cannot be read (Not a gzipped"),
    "broken gzip": ("a.jsonl.gz", gzip.compress(MANY)[:10] + b"\xff" * 100,
        ": cannot be read (Error -3 while decompressing data"),
    "gzip of another sum": ("a.jsonl.gz", gzip.compress(MANY)[:-8] + b"sums" + gzip.compress(MANY)[-4:],
        ": cannot be read (CRC check failed"),
    "zstd cut at its end": ("a.jsonl.zst", cut(zstd(MANY)), ": cannot be read (Truncated compressed stream)"),
    "zstd cut in two": ("a.jsonl.zst", cut(zstd(MANY), 1000),
        ": cannot be read (Truncated compressed stream)"),
    "zstd with another's bytes": ("a.jsonl.zst", MANY, ": cannot be read (ZSTD decompress failed"),
    "gzipped JSON cut": ("a.json.gz", cut(gzip.compress(json.dumps(made(99)).encode())), ": cannot be read"),
    "gzipped CSV cut": ("a.csv.gz", cut(gzip.compress(b"prompt,answer\n" + b"q,r\n" * 999)),
        ": cannot be read"),
    "gzipped Parquet cut": ("a.parquet.gz", cut(gzip.compress(parquet(made(9)))),
        ": cannot be read (Compressed"),
    "broken Parquet": ("a.parquet", b"PAR1" + bytes(100), ": cannot be read (Parquet magic bytes not found"),
    "Parquet cut": ("a.parquet", parquet(made(9))[:-9], ": cannot be read (Parquet magic bytes not found"),
    "Parquet with broken pages": ("a.parquet", parquet(made(9))[:4] + b"\xff" * 80 + parquet(made(9))[84:],
        ": cannot be read ("),
    "a column's name that is not UTF-8": ("a.parquet",
        parquet([{"prompt": "q", "answer": "r"}]).replace(b"prompt", b"p\xffompt"),
        ": cannot be read ('utf-8' codec can't decode"),
    "a column twice in Parquet": ("a.parquet", columns_twice(),
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
    "JSON that is not UTF-8": ("a.json", b'[\n{"prompt": "\xff"}]', ":2: is not UTF-8 (byte 14 of the file)"),
    "JSON nested too deeply": ("a.json", b"[" + DEEP + b"]", ": cannot be read (nested too deeply); correct"),
    "JSON with too many digits": ("a.json", b"[" + b"1" * 5000 + b"]", ": cannot be read (Exceeds the limit"),
    "an unknown kind": ("a.txt", b"q", ": is of no known kind; give .jsonl, .ndjson, .json, .parquet, .csv,"),
    "an archive": ("a.tar.gz", b"q", ": is of no known kind"),
}
# fmt: on


@pytest.mark.parametrize("on_error", ["stop", "quarantine"])
@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_an_error_whatever_becomes_of_bad_rows(tmp_path, case, on_error):
    name, data, expected = BAD_FILES[case]
    path = tmp_path / name
    path.write_bytes(data)
    if on_error == "quarantine" and "holds no samples" in expected:
        (found,) = read_rows(path, on_error=on_error)
        assert found == Rejected(str(path), "holds no samples; fill or remove it", None)
        return
    with pytest.raises(UserError) as error:
        list(read_rows(path, on_error=on_error))
    told = str(error.value)
    assert told.startswith(f"{path}:")
    assert expected in told
    assert "; " in told
    assert "\n" not in told


def test_what_comes_before_a_break_is_read_and_nothing_after_it(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines(*made(20_000)), 0)[:-1000])
    rows = []
    with pytest.raises(UserError, match="cannot be read"):
        rows.extend(read_rows(path, on_error="quarantine"))
    assert 15_000 < len(rows) < 20_000
    assert all(isinstance(row, Row) and row.record["n"] == number for number, row in enumerate(rows))


def test_a_byte_order_mark_line_ends_and_blank_lines_do_not_matter(tmp_path):
    rows = [b"\xef\xbb\xbf" + lines({**ONE, "id": "a"}).strip(), b"", b" \t", lines(ONE).strip(), b""]
    (tmp_path / "a.jsonl").write_bytes(b"\r\n".join(rows))
    found = list(read_rows(tmp_path / "a.jsonl"))
    assert [(row.id, row.messages) for row in found] == [("a", ONE["messages"]), ("1", ONE["messages"])]
    assert [row.where for row in found] == [f"{tmp_path}/a.jsonl:1", f"{tmp_path}/a.jsonl:4"]
    (tmp_path / "a.csv").write_bytes(
        b'\xef\xbb\xbf\r\nprompt,answer\r\n\r\n"q\r\n\r\n2",r\r\n\r\na,b\r\n\r\n'
    )
    found = list(read_rows(tmp_path / "a.csv"))
    assert [row.messages for row in found] == [user_assistant("q\r\n\r\n2", "r"), user_assistant("a", "b")]
    assert [row.where for row in found] == [f"{tmp_path}/a.csv:4", f"{tmp_path}/a.csv:8"]
    for text in (json.dumps([ONE]), json.dumps(ONE, indent=1), "\r\n" + json.dumps(ONE) + "\r\n"):
        (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert [row.messages for row in read_rows(tmp_path / "a.json")] == [ONE["messages"]]
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf\r\n\n" + lines(ONE, b"", ONE) + b"\n")
    assert [row.where for row in read_rows(tmp_path / "a.json")] == [f"{tmp_path}/a.json:{n}" for n in (3, 5)]


def test_records_of_several_forms_may_be_in_one_file(tmp_path):
    records = [ONE, {"instruction": "a", "output": "b"}, {"question": "c", "answer": "d"}]
    (tmp_path / "a.jsonl").write_bytes(lines(*records))
    expected = [user_assistant("q", "r"), user_assistant("a", "b"), user_assistant("c", "d")]
    assert [row.messages for row in read_rows(tmp_path / "a.jsonl")] == expected
    (tmp_path / "a.parquet").write_bytes(parquet(records))
    assert [row.messages for row in read_rows(tmp_path / "a.parquet")] == expected


def test_numbers_beyond_a_float_and_keys_twice_are_left_alone(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "x", "prompt": "q", "answer": "r", "n": 1e999}\n')
    (row,) = read_rows(tmp_path / "a.jsonl")
    assert row.messages == user_assistant("q", "r")
    assert row.record["n"] == float("inf")


def test_a_pair_of_surrogates_is_text(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "\\ud83d\\uDE00", "answer": "r"}\n')
    (row,) = read_rows(tmp_path / "a.jsonl")
    assert row.messages == user_assistant("😀", "r")


def test_a_named_form_is_read_and_an_unknown_one_told(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines({**ONE, "prompt": "other", "completion": "words"}))
    (row,) = read_rows(tmp_path / "a.jsonl", form="prompt_completion")
    assert row.messages == user_assistant("other", "words")
    with pytest.raises(
        UserError, match="--format chat: is unknown; use one of messages, sharegpt, alpaca, pro"
    ):
        list(read_rows(tmp_path / "a.jsonl", form="chat"))


def test_queries_may_be_prompts_alone_and_have_tasks(tmp_path):
    records = [{"prompt": "a", "task": "sums"}, {**ONE, "task": ""}, {**ONE, "task": 3}, {**ONE, "task": {}}]
    (tmp_path / "a.jsonl").write_bytes(lines(*records))
    *rows, last = read_rows(tmp_path / "a.jsonl", queries=True, on_error="quarantine")
    assert [row.task for row in rows] == ["sums", None, "3"]
    assert rows[0].messages == [{"role": "user", "content": "a"}]
    assert last.reason == "this sample has the field task of type dict; it must be text; correct or remove it"
    rows = list(read_rows(tmp_path / "a.jsonl", on_error="quarantine"))
    assert isinstance(rows[0], Rejected)
    assert [row.task for row in rows[1:]] == [None] * 3


def test_ids_and_sources(tmp_path):
    records = [
        {**ONE, "id": 7, "source": "s", "dataset": "d"},
        {**ONE, "id": "", "dataset": "d"},
        {**ONE, "id": "x", "source": ""},
        {"prompt": "bad"},
        {**ONE, "id": None, "source": 5},
        {**ONE, "id": "3"},
        {**ONE, "id": "9" * 5000},
        {**ONE, "id": "²"},
        {**ONE, "id": "\u0660"},
    ]
    (tmp_path / "v1.2.jsonl").write_bytes(lines(*records))
    rows = [row for row in read_rows(tmp_path / "v1.2.jsonl", on_error="quarantine") if isinstance(row, Row)]
    assert [row.id for row in rows] == ["7", "1", "x", "4", "3", "9" * 5000, "²", "\u0660"]
    assert [row.source for row in rows] == ["s", "d", "v1.2", "5", *["v1.2"] * 4]


def test_a_line_longer_than_can_be_held_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "MAX_LINE", 200)
    long, whole = lines(said("x" * 1000)), lines(ONE).strip().ljust(199) + b"\n"
    (tmp_path / "a.jsonl").write_bytes(whole + long + whole + long.rstrip())
    found = list(read_rows(tmp_path / "a.jsonl", on_error="quarantine"))
    assert [isinstance(row, Row) for row in found] == [True, False, True, False]
    assert found[1] == Rejected(f"{tmp_path}/a.jsonl:2", "is a line of more than 200 bytes; split it", None)
    (tmp_path / "a.csv").write_bytes(b"prompt,answer\nq,r\n" + b"x" * 300 + b",r\n")
    with pytest.raises(UserError, match=r"csv:3: is a line of more than 200 bytes; split it"):
        list(read_rows(tmp_path / "a.csv", on_error="quarantine"))
    (tmp_path / "a.json").write_bytes(json.dumps([said("x" * 1000)]).encode())
    assert len(list(read_rows(tmp_path / "a.json"))) == 1


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.json", "a.csv.gz"])
def test_a_pool_is_not_held_in_memory(tmp_path, name):
    if name.startswith("a.csv"):
        data = separated([{"prompt": "q" * 10_000, "answer": f"{at}"} for at in range(2000)])
    else:
        data = lines(*[said(f"{at} " + "x" * 10_000) for at in range(2000)])
    (tmp_path / name).write_bytes(COMPRESSIONS["." + name.split(".")[2] if name.count(".") > 1 else ""](data))
    del data
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(tmp_path / name)) == 2000
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


def test_a_folder_is_its_files_in_order(tmp_path):
    files = {
        "b.jsonl": lines(ONE),
        "a/2.csv": b"prompt,answer\nq,r\n",
        "a/10.parquet": parquet([ONE]),
        "c.json.gz": gzip.compress(json.dumps([ONE]).encode()),
        "README.md": b"",
        ".hidden.jsonl": b"",
        ".git/x.jsonl": b"",
        "a/_SUCCESS": b"",
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    found = find_input(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in found.files] == [
        "a/10.parquet",
        "a/2.csv",
        "b.jsonl",
        "c.json.gz",
    ]
    assert [str(path.relative_to(tmp_path)) for path in found.ignored] == [
        ".git",
        ".hidden.jsonl",
        "README.md",
        "a/_SUCCESS",
        "link",
    ]
    rows = list(read_rows(found))
    assert [row.id for row in rows] == ["0", "1", "2", "3"]
    assert [row.source for row in rows] == ["10", "2", "b", "c"]
    assert rows == list(read_rows(str(tmp_path)))


def test_an_id_is_unique_across_files(tmp_path):
    (tmp_path / "b.json").write_bytes(json.dumps([{**ONE, "id": "x"}]).encode())
    (tmp_path / "a.jsonl").write_bytes(lines(ONE, {**ONE, "id": "x"}))
    with pytest.raises(UserError) as error:
        list(read_rows(tmp_path))
    assert str(error.value).startswith(f"{tmp_path}/b.json: record 1: this sample has the id 'x' of")
    assert f"{tmp_path}/a.jsonl:2;" in str(error.value)


def test_an_empty_file_of_a_folder_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(ONE))
    (tmp_path / "b.jsonl").write_bytes(b"\n")
    with pytest.raises(UserError, match=r"b\.jsonl: holds no samples; fill or remove it"):
        list(read_rows(tmp_path))


def test_folders_and_paths_without_data(tmp_path, monkeypatch):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match=r"holds no data; give a folder with .jsonl, .ndjson, .json"):
        find_input(tmp_path)
    for name in ("none.jsonl", "none", "a/b/c", "x/none.json.gz"):
        with pytest.raises(UserError, match="there is no such file or folder; check the path"):
            find_input(tmp_path / name)
    for name in ("data/pool.jsonl", "data/pool.json.gz", "pool", "../pool", "org/name:a:b"):
        with pytest.raises(UserError, match="there is no such file or folder; check the path"):
            find_input(name)


def refuse(*_, **__):
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("on_error", ["stop", "quarantine"])
def test_what_may_not_be_read_is_told(tmp_path, monkeypatch, on_error):
    (tmp_path / "a.jsonl").write_bytes(lines(ONE))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        with pytest.raises(
            UserError, match=r"a\.jsonl: cannot be read .Permission denied.; check that it is"
        ):
            list(read_rows(tmp_path / "a.jsonl", on_error=on_error))
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        with pytest.raises(
            UserError, match=r"cannot be read .Permission denied.; check the path and its rights"
        ):
            find_input(tmp_path)
    if os.geteuid() != 0:
        (tmp_path / "a.jsonl").chmod(0)
        with pytest.raises(
            UserError, match=r"a\.jsonl: cannot be read .Permission denied.; check that it is"
        ):
            list(read_rows(tmp_path / "a.jsonl", on_error=on_error))


def test_a_data_set_of_the_hub(monkeypatch):
    def load(name, split, streaming):
        assert (name, split, streaming) == ("org/a.set", "test", True)
        return datasets.Dataset.from_list(
            [{**ONE, "id": None}, {"messages": []}, {**ONE, "id": "x"}]
        ).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load)
    found = find_input("org/a.set:test")
    assert found == Input("org/a.set", split="test")
    first, second, third = read_rows(found, on_error="quarantine")
    assert (first.id, first.source, first.where) == ("0", "org/a.set", "org/a.set: row 1")
    assert first.messages == ONE["messages"]
    assert second.where == "org/a.set: row 2"
    assert (third.id, third.record["id"]) == ("x", "x")
    with pytest.raises(UserError, match=r"org/a.set: row 2: this sample has no messages"):
        list(read_rows("org/a.set:test"))
    assert find_input("org/a.set").split == "train"


def test_a_path_that_exists_is_not_sought_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org/name").mkdir(parents=True)
    (tmp_path / "org/name/a.jsonl").write_bytes(lines(ONE))
    assert find_input("org/name").files == (Path("org/name/a.jsonl"),)


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize(
    "error", [ConnectionError("no\nway out"), RuntimeError("no way out"), TimeoutError()]
)
def test_a_data_set_that_cannot_be_had(monkeypatch, after, error):
    def broken(name, split, streaming):
        def rows():
            for _ in range(after):
                yield ONE
            raise error

        if not after:
            raise error
        return rows()

    monkeypatch.setattr(datasets, "load_dataset", broken)
    with pytest.raises(UserError) as told:
        list(read_rows("org/none", on_error="quarantine"))
    assert str(told.value) == (
        "org/none: is no file or folder, and the split 'train' of that name cannot be read from the hub "
        f"({'no way out' if str(error) else 'TimeoutError'}); check the name, the split and the connection"
    )
