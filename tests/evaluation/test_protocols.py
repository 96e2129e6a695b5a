"""Protocols: what is asked, byte for byte, what a response scores, and agreement with plain computation."""

from __future__ import annotations

import http.server
import itertools
import json
import math
import os
import random
import threading
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rdslib.commands.evaluate import as_text, examine
from rdslib.data.chat import format_chat, user_assistant
from rdslib.data.download import Archives, cache_dir
from rdslib.errors import UserError
from rdslib.evaluation import harness as protocols
from rdslib.evaluation import judge, metrics
from rdslib.evaluation.harness import measure
from rdslib.models.loading import load_causal_lm, load_tokenizer
from rdslib.params import load_profile
from rdslib.pipeline.study import Study
from rdslib.tasks.base import build_task, read_task
from rdslib.tasks.base import TaskSample


def sample(prompt="Who?", response="me", **fields):
    return TaskSample("one", "made up", user_assistant(prompt, response), "", **fields)


SHOWN = [
    {"question": "1 + 1?", "context": "On ones.", "response": "It is 2. The answer is 2."},
    {"question": "2 + 2?", "context": "On twos.", "response": "It is 4. The answer is 4."},
]
ASKED = sample(question="3 + 3?", context="On threes.", exemplars=SHOWN, references=["6"])

# What each protocol asks, written out. Between <<>> stands the user's turn; what follows is the model's.
PROMPTS = {
    "gsm8k": "<<Question: 1 + 1?\nAnswer: It is 2. The answer is 2.\n\n"
    "Question: 2 + 2?\nAnswer: It is 4. The answer is 4.\n\nQuestion: 3 + 3?\nAnswer:>>",
    "bbh": "<<On threes.\n\nQ: 1 + 1?\nA: Let's think step by step.\nIt is 2. The answer is 2.\n\n"
    "Q: 2 + 2?\nA: Let's think step by step.\nIt is 4. The answer is 4.\n\n"
    "Q: 3 + 3?\nA: Let's think step by step.>>",
    "squad": "<<On ones.\n\nQuestion: 1 + 1?\nAnswer: It is 2. The answer is 2.\n\n"
    "On twos.\n\nQuestion: 2 + 2?\nAnswer: It is 4. The answer is 4.\n\n"
    "On threes.\n\nQuestion: 3 + 3?\nAnswer:>>",
    "mmlu": "<<Which?\nA. x\nB. y\nAnswer:>>",
    "alpaca_eval": "<<Which?\nA. x\nB. y\nAnswer:>>",
    "codex": "<<Which?\nA. x\nB. y\nAnswer:>>Here is the completed function:\n\n```python\ndef f(x):",
}
PROMPTS |= dict.fromkeys(("tydiqa", "xquad"), PROMPTS["squad"])
OTHERS = sample(
    "Which?\nA. x\nB. y\nAnswer:", "B", choices=["A", "B"], answer=1, references=["B"], program="def f(x):\n",
    entry_point="f", test="def check(f): pass",
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tiny_model):
    return load_causal_lm(tiny_model), load_tokenizer(tiny_model)


def test_every_protocol_is_written_out_here():
    assert sorted(PROMPTS) == protocols.names()


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_these_bytes(name, tiny):
    given = OTHERS if "Which" in PROMPTS[name] else ASKED
    found = measure(*tiny, name, [given], 2048, 2, 0, longest=2)
    user, _, begun = PROMPTS[name].removeprefix("<<").partition(">>")
    before = format_chat([{"role": "user", "content": user}], "")
    assert found.prompts == [f"{before}\n<|assistant|>\n{begun}"]
    assert len(found.responses[0]) == (10 if name == "codex" else 1)


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


def greedy(model, tokenizer, prompt, tokens, stops):
    """The likeliest tokens, one after another, up to the end or to one of `stops`."""
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    said, past = [], None
    with torch.inference_mode():
        for _ in range(tokens):
            found = model(ids, past_key_values=past, use_cache=True)
            past, best = found.past_key_values, int(found.logits[0, -1].float().argmax())
            if best == tokenizer.eos_token_id:
                break
            said.append(best)
            ids = torch.tensor([[best]])
            if any(stop in tokenizer.decode(said) for stop in stops):
                break
    text = tokenizer.decode(said, skip_special_tokens=True)
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
    ("squad", "Squad", "mini", ["Question:"], "Question: "),
    ("bbh", "BBH", "mini", ["\n\nQ:", "\nQ:"], "Q: "),
    ("xquad", "XQuAD", "tasks", ["Question:"], "Question: "),
    ("alpaca_eval", "AlpacaEval", "tasks", [], ""),
]


def real_samples(mini, task, profile):
    """Some of a task's test samples."""
    if profile == "mini":
        return read_task(mini.store.path(mini.data) / "tasks" / task).test[:AGREEING]
    if not os.environ.get("RDSLIB_MIRROR"):
        pytest.skip("needs RDSLIB_MIRROR")
    experiment = load_profile(profile).experiment
    (params,) = (each for each in experiment.tasks if each.name == task)
    params = params.model_copy(update={"test": AGREEING})
    return build_task(params, Archives(experiment.downloads, cache_dir()), experiment.seed).test


@pytest.mark.real
@pytest.mark.parametrize(("name", "task", "profile", "stops", "lead"), REAL, ids=[each[0] for each in REAL])
def test_a_real_model_does_as_a_plain_computation_says(name, task, profile, stops, lead, mini):
    samples = real_samples(mini, task, profile)
    folder = mini.store.path(mini.model)
    tokenizer = load_tokenizer(folder)
    # In float32 the order of sums does not decide between words.
    model = load_causal_lm(folder, dtype=torch.float32)
    found = measure(model, tokenizer, name, samples, 2048, 4, 0, longest=8)
    for each, prompt, responses, score in zip(
        samples, found.prompts, found.responses, found.scores, strict=True
    ):
        user = prompt.removeprefix("<|user|>\n").removesuffix("\n<|assistant|>\n")
        if name in ("mmlu", "alpaca_eval"):
            assert user == each.messages[0]["content"].strip()
        else:
            end = "\nA: Let's think step by step." if name == "bbh" else "\nAnswer:"
            assert user.endswith(f"{lead}{each.question}{end}")
            assert user.count(f"\n{lead}") + user.startswith(lead) >= 1 + len(each.exemplars)
        if name == "mmlu":
            expected = likeliest(model, tokenizer, prompt, each.choices)
            assert score == (expected == each.messages[1]["content"])
        else:
            expected = greedy(model, tokenizer, prompt, 8, stops)
        assert responses == [expected]


@pytest.mark.parametrize(
    ("response", "reference", "score"),
    [
        ("So 3 + 4 = 7. The answer is 7.", "7", 1),
        ("The answer is $1,234.50", "1234.5", 1),
        ("It costs 5 dollars, not 6", "5", 0),
        ("It is -3", "-3", 1),
        ("It is .5", "0.5", 1),
        ("1,000,000.", "1000000", 1),
        ("no number at all", "5", 0),
        ("", "5", 0),
    ],
)
def test_the_last_number_counts(response, reference, score):
    assert metrics.last_number({"references": [reference]}, [response]) == {"score": score}


@pytest.mark.parametrize(
    ("response", "reference", "score"),
    [
        ("First this. So the answer is (A).", "(A)", 1),
        ("the answer is No. Wait, the answer is Yes.", "Yes", 1),
        ("So the answer is valid", "valid", 1),
        ("So the answer is ] ] ).", "] ] )", 1),
        ('The answer is "yes".', "yes", 1),
        ("(B)", "(B)", 1),
        ("So the answer is (A) or (B).", "(A)", 0),
        ("", "(A)", 0),
        ("So the answer is 4.\n\nAnd so on", "4", 1),
    ],
)
def test_what_follows_the_answer_is_counts(response, reference, score):
    assert metrics.after_the_answer_is({"references": [reference]}, [response]) == {"score": score}


# By the definitions of SQuAD 1.1's official script: (answer, references, exact match, F1).
ANSWERS = [
    ("the Eiffel Tower", ["Eiffel Tower"], 1, 1),
    ("An apple, a day!", ["apple day"], 1, 1),
    ("Paris", ["London", "paris."], 1, 1),
    ("in the city of Paris", ["Paris"], 0, 2 * (1 / 4) / (1 / 4 + 1)),
    ("a cat sat", ["cat cat"], 0, 2 * (1 / 2) * (1 / 2)),
    ("", [""], 1, 1),
    ("", ["x"], 0, 0),
    ("the", ["a"], 1, 1),
    ("the", ["x"], 0, 0),
    ("東京", ["東京"], 1, 1),
    ("東京 都", ["東京"], 0, 2 * (1 / 2) / (1 / 2 + 1)),
    ("東京、日本", ["東京"], 0, 0),
    ("¿Qué?", ["Qué"], 0, 0),
    ("theatre", ["atre"], 0, 0),
    ("1,000", ["1000"], 1, 1),
    ("U.S.", ["US"], 1, 1),
]


@pytest.mark.parametrize(("answer", "references", "exact", "f1"), ANSWERS)
def test_answers_are_compared_as_squad_does(answer, references, exact, f1):
    assert max(metrics.f1(answer, each) for each in references) == pytest.approx(f1)


def test_only_the_first_line_of_an_answer_counts():
    row = {"references": ["Paris"]}
    assert metrics.f1_of_answers(row, ["\n Paris\n\nQuestion"]) == {"score": 1}
    assert metrics.f1_of_answers(row, ["\n"]) == {"score": 0}


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_mean_over_all_choices(n, data):
    correct, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    passed = [True] * correct + [False] * (n - correct)
    random.Random(0).shuffle(passed)
    drawn = [any(each) for each in itertools.combinations(passed, k)]
    assert metrics.pass_at(n, correct, k) == pytest.approx(sum(drawn) / len(drawn))


def test_pass_at_k_needs_k_programs():
    with pytest.raises(ValueError, match="pass@10 needs 10 programs, and there are 9"):
        metrics.pass_at(9, 1, 10)


def test_programs_are_run_with_their_test():
    row = {
        "program": "def double(x):\n",
        "entry_point": "double",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n",
    }
    wrong, right = "    return x\n", "    return 2 * x\n"
    assert metrics.pass_at_10(row, [[wrong] * 9 + [right]]) == {"score": 1}
    assert metrics.pass_at_10(row, [[wrong] * 10]) == {"score": 0}


def test_a_judges_score_is_missing_and_not_zero(tiny):
    found = measure(*tiny, "alpaca_eval", [OTHERS], 256, 1, 0, longest=2)
    assert math.isnan(found.scores[0])


def test_the_tokenizer_and_the_model_are_left_as_they_were(tiny):
    model, tokenizer = tiny
    before = tokenizer.chat_template, model.training
    measure(model, tokenizer, "mmlu", [OTHERS], 256, 1, 0)
    assert (tokenizer.chat_template, model.training) == before


@pytest.fixture
def profile(tmp_path):
    """The tiny profile, whose sums have a protocol, in a folder of its own."""
    from rdslib.params import ROOT

    text = (ROOT / "params" / "tiny.yaml").read_text()
    text = text.replace(
        "      reader: made_up_sums\n      queries",
        "      reader: made_up_sums\n      protocol: mmlu\n      queries",
    )
    (tmp_path / "mine.yaml").write_text(text)
    return str(tmp_path / "mine.yaml")


def test_models_are_scored_and_compared_on_the_same_samples(profile, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))
    other = tmp_path / "other"
    from rdslib.models.loading import make_random
    from rdslib.params import RandomModel

    make_random(RandomModel(layers=1, hidden_size=16, heads=2), 5, other)
    table = examine(profile, [str(tiny_model), str(other)], ["Sums"], limit=6)
    assert table["metric"].tolist() == ["accuracy", "bits per byte"] * 2
    assert (table["n"] == 6).all()
    assert (table["low"] <= table["score"]).all()
    assert (table["score"] <= table["high"]).all()
    ours, theirs = table.iloc[:2], table.iloc[2:]
    assert theirs["less"].to_numpy() == pytest.approx(theirs["score"].to_numpy() - ours["score"].to_numpy())
    assert ours["less"].isna().all()
    assert "less the first" in as_text(table)

    # What was measured is kept.
    def not_again(*arguments, **named):
        raise AssertionError("measured twice")

    monkeypatch.setattr(protocols, "measure", not_again)
    again = examine(profile, [str(tiny_model), str(other)], ["Sums"], limit=6)
    assert again.equals(table)


class Judge(http.server.BaseHTTPRequestHandler):
    """Prefers whichever response has no number in it; once, it talks nonsense."""

    asked: ClassVar[list[str]] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = body["messages"][-1]["content"]
        self.asked.append(body["model"])
        first, second = (part for part in text.split('"answer":')[1:])
        ranks = (2, 1) if any(c.isdigit() for c in first.partition('"""')[2].partition('"""')[0]) else (1, 2)
        assert second
        said = str([{"model": f"model_{at}", "rank": rank} for at, rank in enumerate(ranks, 1)])
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        data = json.dumps({**answer, "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


def test_a_judge_compares_responses_and_is_asked_once(tmp_path):
    judge.outputs([], [], "none")
    ours = judge.outputs(["a?", "b?", "c?"], ["words", "7", "more words"], "ours")
    theirs = judge.outputs(["a?", "b?", "c?"], ["1", "words", "2"], "theirs")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        for _ in range(2):
            found = judge.win_rates(ours, theirs, "a-judge", url, tmp_path / "kept.json")
            assert found.tolist() == [1, 0, 1]
        server.shutdown()
    assert Judge.asked == ["a-judge"] * 3, "what it has said is kept"


def test_responses_for_a_judge_are_written_without_one(profile, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))
    text = (tmp_path / "mine.yaml").read_text().replace("protocol: mmlu", "protocol: alpaca_eval")
    (tmp_path / "mine.yaml").write_text(text)
    table = examine(profile, [str(tiny_model)], ["Sums"], limit=3, max_response=4)
    assert table["metric"].tolist() == ["bits per byte"]
    (responses,) = (tmp_path / "home" / "judged").glob("*/responses.json")
    rows = json.loads(responses.read_text())
    assert len(rows) == 3
    assert set(rows[0]) == {"instruction", "output", "generator"}


def test_what_cannot_be_examined_is_one_line(profile):
    with pytest.raises(UserError, match=r"^--task Nope: is not in profile .*; tasks: Sums, Reverse$"):
        examine(profile, tasks=["Nope"])
    with pytest.raises(UserError, match=r"^--task Reverse: has no protocol in profile .*; leave it out"):
        examine(profile)


def test_a_profile_that_names_no_protocol_there_is_is_one_line(profile, tmp_path):
    text = (tmp_path / "mine.yaml").read_text().replace("protocol: mmlu", "protocol: mmlv")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=r"^unknown protocol 'mmlv'; protocols: "):
        examine(profile, tasks=["Sums"])
    assert isinstance(Study.load(profile), Study)
