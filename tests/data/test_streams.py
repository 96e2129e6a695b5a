"""Standard input and pipes: read once, whatever they hold, as a file of it would be."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdslib.commands.request import SelectRequest
from rdslib.commands.select import reopen
from rdslib.data.inputs import find_input
from rdslib.data.reader import Rejected, read_rows
from rdslib.errors import UserError
from tests.command import rds

ROWS = [{"prompt": f"What is {n} + 1?", "answer": f"{n + 1}", "id": f"p{n}"} for n in range(40)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def made(write, *arguments):
    file = io.BytesIO()
    write(pa.Table.from_pylist(ROWS), file, *arguments)
    return file.getvalue()


def ipc(new):
    file = io.BytesIO()
    table = pa.Table.from_pylist(ROWS)
    with new(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def zstd(data):
    file = pa.BufferOutputStream()
    with pa.CompressedOutputStream(file, "zstd") as stream:
        stream.write(data)
    return file.getvalue().to_pybytes()


def separated(delimiter):
    rows = [delimiter.join(ROWS[0]), *(delimiter.join(row.values()) for row in ROWS)]
    return "\n".join(rows).encode()


HOLDING = {
    "lines": LINES,
    "one line": LINES.splitlines()[0],
    "lines after a mark": b"\xef\xbb\xbf \n" + LINES,
    "a list": json.dumps(ROWS, indent=1).encode(),
    "columns": json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}).encode(),
    "parquet": made(pq.write_table),
    "arrow": ipc(pa.ipc.new_file),
    "a stream of arrow": ipc(pa.ipc.new_stream),
    "csv": separated(","),
    "csv with semicolons": separated(";"),
    "tsv": separated("\t"),
    "gz": gzip.compress(LINES),
    "zst": zstd(LINES),
    "xz": lzma.compress(separated(",")),
    "compressed parquet": gzip.compress(made(pq.write_table)),
}


@pytest.fixture
def pipe(tmp_path):
    """Makes a named pipe that gives some bytes, once."""
    made = []

    def of(data, name="pipe"):
        path = tmp_path / name
        os.mkfifo(path)
        thread = threading.Thread(target=path.write_bytes, args=(data,), daemon=True)
        thread.start()
        made.append(thread)
        return path

    yield of
    for thread in made:
        thread.join(10)


@pytest.mark.parametrize("case", HOLDING)
def test_a_pipe_is_read_as_what_it_holds(pipe, case):
    path = pipe(HOLDING[case])
    given = find_input(path)
    kept = given.files[0]
    rows = list(read_rows(kept))
    assert [row.id for row in rows] == [row["id"] for row in ROWS][: len(rows)]
    assert len(rows) == (1 if case == "one line" else len(ROWS))
    del given
    assert not kept.exists(), "it is kept no longer than it is needed"


def test_places_are_called_after_the_pipe(pipe):
    path = pipe(LINES + b"no\n", "rows.jsonl")
    *rows, last = read_rows(path, on_error="quarantine")
    assert len(rows) == len(ROWS)
    assert isinstance(last, Rejected)
    assert (rows[0].where, rows[0].source, last.where) == (f"{path}:1", "rows", f"{path}:41")
    path = pipe(json.dumps(ROWS, indent=1).encode()[:-2])
    with pytest.raises(UserError) as error:
        list(read_rows(path))
    assert str(error.value).startswith(f"{path}:201: is not valid JSON")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "gave nothing; a stream is read once, so give it to one option alone"),
        (b"\0\1\2", "is of no known kind; send JSONL, JSON, Parquet"),
        (gzip.compress(LINES)[:-1], "cannot be read (Compressed file ended"),
    ],
)
def test_what_cannot_be_read_is_one_line(pipe, data, expected):
    path = pipe(data)
    with pytest.raises(UserError) as error:
        list(read_rows(path))
    assert str(error.value).startswith(f"{path}: {expected}")
    assert "\n" not in str(error.value)


def options(tmp_path, tiny_model, **changed):
    (tmp_path / "queries.jsonl").write_text(json.dumps({"prompt": "What is 7 + 1?", "answer": "8"}))
    given = {"pool": "-", "queries": tmp_path / "queries.jsonl", "model": tiny_model, "k": "5", **changed}
    arguments = [part for name, value in given.items() for part in (f"-{'-' * (len(name) > 1)}{name}", value)]
    return [*arguments, "--out", tmp_path / f"{len(list(tmp_path.glob('*.jsonl')))}.jsonl"]


@pytest.mark.slow
def test_standard_input_gives_what_the_file_gives(tmp_path, tiny_model):
    home, pool = tmp_path / "home", tmp_path / "pool.jsonl"
    pool.write_bytes(LINES)
    found = []
    for changed, given in (
        ({"pool": pool}, ""),
        ({}, LINES.decode()),
        ({"pool": "/dev/stdin"}, LINES.decode()),
        ({"pool": pool, "queries": "-"}, json.dumps({"prompt": "What is 7 + 1?", "answer": "8"})),
    ):
        arguments = options(tmp_path, tiny_model, **changed)
        done = rds("select", *arguments, home=home, input=given)
        assert done.returncode == 0, done.stderr
        found.append([json.loads(line)["id"] for line in arguments[-1].read_text().splitlines()])
    assert found == found[:1] * 4
    done = rds("explain", arguments[-1], "--sample", "#0", home=home)
    assert done.returncode == 2
    assert "was selected from a stream (-), which cannot be read again; keep it in a file" in done.stderr
    done = rds("select", *options(tmp_path, tiny_model, queries="-"), home=home, input=LINES.decode())
    assert done.returncode == 2
    assert done.stderr.strip() == "rds: -: is a stream, which is read once; give it to one option alone"
    # As a shell gives what a command writes.
    command = [sys.executable, "-m", "rdslib.cli", "select", *options(tmp_path, tiny_model, method="random")]
    words = " ".join("<(cat pool.jsonl)" if str(word) == "-" else f"'{word}'" for word in command)
    environment = {**os.environ, "RDSLIB_HOME": str(home), "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        ["bash", "-c", words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "rows read: 40 = 5 selected" in done.stdout


def test_a_selection_from_a_stream_is_not_opened_again(pipe, tmp_path, tiny_model, monkeypatch):
    from rdslib.commands.select import write_selection

    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))
    path = pipe(LINES)
    request = SelectRequest.of({"pool": path, "model": tiny_model, "k": 3, "method": "random"})
    assert request.pool == str(path)
    assert write_selection(request, tmp_path / "out.jsonl").counts["read"] == 40
    with pytest.raises(
        UserError, match=r"was selected from a stream \(\S+pipe\), which cannot be read again"
    ):
        reopen(tmp_path / "out.jsonl")
