"""Records: a file that is written again where what was measured differs."""

from __future__ import annotations

import math

import pyarrow as pa
import pyarrow.parquet as pq

from rdslib.files import read_manifest, write_manifest
from rdslib.pipeline import records
from rdslib.pipeline.step import step
from rdslib.pipeline.store import Store


def test_seconds_alone_leave_the_file_as_it_is(tmp_path):
    @step(version=1, record="scores.parquet")
    def evaluate(work, bits):
        pq.write_table(
            pa.table({"bits": bits, "correct": [math.nan] * len(bits)}), work.path / "scores.parquet"
        )
        return {"samples": len(bits)}

    path, store = tmp_path / records.NAME, Store(tmp_path / "artifacts")

    def written(*bits, **changes):
        one = evaluate.step("", bits=bits)
        folder = store.make(one)
        write_manifest(folder, {**read_manifest(folder), **changes})
        records.write(store, [one], path)
        return path.read_bytes()

    first = written(1.0, 2.0, seconds=1.0)
    assert written(1.0, 2.0, seconds=2.0) == first
    assert written(1.0, 2.0, seconds=2.0, counts={"samples": 3}) != first
    assert written(1.0, 3.0, seconds=1.0) != first
    path.write_text("no Parquet")
    assert written(1.0, 2.0, seconds=1.0, counts={"samples": 2}) == first
