"""LESS: gradients in batches against autograd one sample at a time, and the whole against a naive reading."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tqdm import tqdm
from transformers import TrainerCallback

from rdslib.data.chat import Sample, Tokens, tokenize_chat, tokenize_query, user_assistant
from rdslib.errors import UserError
from rdslib.methods import features
from rdslib.methods.base import COST, Extraction, Preparation, ScoringInputs
from rdslib.methods.less import LESS, LessGradients
from rdslib.models.flops import TRAINING
from rdslib.models.gradients import SaveCheckpoints, lora_linears, per_sample_gradients
from rdslib.models.loading import load_causal_lm, load_tokenizer, non_embedding_parameters
from rdslib.models.projection import Projection, random_words
from rdslib.models.train import IGNORE, train
from rdslib.params import Encode, Experiment, Less, Train
from rdslib.seeds import generator

CUT, DIMENSION = 60, 100
POOL = [
    *(Sample(str(i), "s", user_assistant(f"say {i} " * (i % 3), "it is" * (1 + i % 7))) for i in range(20)),
    Sample("turns", "s", user_assistant("1?", "one") + user_assistant("2?", "two")),
    Sample("asks last", "s", [*user_assistant("a", "b"), {"role": "user", "content": "and?"}]),
    Sample("cut", "s", user_assistant("p" * 200, "r")),
]  # fmt: skip
QUERIES = [Sample(str(i), "q", user_assistant("what " * i, f"this {i}")) for i in range(4)]
TRAIN = Train(
    method="lora", epochs=3, learning_rate=3e-2, warmup_ratio=0.1, batch_size=4, micro_batch_size=2,
    max_length=64, lora_rank=2, lora_alpha=8, lora_dropout=0.1, lora_layers=1,
    lora_targets=("q_proj", "k_proj", "v_proj", "o_proj"),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread():
    """On a busy machine threads that wait for each other make matrices as small as these very slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _float32(monkeypatch):
    """So that batches of other shapes give the same numbers."""
    for module in ("models", "train", "projection"):
        monkeypatch.setattr(f"rdslib.{module}.compute_dtype", lambda: torch.float32)


def autograd(model, adapter, samples):
    """A batch of one, transformers' own loss, each matrix's gradient, one by one: [samples, parameters]."""
    model.set_adapter(adapter)
    found = []
    for sample in samples:
        model.zero_grad()
        labels = [i if r else IGNORE for i, r in zip(sample.ids, sample.response, strict=True)]
        weights = [p for name, p in model.named_parameters() if ".lora_" in name and f".{adapter}." in name]
        if set(labels[1:]) <= {IGNORE}:
            found.append(torch.zeros(sum(p.numel() for p in weights)))
            continue
        model(input_ids=torch.tensor([sample.ids]), labels=torch.tensor([labels])).loss.backward()
        found.append(torch.cat([p.grad.flatten() for p in weights]))
    return torch.stack(found)


# Gradients.


@pytest.fixture(scope="module", params=[[0, 1], [1]], ids=["all layers", "last layer"])
def adapted(request, tiny_model):
    """The tiny model with two adapters of random matrices, which are not trained."""
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]
    config = LoraConfig(
        r=3, lora_alpha=12, lora_dropout=0.5, target_modules=targets, layers_to_transform=request.param
    )
    model = get_peft_model(load_causal_lm(tiny_model, dtype=torch.float32), config, adapter_name="first")
    model.add_adapter("second", config)
    noise = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            weight.data.normal_(0, 0.3, generator=noise)
    return model.eval()


def random_tokens(count):
    """Samples of many lengths and of any response mask; the first three have nothing to train on."""
    rng = np.random.default_rng(0)
    samples = [
        Tokens([7], [True], 0),
        Tokens([7, 8, 9], [False] * 3, 3),
        Tokens([7, 8, 9], [True, False, False], 0),
    ]
    while len(samples) < count:
        length = int(rng.integers(2, 40))
        response = (rng.random(length) < rng.random()).tolist()
        samples.append(Tokens(rng.integers(0, 250, length).tolist(), response, 0))
    return samples


def batched(model, samples, budget):
    """Gradients at both adapters: [2, samples, parameters]."""
    found, seen = {}, []
    for place, positions, rows in per_sample_gradients(
        model, ["first", "second"], samples, budget, seen.extend
    ):
        found |= {(place, position): row for position, row in zip(positions, rows, strict=True)}
    assert sorted(seen) == list(range(len(samples)))
    return torch.stack([torch.stack([found[place, i] for i in range(len(samples))]) for place in range(2)])


def test_gradients_of_a_batch_are_autograds_one_by_one(adapted, monkeypatch):
    monkeypatch.setattr("rdslib.models.gradients.LOGIT_ROWS", 7)
    samples = random_tokens(40)
    expected = torch.stack([autograd(adapted, name, samples) for name in ("first", "second")])
    found = batched(adapted, samples, 200)
    assert found.dtype == torch.float32
    assert not found[:, :3].any()
    # The adapters differ, so that neither is taken for the other.
    assert (expected[0] - expected[1]).norm() > 0.1 * expected.norm()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 2000))
def test_gradients_do_not_depend_on_the_batches(adapted, budget):
    samples = random_tokens(16)
    found, other = batched(adapted, samples, budget), batched(adapted, samples, 100)
    torch.testing.assert_close(found, other, rtol=1e-3, atol=1e-5 * other.abs().max().item())


def test_layers_without_lora_run_once_for_all_adapters(adapted):
    ran = []
    layers = adapted.get_base_model().model.layers
    hooks = [
        layer.mlp.register_forward_hook(lambda *_, at=at: ran.append(at)) for at, layer in enumerate(layers)
    ]
    batched(adapted, random_tokens(8), 10_000)
    below = 0 if any("lora" in name for name, _ in layers[0].named_modules()) else 1
    assert [ran.count(at) for at in range(2)] == [1 if at < below else 2 for at in range(2)]
    # And afterwards they run again.
    adapted(torch.tensor([[1, 2]]))
    assert len(ran) == 4 - below + 2
    for hook in hooks:
        hook.remove()


# Projection.


def dense_signs(parameters, dimension, seed):
    """The projection as a matrix, [parameters, dimension], each sign by itself in Python's own integers."""
    key = int(generator(seed, "projection").integers(-(2**63), 2**63))
    words = -(-dimension // 64)

    def sign(row, column):
        word = ((row * words + column // 64) * 0x9E3779B97F4A7C15 + key) % 2**64
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
        word ^= word >> 31
        return 1 if word >> (column % 64) & 1 else -1

    signs = np.array([[sign(row, column) for column in range(dimension)] for row in range(parameters)])
    return torch.from_numpy(signs / np.sqrt(dimension)).float()


@pytest.mark.parametrize("dimension", [1, 64, 100, 130])
def test_projection_is_a_matrix_of_signs(monkeypatch, dimension):
    rows = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    expected = rows @ dense_signs(50, dimension, 5)
    for block in (1, 64 * 7, 2**20):
        monkeypatch.setattr("rdslib.models.projection.BLOCK", block)
        found = Projection(50, dimension, 5)(rows)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([Projection(50, dimension, 5)(row[None]) for row in rows]), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_projection_keeps_inner_products(monkeypatch, dtype):
    monkeypatch.setattr("rdslib.models.projection.compute_dtype", lambda: dtype)
    noise = torch.Generator().manual_seed(0)
    # Entries of very different sizes, as in gradients; rows that have much in common.
    rows = torch.randn(30, 4000, generator=noise) + torch.randn(4000, generator=noise)
    rows = torch.nn.functional.normalize(rows * torch.rand(4000, generator=noise) ** 4, dim=1).double()
    errors = []
    for seed in range(20):
        projected = Projection(4000, 1024, seed)(rows.float()).double()
        errors.append(projected @ projected.T - rows @ rows.T)
    spread = torch.stack(errors)
    # Of two rows of length 1 with cosine c, the variance is at most (1 + c**2) / dimension.
    assert spread.pow(2).mean(0).max() < 2 * 2 / 1024
    assert spread.abs().max() < 6 * (2 / 1024) ** 0.5
    assert spread.mean().abs() < 4 * (2 / 1024 / 20) ** 0.5
    assert torch.equal(Projection(4000, 64, 1)(rows), Projection(4000, 64, 1)(rows))


def test_random_words_have_even_bits():
    words = random_words(3, 0, 20_000, torch.device("cpu")).numpy().view(np.uint8)
    bits = np.unpackbits(words).reshape(20_000, 64).astype(np.float64) * 2 - 1
    # Each bit is as often set as not, and no two go together: within 6 standard errors.
    together = bits.T @ bits / 20_000 - np.eye(64)
    assert np.abs(bits.mean(axis=0)).max() < 6 / np.sqrt(20_000)
    assert np.abs(together).max() < 6 / np.sqrt(20_000)


# Warm-up.


class Record(TrainerCallback):
    """The gradient and the learning rate of each update."""

    def __init__(self):
        self.updates = []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        weights = [linear.weight for linear in lora_linears(kwargs["model"], "default")]
        now = [torch.cat([getattr(w, what).flatten() for w in weights]) for what in ("data", "grad")]
        rate = kwargs["optimizer"].param_groups[0]["lr"]
        self.updates.append(([each.clone() for each in now], rate))


def test_checkpoints_are_those_of_a_handwritten_adamw(tiny_model, tmp_path):
    record = Record()
    counts = train(
        tiny_model, POOL[:10], TRAIN, 1, tmp_path / "out", None, [SaveCheckpoints(tmp_path), record]
    )
    each = counts["updates"] // 3
    assert each == 3
    (weights, _), _ = record.updates[0]
    m = v = torch.zeros_like(weights)
    for step, ((_, gradient), rate) in enumerate(record.updates, 1):
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        weights = weights - rate * (m / (1 - 0.9**step)) / (torch.sqrt(v / (1 - 0.999**step)) + 1e-8)
        if step % each == 0:
            folder = tmp_path / f"epoch-{step // each}"
            moments = load_file(folder / "moments.safetensors")
            torch.testing.assert_close(moments["exp_avg"], m, rtol=1e-4, atol=1e-8)
            torch.testing.assert_close(moments["exp_avg_sq"], v, rtol=1e-4, atol=1e-12)
            model = PeftModel.from_pretrained(load_causal_lm(tiny_model), str(folder))
            saved = torch.cat([linear.weight.flatten() for linear in lora_linears(model, "default")])
            torch.testing.assert_close(saved, weights, rtol=1e-3, atol=1e-5)
            rates = [rate for _, rate in record.updates[step - each : step]]
            assert json.loads((folder / "learning_rate.json").read_text()) == pytest.approx(np.mean(rates))
    # Rising over the first of nine updates, then falling by as much each time.
    assert [rate for _, rate in record.updates] == pytest.approx(
        [0, *(3e-2 * k / 8 for k in range(8, 0, -1))]
    )
    assert len(list(tmp_path.glob("epoch-*"))) == 3


# The whole method.


def experiment(**changes):
    """What LESS reads of an experiment."""
    less = Less(warmup_share=0.5, dimension=DIMENSION, train=TRAIN)
    values = {"seed": 3, "encode": Encode(max_length=CUT, token_budget=200, shard_size=8), "less": less}
    return Experiment.model_construct(**{**values, **changes})


def prepare(tiny_model, out, **changes):
    return LessGradients().prepare(
        Preparation(experiment(**changes), tiny_model, POOL, {}, out, tqdm(disable=True))
    )


def extract(tiny_model, prepared, samples, queries):
    seen = []
    opened = LessGradients().open(Extraction(experiment(), tiny_model, prepared, ("gradient",), queries))
    made = opened.make(opened.read(samples), seen.extend)
    assert sorted(seen) == list(range(len(samples)))
    return made


@pytest.fixture(scope="module")
def warmed(tiny_model, tmp_path_factory):
    """What a warm-up leaves, and its counts."""
    out = tmp_path_factory.mktemp("warm-up")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rdslib.models.loading.compute_dtype", lambda: torch.float32)
        patch.setattr("rdslib.models.train.compute_dtype", lambda: torch.float32)
        return out, prepare(tiny_model, out)


def test_less_equals_a_naive_reading(tiny_model, warmed, tmp_path, monkeypatch):
    tokenizer = load_tokenizer(tiny_model)
    pool = tokenize_chat(tokenizer, [s.messages for s in POOL], CUT)
    queries = tokenize_query(tokenizer, [s.messages for s in QUERIES], CUT)
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


def test_what_the_profile_lacks_is_told(tiny_model, tmp_path):
    with pytest.raises(UserError, match="add `less`"):
        LessGradients().recipe(experiment(less=None))
    full = Less(train=TRAIN.model_copy(update={"method": "full"}))
    with pytest.raises(UserError, match=r"less.train.method: .* set it to lora"):
        LessGradients().recipe(experiment(less=full))
    one_update = TRAIN.model_copy(update={"epochs": 1, "batch_size": 99, "warmup_ratio": 0.9})
    with pytest.raises(UserError, match="lower warmup_ratio"):
        prepare(tiny_model, tmp_path, less=Less(warmup_share=0.5, train=one_update))
