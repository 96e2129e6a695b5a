"""The loss drop: two naive passes, one sample at a time, before and after a training on the queries."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tqdm import tqdm

from rdslib.data.chat import Sample, user_assistant
from rdslib.errors import UserError
from rdslib.methods import COST, Extraction, Preparation, ScoringInputs, get_extractor, get_scorer
from rdslib.models.cache import ModelCache
from rdslib.models.loading import load_causal_lm, load_tokenizer, non_embedding_parameters
from rdslib.params import NO_MODEL, Encode, LossDrop, Settings, Train
from rdslib.pipeline import costs
from rdslib.pipeline.pipeline import Request
from rdslib.pipeline.step import in_order
from rdslib.pipeline.study import Study
from tests.methods.test_scorers import whole, write_feature

CUT = 60
POOL = [Sample(str(i), "s", user_assistant(f"say {i} " * (i % 4), f"it is {i}" * (i % 3))) for i in range(20)]
POOL.append(Sample("long", "s", user_assistant("p" * 40, "r" * 200)))
QUERIES = [Sample(str(i), "q", user_assistant(f"say {i}", f"it is {i}")) for i in range(4)]
TRAIN = Train(
    method="lora", epochs=6, learning_rate=3e-2, warmup_ratio=0.0, batch_size=2, micro_batch_size=2,
    max_length=CUT, lora_rank=4,
)  # fmt: skip


def settings(train=TRAIN):
    encode = Encode(max_length=CUT, token_budget=300, shard_size=8)
    drop = train and LossDrop(train=train)
    return Settings.model_construct(seed=1, model=NO_MODEL, encode=encode, loss_drop=drop)


def losses(model, tokenizer, samples):
    """The mean loss of each sample's whole text, by transformers, one at a time."""
    found = []
    for sample in samples:
        prompt, response = (message["content"].strip() for message in sample.messages)
        text = f"<|user|>\n{prompt}\n<|assistant|>\n{response}{tokenizer.eos_token}"
        ids = torch.tensor([tokenizer(text)["input_ids"][:CUT]])
        with torch.inference_mode():
            found.append(model(ids, labels=ids).loss.item())
    return np.array(found)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_score_is_the_share_by_which_training_on_the_queries_lowers_the_loss(
    tiny_model, tmp_path, monkeypatch, method
):
    monkeypatch.setattr("rdslib.models.loading.compute_dtype", lambda: torch.float32)
    asked = settings(TRAIN.model_copy(update={"method": method, "learning_rate": 3e-3}))
    maker, out = get_extractor("loss_drop.nll"), tmp_path / "prepared"
    out.mkdir()
    counts = maker.prepare(Preparation(asked, tiny_model, QUERIES, {}, out, tqdm(disable=True), tmp_path))
    assert counts["samples"] == maker.trains_on(asked, len(QUERIES))[0] == 4
    opened = maker.open(Extraction(asked, tiny_model, out, ("nll",), queries=False))
    through = []
    made = opened.make(opened.read(POOL), through.extend)
    assert sorted(through) == list(range(len(POOL)))

    base, tokenizer = load_causal_lm(tiny_model), load_tokenizer(tiny_model)
    before = losses(base, tokenizer, POOL)
    after = losses(ModelCache(tiny_model).trained(out), tokenizer, POOL)
    np.testing.assert_allclose(made.rows["nll"], after, rtol=1e-4)
    tokens = maker.tokens(asked, tokenizer, POOL, False)
    assert (made.rows[COST] == 2 * non_embedding_parameters(base) * tokens).all()
    assert counts["flops"] == 6 * non_embedding_parameters(base) * counts["tokens"] > 0

    write_feature(tmp_path / "before", "nll", before.astype(np.float32), 8)
    write_feature(tmp_path / "after", "nll", made.rows["nll"], 5)
    inputs = ScoringInputs((), 0, {"lm.nll": tmp_path / "before", "loss_drop.nll": tmp_path / "after"})
    np.testing.assert_allclose(whole("loss_drop", inputs)[0], 1 - after / before, atol=1e-4)
    # What looks like the queries gains most.
    scores = 1 - after / before
    assert scores.max() > 0.01
    assert scores[-1] < np.median(scores[:-1])


def test_a_smaller_pool_and_samples_without_a_loss(tmp_path):
    before, after = np.array([1, np.nan, 2, 3, 0], np.float32), np.array([2, np.nan, 1, 0], np.float32)
    write_feature(tmp_path / "before", "nll", before, 2)
    write_feature(tmp_path / "after", "nll", after, 3)
    folders = {"lm.nll": tmp_path / "before", "loss_drop.nll": tmp_path / "after"}
    # The one is of the whole pool, the other of the smaller one.
    inputs = ScoringInputs((), 0, folders, kept={"lm.nll": np.array([0, 1, 2, 4])})
    assert whole("loss_drop", inputs).tolist() == [[-1, -np.inf, 0.5, -np.inf]]


def test_without_parameters_it_is_an_error():
    with pytest.raises(UserError, match="the method 'loss_drop' needs parameters; add `loss_drop`"):
        get_extractor("loss_drop.nll").key(settings(train=None))
    assert get_scorer("loss_drop").needs_response


def test_each_task_has_a_training_and_a_pass_of_its_own(tmp_path):
    pipeline = Study.load("tiny", home=tmp_path).pipeline
    request = Request("loss_drop", 5, ("Sums", "Reverse"), "small")
    labels = [step.label for step in in_order([pipeline.selection(request)])]
    apart = [
        [f"loss_drop features of the small pool for {task}", f"prepare loss_drop on {task} queries"]
        for task in request.targets
    ]
    assert {"lm features of the pool", *itertools.chain(*apart)} < {*labels}
    # Of the queries themselves nothing is made.
    assert not [label for label in labels if "features of Sums" in label]
    paid = [f"FLOPs of {features}" for features, _ in apart] + [prepare for _, prepare in apart]
    found = [step.label for step in costs.steps_of(pipeline, request)]
    assert found == ["FLOPs of lm features of the pool", *paid]
    assert "task" not in pipeline.preparation("ifd.ratio", "small").arguments
