"""Numbers that are none, or all alike: what becomes of them is stated in docs/select.md, and is so here."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from rdslib.commands.request import SelectRequest
from rdslib.commands.select import write_selection
from rdslib.data.chat import Tokens
from rdslib.errors import UserError
from rdslib.models.encode import encode
from rdslib.models.loading import load_causal_lm
from rdslib.selection.round_robin import choose
from rdslib.selection.topk import over


@pytest.fixture
def select(tmp_path, tiny_model, monkeypatch):
    """Select from rows, and give back those that were picked."""
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))

    def select(pool, queries, k, **options):
        for name, texts in (("pool", pool), ("queries", queries)):
            rows = [json.dumps({"prompt": text, "completion": f"It is {text}."}) for text in texts]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
        given = {name: str(tmp_path / f"{name}.jsonl") for name in ("pool", "queries")}
        request = SelectRequest.of({**given, "model": str(tiny_model), "k": str(k), **options})
        write_selection(request, tmp_path / "best.jsonl")
        return [json.loads(line) for line in (tmp_path / "best.jsonl").read_text().splitlines()]

    return select


def test_a_query_that_is_in_the_pool_finds_itself(select):
    pool = [f"What is {number} plus {number}?" for number in range(12)]
    (best,) = select(pool, [pool[7]], 1)
    assert (best["prompt"], best["rds_score"]) == (pool[7], pytest.approx(1, abs=2e-3))


def test_of_a_pool_of_duplicates_the_first_are_taken_and_one_is_left_if_asked(select):
    pool = ["Say it again."] * 5
    assert [each["rds_id"] for each in select(pool, ["Say something."], 2)] == ["0", "1"]
    assert [each["rds_id"] for each in select(pool, ["Say something."], 1, dedup="exact")] == ["0"]
    with pytest.raises(UserError, match=r"-k 2: must be from 1 to 1"):
        select(pool, ["Say something."], 2, dedup="exact")


def test_scores_that_are_all_alike_go_by_position():
    blocks = [(0, np.full((2, 3), 0.5, np.float32)), (3, np.full((2, 4), 0.5, np.float32))]
    assert choose([over(lambda: blocks)], 5).indices.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_states_that_are_no_numbers_are_an_error(tiny_model, bad):
    model = load_causal_lm(tiny_model)
    with torch.no_grad():
        model.get_decoder().norm.weight[0] = bad
    with pytest.raises((RuntimeError, UserError), match="is no number: NaN or infinite"):
        encode(model, [Tokens([1, 2, 3], [True] * 3, 1)], ["weighted_all"], 100)


def test_one_token_has_states_and_no_nll(tiny_model):
    found = encode(load_causal_lm(tiny_model), [Tokens([1], [True], 0)], ["weighted_all", "nll"], 100)
    assert np.isnan(found["nll"]).all()
    assert np.linalg.norm(found["weighted_all"]) == pytest.approx(1, abs=1e-3)
