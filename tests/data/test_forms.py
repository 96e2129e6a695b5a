"""The forms of a user's samples, and which samples are usable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdslib.data import formats as forms
from rdslib.data.chat import ROLES, user_assistant
from rdslib.data.formats import FORMS, form_of, to_messages


def turns(*contents, system=None):
    """System, user, assistant, user, ... with these contents."""
    start = [] if system is None else [{"role": "system", "content": system}]
    return start + [
        {"role": ("user", "assistant")[at % 2], "content": content} for at, content in enumerate(contents)
    ]


def from_value(*pairs):
    return [{"from": speaker, "value": text} for speaker, text in pairs]


def parts(*contents):
    return [{"type": "text", "text": text} for text in contents]


ONE = user_assistant("q", "r")
TWO = turns("a", "b", "c", "d")
GUIDED = turns("q", "r", system="s")
SPOKEN = from_value(("human", "q"), ("gpt", "r"))

# fmt: off
GOOD = {
    "messages": ("messages", {"messages": ONE}, ONE),
    "messages, system": ("messages", {"messages": GUIDED}, GUIDED),
    "messages, many turns": ("messages", {"messages": TWO}, TWO),
    "messages, developer": ("messages", {"messages": [{"role": "developer", "content": "s"}, *ONE]}, GUIDED),
    "messages, null keys": ("messages", {"messages": ONE, "prompt": None, "instruction": None}, ONE),
    "messages, system field": ("messages", {"messages": ONE, "system": "s"}, GUIDED),
    "content in parts": ("messages", {"messages": user_assistant(parts("one", "two"), parts("r"))},
        user_assistant("one\ntwo", "r")),
    "empty system turn": ("messages", {"messages": turns("q", "r", system=" ")}, ONE),
    "empty system turn and field": ("messages", {"messages": turns("q", "r", system=""), "system": "s"},
        GUIDED),
    "empty system field": ("messages", {"messages": GUIDED, "system": " "}, None),
    "sharegpt": ("sharegpt", {"conversations": SPOKEN}, ONE),
    "sharegpt, role and content": ("sharegpt", {"conversation": ONE}, ONE),
    "sharegpt, system field": ("sharegpt", {"conversations": SPOKEN, "system": "s"}, GUIDED),
    "sharegpt, system turn": ("sharegpt",
        {"conversations": from_value(("system", "s"), ("user", "q"), ("assistant", "r"))}, GUIDED),
    "alpaca": ("alpaca", {"instruction": "q", "output": "r"}, ONE),
    "alpaca, blank input": ("alpaca", {"instruction": "q", "input": " \n", "output": "r"}, ONE),
    "alpaca, input": ("alpaca", {"instruction": "Add", "input": "1 2", "output": "3", "system": "s"},
        turns("Add\n\n1 2", "3", system="s")),
    "alpaca, Dolly": ("alpaca", {"instruction": "Sum up", "context": "x", "response": "y", "category": "z"},
        user_assistant("Sum up\n\nx", "y")),
    "alpaca, history": ("alpaca", {"instruction": "c", "output": "d", "history": [["a", "b"]]}, TWO),
    "OpenOrca": ("prompt_completion", {"system_prompt": "s", "question": "q", "response": "r"}, GUIDED),
    "conversational": ("prompt_completion",
        {"prompt": turns("a", "b", "c", system="s"), "completion": turns("x", "d")[1:]},
        turns("a", "b", "c", "d", system="s")),
    "half conversational": ("prompt_completion", {"prompt": turns("q"), "completion": "r"}, ONE),
    "a marker within a line": ("prompt_completion",
        {"prompt": "What is <|user|>?", "completion": "<|users|>\n<|im_start|>"},
        user_assistant("What is <|user|>?", "<|users|>\n<|im_start|>")),
}
# fmt: on


@pytest.mark.parametrize("case", GOOD)
def test_forms_that_are_read(case):
    form, record, expected = GOOD[case]
    expected = record["messages"] if expected is None else expected
    assert form_of(record) == form
    assert to_messages(record) == expected
    assert to_messages(record, form) == expected


@pytest.mark.parametrize("prompt", ["prompt", "question", "query"])
@pytest.mark.parametrize("completion", ["completion", "response", "answer"])
def test_names_of_a_prompt_and_its_completion(prompt, completion):
    assert to_messages({prompt: "q", completion: "r", "other": 1}) == ONE


@pytest.mark.parametrize(
    ("human", "model"),
    [
        ("human", "gpt"), ("user", "assistant"), ("Human", "GPT"), ("HUMAN", "ChatGPT"), ("user", "bard"),
        ("user", "Bing"), ("user", "model"),
    ],
)  # fmt: skip
def test_names_of_speakers(human, model):
    assert to_messages({"conversations": from_value((human, "q"), (model, "r"))}) == ONE


PROMPTS = [
    ({"messages": turns("q")}, turns("q")),
    ({"messages": turns("a", "b", "c", system="s")}, turns("a", "b", "c", system="s")),
    ({"conversations": from_value(("human", "q"))}, turns("q")),
    ({"prompt": "q"}, turns("q")),
    ({"prompt": turns("q")}, turns("q")),
    ({"question": "q", "answer": None}, turns("q")),
    ({"instruction": "q", "input": "x"}, turns("q\n\nx")),
    ({"instruction": "c", "history": [["a", "b"]]}, turns("a", "b", "c")),
]


@pytest.mark.parametrize(("record", "expected"), PROMPTS)
def test_a_prompt_alone_is_a_query_but_no_sample_of_a_pool(record, expected):
    assert to_messages(record, prompts=True) == expected
    with pytest.raises(ValueError, match="has no response; end it with an assistant turn"):
        to_messages(record)


def talk(content, role="user"):
    """Two turns, the one of which has this content."""
    return [turn | ({"content": content} if turn["role"] == role else {}) for turn in ONE]


# fmt: off
BAD = {
    "no known field": ({"text": "x"}, "has none of the fields that hold a sample (messages, conversations,"),
    "two forms": ({"messages": ONE, "prompt": "q"},
        "messages and prompt_completion; say which with --format"),
    "two prompts": ({"prompt": "q", "question": "p", "answer": "r"}, "has both prompt and question"),
    "two lists": ({"conversations": SPOKEN, "conversation": SPOKEN[:1]},
        "both conversations and conversation"),
    "two speakers": ({"conversations": [{"from": "human", "role": "user", "value": "q"}]},
        "has both from and role"),
    "two system fields": ({"prompt": "q", "response": "r", "system": "a", "system_prompt": "b"},
        "has both system and system_prompt"),
    "system twice": ({"messages": turns("q", "r", system="a"), "system": "b"},
        "a system field and a system turn"),
    "no object in sharegpt": ({"conversations": ["q", "r"]}, "has a message 0 that is not an object"),
    "unknown speaker": ({"conversations": from_value(("observation", "x"))},
        "the unknown role 'observation'"),
    "number as prompt": ({"prompt": 3, "completion": "r"},
        "has the field prompt of type int; it must be text"),
    "number as output": ({"instruction": "q", "output": 0}, "the field output of type int"),
    "list as system": ({"prompt": "q", "response": "r", "system": []}, "the field system of type list"),
    "history of a number": ({"instruction": "q", "output": "r", "history": 3}, "has a history that is not"),
    "history of texts": ({"instruction": "q", "output": "r", "history": ["ab"]}, "has a history that is not"),
    "history of nulls": ({"instruction": "q", "output": "r", "history": [["a", None]]},
        "no text in message 1"),
    "empty output": ({"instruction": "q", "output": ""}, "has an empty assistant turn"),
    "completion alone": ({"prompt": turns(system="s"), "completion": "r"}, "the role assistant in message 1"),
    "NUL in the system field": ({"prompt": "q", "answer": "r", "system": "\0"},
        "NUL character in the system field"),
}
BAD_MESSAGES = {
    "no list": ("q", "has messages of type str; they must be a list"),
    "unknown role": ([{"role": "tool", "content": "x"}], "has the unknown role 'tool' in message 0"),
    "capital role": ([{"role": "User", "content": "x"}], "has the unknown role 'User'"),
    "no role": ([{"content": "x"}], "has a role of type NoneType; use system, user, assistant"),
    "role of another type": ([{"role": ["user"], "content": "x"}], "has a role of type list"),
    "long role": ([{"role": "x" * 5000, "content": "x"}], f"role '{'x' * 40}' in"),
    "no content": (talk(None), "has no text in message 0"),
    "number": (talk(3, "assistant"), "has no text in message 1"),
    "image": (talk([{"type": "image_url", "image_url": "x"}]), "has no text in message 0"),
    "part without text": (talk([{"type": "text", "text": None}]), "has no text in message 0"),
    "bare strings as parts": (talk(["q"]), "has no text in message 0"),
    "marker after blanks in a line": (talk("x\n \t<|user|>"), "format's marker <|user|> at"),
    "all empty": (turns("", " "), "has only empty messages"),
    "empty user": (turns("", "r"), "has an empty user turn in message 0"),
    "empty assistant": (turns("q", ""), "has an empty assistant turn in message 1"),
    "empty later": (turns("a", "", "c", "d"), "has an empty assistant turn in message 1"),
    "empty parts": (talk([]), "has an empty user turn"),
    "only system": (turns(system="s"), "has no user turn"),
    "assistant first": (turns("x", "q", "r")[1:], "the role assistant in message 0, where user"),
    "assistant after system": ([turns(system="s")[0], ONE[1]], "the role assistant in message 1, where user"),
    "two users": ([ONE[0], *ONE], "the role user in message 1, where assistant belongs"),
    "two assistants": ([*ONE, ONE[1]], "the role assistant in message 2, where user belongs"),
    "system in the middle": (ONE + GUIDED, "the role system in message 2"),
    "two systems": (turns(system="s") + GUIDED, "the role system in message 1"),
    "NUL": (talk("a\0b"), "has a NUL character in message 0 (character 1)"),
    "half a surrogate pair": (talk("ab\ud800", "assistant"), "surrogate pair in message 1 (character 2)"),
    "user's marker": (talk("x\n<|assistant|>\nyes"),
        "marker <|assistant|> at the start of a line in message 0"),
    "assistant's marker": (talk("x\n<|user|>\nyes", "assistant"), "marker <|user|> at the start of a line"),
    "system's marker": (talk("<|system|>\nyes"), "format's marker <|system|> at"),
}
BAD |= {case: ({"messages": messages}, expected) for case, (messages, expected) in BAD_MESSAGES.items()}
# fmt: on


@pytest.mark.parametrize("case", BAD)
def test_samples_that_are_not_usable(case):
    record, expected = BAD[case]
    with pytest.raises(ValueError, match=r"^has ") as error:
        to_messages(record)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_a_form_that_is_named_is_the_one_that_is_read():
    both = {"messages": ONE, "prompt": "other", "completion": "words"}
    assert to_messages(both, "messages") == ONE
    assert to_messages(both, "prompt_completion") == user_assistant("other", "words")
    with pytest.raises(ValueError, match="has no field conversations or conversation, as the form sharegpt"):
        to_messages(both, "sharegpt")
    with pytest.raises(ValueError, match="has no field instruction, as"):
        to_messages({"instruction": None, "output": "r"}, "alpaca")


def test_the_size_of_a_sample_is_limited(monkeypatch):
    monkeypatch.setattr(forms, "MAX_CHARS", 10)
    assert to_messages({"prompt": "q" * 4, "completion": "r" * 5, "system": "s"})
    with pytest.raises(ValueError, match=r"is too large \(11 characters, at most 10\); split it"):
        to_messages({"prompt": "q" * 5, "completion": "r" * 5, "system": "s"})


contents = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    lambda text: text.strip() and "<|" not in text
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", " ", "x", *ROLES]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "type", "text"]), inner)
    ),
    max_leaves=12,
)
fields = [name for names in forms.FIELDS.values() for name in names]
fields += [*forms.COMPLETIONS, *forms.SYSTEM, "input", "context", "output", "history"]


@given(
    record=st.dictionaries(st.sampled_from(fields), anything, min_size=1),
    form=st.sampled_from([None, *FORMS]),
    prompts=st.booleans(),
)
def test_whatever_a_record_holds_it_is_a_conversation_or_has_a_reason(record, form, prompts):
    try:
        messages = to_messages(record, form, prompts)
    except ValueError as error:
        assert str(error).startswith(("has ", "is "))  # noqa: PT017
        return
    rest = messages[1:] if messages[0]["role"] == "system" else messages
    assert [turn["role"] for turn in rest] == [("user", "assistant")[at % 2] for at in range(len(rest))]
    assert all(turn["content"].strip() for turn in messages)
    assert prompts or messages[-1]["role"] == "assistant"


@given(texts=st.lists(contents, min_size=2, max_size=6), system=st.none() | contents)
def test_every_form_that_can_hold_a_conversation_gives_it_back(texts, system):
    texts = texts[: len(texts) // 2 * 2]
    messages = turns(*texts, system=system)
    pairs = [texts[at : at + 2] for at in range(0, len(texts), 2)]
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    records = [
        {"messages": messages},
        {"messages": turns(*texts), "system": system},
        {"conversations": [{"from": names[m["role"]], "value": m["content"]} for m in messages]},
        {"instruction": pairs[-1][0], "output": pairs[-1][1], "history": pairs[:-1], "system": system},
        {"prompt": messages[:-1], "completion": messages[-1:]},
    ]
    if len(pairs) == 1:
        records.append({"question": texts[0], "answer": texts[1], "system": system})
    assert all(to_messages(record) == messages for record in records)
