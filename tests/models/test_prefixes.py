"""What texts begin with in common is computed once: against each text alone, and against all groupings."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MambaConfig, MambaForCausalLM

from rdslib.evaluation import likelihood
from rdslib.evaluation.likelihood import Question
from rdslib.models import prefixes
from rdslib.models.loading import load_causal_lm, load_tokenizer

# Texts that have long and short beginnings in common, and some none.
PIECES = st.lists(st.integers(3, 200), min_size=1, max_size=30)


@st.composite
def texts(draw, most=7):
    """Token ids of texts, and how many of its first each may share."""
    beginnings = draw(st.lists(PIECES, min_size=1, max_size=3))
    ids, shareable = [], []
    for _ in range(draw(st.integers(1, most))):
        beginning = list(chain(*draw(st.lists(st.sampled_from(beginnings), max_size=3))))
        ids.append(beginning + draw(PIECES))
        shareable.append(draw(st.sampled_from([len(beginning), len(ids[-1]) - 1, len(beginning) // 2])))
    return ids, shareable


def partitions(items):
    if not items:
        yield []
        return
    for rest in partitions(items[1:]):
        yield [[items[0]], *rest]
        for at, part in enumerate(rest):
            yield [*rest[:at], [items[0], *part], *rest[at + 1 :]]


def in_common(ids, shareable, members):
    length = min(shareable[i] for i in members)
    while len({tuple(ids[i][:length]) for i in members}) > 1:
        length -= 1
    return length


@given(texts(most=6), st.integers(0, 40))
def test_no_other_grouping_computes_fewer_tokens(given_texts, cost):
    ids, shareable = given_texts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "PASS", cost)
        found = prefixes.groups(ids, shareable)
    assert sorted(i for _, members in found for i in members) == list(range(len(ids)))
    for prefix, members in found:
        assert prefix == 0 or prefix == in_common(ids, shareable, members)
    saved = sum((len(members) - 1) * prefix - cost for prefix, members in found if prefix)
    most = max(
        sum(max(0, (len(part) - 1) * in_common(ids, shareable, part) - cost) for part in partition)
        for partition in partitions(list(range(len(ids))))
    )
    assert saved == most


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_states_are_those_of_each_text_alone(tiny_model, attention):
    model = load_causal_lm(tiny_model, dtype=torch.float32)
    model.set_attn_implementation(attention)
    shared = []

    @settings(deadline=None, max_examples=30)
    @given(texts(), st.integers(1, 200))
    @torch.inference_mode()
    def check(given_texts, token_budget):
        ids, shareable = given_texts
        passed = {}
        for batch, prefix, hidden in prefixes.forward(model, ids, shareable, token_budget):
            assert all(prefix <= shareable[i] for i in batch)
            shared.append(prefix)
            passed |= {i: (prefix, hidden[row]) for row, i in enumerate(batch)}
        assert sorted(passed) == list(range(len(ids)))
        for i, (prefix, states) in passed.items():
            alone = model.base_model(input_ids=torch.tensor([ids[i]])).last_hidden_state[0, prefix:]
            torch.testing.assert_close(states[: len(alone)], alone, atol=1e-5, rtol=1e-5)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "PASS", 0)
        check()
    assert any(shared)


def test_a_model_with_states_of_another_kind_shares_nothing():
    config = MambaConfig(vocab_size=300, hidden_size=16, num_hidden_layers=2, state_size=4)
    model = MambaForCausalLM(config).eval()
    ids = [[*range(200), 250 + i] for i in range(3)]
    with torch.inference_mode():
        found = list(prefixes.forward(model, ids, [200] * 3, 1000))
        alone = [model.base_model(input_ids=torch.tensor([each])).last_hidden_state[0] for each in ids]
    (batch, prefix, hidden), *rest = found
    assert (batch, prefix, rest) == ([0, 1, 2], 0, [])
    torch.testing.assert_close(hidden, torch.stack(alone), atol=1e-5, rtol=1e-5)


def test_scores_after_shared_exemplars_are_those_of_each_question_alone(tiny_model, monkeypatch):
    """Of two tasks whose exemplars differ, in turn; some prompts are cut on the left, and share nothing."""
    model, tokenizer = load_causal_lm(tiny_model, dtype=torch.float32), load_tokenizer(tiny_model)
    questions = [
        Question(
            str(i),
            ("two and two are four. " * 10 if i % 2 else "say A or B. " * 15) + f"now {i}" * (1 + i % 5 * 6),
            "So:",
            (" A", " B")[i // 2 % 2] if i % 2 else f" it is {i} né",
            [" A", " B"] if i % 2 else None,
            i // 2 % 2 if i % 2 else None,
        )
        for i in range(20)
    ]
    passed, forward = [], prefixes.forward

    def noted(*args):
        for batch, prefix, hidden in forward(*args):
            passed.append((prefix, len(batch), hidden.shape[1]))
            yield batch, prefix, hidden

    alone = [likelihood.evaluate(model, tokenizer, [each], 300, 10) for each in questions]
    monkeypatch.setattr(prefixes, "forward", noted)
    found = likelihood.evaluate(model, tokenizer, questions, 300, 1000)
    assert found.bits == pytest.approx([each.bits[0] for each in alone], rel=1e-5)
    assert found.correct.tolist() == pytest.approx([each.correct[0] for each in alone], nan_ok=True)
    assert found.bytes.tolist() == [each.bytes[0] for each in alone]
    beginnings = {prefix for prefix, _, _ in passed}
    assert 0 in beginnings
    assert len(beginnings) > 2
    assert sum(prefix + rows * longest for prefix, rows, longest in passed) < 20 * 250
