"""A model whose layers lie in several places: in memory and on disk, since this machine may have no GPU."""

from __future__ import annotations

import numpy as np
import pytest

from rdslib.data.chat import tokenize_chat
from rdslib.errors import UserError
from rdslib.evaluation import likelihood
from rdslib.models.cache import LayerCache
from rdslib.models.encode import FEATURES, encode
from rdslib.models.loading import load_causal_lm, load_tokenizer
from rdslib.models.train import train
from rdslib.params import Model
from tests.models.test_train_evaluate import SAMPLES, TESTS, params

PLACES = {
    "model.embed_tokens": "cpu", "lm_head": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk",
    "model.norm": "disk", "model.rotary_emb": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tiny_model):
    placed = load_causal_lm(tiny_model, device_map=PLACES)
    assert any(weight.is_meta for weight in placed.parameters())
    return load_causal_lm(tiny_model), placed


def test_features_are_the_same_wherever_layers_lie(tiny_model, models):
    tokens = tokenize_chat(load_tokenizer(tiny_model), [s.messages for s in SAMPLES], 64)
    whole, placed = (encode(model, tokens, FEATURES, 256) for model in models)
    for name in FEATURES:
        np.testing.assert_array_equal(placed[name], whole[name])


def test_scores_are_the_same_wherever_layers_lie(tiny_model, models):
    tokenizer = load_tokenizer(tiny_model)
    found = [
        likelihood.evaluate(model, tokenizer, likelihood.bare(TESTS), 128, 300, layers=LayerCache())
        for model in models
        for _ in range(2)  # what a model passes through is as it was
    ]
    for each in found[1:]:
        np.testing.assert_array_equal(each.bits, found[0].bits)
        np.testing.assert_array_equal(each.correct, found[0].correct)


def test_what_does_not_fit_the_devices_cannot_be_trained(tiny_model, models, tmp_path):
    with pytest.raises(UserError, match="does not fit this machine's GPUs, and a part that is not on one"):
        train(tiny_model, SAMPLES, params(method="lora"), 1, tmp_path, base=models[1])


def test_where_layers_lie_is_no_part_of_a_key_and_how_they_are_rounded_is():
    plain = Model(title="", path="x")
    assert Model(title="", path="x", device_map="auto").model_dump() == plain.model_dump()
    assert Model(title="", path="x", load_in_8bit=True).model_dump()["load_in_8bit"] is True
    assert "load_in_8bit" not in plain.model_dump()


def test_a_missing_package_is_named(tiny_model, monkeypatch):
    monkeypatch.setattr("rdslib.models.loading.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package bitsandbytes; run `pip install bitsandbytes`"):
        load_causal_lm(tiny_model, load_in_8bit=True)
