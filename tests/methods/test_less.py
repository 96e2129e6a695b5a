"""LESS against a naive reading."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tqdm import tqdm

from rdslib.data.chat import Sample, tokenize_chat, tokenize_query, user_assistant
from rdslib.errors import UserError
from rdslib.methods import features
from rdslib.methods.base import COST, Extraction, Preparation, ScoringInputs
from rdslib.methods.less import LESS, LessGradients
from rdslib.models.flops import TRAINING
from rdslib.models.loading import load_causal_lm, load_tokenizer, non_embedding_parameters
from rdslib.params import NO_MODEL, Encode, Less, Settings
from tests.models.test_gradients import LORA, autograd, dense_signs

CUT, DIMENSION = 60, 100
POOL = [
    *(Sample(str(i), "s", user_assistant(f"say {i} " * (i % 3), "it is" * (1 + i % 7))) for i in range(20)),
    Sample("turns", "s", user_assistant("1?", "one") + user_assistant("2?", "two")),
    Sample("asks last", "s", [*user_assistant("a", "b"), {"role": "user", "content": "and?"}]),
    Sample("cut", "s", user_assistant("p" * 200, "r")),
]  # fmt: skip
QUERIES = [Sample(str(i), "q", user_assistant("what " * i, f"this {i}")) for i in range(4)]
# The response lies beyond the cut, so that the prompt is cut instead.
QUERIES.append(Sample("long", "q", user_assistant("p" * 200, "it is")))


@pytest.fixture(autouse=True, scope="module")
def _float32():
    """So that batches of other shapes give the same numbers."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("loading", "train", "projection"):
            patch.setattr(f"rdslib.models.{module}.compute_dtype", lambda: torch.float32)
        yield


def settings(**changes):
    """What LESS reads of settings."""
    less = Less(warmup_share=0.5, dimension=DIMENSION, train=LORA)
    values = {"seed": 3, "encode": Encode(max_length=CUT, token_budget=200, shard_size=8), "less": less}
    values["model"] = NO_MODEL
    return Settings.model_construct(**{**values, **changes})


def prepare(tiny_model, out, **changes):
    return LessGradients().prepare(
        Preparation(settings(**changes), tiny_model, POOL, {}, out, tqdm(disable=True), out)
    )


def extract(tiny_model, prepared, samples, queries):
    seen = []
    opened = LessGradients().open(Extraction(settings(), tiny_model, prepared, ("gradient",), queries))
    made = opened.make(opened.read(samples), seen.extend)
    assert sorted(seen) == list(range(len(samples)))
    return made


@pytest.fixture(scope="module")
def warmed(tiny_model, tmp_path_factory):
    """What a warm-up leaves, and its counts."""
    out = tmp_path_factory.mktemp("warm-up")
    return out, prepare(tiny_model, out)


def test_less_equals_a_naive_reading(tiny_model, warmed, tmp_path, monkeypatch):
    tokenizer = load_tokenizer(tiny_model)
    pool = tokenize_chat(tokenizer, [s.messages for s in POOL], CUT)
    queries = tokenize_query(tokenizer, [s.messages for s in QUERIES], CUT)
    assert tokenizer.decode(queries[-1].ids).endswith("p\n<|assistant|>\nit is</s>")
    assert len(queries[-1].ids) == CUT
    rates, cosines = [], []
    for epoch in (1, 2, 3):
        folder = warmed[0] / f"epoch-{epoch}"
        rates.append(json.loads((folder / "learning_rate.json").read_text()))
        base = load_causal_lm(tiny_model, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, str(folder), is_trainable=True).eval()
        g = autograd(model, "default", pool)
        moments = load_file(folder / "moments.safetensors")
        m = 0.9 * moments["exp_avg"] + 0.1 * g
        v = 0.999 * moments["exp_avg_sq"] + 0.001 * g**2
        signs = dense_signs(g.shape[1], DIMENSION, 3)
        ours = torch.nn.functional.normalize((m / (v + 1e-8).sqrt()) @ signs)
        theirs = torch.nn.functional.normalize(autograd(model, "default", queries) @ signs)
        cosines.append(theirs @ ours.T)
    expected = sum(rate / sum(rates) * each for rate, each in zip(rates, cosines, strict=True)).numpy()
    expected[:, -1] = -np.inf  # its response is cut off

    monkeypatch.setattr("rdslib.methods.less.GATHERED", 5000)  # so that it is projected in several parts
    for name, samples in (("pool", POOL), ("queries", QUERIES)):
        rows = extract(tiny_model, warmed[0], samples, name == "queries").rows["gradient"]
        assert rows.dtype == np.float16
        assert rows.shape == (len(samples), 3 * DIMENSION)
        lengths = np.linalg.norm(rows.astype(np.float32), axis=1)
        np.testing.assert_allclose(lengths, [s.id != "cut" for s in samples], atol=1e-3)
        (tmp_path / name).mkdir()
        features.write(tmp_path / name / features.shard_name("gradient", 0), rows)
    folders = {name: {"less.gradient": tmp_path / name} for name in ("pool", "queries")}
    inputs = ScoringInputs(["s"] * len(POOL), 0, folders["pool"], folders["queries"])
    ((start, scores),) = LESS.blocks(inputs)
    assert start == 0
    np.testing.assert_allclose(scores, expected, atol=2e-3)
    assert np.ptp(expected[:, :-1]) > 0.2


def test_warm_up_sees_a_share_of_the_pool_the_same_each_time(tiny_model, warmed, tmp_path):
    out, counts = warmed
    assert counts["samples"] + counts["without_response"] == round(0.5 * len(POOL))
    parameters = non_embedding_parameters(load_causal_lm(tiny_model))
    assert counts["flops"] == TRAINING * parameters * counts["tokens"]
    prepare(tiny_model, tmp_path)
    names = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / name).read_bytes()


def test_rows_do_not_depend_on_their_company_and_costs_are_by_token(tiny_model, warmed):
    made = extract(tiny_model, warmed[0], POOL, False)
    alone = extract(tiny_model, warmed[0], POOL[5:6], False)
    np.testing.assert_allclose(made.rows["gradient"][5], alone.rows["gradient"][0], atol=2e-3)
    tokens = [len(t.ids) for t in tokenize_chat(load_tokenizer(tiny_model), [s.messages for s in POOL], CUT)]
    parameters = non_embedding_parameters(load_causal_lm(tiny_model))
    np.testing.assert_array_equal(made.rows[COST], np.array(tokens) * 3.0 * TRAINING * parameters)
    assert made.counts == {"tokens": 3 * sum(tokens)}
    # And so are a plan's.
    less, model = LessGradients(), load_causal_lm(tiny_model)
    use = less.model_use(settings(), ("gradient",), model.config)
    planned = less.tokens(settings(), load_tokenizer(tiny_model), POOL, False)
    np.testing.assert_array_equal(made.rows[COST], use.operations * parameters * planned)
    assert (use.row_bytes, use.layers) == (made.rows["gradient"][0].nbytes, 1)
    assert less.trains_on(settings(), 9) == (4, LORA)


def test_what_the_profile_lacks_is_an_error(tiny_model, tmp_path):
    with pytest.raises(UserError, match="add `less`"):
        LessGradients().key(settings(less=None))
    full = Less(train=LORA.model_copy(update={"method": "full"}))
    with pytest.raises(UserError, match=r"less.train.method: .* set it to lora"):
        LessGradients().key(settings(less=full))
    one_update = LORA.model_copy(update={"epochs": 1, "batch_size": 99, "warmup_ratio": 0.9})
    with pytest.raises(UserError, match="lower warmup_ratio"):
        prepare(tiny_model, tmp_path, less=Less(warmup_share=0.5, train=one_update))
