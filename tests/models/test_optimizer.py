"""bfloat16 weights with float32 copies, against AdamW on float32 weights."""

from __future__ import annotations

import copy

import torch

from rdslib.models.optimizer import MasterAdamW

RATE = 1e-4


def model_of(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1)).bfloat16()


def test_copies_begin_anywhere_in_what_rounds_to_the_weights():
    weight = torch.nn.Parameter(torch.randn(200_000).bfloat16())
    with torch.no_grad():
        weight[:10] = 0
    start = weight.detach().clone()
    optimizer = MasterAdamW([weight], 1.0, seed=3)
    (found,) = optimizer.copies
    assert torch.equal(found.bfloat16(), start)
    assert torch.equal(found[:10], torch.zeros(10))
    assert (found != start.float()).float().mean() > 0.99
    again = MasterAdamW([weight], 1.0, seed=3)
    assert torch.equal(again.copies[0], found)


def test_a_step_of_a_tenth_moves_a_tenth_of_the_weights():
    """One update of AdamW moves every weight by the learning rate; the next number is 2**-7 away from 1."""
    weight = torch.nn.Parameter(torch.full((100_000,), 1.5).bfloat16())
    optimizer = MasterAdamW([weight], 1e9, seed=0, lr=2**-7 / 10, weight_decay=0.0)
    weight.sum().backward()
    optimizer.step()
    moved = (weight != 1.5).float().mean().item()
    assert 0.09 < moved < 0.11
    assert abs(weight.float().mean().item() - (1.5 - 2**-7 / 10)) < 1e-4


def test_updates_are_those_of_float32_weights_summed_over_micro_batches():
    ours = model_of(0)
    reference = copy.deepcopy(ours).float()
    optimizer = MasterAdamW(ours.parameters(), 1.0, seed=0, lr=RATE, weight_decay=0.0)
    plain = torch.optim.AdamW(reference.parameters(), lr=RATE, weight_decay=0.0)
    before = [each.clone() for each in optimizer.copies]
    start = [each.detach().clone() for each in reference.parameters()]
    inputs, targets = torch.randn(20, 16, 32), torch.randn(20, 16, 1)
    for batch, target in zip(inputs, targets, strict=True):
        for half in (slice(0, 8), slice(8, 16)):
            ((ours(batch[half].bfloat16()).float() - target[half]) ** 2).mean().div(2).backward()
            ((reference(batch[half]) - target[half]) ** 2).mean().div(2).backward()
        assert all(weight.grad is None for weight in ours.parameters())
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        optimizer.step()
        plain.step()
        plain.zero_grad()
    moved = torch.cat([(a - b).flatten() for a, b in zip(optimizer.copies, before, strict=True)])
    wanted = torch.cat(
        [(a - b).detach().flatten() for a, b in zip(reference.parameters(), start, strict=True)]
    )
    assert torch.cosine_similarity(moved, wanted, dim=0) > 0.97
    assert (moved.norm() / wanted.norm() - 1).abs() < 0.05
    for weight, kept in zip(ours.parameters(), optimizer.copies, strict=True):
        assert torch.equal(weight, kept.bfloat16())


def test_weights_without_gradient_stay():
    model = model_of(1)
    model[0].requires_grad_(False)
    still = model[0].weight.detach().clone()
    optimizer = MasterAdamW(model.parameters(), 1.0, seed=0, lr=RATE)
    model(torch.randn(4, 32).bfloat16()).sum().backward()
    optimizer.step()
    assert torch.equal(model[0].weight, still)
    assert len(optimizer.copies) == 2
