"""Protocols: what is asked, byte for byte, and agreement with plain computation."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rdslib.data.archives import Archives
from rdslib.data.chat import format_chat, user_assistant
from rdslib.data.download import cache_dir
from rdslib.errors import UserError
from rdslib.evaluation import harness
from rdslib.evaluation.harness import measure
from rdslib.models.loading import load_causal_lm, load_tokenizer
from rdslib.profiles import load_profile
from rdslib.tasks.base import TaskSample, build_task


def sample(prompt="Who?", response="me", **fields):
    return TaskSample("one", "made up", user_assistant(prompt, response), "", **fields)


SHOWN = [
    {"question": "1 + 1?", "context": "On ones.", "response": "It is 2. The answer is 2."},
    {"question": "2 + 2?", "context": "On twos.", "response": "It is 4. The answer is 4."},
]
ASKED = sample(question="3 + 3?", context="On threes.", exemplars=SHOWN, references=["6"])

# What each protocol asks, written out. Between <<>> stands the user's turn; what follows is the model's.
PROMPTS = {
    "gsm8k": "<<Answer the following questions.\n\nQuestion: 1 + 1?\nAnswer: It is 2. The answer is 2.\n\n"
    "Question: 2 + 2?\nAnswer: It is 4. The answer is 4.\n\nQuestion: 3 + 3?>>Answer:",
    "bbh": "<<On threes.\n\nQ: 1 + 1?\nA: Let's think step by step.\nIt is 2. The answer is 2.\n\n"
    "Q: 2 + 2?\nA: Let's think step by step.\nIt is 4. The answer is 4.\n\n"
    "Q: 3 + 3?>>A:",
    "squad": "<<On ones.\n\n1 + 1?\n\nIt is 2. The answer is 2.\n"
    "On twos.\n\n2 + 2?\n\nIt is 4. The answer is 4.\nOn threes.\n\n3 + 3?>>",
    "tydiqa": "<<On ones.\n\nQuestion: 1 + 1?\nAnswer: It is 2. The answer is 2.\n\n"
    "On twos.\n\nQuestion: 2 + 2?\nAnswer: It is 4. The answer is 4.\n\n"
    "On threes.\n\nQuestion: 3 + 3?\nAnswer:>>",
    "mmlu": "<<Which?\nA. x\nB. y\nAnswer:>>The answer is:",
    "alpaca_eval": "<<Which?\nA. x\nB. y\nAnswer:>>",
    "codex": "<<Which?\nA. x\nB. y\nAnswer:>>Here is the function:\n\n```python\ndef f(x):",
}
PROMPTS["xquad"] = PROMPTS["tydiqa"]
OTHERS = sample(
    "Which?\nA. x\nB. y\nAnswer:", "B", choices=["A", "B"], answer=1, references=["def f(x): pass"],
    program="def f(x):\n",
    entry_point="f", test="def check(f): pass",
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tiny_model):
    return load_causal_lm(tiny_model), load_tokenizer(tiny_model)


def test_every_protocol_is_written_out_here():
    assert sorted(PROMPTS) == harness.names()


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_these_bytes(name, tiny):
    given = OTHERS if "Which" in PROMPTS[name] else ASKED
    found = measure(*tiny, name, [given], 2048, 2, 0, longest=2)
    user, _, begun = PROMPTS[name].removeprefix("<<").partition(">>")
    before = format_chat([{"role": "user", "content": user}], "")
    assert found.prompts == [f"{before}\n<|assistant|>\n{begun}"]
    assert len(found.responses[0]) == (10 if name == "codex" else 1)


@pytest.mark.parametrize("name", PROMPTS)
def test_bits_are_asked_for_as_the_protocol_asks(name, tiny):
    given = replace(OTHERS if "Which" in PROMPTS[name] else ASKED, gold=" so")
    (question,) = harness.questions(harness.form(name), [given], tiny[1])
    (prompt,) = measure(*tiny, name, [given], 2048, 2, 0, longest=2).prompts
    before = f"{format_chat([{'role': 'user', 'content': question.prompt}], '')}\n<|assistant|>\n"
    assert prompt == before + (question.lead.rstrip() if name != "bbh" else "A:")
    if name == "bbh":
        assert question.lead == "A: Let's think step by step.\nSo the answer is"
    assert (question.id, question.gold, question.answer) == ("one", " so", given.answer)
    assert question.choices == ([" A", " B"] if name == "mmlu" else given.choices)


def test_a_gold_response_is_the_bare_one_where_a_task_has_no_other_form(tiny):
    (question,) = harness.questions(harness.form("squad"), [ASKED], tiny[1])
    assert (question.gold, question.lead) == ("me", "")


def test_contexts_are_cut_to_so_many_tokens(tiny):
    model, tokenizer = tiny
    long = sample(question="Q?", context="word " * 900, exemplars=[], references=["x"])
    (prompt,) = measure(model, tokenizer, "tydiqa", [long], 4096, 1, 0, longest=1).prompts
    cut = prompt.removeprefix("<|user|>\n").partition("\n\nQuestion")[0]
    assert ("word " * 900).startswith(cut)
    assert len(tokenizer(cut, add_special_tokens=False)["input_ids"]) in (511, 512)
    (prompt,) = measure(model, tokenizer, "squad", [long], 8192, 1, 0, longest=1).prompts
    assert "word " * 899 in prompt


def test_a_field_that_is_missing_is_named(tiny):
    with pytest.raises(UserError, match=r"^protocol gsm8k: test sample one has no question; use a reader"):
        measure(*tiny, "gsm8k", [sample()], 64, 1, 0)
    with pytest.raises(UserError, match=r"^unknown protocol 'gsm9k'; protocols: alpaca_eval, bbh"):
        measure(*tiny, "gsm9k", [sample()], 64, 1, 0)
    for path in ("../tasks/bbh", str(harness.FOLDER / "bbh"), "./bbh", ""):
        with pytest.raises(UserError, match="unknown protocol"):
            harness.path_of(path)


def greedy(model, tokenizer, prompt, tokens, stops):
    """The likeliest tokens, one after another, up to the end or to one of `stops`."""
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    written, past = [], None
    with torch.inference_mode():
        for _ in range(tokens):
            found = model(ids, past_key_values=past, use_cache=True)
            past, best = found.past_key_values, int(found.logits[0, -1].float().argmax())
            if best == tokenizer.eos_token_id:
                break
            written.append(best)
            ids = torch.tensor([[best]])
            if any(stop in tokenizer.decode(written) for stop in stops):
                break
    text = tokenizer.decode(written, skip_special_tokens=True)
    return text[: min([text.find(stop) for stop in stops if stop in text], default=len(text))]


def likeliest(model, tokenizer, prompt, choices):
    """Which of the choices the model finds likeliest after the prompt."""
    totals = []
    for choice in choices:
        before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        whole = torch.tensor([tokenizer(prompt + choice, add_special_tokens=False)["input_ids"]])
        with torch.inference_mode():
            logs = model(whole).logits[0].float().log_softmax(-1)
        totals.append(sum(float(logs[at - 1, whole[0, at]]) for at in range(len(before), whole.shape[1])))
    return choices[int(np.argmax(totals))]


# The comparison takes some seconds a sample; more can be asked for.
AGREEING = int(os.environ.get("AGREEING_SAMPLES", "2"))
# Protocol, task, profile, what makes a response end, and how often a question is in a prompt: exemplars too.
REAL = [
    ("mmlu", "MMLU", "mini", [], "Answer:"),
    ("gsm8k", "GSM8k", "mini", ["Question:"], "Question: "),
    ("squad", "Squad", "mini", ["\n"], ""),
    ("bbh", "BBH", "tasks", ["\n\nQ:", "\nQ:"], "Q: "),
    ("xquad", "XQuAD", "tasks", ["Question:"], "Question: "),
    ("alpaca_eval", "AlpacaEval", "tasks", [], ""),
]
BEGUN = {"mmlu": "The answer is:", "gsm8k": "Answer:", "bbh": "A:"}


def real_samples(mini, task, profile):
    """Some of a task's test samples."""
    if profile == "mini":
        return mini.task_data(task).test[:AGREEING]
    if not os.environ.get("RDSLIB_MIRROR"):
        pytest.skip("needs RDSLIB_MIRROR")
    experiment = load_profile(profile).experiment
    (params,) = (each for each in experiment.tasks if each.name == task)
    params = params.model_copy(update={"test": AGREEING})
    return build_task(params, Archives(experiment.downloads, cache_dir()), experiment.seed).test


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(("name", "task", "profile", "stops", "lead"), REAL, ids=[each[0] for each in REAL])
def test_a_real_model_does_as_a_plain_computation_says(name, task, profile, stops, lead, mini):
    samples = real_samples(mini, task, profile)
    folder = mini.store.path(mini.pipeline.model)
    tokenizer = load_tokenizer(folder)
    # In float32 the order of sums does not decide between words.
    model = load_causal_lm(folder, dtype=torch.float32)
    found = measure(model, tokenizer, name, samples, 2048, 4, 0, longest=8)
    for each, prompt, responses, score in zip(
        samples, found.prompts, found.responses, found.scores, strict=True
    ):
        user, _, begun = prompt.removeprefix("<|user|>\n").partition("\n<|assistant|>\n")
        assert begun == BEGUN.get(name, "")
        if name in ("mmlu", "alpaca_eval"):
            assert user == each.messages[0]["content"].strip()
        else:
            assert user.endswith(f"{lead}{each.question}" + ("\nAnswer:" if name == "xquad" else ""))
            assert user.count(f"\n{lead}") + user.startswith(lead) >= 1 + len(each.exemplars)
        if name == "mmlu":
            expected = likeliest(model, tokenizer, prompt, [f" {choice}" for choice in each.choices]).strip()
            assert score == (expected == each.messages[1]["content"])
        else:
            expected = greedy(model, tokenizer, prompt, 8, stops)
        assert responses == [expected]


def test_a_judges_score_is_missing_and_not_zero(tiny):
    found = measure(*tiny, "alpaca_eval", [OTHERS], 256, 1, 0, longest=2)
    assert math.isnan(found.scores[0])


def test_the_tokenizer_and_the_model_are_left_as_they_were(tiny):
    model, tokenizer = tiny
    before = tokenizer.chat_template, model.training
    measure(model, tokenizer, "mmlu", [OTHERS], 256, 1, 0)
    assert (tokenizer.chat_template, model.training) == before


def test_vllm_is_asked_what_the_model_is(tiny_model, tiny, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    def served(pretrained, max_model_len, seed):
        """In place of lm-eval's class for vLLM, which is not installed."""
        return HFLM(pretrained=pretrained, max_length=max_model_len, truncation=True, device="cpu")

    with pytest.raises(UserError, match="vllm is not installed; run `pip install vllm`, or leave it out"):
        measure(tiny_model, tiny[1], "gsm8k", [ASKED], 2048, 2, 0, longest=2)
    monkeypatch.setattr(harness, "find_spec", lambda name: name)
    stand_in = SimpleNamespace(VLLM=served)
    monkeypatch.setitem(sys.modules, "lm_eval.models.vllm_causallms", stand_in)
    for name, asked in (("gsm8k", ASKED), ("mmlu", OTHERS)):
        found = measure(tiny_model, tiny[1], name, [asked], 2048, 2, 0, longest=2)
        wanted = measure(*tiny, name, [asked], 2048, 2, 0, longest=2)
        assert found.prompts == wanted.prompts
        assert len(found.responses) == 1
