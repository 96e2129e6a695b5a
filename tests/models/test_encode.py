"""Encoding: packed batches against one sample at a time, and pooling against the written formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rdslib.data.chat import Tokens, tokenize_chat, tokenize_query, user_assistant
from rdslib.data.pool import PoolFile
from rdslib.errors import UserError
from rdslib.models.encode import FEATURES, LAYERED, POOLINGS, encode, mean_nll, pack, pooling_weights
from rdslib.models.loading import load_causal_lm, load_tokenizer, make_random
from rdslib.params import RandomModel
from rdslib.pipeline.steps import model_folder
from rdslib.seeds import generator


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


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=8))
def test_weights_are_the_papers(spans):
    starts, ends = [min(span) for span in spans], [max(span) for span in spans]
    for pooling in POOLINGS:
        weights = pooling_weights(torch.tensor(starts), torch.tensor(ends), 20, pooling).numpy()
        for row, start, end in zip(weights, starts, ends, strict=True):
            n = end - start
            inside = {
                "weighted": [i / sum(range(1, n + 1)) for i in range(1, n + 1)],
                "uniform": [1 / n] * n if n else [],
                "last": [0.0] * (n - 1) + [1.0] * (n > 0),
            }[pooling]
            np.testing.assert_allclose(row, [0.0] * start + inside + [0.0] * (20 - end), rtol=1e-6)


def one_by_one(model, samples):
    """A naive reading of the methods: each sample alone, the whole model, the last hidden state, its loss."""
    found = {name: [] for name in FEATURES}
    for sample in samples:
        ids = torch.tensor([sample.ids])
        with torch.inference_mode():
            out = model(ids, labels=ids, output_hidden_states=True)
        found["nll"].append(out.loss.item() if len(sample.ids) > 1 else np.nan)
        states = out.hidden_states[-1][0].float()
        answer = [i for i, inside in enumerate(sample.response) if inside]
        # The first assistant turn: the first run of response tokens.
        answer = [i for place, i in enumerate(answer) if i == answer[0] + place]
        spans = {"all": states, "prompt": states[: sample.prompt], "response": states[answer]}
        for span, rows in spans.items():
            count = len(rows)
            weights = torch.arange(1, count + 1).float()
            pooled = {
                "weighted": (weights / weights.sum()) @ rows,
                "uniform": rows.sum(dim=0) / max(count, 1),
                "last": rows[-1] if count else torch.zeros(rows.shape[1]),
            }
            for pooling, row in pooled.items():
                found[f"{pooling}_{span}"].append(torch.nn.functional.normalize(row, dim=0).numpy())
        found[LAYERED].append(last_layers(out.hidden_states))
    return {name: np.stack(rows) for name, rows in found.items()}


def last_layers(states):
    """The weighted mean in each of the last 18 layers (or all), projected by signs of its own, and joined."""
    last = states[1:][-18:]
    weights = torch.arange(1, last[0].shape[1] + 1).float()
    parts = []
    for number, layer in enumerate(last):
        shape = layer.shape[2], last[-1].shape[2] // len(last)
        signs = 2.0 * generator(0, "signs", str(number)).integers(0, 2, shape, dtype=np.int8) - 1
        parts.append((weights / weights.sum()) @ layer[0].float() @ torch.tensor(signs).float())
    return torch.nn.functional.normalize(torch.cat(parts), dim=0).numpy()


def samples_of(tokenizer, max_length=2048):
    """Conversations of many shapes: one and several turns, system turns, no response, cut ones."""
    rng = np.random.default_rng(0)

    def words(count):
        return " ".join(rng.choice(["sun", "moon", "tell me", "why?", "42"], size=count))

    chats = [user_assistant(words(int(a)), words(int(b))) for a, b in rng.integers(1, 20, size=(25, 2))]
    chats += [chats[0] + chats[1], chats[2] + chats[3] + chats[4]]
    chats += [[{"role": "system", "content": "Be brief."}, *chats[5]]]
    chats += [[{"role": "user", "content": "Nobody answers."}]]
    return tokenize_chat(tokenizer, chats, max_length) + tokenize_query(tokenizer, chats[:10], max_length)


@pytest.mark.parametrize("budget", [1, 100, 1000, 10_000])
def test_packed_equals_one_by_one_on_a_random_model(tiny_model, budget):
    model = load_causal_lm(tiny_model, dtype=torch.float32)
    samples = samples_of(load_tokenizer(tiny_model)) + samples_of(load_tokenizer(tiny_model), 40)
    samples.append(Tokens([5], [False], 1))
    expected, found = one_by_one(model, samples), encode(model, samples, FEATURES, budget)
    assert set(found) == set(FEATURES)
    for name, rows in found.items():
        np.testing.assert_allclose(rows, expected[name], atol=3e-5, err_msg=name)
    # Asking for one feature alone gives the same.
    for name in ("nll", "weighted_all", LAYERED):
        np.testing.assert_array_equal(encode(model, samples, [name], budget)[name], found[name])


def test_spans_are_the_words_they_stand_for(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    turns = [
        {"role": "system", "content": "Be brief."},
        *user_assistant("Hi", "Hello."),
        *user_assistant("And?", "Bye."),
    ]
    for tokens, last in (
        (tokenize_chat(tokenizer, [turns], 2048)[0], False),
        (tokenize_query(tokenizer, [turns], 2048)[0], True),
    ):
        start, end = tokens.first_response
        prompt = "<|system|>\nBe brief.\n<|user|>\nHi\n"
        if last:  # of a query sample, the response is the gold one, its last
            prompt += "<|assistant|>\nHello.</s>\n<|user|>\nAnd?\n"
        assert tokenizer.decode(tokens.ids[: tokens.prompt]) == prompt
        assert tokenizer.decode(tokens.ids[start:end]) == ("Bye.</s>" if last else "Hello.</s>")


def test_mean_nll_is_transformers_loss_over_what_is_scored(tiny_model):
    model = load_causal_lm(tiny_model, dtype=torch.float32)
    samples = samples_of(load_tokenizer(tiny_model))
    found = mean_nll(model, [s.ids for s in samples], [s.response for s in samples], 300)
    for sample, value in zip(samples, found, strict=True):
        labels = torch.tensor([[t if r else -100 for t, r in zip(sample.ids, sample.response, strict=True)]])
        with torch.inference_mode():
            loss = model(torch.tensor([sample.ids]), labels=labels).loss.item()
        np.testing.assert_allclose(value, loss, rtol=1e-5)


def test_memory_does_not_grow_with_batch_times_vocabulary(tiny_model, monkeypatch):
    model, samples = load_causal_lm(tiny_model), samples_of(load_tokenizer(tiny_model))
    monkeypatch.setattr("rdslib.models.encode.logit_rows", lambda device: 16)
    rows = []
    model.get_output_embeddings().register_forward_hook(lambda *call: rows.append(call[2].shape[:-1].numel()))
    encode(model, samples, ["nll"], 100_000)
    # One batch, every position but the first of each sample, 16 at a time.
    assert sum(rows) == sum(len(sample.ids) - 1 for sample in samples)
    assert max(rows) == 16
    # Without NLL, no logits at all.
    encode(model, samples, ["weighted_all"], 100_000)
    assert sum(rows) == sum(len(sample.ids) - 1 for sample in samples)


def test_what_cannot_be_encoded_is_an_error(tiny_model):
    model = load_causal_lm(tiny_model)
    with pytest.raises(ValueError, match="sample 1 has no tokens"):
        encode(model, [Tokens([1], [True], 0), Tokens([], [], 0)], ["nll"], 100)
    with pytest.raises(UserError, match=r"lm\.mean: there is no such feature"):
        encode(model, [Tokens([1], [True], 0)], ["mean"], 100)


@pytest.mark.real
@pytest.mark.slow
def test_packed_equals_one_by_one_on_the_real_model_and_pool(mini):
    folder = model_folder(mini.store.path(mini.pipeline.model))
    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    samples = PoolFile(mini.store.path(mini.pool) / "pool.parquet")[::50]
    tokens = tokenize_chat(tokenizer, [s.messages for s in samples], 1024)
    queries = mini.task_data("GSM8k").queries
    tokens += tokenize_query(tokenizer, [s.messages for s in queries], 1024)
    assert len(tokens) > 25
    expected, found = one_by_one(model, tokens), encode(model, tokens, FEATURES, 1024)
    # In bfloat16 each value has 8 bits, and NLL is a mean over tokens.
    np.testing.assert_allclose(found.pop("nll"), expected["nll"], rtol=0.02)
    for name, rows in found.items():
        assert (rows * expected[name]).sum(axis=1).min() >= 0.999, name


def test_of_a_deep_model_the_last_18_layers_are_taken(tmp_path):
    make_random(RandomModel(layers=20, hidden_size=40, heads=2), 0, tmp_path)
    model, samples = load_causal_lm(tmp_path, dtype=torch.float32), [Tokens([5, 6, 7], [False] * 3, 1)]
    found = encode(model, samples, [LAYERED], 100)[LAYERED]
    np.testing.assert_allclose(found, one_by_one(model, samples)[LAYERED], atol=3e-5)
    assert found.shape == (1, 36)
