"""Compressed files that expand without measure: one line, and memory that does not grow with them."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import tracemalloc
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdslib.data import containers
from rdslib.data.reader import Rejected, Row, read_rows
from rdslib.errors import UserError

LIMIT = 2**16
ROW = b'{"prompt": "q", "answer": "r"}\n'


def zstd(data):
    file = pa.BufferOutputStream()
    with pa.CompressedOutputStream(file, "zstd") as stream:
        stream.write(data)
    return file.getvalue().to_pybytes()


def parquet(answers, **options):
    file = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["q"] * len(answers), "answer": answers}), file, **options)
    return file.getvalue()


COMPRESSIONS = {"gz": gzip.compress, "zst": zstd, "xz": lzma.compress}
# What is compressed, and what reading may hold: a decoder of xz takes 8 MiB.
SIZE, HELD = 2**25, 20 * 2**20
# Of each: its bytes before compression, and where and why reading ends.
BOMBS = {
    "jsonl": (ROW + b'{"prompt": "' + b"x" * SIZE + b'"}\n' + ROW, ":2: is a line of more than 65536 bytes"),
    "json": (b"[" + b" " * SIZE + b"]", ": expands to more than 100 times its size; decompress it, or write"),
    "csv": (b'prompt,answer\nq,r\n"' + b"x\n" * (SIZE // 2), ":32770: is in a row of more than 65536 bytes"),
    "tsv": (b'prompt\tanswer\n"' + b'x\n"\t"' * (SIZE // 5), ": is in a row of more than 65536 bytes"),
    "parquet": (b"PAR1" + b"x" * SIZE, ": expands to more than 100 times its size; decompress it"),
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("kind", BOMBS)
def test_what_expands_without_measure_is_one_line(tmp_path, monkeypatch, kind, compression):
    monkeypatch.setattr(containers, "MAX_LINE", LIMIT)
    data, expected = BOMBS[kind]
    path = tmp_path / f"a.{kind}.{compression}"
    path.write_bytes(COMPRESSIONS[compression](data))
    del data
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as error:
            list(read_rows(path))
        assert tracemalloc.get_traced_memory()[1] < HELD
        if kind == "jsonl":
            found = list(read_rows(path, on_error="quarantine"))
            assert [type(row) for row in found] == [Row, Rejected, Row]
            assert tracemalloc.get_traced_memory()[1] < HELD
    finally:
        tracemalloc.stop()
    assert str(error.value).startswith(str(path))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_an_endless_line_is_not_read_to_its_end(tmp_path):
    class Endless(io.RawIOBase):
        read_in_all = 0

        def readable(self):
            return True

        def readinto(self, buffer):
            buffer[:] = b"x" * len(buffer)
            Endless.read_in_all += len(buffer)
            return len(buffer)

    found = next(containers.parse_lines(io.BufferedReader(Endless())))
    assert found.reason.startswith("is a line of more than")
    assert Endless.read_in_all < 2 * containers.MAX_LINE


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_a_value_that_many_rows_of_parquet_share_is_held_once(tmp_path, monkeypatch, compression):
    """It is written once in a dictionary, however often it is used."""
    for name, value in (("MAX_BATCH", 2**18), ("MAX_ROWS", 2**12)):
        monkeypatch.setattr(containers, name, value)
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet(["x" * 2**16] * 900 + ["r"], compression=compression))
    assert path.stat().st_size < 2**18
    assert max(len(batch) for batch in containers.batches_of(path)) <= 8
    tracemalloc.start()
    try:
        assert [len(row.record["answer"]) for row in read_rows(path)] == [2**16] * 900 + [1]
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_row_of_parquet_may_be_as_large_as_a_line(tmp_path, monkeypatch):
    for name in ("MAX_LINE", "MAX_ROWS"):
        monkeypatch.setattr(containers, name, LIMIT)
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet(["r"] * 9 + ["x" * (LIMIT + 1)] + ["r"]))
    found = list(read_rows(path, on_error="quarantine"))
    assert [isinstance(row, Row) for row in found] == [True] * 9 + [False, True]
    assert found[9] == Rejected(f"{path}: row 10", "is a row of more than 65536 bytes; split it", None)
    path.write_bytes(parquet(["r", "x" * LIMIT * 9, "r", "r"], row_group_size=2))
    with pytest.raises(UserError, match="row 1 and after: are of over 65536 bytes; split them"):
        list(read_rows(path))


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_a_page_of_parquet_that_expands_without_measure_is_one_line(tmp_path, monkeypatch, use_dictionary):
    """A page is decompressed as a whole: 67 kB of them took 4.3 GiB."""
    path = tmp_path / "a.parquet"
    answers = [f"{row} {'x' * 2**16}" for row in range(64)]
    path.write_bytes(parquet(answers, compression="zstd", use_dictionary=use_dictionary))
    assert [row.record["answer"] for row in read_rows(path)] == answers
    monkeypatch.setattr(containers, "MAX_COLUMN", 2**20)
    with pytest.raises(UserError, match="row 1 and after: expand to more than 100 times their size; write"):
        list(read_rows(path))


def test_parquet_that_contradicts_itself_ends_no_process(tmp_path):
    """Some byte of all that a file says of itself is changed: pyarrow would abort at some of them."""
    path, rows = tmp_path / "x.parquet", pa.table({"prompt": ["Why?", "Who?"], "answer": ["So.", "I."]})
    pq.write_table(rows, path)
    data = path.read_bytes()
    size = int.from_bytes(data[-8:-4], "little")
    if (child := os.fork()) == 0:
        try:
            for at in range(len(data) - 8 - size, len(data) - 8):
                path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
                with suppress(UserError):
                    list(read_rows(path, on_error="quarantine"))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
