"""A model's own chat template in place of Tulu's: the same tokens as it makes itself."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdslib.commands.request import SelectRequest
from rdslib.commands.select import write_selection
from rdslib.commands.user_selection import UserSelection
from rdslib.data.chat import user_assistant
from rdslib.data.template import tokenize_by_template
from rdslib.errors import UserError
from rdslib.models.encode import encode
from rdslib.models.loading import load_causal_lm, load_tokenizer
from rdslib.params import Encode

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As those do that show how the model has thought in its last turn alone.
LAST = CHATML.replace("{{ m.content }}", "{{ '<think>' if loop.last else '' }}{{ m.content }}")
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory):
    """The tiny model with a chat template."""
    folder = tmp_path_factory.mktemp("templated")
    shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


def test_a_sample_is_what_the_template_writes_and_its_responses_are_marked(model):
    tokenizer = load_tokenizer(model)

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.tuples(texts, texts), min_size=1, max_size=3))
    def check(pairs):
        messages = [each for pair in pairs for each in user_assistant(*pair)]
        (tokens,) = tokenize_by_template(tokenizer, [messages], 4096, False)
        assert tokens.ids == tokenizer.apply_chat_template(messages)["input_ids"][: len(tokens.ids)]
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        assert tokenizer.decode(tokens.ids) == whole.rstrip()
        marked = [i for i, r in zip(tokens.ids, tokens.response, strict=True) if r]
        assert tokenizer.decode(marked) == "".join(f"{answer}<|im_end|>" for _, answer in pairs)
        before = tokenizer.decode(tokens.ids[: tokens.prompt])
        assert before == tokenizer.apply_chat_template(messages[:1], tokenize=False)
        (query,) = tokenize_by_template(tokenizer, [messages], 4096, True)
        assert query.ids == tokens.ids
        assert tokenizer.decode(query.ids[query.response.index(True) :]) == f"{pairs[-1][1]}<|im_end|>"
        (asked,) = tokenize_by_template(tokenizer, [messages[:1]], 4096, True)
        assert tokenizer.decode(asked.ids) == f"{before}<|im_start|>assistant\n"
        assert True not in asked.response

    check()


def test_what_a_template_cannot_tell_or_write_is_one_line(tiny_model, model):
    tokenizer = load_tokenizer(model)
    two = [*user_assistant("a", "b"), *user_assistant("c", "d")]
    with pytest.raises(UserError, match=r"has no chat template; take another model, or use --template tulu"):
        tokenize_by_template(load_tokenizer(tiny_model), [two], 99, False)
    tokenizer.chat_template = LAST
    with pytest.raises(UserError, match="writes earlier turns in another way as a conversation goes on"):
        tokenize_by_template(tokenizer, [two], 99, False)
    (tokens,) = tokenize_by_template(tokenizer, [two], 999, False, spans=False)
    assert tokenizer.decode(tokens.ids).endswith("<think>d<|im_end|>")
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(
        UserError, match=r"the conversation that begins with .a. \(roles must alternate\); leave"
    ):
        tokenize_by_template(tokenizer, [two], 99, False)
    tokenizer.chat_template = "{{ strftime_now('%d') }}"
    with pytest.raises(UserError, match="its chat template writes the day"):
        tokenize_by_template(tokenizer, [two], 99, False)


def test_keys_with_tulus_template_are_what_they_were():
    assert "template" not in Encode(max_length=8, shard_size=8).model_dump(exclude={"shard_size"})
    dumped = Encode(max_length=8, shard_size=8, template="model").model_dump(exclude={"shard_size"})
    assert dumped == {"max_length": 8, "token_budget": 0, "template": "model"}


def test_a_selection_by_the_template_is_the_definition(model, tmp_path, monkeypatch):
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))
    rows = [{"messages": user_assistant(f"What is {n} + {n}?", f"{2 * n} it is")} for n in range(20)]
    query = user_assistant("What is 3 + 4?", "7")
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "queries.jsonl").write_text(json.dumps({"messages": query}))
    given = {"pool": tmp_path / "pool.jsonl", "queries": tmp_path / "queries.jsonl", "model": model, "k": 20}
    with_template = SelectRequest.of({**given, "template": "model"})
    written = write_selection(with_template, tmp_path / "out.jsonl")
    found = [json.loads(line)["messages"] for line in written.path.read_text().splitlines()]
    loaded, tokenizer = load_causal_lm(model), load_tokenizer(model)
    pool = tokenize_by_template(tokenizer, [row["messages"] for row in rows], 2048, False)
    asked = tokenize_by_template(tokenizer, [query], 2048, True)
    vectors, wanted = (encode(loaded, side, ["weighted_all"], 4096)["weighted_all"] for side in (pool, asked))
    scores = (wanted.astype(np.float16).astype(np.float32) @ vectors.astype(np.float16).astype(np.float32).T)[
        0
    ]
    order = sorted(range(20), key=lambda at: (-scores[at], at))
    assert found == [rows[at]["messages"] for at in order]
    keys = {UserSelection(each).pipeline.pool.hash for each in (with_template, SelectRequest.of(given))}
    assert len(keys) == 1
    with pytest.raises(UserError, match="--template model: --method less does not use it; leave it out"):
        UserSelection(SelectRequest.of({**given, "template": "model", "method": "less"}))
