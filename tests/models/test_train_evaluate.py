"""Fine-tuning and evaluation, on a tiny model, against slow and obvious versions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rdslib.data.chat import Sample, tokenize_chat, tokenize_query, user_assistant
from rdslib.errors import UserError
from rdslib.evaluation import likelihood
from rdslib.evaluation.likelihood import Question, bare
from rdslib.models.cache import LayerCache, ModelCache, layers_below_lora
from rdslib.models.device import compute_dtype
from rdslib.models.loading import load_causal_lm, load_tokenizer
from rdslib.models.train import train
from rdslib.params import Train
from rdslib.tasks.base import TaskSample

SAMPLES = [Sample(str(i), "s", user_assistant(f"say {i}", f"it is {i}")) for i in range(20)]
HELD = [TaskSample(s.id, s.source, s.messages, "t") for s in SAMPLES]
TESTS = [
    TaskSample(str(i), "t", user_assistant(f"say {i}" * (1 + i % 3), "AB"[i % 2]), "t", ["A", "B"], i % 2)
    for i in range(9)
]


def params(**changes):
    values = {
        "method": "full", "epochs": 6, "learning_rate": 3e-3, "warmup_ratio": 0.03, "batch_size": 8,
        "micro_batch_size": 4, "max_length": 64,
    }  # fmt: skip
    return Train(**{**values, **changes})


def evaluate(model, tokenizer, samples, *args, **kwargs):
    return likelihood.evaluate(model, tokenizer, bare(samples), *args, **kwargs)


def bits(model, tokenizer, samples):
    return evaluate(model, tokenizer, samples, 128, 300).bits.sum()


def test_bits_and_accuracy_equal_a_naive_computation(tiny_model):
    model, tokenizer = load_causal_lm(tiny_model, dtype=torch.float32), load_tokenizer(tiny_model)
    found = evaluate(model, tokenizer, TESTS, 128, 100)
    for row, sample in enumerate(TESTS):
        prompt = f"<|user|>\n{sample.messages[0]['content']}\n<|assistant|>\n"
        costs = []
        for choice in sample.choices:
            ids = torch.tensor([tokenizer(prompt)["input_ids"] + tokenizer(choice)["input_ids"]])
            with torch.inference_mode():
                logits = model(ids).logits.log_softmax(-1)
            at = range(len(tokenizer(prompt)["input_ids"]), ids.shape[1])
            costs.append(-sum(logits[0, t - 1, ids[0, t]].item() for t in at) / math.log(2))
        assert found.bits[row] == pytest.approx(costs[sample.answer], rel=1e-4)
        assert found.correct[row] == float(np.argmin(costs) == sample.answer)
    assert found.bytes.tolist() == [1] * len(TESTS)


def test_no_bits_are_counted_of_what_a_response_is_given_to_begin_with(tiny_model):
    model, tokenizer = load_causal_lm(tiny_model, dtype=torch.float32), load_tokenizer(tiny_model)
    question = Question("q", "say 1", "So it is", " né.", [" né.", "x"], 0)
    found = likelihood.evaluate(model, tokenizer, [question], 128, 100)
    before = tokenizer("<|user|>\nsay 1\n<|assistant|>\nSo it is")["input_ids"]
    ids = torch.tensor([before + tokenizer(" né.", add_special_tokens=False)["input_ids"]])
    with torch.inference_mode():
        logits = model(ids).logits[0].log_softmax(-1)
    cost = -sum(logits[t - 1, ids[0, t]].item() for t in range(len(before), ids.shape[1]))
    assert found.bits[0] == pytest.approx(cost / math.log(2), rel=1e-4)
    assert found.bytes.tolist() == [len("né.".encode())]


def test_a_sample_that_is_no_prompt_with_a_response_is_named():
    for messages in ([], user_assistant("a", "b")[:1], user_assistant("a", "b") * 2):
        with pytest.raises(UserError, match="test sample q7: is not a prompt and a response"):
            bare([TaskSample("q7", "t", messages, "t")])


def test_choices_are_told_apart_by_the_first_token_in_which_they_differ(tiny_model):
    model, tokenizer = load_causal_lm(tiny_model, dtype=torch.float32), load_tokenizer(tiny_model)
    for answer, gold in enumerate((" A", " B")):
        question = Question("q", "say 1", "So:", gold, [" A", " B"], answer)
        found = likelihood.evaluate(model, tokenizer, [question], 128, 100)
        ids = tokenizer("<|user|>\nsay 1\n<|assistant|>\nSo: ", return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            last = model(ids).logits[0, -1]
        a, b = (last[tokenizer(each, add_special_tokens=False)["input_ids"][0]] for each in "AB")
        assert found.correct[0] == float((a > b) == (answer == 0))


def test_bytes_are_utf8_and_no_choices_means_no_accuracy(tiny_model):
    sample = TaskSample("0", "t", user_assistant("x", " né "), "t")
    found = evaluate(load_causal_lm(tiny_model), load_tokenizer(tiny_model), [sample], 128, 100)
    assert found.bytes.tolist() == [3]
    assert np.isnan(found.correct[0])


@pytest.mark.parametrize(
    ("response", "choices", "expected"),
    [
        ("ab", {"choices": ["ab", "ac", "b"], "answer": 0}, "its choices begin with the same tokens"),
        ("ab", {"choices": ["ab", "abc"], "answer": 0}, "its choices begin with the same tokens"),
        ("y" * 200, {}, "its response does not fit 128 tokens"),
    ],
)
def test_a_sample_that_cannot_be_scored_is_named(tiny_model, response, choices, expected):
    sample = TaskSample("q7", "t", user_assistant("x", response), "t", **choices)
    with pytest.raises(UserError, match=f"test sample q7: {expected}"):
        evaluate(load_causal_lm(tiny_model), load_tokenizer(tiny_model), [sample], 128, 100)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_training_learns_saves_and_repeats(tiny_model, tmp_path, method):
    tokenizer = load_tokenizer(tiny_model)
    spec = params(method=method, learning_rate=3e-3 if method == "full" else 5e-2)
    counts = train(tiny_model, SAMPLES, spec, 1, tmp_path / "a")
    train(tiny_model, SAMPLES, spec, 1, tmp_path / "b")
    before = bits(load_causal_lm(tiny_model), tokenizer, HELD)
    after = bits(ModelCache(tiny_model).trained(tmp_path / "a"), tokenizer, HELD)
    assert after < (0.9 if method == "full" else 0.97) * before
    name = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    if method == "full":
        assert {each.dtype for each in load_file(tmp_path / "a" / name).values()} == {compute_dtype()}
    assert counts["samples"] == 20
    assert counts["updates"] == 6 * 3
    assert counts["training_tokens"] == 6 * sum(
        len(t.ids) for t in tokenize_query(tokenizer, [s.messages for s in SAMPLES], 64)
    )


@pytest.mark.slow
def test_a_model_in_memory_gives_what_one_from_disk_gives(tiny_model, tmp_path):
    """Run after run on the same base model, with its untrained layers' states kept: not a bit differs."""
    tokenizer, cache = load_tokenizer(tiny_model), ModelCache(tiny_model)
    specs = [
        params(method="lora", epochs=2, learning_rate=rate, lora_layers=1, lora_dropout=0.1)
        for rate in (5e-2, 1e-2)
    ] + [params(epochs=1)]
    runs = []
    for number, spec in enumerate(specs):
        runs += [tmp_path / f"kept-{number}"]
        base = cache.base() if spec.method == "lora" else None
        train(tiny_model, SAMPLES, spec, 1, runs[-1], base=base)
        train(tiny_model, SAMPLES, spec, 1, tmp_path / f"fresh-{number}")
        for name in ("adapter_model.safetensors", "model.safetensors"):
            kept, fresh = runs[-1] / name, tmp_path / f"fresh-{number}" / name
            assert kept.exists() == fresh.exists()
            assert not kept.exists() or kept.read_bytes() == fresh.read_bytes()
        before = evaluate(cache.base(), tokenizer, HELD, 128, 100, layers=cache.layers).bits
        assert (
            before.tolist() == evaluate(load_causal_lm(tiny_model), tokenizer, HELD, 128, 100).bits.tolist()
        )
    for run in (*runs, *runs[::-1], runs[0]):
        found = evaluate(cache.trained(run), tokenizer, HELD, 128, 100, layers=cache.layers).bits
        alone = evaluate(ModelCache(tiny_model).trained(run), tokenizer, HELD, 128, 100).bits
        assert found.tolist() == alone.tolist()
        assert found.tolist() != before.tolist()


def test_layers_below_compute_once_and_stay_within_their_limit(tiny_model, tmp_path, monkeypatch):
    tokenizer = load_tokenizer(tiny_model)
    train(tiny_model, SAMPLES, params(method="lora", epochs=1, lora_layers=1), 1, tmp_path)
    model, layers = ModelCache(tiny_model).trained(tmp_path), LayerCache()
    (layer,) = layers_below_lora(model)
    calls = []
    layer.self_attn.register_forward_hook(lambda *_: calls.append(1))
    first = evaluate(model, tokenizer, HELD, 128, 100, layers=layers)
    once = len(calls)
    assert once > 2
    assert evaluate(model, tokenizer, HELD, 128, 100, layers=layers).bits.tolist() == first.bits.tolist()
    assert len(calls) == once
    monkeypatch.setattr("rdslib.models.cache.LIMIT", 1)  # room for one batch, whatever its size
    assert evaluate(model, tokenizer, HELD, 128, 150, layers=layers).bits == pytest.approx(first.bits)
    assert len(layers._kept) == 1


def test_the_loss_is_transformers_own_over_response_tokens(tiny_model):
    from rdslib.models.train import IGNORE, _ResponseCollator

    model, tokenizer = load_causal_lm(tiny_model, dtype=torch.float32), load_tokenizer(tiny_model)
    turns = user_assistant("a", "bc") + user_assistant("def", "g")
    rows = []
    for tokens in tokenize_chat(tokenizer, [s.messages for s in SAMPLES[:5]] + [turns], 64):
        labels = [t if r else IGNORE for t, r in zip(tokens.ids, tokens.response, strict=True)]
        rows.append({"input_ids": tokens.ids, "labels": labels})
    batch = _ResponseCollator(tokenizer, label_pad_token_id=IGNORE)([dict(row) for row in rows])
    with torch.inference_mode():
        found = model(**batch).loss.item()
        costs = []
        for row in rows:
            logits = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
            costs += [-logits[t - 1, y].item() for t, y in enumerate(row["labels"]) if y != IGNORE]
    assert found == pytest.approx(np.mean(costs), rel=1e-5)
    assert len(batch["logits_to_keep"]) < batch["input_ids"].shape[1]


def test_nothing_is_learnt_from_prompts(tiny_model, tmp_path):
    # A sample whose response lies beyond the cut is left out, and counted; none at all is an error.
    long = Sample("long", "s", user_assistant("x" * 200, "y"))
    counts = train(tiny_model, [*SAMPLES, long], params(epochs=1), 1, tmp_path)
    assert counts["without_response"] == 1
    with pytest.raises(UserError, match="none of the 1 samples has a response within 64 tokens"):
        train(tiny_model, [long], params(), 1, tmp_path)
