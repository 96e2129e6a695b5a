"""The Tulu format and the loss mask, against slow and obvious versions."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdslib.data.chat import check_messages, format_chat, tokenize_chat, tokenize_query, user_assistant
from rdslib.models.loading import load_tokenizer

TURNS = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "Hi\n"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4"},
]


def test_the_format_is_the_papers():
    assert format_chat(TURNS, "</s>") == (
        "<|system|>\nBe brief.\n<|user|>\nHi\n<|assistant|>\nHello.</s>\n<|user|>\n2+2?\n<|assistant|>\n4</s>"
    )


def test_the_mask_covers_responses_and_their_ends_alone(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    (tokens,) = tokenize_chat(tokenizer, [TURNS], 2048)
    trained = [t for t, r in zip(tokens.ids, tokens.response, strict=True) if r]
    assert tokenizer.decode(trained) == "Hello.</s>4</s>"
    assert tokenizer.decode(tokens.ids) == format_chat(TURNS, "</s>")


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
conversations = st.lists(st.tuples(words, words), min_size=1, max_size=3)


@settings(max_examples=100, deadline=None)
@given(conversations)
def test_masked_text_is_the_responses_for_any_text(tiny_model, pairs):
    tokenizer = load_tokenizer(tiny_model)
    messages = [m for pair in pairs for m in user_assistant(*pair)]
    (tokens,) = tokenize_chat(tokenizer, [messages], 4096)
    trained = [t for t, r in zip(tokens.ids, tokens.response, strict=True) if r]
    assert tokenizer.decode(trained) == "".join(f"{answer.strip()}</s>" for _, answer in pairs)


def test_pool_samples_are_cut_on_the_right(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    (whole,) = tokenize_chat(tokenizer, [TURNS], 2048)
    (cut,) = tokenize_chat(tokenizer, [TURNS], 20)
    assert cut.ids == whole.ids[:20]
    assert cut.response == whole.response[:20]


def test_queries_are_prompt_and_response_joined(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    messages = user_assistant("question ", "answer")
    (whole,) = tokenize_query(tokenizer, [messages], 100)
    assert tokenizer.decode(whole.ids) == "<|user|>\nquestion\n<|assistant|>\nanswer</s>"
    assert sum(whole.response) == len("answer") + 1
    (right,) = tokenize_query(tokenizer, [messages], 20)
    assert right.ids == whole.ids[:20]
    (left,) = tokenize_query(tokenizer, [messages], 12, cut="left")
    assert left.ids == whole.ids[-12:]
    (only,) = tokenize_query(tokenizer, [messages], 4, cut="left")
    assert tokenizer.decode(only.ids) == "answ", "the prompt goes first, then the response's end"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("text", "must be a list"),
        ([], "no messages"),
        (["hi"], "not an object"),
        ([{"role": "tool", "content": "x"}], "unknown role 'tool'"),
        ([{"content": "x"}], "unknown role None"),
        ([{"role": "user", "content": 3}], "content must be a string"),
        ([{"role": "user", "content": " \n"}], "only empty messages"),
    ],
)
def test_bad_messages_have_a_reason(value, reason):
    with pytest.raises(ValueError, match=reason):
        check_messages(value)
