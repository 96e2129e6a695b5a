"""Encoding: packed batches against one sample at a time, and pooling against the written formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rdslib.chat import tokenize_chat, tokenize_query
from rdslib.encode import encode, nll, pack, position_weights
from rdslib.models import load_causal_lm, load_tokenizer
from rdslib.pool import read_pool
from rdslib.stages import model_folder


@given(st.lists(st.integers(1, 60), max_size=50), st.integers(1, 200))
def test_packing_covers_each_once_within_the_budget(lengths, budget):
    batches = pack(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget
    # Batches are of similar length: they follow one another from long to short.
    order = [lengths[i] for batch in batches for i in batch]
    assert order == sorted(lengths, reverse=True)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_weights_are_the_papers(lengths):
    weights = position_weights(torch.tensor(lengths), max(lengths)).numpy()
    for row, length in zip(weights, lengths, strict=True):
        total = sum(range(1, length + 1))
        expected = [i / total for i in range(1, length + 1)] + [0.0] * (max(lengths) - length)
        np.testing.assert_allclose(row, expected, rtol=1e-6)


def one_by_one(model, ids):
    """A naive reading of the method: each sample alone, the whole model, the last hidden state."""
    rows = []
    for row in ids:
        with torch.inference_mode():
            states = model(torch.tensor([row]), output_hidden_states=True).hidden_states[-1][0].float()
        weights = torch.arange(1, len(row) + 1).float()
        rows.append(torch.nn.functional.normalize((weights / weights.sum()) @ states, dim=0).numpy())
    return np.stack(rows)


def test_packed_equals_one_by_one_on_a_random_model(tiny_model):
    model = load_causal_lm(tiny_model, dtype=torch.float32)
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 250, size=size).tolist() for size in rng.integers(1, 90, size=60)]
    expected = one_by_one(model, ids)
    for budget in (1, 100, 1000, 10_000):
        np.testing.assert_allclose(encode(model, ids, budget), expected, atol=2e-5)


def test_a_sample_without_tokens_is_told(tiny_model):
    with pytest.raises(ValueError, match="sample 1 has no tokens"):
        encode(load_causal_lm(tiny_model), [[1], []], 100)


def test_nll_is_transformers_own_loss(tiny_model, monkeypatch):
    monkeypatch.setattr("rdslib.encode.LOGIT_ROWS", 7)
    model = load_causal_lm(tiny_model, dtype=torch.float32)
    ids = torch.randint(0, 250, (1, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(ids, labels=ids).loss
        hidden = model.base_model(ids).last_hidden_state[0, :-1]
        assert nll(model, hidden, ids[0, 1:]).mean().item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.real
def test_packed_equals_one_by_one_on_the_real_model_and_pool(mini):
    folder = model_folder(mini.store.path(mini.model))
    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    samples = read_pool(mini.store.path(mini.data) / "pool.parquet")[::80]
    ids = [t.ids for t in tokenize_chat(tokenizer, [s.messages for s in samples], 1024)]
    queries = mini.task_data("GSM8k").queries
    ids += [t.ids for t in tokenize_query(tokenizer, [s.messages for s in queries], 1024)]
    cosines = (encode(model, ids, 2048) * one_by_one(model, ids)).sum(axis=1)
    assert len(ids) > 30
    assert cosines.min() >= 0.999
