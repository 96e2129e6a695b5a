"""LESS's parts: gradients in batches against autograd one sample at a time, projection, checkpoints."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import TrainerCallback

from rdslib.data.chat import Sample, Tokens, user_assistant
from rdslib.models.gradients import SaveCheckpoints, lora_linears, per_sample_gradients
from rdslib.models.loading import load_causal_lm
from rdslib.models.projection import Projection, random_words
from rdslib.models.train import IGNORE, train
from rdslib.params import Train
from rdslib.seeds import generator

LORA = Train(
    method="lora", epochs=3, learning_rate=3e-2, warmup_ratio=0.1, batch_size=4, micro_batch_size=2,
    max_length=64, lora_rank=2, lora_alpha=8, lora_dropout=0.1, lora_layers=1,
    lora_targets=("q_proj", "k_proj", "v_proj", "o_proj"),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _float32(monkeypatch):
    """So that batches of other shapes give the same numbers."""
    for module in ("loading", "train", "projection"):
        monkeypatch.setattr(f"rdslib.models.{module}.compute_dtype", lambda: torch.float32)


def autograd(model, adapter, samples):
    """A batch of one, transformers' loss, each matrix's gradient, one by one: [samples, parameters]."""
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
    samples = random_tokens(30)
    expected = torch.stack([autograd(adapted, name, samples) for name in ("first", "second")])
    # The adapters differ, so that neither is taken for the other.
    assert (expected[0] - expected[1]).norm() > 0.1 * expected.norm()
    for budget in (1, 30, 200, 2000):
        found = batched(adapted, samples, budget)
        assert found.dtype == torch.float32
        assert not found[:, :3].any()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())


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


def dense_signs(parameters, dimension, seed):
    """The projection as a matrix, [parameters, dimension], each sign by itself in Python's integers."""
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
    samples = [Sample(str(i), "s", user_assistant(f"say {i}", "it is" * (1 + i))) for i in range(10)]
    counts = train(tiny_model, samples, LORA, 1, tmp_path / "out", None, [SaveCheckpoints(tmp_path), record])
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
