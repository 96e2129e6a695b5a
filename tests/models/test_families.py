"""Model families beside Llama, tiny and random: NLL, states and gradients against their own forward pass."""

from __future__ import annotations

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from rdslib.data.chat import user_assistant
from rdslib.errors import UserError
from rdslib.methods.base import Sample, tokenize
from rdslib.models import prefixes
from rdslib.models.encode import FEATURES, encode
from rdslib.models.loading import load_causal_lm, load_tokenizer
from rdslib.models.train import train
from rdslib.params import Train
from tests.models.test_encode import one_by_one, samples_of
from tests.models.test_gradients import autograd, batched, random_tokens

POSITIONS = 96
SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": POSITIONS,
}  # fmt: skip
ROTARY = {**SIZES, "num_key_value_heads": 2}
# By family: its sizes, and the matrices that get adapters.
FAMILIES = {
    "GPT2": ({"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS}, "c_attn"),
    "OPT": ({**SIZES, "ffn_dim": 64, "word_embed_proj_dim": 16, "pad_token_id": 1}, "q_proj"),
    "GPTNeoX": (SIZES, "query_key_value"),
    "Qwen2": (ROTARY, "q_proj"),
    "Qwen3": ({**ROTARY, "head_dim": 16}, "q_proj"),
    "Gemma": ({**ROTARY, "head_dim": 16}, "q_proj"),
    "Mistral": (ROTARY, "q_proj"),
    # What these do after the vocabulary head: a limit, a divisor, a factor.
    "Gemma2": ({**ROTARY, "head_dim": 16, "final_logit_softcapping": 0.5}, "q_proj"),
    "Granite": ({**ROTARY, "logits_scaling": 4.0}, "q_proj"),
    "Cohere": ({**ROTARY, "logit_scale": 0.25}, "q_proj"),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tiny_model, tmp_path_factory):
    """The folder of a model, and the matrices that get adapters."""
    sizes, target = FAMILIES[request.param]
    folder, tokenizer = tmp_path_factory.mktemp(request.param), load_tokenizer(tiny_model)
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eos_token_id)
    config = getattr(transformers, f"{request.param}Config")(
        **{"vocab_size": len(tokenizer), **ends, **sizes}
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for weight in model.parameters():
            weight *= 4  # so that nothing is as likely as all else
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, target


def test_features_are_those_of_the_models_forward_pass(family):
    model, tokenizer = load_causal_lm(family[0], dtype=torch.float32), load_tokenizer(family[0])
    samples = samples_of(tokenizer)  # longer ones are cut to the model's positions
    assert max(len(sample.ids) for sample in samples) == POSITIONS
    expected, found = one_by_one(model, samples), encode(model, samples, FEATURES, 300)
    for name, rows in found.items():
        torch.testing.assert_close(
            torch.tensor(rows), torch.tensor(expected[name]).float(), atol=1e-4, rtol=1e-4, equal_nan=True
        )


def test_states_after_a_shared_prefix_are_those_of_the_whole(family):
    model = load_causal_lm(family[0], dtype=torch.float32)
    ids = [[*range(100, 170), *range(3 * i + 1)] for i in range(4)]
    with torch.inference_mode():
        ((batch, prefix, hidden),) = prefixes.forward(model, ids, [70] * 4, 1000)
        assert sorted(batch) == [0, 1, 2, 3]
        assert prefix == 70
        for row, i in enumerate(batch):
            whole = model.base_model(input_ids=torch.tensor([ids[i]])).last_hidden_state[0, prefix:]
            torch.testing.assert_close(hidden[row, : len(whole)], whole, atol=1e-5, rtol=1e-5)


def test_a_query_longer_than_the_models_positions_keeps_its_response(family):
    query = Sample("0", "q", user_assistant("what " * 100, "this"))
    (tokens,) = tokenize(load_tokenizer(family[0]), [query], 2048, queries=True)
    assert len(tokens.ids) == POSITIONS
    assert sum(tokens.response) == len("this") + 1


def test_gradients_are_autograds(family):
    folder, target = family
    config = LoraConfig(r=3, lora_alpha=12, target_modules=[target], layers_to_transform=[1])
    model = get_peft_model(load_causal_lm(folder, dtype=torch.float32), config, adapter_name="first")
    model.add_adapter("second", config)
    noise = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            weight.data.normal_(0, 0.3, generator=noise)
    model, samples = model.eval(), random_tokens(12)
    expected = torch.stack([autograd(model, name, samples) for name in ("first", "second")])
    found = batched(model, samples, 100)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-4 * expected.abs().max().item())


def test_matrices_that_a_family_has_not_are_named(family, tmp_path):
    folder, target = family
    spec = {
        "method": "lora", "epochs": 1, "learning_rate": 1e-3, "warmup_ratio": 0.0, "batch_size": 1,
        "micro_batch_size": 1, "max_length": 64,
    }  # fmt: skip
    samples = [Sample("0", "s", user_assistant("what", "this"))]
    if target == "q_proj":
        assert train(folder, samples, Train(**spec), 0, tmp_path)["updates"] == 1
    else:
        with pytest.raises(UserError, match=f"{folder}: has no layers called q_proj, v_proj, where LoRA"):
            train(folder, samples, Train(**spec), 0, tmp_path)
    named = Train(**spec, lora_targets=(target,))
    assert train(folder, samples, named, 0, tmp_path)["updates"] == 1
