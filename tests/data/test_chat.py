"""The Tulu format and the loss mask, against slow and obvious versions."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rdslib.data.chat import format_chat, tokenize_chat, tokenize_query, user_assistant
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


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
conversations = st.lists(st.tuples(words, words), min_size=1, max_size=3)


@settings(max_examples=100, deadline=None)
@given(conversations)
def test_the_mask_covers_the_responses_and_their_ends_alone(tiny_model, pairs):
    tokenizer = load_tokenizer(tiny_model)
    messages = TURNS[:1] + [m for pair in pairs for m in user_assistant(*pair)]
    (tokens,) = tokenize_chat(tokenizer, [messages], 4096)
    trained = [t for t, r in zip(tokens.ids, tokens.response, strict=True) if r]
    assert tokenizer.decode(trained) == "".join(f"{answer.strip()}</s>" for _, answer in pairs)
    assert tokenizer.decode(tokens.ids) == format_chat(messages, "</s>")
    (short,) = tokenize_chat(tokenizer, [messages], 20)
    assert (short.ids, short.response) == (tokens.ids[:20], tokens.response[:20])


def test_queries_are_prompt_and_response_joined(tiny_model):
    tokenizer = load_tokenizer(tiny_model)

    def tokens_of(length, **cut):
        return tokenize_query(tokenizer, [user_assistant("question ", "answer")], length, **cut)[0]

    whole = tokens_of(100)
    assert tokenizer.decode(whole.ids) == "<|user|>\nquestion\n<|assistant|>\nanswer</s>"
    assert sum(whole.response) == len("answer") + 1
    prompt = len(whole.ids) - sum(whole.response)
    assert tokens_of(prompt + 2).ids == whole.ids[: prompt + 2]
    assert tokens_of(20).ids == whole.ids[-20:], "where the prompt leaves no room, it gives way"
    assert tokens_of(12, cut="left").ids == whole.ids[-12:]
    prompt_gone = tokenizer.decode(tokens_of(4, cut="left").ids)
    assert prompt_gone == "answ", "the prompt goes first, then the response's end"
