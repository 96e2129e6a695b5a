"""IFD: two naive passes one sample at a time, and a naive reading of the clustering."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rdslib.data.chat import Sample, tokenize_chat, user_assistant
from rdslib.errors import UserError
from rdslib.methods import features
from rdslib.methods.base import COST, Extraction, Preparation, ScoringInputs
from rdslib.methods.ifd import IFD, PreExperienced, near_centres, turns_alone
from rdslib.models.flops import FORWARD, TRAINING, CostModel
from rdslib.models.loading import load_causal_lm, load_tokenizer, non_embedding_parameters
from rdslib.models.train import train
from rdslib.params import NO_MODEL, Encode, Ifd, Settings, Train
from rdslib.selection.round_robin import choose
from rdslib.selection.topk import over

CUT = 120
SAMPLES = [
    *(Sample(str(i), "s", user_assistant(f"say {i} " * (i % 4), f"it is {i}" * (i % 3))) for i in range(9)),
    # Several turns; two assistant turns in a row; an assistant turn first.
    Sample("turns", "s", user_assistant("1?", "1") + user_assistant("2?", " né\n") + user_assistant("x", "")),
    Sample("row", "s", [*user_assistant("a", "b"), {"role": "assistant", "content": "c d"}]),
    Sample("first", "s", [{"role": "assistant", "content": "hello"}, *user_assistant("u", "v")]),
    # Cut within a response, between turns, and before any response; no response at all.
    Sample("cut", "s", user_assistant("p" * 30, "r" * 200)),
    Sample("second cut", "s", user_assistant("p", "q") + user_assistant("p" * 20, "r" * 99)),
    Sample("between", "s", user_assistant("p", "q") + user_assistant("p" * 99, "r")),
    Sample("full", "s", user_assistant("p" * 200, "r")),
    Sample("none", "s", [{"role": "user", "content": "well?"}]),
]  # fmt: skip
TRAIN = Train(
    method="full", epochs=1, learning_rate=3e-2, warmup_ratio=0.0, batch_size=4, micro_batch_size=4,
    max_length=64,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _float32(monkeypatch):
    """So that batches of other shapes give the same numbers."""
    monkeypatch.setattr("rdslib.models.loading.compute_dtype", lambda: torch.float32)


@pytest.fixture(scope="module")
def model_path(tiny_model, tmp_path_factory):
    """The tiny model with larger weights, so that a prompt makes a difference to its response."""
    folder = tmp_path_factory.mktemp("larger")
    model = load_causal_lm(tiny_model, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 4
    model.save_pretrained(folder)
    load_tokenizer(tiny_model).save_pretrained(folder)
    return folder


def settings(**ifd):
    """What IFD reads of settings."""
    return Settings.model_construct(
        seed=3,
        model=NO_MODEL,
        encode=Encode(max_length=CUT, token_budget=300, shard_size=8),
        ifd=Ifd(clusters=3, per_cluster=4, train=TRAIN, **ifd),
    )


def opened(model_path, prepared):
    given = Extraction(settings(), model_path, prepared, ("ratio",), queries=False)
    return PreExperienced().open(given)


def extract(model_path, prepared):
    seen = []
    extract = opened(model_path, prepared)
    made = extract.make(extract.read(SAMPLES), seen.extend)
    assert sorted(seen) == list(range(len(SAMPLES)))
    return made


def losses(model, tokenizer, messages, keep=None):
    """The summed loss of the response tokens among the first `keep` tokens, and how many they are."""
    ids, labels = [], []
    for message in messages:
        header = tokenizer(f"<|{message['role']}|>\n")["input_ids"]
        answer = message["role"] == "assistant"
        content = tokenizer(message["content"].strip() + (tokenizer.eos_token if answer else ""))["input_ids"]
        end = tokenizer("\n")["input_ids"]
        ids += header + content + end
        labels += [-100] * len(header) + (content if answer else [-100] * len(content)) + [-100]
    ids, labels = ids[:keep], labels[:keep]
    count = sum(label != -100 for label in labels)
    if count == 0:
        return 0.0, 0
    with torch.inference_mode():
        inputs, targets = torch.tensor([[ids], [labels]], device=model.device)
        loss = model(inputs, labels=targets).loss
    return loss.item() * count, count


def naive_ratio(model, tokenizer, sample):
    """A naive reading of the definition, by transformers' loss."""
    prompted, count = losses(model, tokenizer, sample.messages, CUT)
    alone, left = 0.0, count
    for message in sample.messages:
        if message["role"] == "assistant" and left > 0:
            header = len("<|assistant|>\n")
            total, scored = losses(model, tokenizer, [message], header + left)
            alone, left = alone + total, left - scored
    assert left == 0
    return prompted / alone if count else np.nan


def prepare(model_path, folder):
    prompts = np.random.default_rng(0).normal(size=(len(SAMPLES), 5)).astype(np.float16)
    given = Preparation(settings(), model_path, SAMPLES, {"lm.uniform_prompt": prompts}, folder, None, folder)
    return PreExperienced().prepare(given), prompts


def test_ratios_equal_two_naive_passes(model_path, tmp_path):
    prepare(model_path, tmp_path)
    model, tokenizer = load_causal_lm(tmp_path), load_tokenizer(model_path)
    found = extract(model_path, tmp_path)
    expected = [naive_ratio(model, tokenizer, sample) for sample in SAMPLES]
    np.testing.assert_allclose(found.rows["ratio"], expected, rtol=1e-4)
    assert found.rows["ratio"].dtype == np.float32
    assert found.counts["no_response"] == 2
    assert 0 < found.counts["above_one"] == sum(ratio > 1 for ratio in expected) < len(SAMPLES)
    # A sample's is the same in any company.
    alone = opened(model_path, tmp_path)
    apart = [alone.make(alone.read([each]), lambda batch: None).rows["ratio"][0] for each in SAMPLES]
    np.testing.assert_allclose(found.rows["ratio"], apart, rtol=1e-4)
    # The untrained model gives other ones: it is the pre-experienced model that was read.
    assert np.nanmax(abs(found.rows["ratio"] - extract(model_path, model_path).rows["ratio"])) > 0.01


def test_tokens_of_both_passes_are_counted(model_path):
    found = extract(model_path, model_path)
    per_sample = found.rows[COST] / (FORWARD * non_embedding_parameters(load_causal_lm(model_path)))
    assert found.counts["tokens"] == per_sample.sum()
    tokenizer = load_tokenizer(model_path)
    assert PreExperienced().tokens(settings(), tokenizer, SAMPLES, False).tolist() == per_sample.tolist()
    lengths = {sample.id: int(tokens) for sample, tokens in zip(SAMPLES, per_sample, strict=True)}
    header = len("<|assistant|>\n")
    # Byte-level tokens: the whole text to the cut, then each assistant turn that is left of it.
    assert lengths["full"] == CUT
    assert lengths["none"] == len("<|user|>\nwell?")
    assert (
        lengths["row"] == len("<|user|>\na\n") + 2 * header + len("b\nc d") + 2 + 2 * header + len("bc d") + 2
    )
    assert lengths["cut"] == CUT + header + CUT - len("<|user|>\n" + "p" * 30 + "\n") - header


def test_what_is_above_one_or_has_no_response_is_never_offered(tmp_path):
    ratios = np.array([0.5, 1.2, np.nan, 1.0, 0.9, 3.0, 0.1], dtype=np.float32)
    for start in (0, 4):
        path = tmp_path / features.shard_name("ratio", start)
        features.write(path, ratios[start : start + 4])
    inputs = ScoringInputs(["s"] * 7, 0, {"ifd.ratio": tmp_path})
    assert choose([over(lambda: IFD.blocks(inputs))], 4).indices.tolist() == [3, 4, 0, 6]
    with pytest.raises(ValueError, match="4"):
        choose([over(lambda: IFD.blocks(inputs))], 5)


def test_turns_alone_are_the_same_tokens_under_merges():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = ["<|user|>\nwhat is it?\n<|assistant|>\nit is what it is\n"] * 3
    core.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=330, show_progress=False,
                             initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")
    for cut in (200, 40, 25):
        whole = tokenize_chat(tokenizer, [s.messages for s in SAMPLES], cut)
        owners, turns = turns_alone(tokenizer, SAMPLES, whole, cut)
        for position, tokens in enumerate(whole):
            expected = [t for t, scored in zip(tokens.ids, tokens.response, strict=True) if scored]
            mine = [turns[i] for i in np.flatnonzero(owners == position)]
            found = [t for turn in mine for t, s in zip(turn.ids, turn.response, strict=True) if s]
            assert found == expected


def naive_near(prompts, centres, per_cluster):
    """One row at a time: its centre, then the nearest rows of each centre."""
    owned = {}
    for i, row in enumerate(prompts):
        if row.any():
            distances = [np.linalg.norm(row - centre) for centre in centres]
            owned.setdefault(int(np.argmin(distances)), []).append((min(distances), i))
    return sorted(i for members in owned.values() for _, i in sorted(members)[:per_cluster])


def test_the_nearest_of_each_cluster_are_picked():
    rng = np.random.default_rng(1)
    # Three far corners, so that there is one clustering; a fourth group has no prompt.
    groups = rng.integers(0, 4, size=90)
    rows = np.eye(4)[groups] + 0.05 * rng.normal(size=(90, 4))
    rows[groups == 3] = 0
    prompts = rows.astype(np.float16)
    centres = [prompts[groups == group].astype(np.float32).mean(axis=0) for group in range(3)]
    assert near_centres(prompts, 3, 7, seed=0) == naive_near(prompts.astype(np.float32), centres, 7)
    # A cluster with fewer gives what it has.
    assert near_centres(prompts, 3, 90, seed=0) == np.flatnonzero(groups < 3).tolist()


def test_equal_prompts_are_taken_by_position_and_clusters_are_at_most_the_samples():
    prompts = np.repeat(np.eye(2, dtype=np.float16), 4, axis=0)
    assert near_centres(prompts, 2, 2, seed=0) == [0, 1, 4, 5]
    assert near_centres(prompts[:3], 100, 10, seed=0) == [0, 1, 2]
    assert near_centres(np.zeros((3, 2), dtype=np.float16), 2, 2, seed=0) == []


def test_the_model_is_trained_on_what_was_picked(model_path, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    counts, prompts = prepare(model_path, tmp_path / "a")
    picked = [SAMPLES[i] for i in near_centres(prompts, 3, 4, settings().seed)]
    expected = train(model_path, picked, TRAIN, settings().seed, tmp_path / "b")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]
    size, tokens = non_embedding_parameters(load_causal_lm(model_path)), expected["training_tokens"]
    assert counts == {**expected, "tokens": tokens, "flops": TRAINING * size * tokens}


def test_a_plan_knows_what_is_trained_and_on_which_pool():
    ifd = PreExperienced()
    assert ifd.trains_on(settings(), 1000) == (12, TRAIN)
    assert ifd.trains_on(settings(), 5) == (5, TRAIN)
    cost = ifd.cost_model(CostModel(), settings(), {}, 77)
    assert (cost.ifd_encoded, cost.ifd_trained) == (77, 12)
    given = settings(pool="small")
    assert ifd.prepare_pool(given, "all") == "small"
    assert ifd.key(given) != ifd.key(settings())
    with pytest.raises(UserError, match="add `ifd`"):
        ifd.key(Settings.model_construct(ifd=None))
