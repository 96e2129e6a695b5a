"""Prompts and labels by themselves, against a plain pass over their text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rdslib.data.chat import Sample, user_assistant
from rdslib.methods import COST, Extraction, get_extractor
from rdslib.models.loading import load_causal_lm, load_tokenizer, non_embedding_parameters
from rdslib.params import NO_MODEL, Encode, Settings

SETTINGS = Settings.model_construct(
    encode=Encode(max_length=60, token_budget=300, shard_size=8), seed=1, model=NO_MODEL
)


@pytest.mark.parametrize("queries", [False, True])
@pytest.mark.parametrize("name", ["prompt", "label"])
def test_a_span_alone_is_what_the_model_makes_of_its_text(tiny_model, name, queries):
    """Each span by itself, against a plain pass over its text; a sample without one has zeros."""
    tokenizer, model = load_tokenizer(tiny_model), load_causal_lm(tiny_model)
    system = {"role": "system", "content": " Be kind. "}
    samples = [
        Sample("0", "s", user_assistant(" Who? ", " Me. ") + user_assistant("And?", "You.")),
        Sample("1", "s", [system, *user_assistant("Where?", "There")]),
        Sample("2", "s", user_assistant("Why?", "")[:1]),
    ]
    eos, header = tokenizer.eos_token, "" if queries else "<|assistant|>\n"
    texts = {
        "prompt": [
            f"<|user|>\nWho?{eos}",
            f"<|system|>\nBe kind.\n<|user|>\nWhere?{eos}",
            f"<|user|>\nWhy?{eos}",
        ],
        "label": [f"{header}Me.{eos}", f"{header}There{eos}", ""],
    }[name]
    span = get_extractor(f"{name}.weighted_all")
    opened = span.open(Extraction(SETTINGS, tiny_model, None, ("weighted_all",), queries))
    through = []
    made = opened.make(opened.read(samples), through.extend)
    assert sorted(through) == [0, 1, 2]
    for row, text in zip(made.rows["weighted_all"], texts, strict=True):
        if not text:
            assert not row.any()
            continue
        ids = torch.tensor([tokenizer(text)["input_ids"][:60]])
        with torch.inference_mode():
            states = model.base_model(ids).last_hidden_state[0].float()
        pooled = (torch.arange(1, len(states) + 1)[:, None] * states).sum(dim=0)
        np.testing.assert_allclose(row, pooled / pooled.norm(), atol=4e-3)
    tokens = span.tokens(SETTINGS, tokenizer, samples, queries)
    assert tokens.tolist() == [min(60, len(tokenizer(text)["input_ids"])) if text else 0 for text in texts]
    assert (made.rows[COST] == 2 * non_embedding_parameters(model) * tokens).all()
