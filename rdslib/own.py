"""Selection from a pool of one's own, without a profile."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdslib.errors import UserError
from rdslib.pool import read_jsonl
from rdslib.progress import Progress
from rdslib.scorers.lm import tokenize
from rdslib.select import Block, round_robin

if TYPE_CHECKING:
    from tqdm import tqdm

TOKEN_BUDGET = 4096
BLOCK = 1024
FEATURE = "weighted_all"


def select_own(pool: Path, queries: Path, model_name: str, k: int, out: Path, max_length: int) -> None:
    """Write the `k` samples of `pool` that RDS+ picks for `queries` to `out`, in the order of picking.

    Everything is checked before the model is loaded, and `out` is written whole or not at all. Raises
    UserError for bad files, a `k` that the pool cannot give, or an `out` that cannot be written.
    """
    samples, wanted = read_jsonl(pool), read_jsonl(queries)
    if not 1 <= k <= len(samples):
        raise UserError(f"-k {k}: must be from 1 to {len(samples)}, the number of samples in {pool}")
    for number, query in enumerate(wanted):
        if query.messages[-1]["role"] != "assistant":
            raise UserError(f"{queries}: query {number} has no response; end it with an assistant message")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder for the output; create it first")

    from rdslib.encode import encode
    from rdslib.models import load_causal_lm, load_tokenizer

    tokenizer, model = load_tokenizer(model_name), load_causal_lm(model_name)
    query_tokens = tokenize(tokenizer, wanted, max_length, queries=True)
    query_rows = encode(model, query_tokens, [FEATURE], TOKEN_BUDGET)[FEATURE]

    def blocks(bar: tqdm[Any]) -> Iterator[Block]:
        for start in range(0, len(samples), BLOCK):
            tokens = tokenize(tokenizer, samples[start : start + BLOCK], max_length, queries=False)
            found = encode(model, tokens, [FEATURE], TOKEN_BUDGET, lambda batch: bar.update(len(batch)))
            yield start, query_rows @ found[FEATURE].T

    with Progress().bar("encode the pool", len(samples), "sample") as bar:
        picked = round_robin(blocks(bar), k)

    lines = [line for line in pool.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            for rank, (position, score, taker) in enumerate(
                zip(picked.indices, picked.scores, picked.takers, strict=True)
            ):
                row = json.loads(lines[position])
                row |= {"rds_score": round(float(score), 6), "rds_rank": rank, "rds_query": int(taker)}
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        os.replace(temporary, out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{out}: cannot be written ({error.strerror})") from error
