"""Readers given what is nearly right: `python -m tests.faults.fuzz [--only READER] [--runs N] [--seed S]`.

Each input is a valid one with some bytes changed, cut, repeated, or put in from another or from a list of
what readers stumble over. It is read in a fork, with an end to its memory and to its time. A reader may give
what it read or raise UserError; any other end is a finding, whose input is kept.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import hashlib
import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rdslib.commands.outputs import read_record, record_of
from rdslib.data.chat import user_assistant
from rdslib.data.reader import read_rows
from rdslib.errors import UserError
from rdslib.files import MANIFEST, read_manifest, write_manifest
from rdslib.methods.features import read_all
from rdslib.models.loading import convert_gguf, load_causal_lm, make_random
from rdslib.params import ROOT, RandomModel
from rdslib.pipeline import records
from rdslib.pipeline.artifacts import damage, journal_line, read_journal
from rdslib.pipeline.store import Store
from rdslib.profiles import load_profile
from tests.faults.shortages import starve
from tests.gguf_file import write_gguf

ABOUT = """# Inputs read, and what went wrong

By `make fuzz` (see `tests/faults/fuzz.py`): changed valid inputs, each read with an end to memory and time.
Wrong is any end but a result or a `UserError` of one line.

| reader | inputs | kinds of fault |
|---|---:|---:|
"""
RESULTS = Path(__file__).parent / "fuzz.md"
# Seconds of a processor and bytes that one input may take beside what this process has; inputs in one fork.
SECONDS, BYTES, BATCH = 10, 2**30, 500
# Seconds after which the system ends a fork that stands still in a native library.
HANGS = 60
ROWS: list[dict[str, Any]] = [
    {"id": "a", "messages": user_assistant("What is 1 + 1?", "2")},
    {"id": "b", "prompt": "Sag etwas: é \u2028", "answer": "😀", "source": "x/y", "score": 1.5, "n": None},
    {"instruction": "Do", "input": "this", "output": "so", "id": 3},
    {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]},
]
STUMBLING = [
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800", b"NaN", b"-Infinity", b"1e999",
    b"9" * 400, b"-1", b"0", b"[" * 3000, b'{"a":' * 3000, b'"', b"'", b"\r\n", b"\n", b"\t", b",", b"null",
    b"[]", b"{}", b"true", b"\x1b[2J", b"<script>", b"../../x", b"&a [*a, *a]", b"*a", b"<<: *a", b"? ",
    b"!!python/object/apply:os.system [x]", b"\x7f\xff\xff\xff", b"\xff" * 8, b"\x80\x00\x00\x00",
    b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08", b"PAR1", b"\x93NUMPY\x01\x00", b"GGUF", b"2024-01-01",
    b"{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
]  # fmt: skip


def mutate(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Return a seed with some changes."""
    data = bytearray(rng.choice(seeds))
    for _ in range(1 + min(int(rng.expovariate(0.6)), 12)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + int(rng.expovariate(0.1)))
        match rng.randrange(8):
            case 0 | 1 if data:
                data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
            case 2 if data:
                data[min(at, len(data) - 1)] = rng.randrange(256)
            case 3:
                del data[at:end]
            case 4:
                data[at:at] = rng.choice(STUMBLING)
            case 5:
                data[at:end] = rng.choice(STUMBLING)
            case 6:
                data[at:at] = data[at:end] * rng.randrange(1, 5)
            case 7:
                other = rng.choice(seeds)
                start = rng.randrange(len(other) + 1)
                data[at:end] = other[start : start + int(rng.expovariate(0.05))]
    return bytes(data[: rng.randrange(len(data) + 1)] if rng.random() < 0.05 else data)


Read = Callable[[Path, bytes], object]


def pool(suffix: str, queries: bool = False) -> Read:
    """A reader of a file of data."""

    def read(folder: Path, data: bytes) -> None:
        path = folder / f"x.{suffix}"
        path.write_bytes(data)
        for row in read_rows(path, queries=queries, on_error="quarantine"):
            repr(row)

    return read


def profile(folder: Path, data: bytes) -> None:
    (folder / "x.yaml").write_bytes(data)
    load_profile(str(folder / "x.yaml"))


def manifest(folder: Path, data: bytes) -> None:
    (folder / MANIFEST).write_bytes(data)
    read_manifest(folder)
    damage(folder)


def journal(folder: Path, data: bytes) -> None:
    (folder / "shards.jsonl").write_bytes(data)
    read_journal(folder / "shards.jsonl", "0" * 16)


def shard(folder: Path, data: bytes) -> None:
    (folder / "x-000000000.npy").write_bytes(data)
    read_all(folder, "x")


def recorded(folder: Path, data: bytes) -> None:
    (folder / "records.parquet").write_bytes(data)
    records.take(Store(folder / "artifacts"), folder / "records.parquet")


def selected(folder: Path, data: bytes) -> None:
    record_of(folder / "x.jsonl").write_bytes(data)
    read_record(folder / "x.jsonl", checked=False)


def gguf(folder: Path, data: bytes) -> None:
    (folder / "x.gguf").write_bytes(data)
    convert_gguf(folder / "x.gguf", folder / "out")


def safetensors(folder: Path, data: bytes) -> None:
    (folder / "model" / "model.safetensors").write_bytes(data)
    load_causal_lm(folder / "model")


def _jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _parquet(rows: list[dict[str, Any]], **options: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream, **options)
    return stream.getvalue()


def _zstd(data: bytes) -> bytes:
    stream = pa.BufferOutputStream()
    with pa.CompressedOutputStream(stream, "zstd") as compressed:
        compressed.write(data)
    return stream.getvalue().to_pybytes()


def _npy(rows: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, rows)
    return stream.getvalue()


def _gguf(**extra: Any) -> bytes:
    sizes = {"vocab_size": 40, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1}
    config = LlamaConfig(**sizes, num_attention_heads=1, num_key_value_heads=1)
    with tempfile.TemporaryDirectory() as folder:
        write_gguf(Path(folder, "x.gguf"), LlamaForCausalLM(config), **extra)
        return Path(folder, "x.gguf").read_bytes()


def seeds_of(name: str, folder: Path) -> list[bytes]:
    """Valid inputs of a reader; what it reads beside them is put into the folder."""
    forms, lines = [_jsonl([row]) for row in ROWS], _jsonl(ROWS)
    csv = b'prompt,answer,id\n"What, is\n1?",So,1\nb,c,2\n'
    if name in ("jsonl", "queries"):
        return [*forms, lines, b'{"task": "x", ' + forms[0][1:]]
    if name in ("jsonl.gz", "jsonl.zst"):
        return [{"jsonl.gz": gzip.compress, "jsonl.zst": _zstd}[name](each) for each in [*forms, lines]]
    if name in ("csv", "tsv"):
        return [csv if name == "csv" else csv.replace(b",", b"\t")]
    if name in ("json",):
        return [json.dumps(ROWS).encode(), json.dumps({"data": ROWS[:2]}).encode(), lines]
    if name == "parquet":
        given = [[row] for row in ROWS] + [[{"prompt": str(i), "answer": "x"} for i in range(9)]]
        return [_parquet(each, compression=how) for each in given for how in ("none", "zstd", "snappy")]
    if name == "profile":
        tiny = (ROOT / "params" / "tiny.yaml").read_bytes()
        parts = tiny.split(b"\n  ")
        return [
            tiny,
            b"name: x\ntitle: y\nexperiment: null\n",
            b"\n  ".join(parts[:9]),
            b"a: &a [1]\nb: *a\n",
        ]
    if name in ("manifest", "records"):
        body = {"step": "x", "version": 1, "arguments": {"a": [1, None]}, "marks": {}, "dropped": ["x.npy"]}
        body |= {"files": {"x.npy": {"bytes": 1, "sha256": "0" * 64}}, "shards": {}, "counts": {"n": 1.5}}
        write_manifest(folder, body)
        whole = (folder / MANIFEST).read_bytes()
        if name == "manifest":
            # With a right checksum, whatever else may be wrong: as from somebody who means harm.
            return [whole, json.dumps(body).encode()]
        from rdslib.pipeline.step import hash_of

        rows = [{"step": "x", "hash": hash_of(body), "manifest": json.dumps(body), "a.parquet": [{"b": 1}]}]
        table = pa.Table.from_pylist(rows).replace_schema_metadata({records.DEVICE: "cpu"})
        stream = io.BytesIO()
        pq.write_table(table, stream)
        return [stream.getvalue()]
    if name == "journal":
        made = {"files": {"x.npy": {"bytes": 1, "sha256": "0" * 64}}, "counts": {}, "seconds": 0.1}
        return ["".join(journal_line("0" * 16, str(i), made) for i in range(n)).encode() for n in (1, 4)]
    if name == "shard":
        return [_npy(np.zeros((3, 4), kind)) for kind in ("f4", "f2", "i8", "S3", "f4,i4")]
    if name == "selection record":
        request = {"pool": "x", "k": "3", "method": "random"}
        return [json.dumps({"request": request, "output_sha256": "0", "counts": {}}).encode()]
    if name == "GGUF":
        return [_gguf(), _gguf(divisors=np.array([1, 8]))]
    make_random(RandomModel(layers=1, hidden_size=4, heads=1), 0, folder / "model")
    return [(folder / "model" / "model.safetensors").read_bytes()]


# What reads an input, and how many of them there are for each hundred of all.
READERS: dict[str, tuple[Read, float]] = {
    "jsonl": (pool("jsonl"), 14), "json": (pool("json"), 9), "csv": (pool("csv"), 9), "tsv": (pool("tsv"), 5),
    "parquet": (pool("parquet"), 5), "jsonl.gz": (pool("jsonl.gz"), 7), "jsonl.zst": (pool("jsonl.zst"), 7),
    "queries": (pool("jsonl", queries=True), 9), "profile": (profile, 0.5), "manifest": (manifest, 15),
    "journal": (journal, 11), "shard": (shard, 4), "records": (recorded, 1.4),
    "selection record": (selected, 3), "GGUF": (gguf, 0.5), "safetensors": (safetensors, 0.5),
}  # fmt: skip


class TooLong(BaseException):
    """An input took longer than it may."""


def _too_long(*_: object) -> None:
    raise TooLong


def batch(name: str, seeds: list[bytes], folder: Path, at: mmap, first: int, count: int, seed: int) -> None:
    """Read some inputs; which one is at work is `at`, and what has gone wrong with it lies in a file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sink = os.open(os.devnull, os.O_WRONLY)
    for place in (1, 2):
        os.dup2(sink, place)
    signal.signal(signal.SIGPROF, _too_long)
    starve(BYTES)
    for number in range(first, first + count):
        at[:] = number.to_bytes(len(at))
        data = nearly(name, seeds, number, seed)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, HANGS)
        try:
            READERS[name][0](folder, data)
        except UserError as error:
            if "\n" in str(error):
                (folder / "wrong").write_text(f"a message of several lines: {error}")
        except BaseException as error:
            (folder / "wrong").write_text(f"{type(error).__name__}: {error}"[:300])
        signal.setitimer(signal.ITIMER_PROF, 0)
        if (folder / "wrong").exists():
            os._exit(1)
    os._exit(0)


def nearly(name: str, seeds: list[bytes], number: int, seed: int) -> bytes:
    """An input of a reader, by its number."""
    return mutate(random.Random(f"{seed}/{name}/{number}"), seeds)


def fuzz(name: str, runs: int, seed: int, found: Path) -> tuple[int, list[str]]:
    """Read so many inputs with a reader; how many were read, and what went wrong, each kind once."""
    wrong: dict[str, str] = {}
    done, at, place = 0, mmap(-1, 8), "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        folder = Path(scratch)
        seeds = seeds_of(name, folder)
        for each in seeds:  # so that what is imported at need is there before each fork
            with suppress(UserError):
                READERS[name][0](folder, each)
        gc.freeze()
        while done < runs:
            count = min(BATCH, runs - done)
            child = os.fork()
            if child == 0:
                batch(name, seeds, folder, at, done, count, seed)
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            if code == 0:
                done += count
                continue
            done = int.from_bytes(at[:]) + 1
            data = nearly(name, seeds, done - 1, seed)
            told = (folder / "wrong").read_text() if (folder / "wrong").exists() else f"ended with {code}"
            (folder / "wrong").unlink(missing_ok=True)
            if told.partition(":")[0] not in wrong or len(wrong) < 5:
                found.mkdir(parents=True, exist_ok=True)
                kept = f"{name.replace(' ', '-')}-{hashlib.sha256(data).hexdigest()[:12]}"
                (found / kept).write_bytes(data)
            wrong.setdefault(told.partition(":")[0] + told.partition(":")[2][:60], told)
    return done, list(wrong.values())


def main() -> int:
    """Fuzz what is asked for, and return 1 if something went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz")
    parser.add_argument("--only", action="append", choices=list(READERS), help="a reader; may be repeated")
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs for all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="the table; rows of what is run are replaced"
    )
    parser.add_argument("--found", type=Path, default=Path("build/fuzz"), help="where inputs of findings go")
    given = parser.parse_args()
    torch.set_num_threads(1)  # others are lost in forks
    rows, failed = read(given.out), False
    for name in given.only or READERS:
        started = time.monotonic()
        done, wrong = fuzz(name, int(given.runs * READERS[name][1] / 100), given.seed, given.found)
        failed |= bool(wrong)
        rows[name] = done, len(wrong)
        print(f"{name}: {done} in {time.monotonic() - started:.0f} s", *wrong, sep="\n  ", flush=True)
        there = {"all": tuple(map(sum, zip(*rows.values(), strict=True)))}
        lines = [f"| {name} | {done:,} | {kinds} |\n" for name, (done, kinds) in (rows | there).items()]
        given.out.write_text(ABOUT + "".join(lines))
    return int(failed)


def read(path: Path) -> dict[str, tuple[int, int]]:
    """The rows of a table that there is, but for their sum."""
    lines = path.read_text().splitlines() if path.is_file() else []
    cells = [[cell.strip().replace(",", "") for cell in line.strip("|").split("|")] for line in lines]
    return {
        name: (int(done), int(kinds))
        for name, done, kinds in (each for each in cells if len(each) == 3)
        if name in READERS
    }


if __name__ == "__main__":
    sys.exit(main())
