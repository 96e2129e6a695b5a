"""The forms of a user's samples, and which samples are usable."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdslib.data import formats as forms
from rdslib.data.chat import ROLES, user_assistant
from rdslib.data.formats import FORMS, as_messages, form_of, to_messages


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
    "roles in capitals": ("messages", {"messages": [{"role": "User", "content": "q"}, ONE[1]]}, ONE),
    "bare strings as parts": ("messages", {"messages": [{"role": "user", "content": ["q"]}, ONE[1]]}, ONE),
    "other keys": ("messages", {"messages": [turn | {"weight": 1} for turn in ONE], "x": 1}, ONE),
    # Whatever the format can express and ends with a response: the paper trains on all of these.
    "empty user": ("messages", {"messages": turns("", "r")}, None),
    "empty prompt": ("alpaca", {"instruction": "", "output": "r"}, turns("", "r")),
    "empty earlier response": ("messages", {"messages": turns("a", "", "c", "d")}, None),
    "assistant first": ("messages", {"messages": turns("w", "x", "q", "r")[1:]}, None),
    "response alone": ("messages", {"messages": ONE[1:]}, None),
    "completion after system": ("prompt_completion", {"prompt": turns(system="s"), "completion": "r"},
        turns(system="s") + ONE[1:]),
    "two users": ("messages", {"messages": [ONE[0], *ONE]}, None),
    "two assistants": ("messages", {"messages": [*ONE, ONE[1]]}, None),
    "system in the middle": ("messages", {"messages": ONE + GUIDED}, None),
    "two systems": ("messages", {"messages": turns(system="s") + GUIDED}, None),
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


CALL = {"name": "add", "arguments": {"a": 1}}
CALLED = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
TOOL = {"name": "add", "parameters": {}}
SHOWN_TOOLS = '<tools>\n{"name": "add", "parameters": {}}\n</tools>'


def with_call(**turn):
    """A question, a turn that calls a tool, what that gives, and the response."""
    return {"messages": [ONE[0], {"role": "assistant", **turn}, {"role": "tool", "content": "2"}, ONE[1]]}


def with_turn(role, content):
    return {"messages": [ONE[0], {"role": role, "content": content}, ONE[1]]}


# Of each: the record, and its messages but for the first and the last, or all of them if it has no more.
# fmt: off
SHOWN = {
    "tool_calls": (with_call(content=None, tool_calls=[{"id": "1", "type": "function", "function": CALL}]),
        [("assistant", CALLED), ("tool", "2")]),
    "arguments in JSON, and text": (
        with_call(content="Let me see.", tool_calls=[{**CALL, "arguments": '{"a": 1}'}]),
        [("assistant", "Let me see.\n" + CALLED), ("tool", "2")]),
    "two calls": (with_call(content="", tool_calls=[CALL, CALL]),
        [("assistant", f"{CALLED}\n{CALLED}"), ("tool", "2")]),
    "OpenAI's earlier function_call": (with_call(content=None, function_call=CALL),
        [("assistant", CALLED), ("tool", "2")]),
    "keys of other rows": (with_call(content="x", tool_calls=None, function_call=None, reasoning=None),
        [("assistant", "x"), ("tool", "2")]),
    "reasoning": (with_call(content="x", reasoning_content=" why\n"),
        [("assistant", "<think>\nwhy\n</think>\nx"), ("tool", "2")]),
    "reasoning under two names and a call": (
        with_call(content=None, reasoning_content="why", reasoning="why", tool_calls=[CALL]),
        [("assistant", "<think>\nwhy\n</think>\n" + CALLED), ("tool", "2")]),
    "Glaive": ({"conversations": from_value(("human", "q"), ("function_call", json.dumps(CALL)),
        ("observation", "2"), ("gpt", "r"))}, [("assistant", CALLED), ("tool", "2")]),
    "several calls in a turn": (with_turn("tool_call", json.dumps([CALL, CALL])),
        [("assistant", f"{CALLED}\n{CALLED}")]),
    "a call that is no JSON": (with_turn("function_call", "add(1)"), [("assistant", "add(1)")]),
    "function": (with_turn("function", "2"), [("tool", "2")]),
    "ipython": (with_turn("ipython", {"x": ["é"]}), [("tool", '{"x": ["é"]}')]),
    "a list": (with_turn("tool", [{"x": 1}]), [("tool", '[{"x": 1}]')]),
    "a tool's parts": (with_turn("tool", parts("2", "3")), [("tool", "2\n3")]),
}
TOOLS = {
    "a list": ({"tools": [TOOL]}, SHOWN_TOOLS),
    "JSON": ({"tools": json.dumps([TOOL])}, SHOWN_TOOLS),
    "functions": ({"functions": [TOOL]}, SHOWN_TOOLS),
    "text": ({"tools": "add: adds"}, "<tools>\nadd: adds\n</tools>"),
    "beside a system field": ({"tools": [TOOL], "system": "s"}, f"s\n\n{SHOWN_TOOLS}"),
    "none": ({"tools": [], "functions": None}, None),
    "none in JSON": ({"tools": "[]"}, None),
    "none in text": ({"tools": ""}, None),
}
# fmt: on


@pytest.mark.parametrize("case", SHOWN)
def test_tools_and_reasoning_are_shown_as_text(case):
    record, between = SHOWN[case]
    first, *messages, last = to_messages(record)
    assert [(message["role"], message["content"]) for message in messages] == between
    assert [first, last] == ONE


@pytest.mark.parametrize("case", TOOLS)
def test_tools_stand_at_the_end_of_the_system_turn(case):
    fields, system = TOOLS[case]
    assert to_messages({"prompt": "q", "answer": "r", **fields}) == turns("q", "r", system=system)
    if "system" not in fields and system:
        assert to_messages({"messages": GUIDED, **fields})[0]["content"] == f"s\n\n{system}"


def test_a_call_is_a_response():
    record = with_call(content=None, tool_calls=[CALL])
    del record["messages"][2:]
    assert to_messages(record) == user_assistant("q", CALLED)


WEIGHED = [
    {**ONE[0], "name": "Ann"},
    {**ONE[1], "weight": 0, "reasoning_content": "why", "tool_calls": [CALL]},
]
# fmt: off
AS_MESSAGES = {
    "turns as they came": ({"messages": WEIGHED, "tools": [TOOL], "id": 3, "meta": {"x": None}}, None),
    "null content and what tools gave": (
        {"messages": [*WEIGHED, {"role": "assistant", "content": None, "tool_calls": [CALL]},
                      {"role": "tool", "content": [{"x": 1}], "tool_call_id": "a"}, ONE[1]]}, None),
    "roles and parts": ({"messages": [{"role": "Human", "content": parts("q", "p"), "weight": 1}, ONE[1]]},
        {"messages": [{"role": "user", "content": "q\np", "weight": 1}, ONE[1]]}),
    "system field": ({"messages": ONE, "system": "s", "x": 1}, {"x": 1, "messages": GUIDED}),
    "blank system field": ({"messages": GUIDED, "system_prompt": " "}, {"messages": GUIDED}),
    "sharegpt": ({"conversations": [*from_value(("human", "q")), {"from": "gpt", "value": "r", "weight": 0}],
                  "tools": "[]", "prompt": None, "note": None},
        {"tools": "[]", "note": None, "messages": [ONE[0], {**ONE[1], "weight": 0}]}),
    "Glaive": (
        {"conversations": from_value(("human", "q"), ("function_call", json.dumps(CALL)), ("gpt", "r"))},
        {"messages": [ONE[0], {"role": "assistant", "content": "",
                               "tool_calls": [{"type": "function", "function": CALL}]}, ONE[1]]}),
    "alpaca": ({"instruction": "c", "input": "", "output": "d", "history": [["a", "b"]], "category": "z"},
        {"category": "z", "messages": TWO}),
    "prompt and completion": ({"prompt": turns("q"), "answer": "r", "source": "x", "context": "y"},
        {"source": "x", "context": "y", "messages": ONE}),
}
# fmt: on


@pytest.mark.parametrize("case", AS_MESSAGES)
def test_as_messages_nothing_is_lost(case):
    record, expected = AS_MESSAGES[case]
    given = copy.deepcopy(record)
    found = as_messages(record)
    assert found == (record if expected is None else expected)
    assert list(found)[-1] == "messages"
    assert record == given, "the record is left as it is"
    assert to_messages(found) == to_messages(record), "the model is shown the same"
    assert as_messages(found) == found


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
    with pytest.raises(ValueError, match=r"has no .*response|has an empty answer; fill it"):
        to_messages(record)


def test_what_is_missing_is_named_with_what_is_there_instead():
    """As people have columns: with other names, empty, and by the dozen."""
    columns = {"ticket": 1, "Frage": "q", "Antwort": "r", "note": None}
    with pytest.raises(
        ValueError, match=r"prompt or turns \(it has ticket, Frage, Antwort\); rename the prompt"
    ):
        to_messages(columns)
    with pytest.raises(
        ValueError, match=r"a response \(it has question, reply\); rename it to completion, resp"
    ):
        to_messages({"question": "q", "reply": "r"})
    with pytest.raises(ValueError, match=r"rename it to output or response$"):
        to_messages({"instruction": "q", "answer": "r"})
    for record, field in (({"prompt": "q", "answer": None}, "answer"), ({"prompt": None}, "prompt")):
        with pytest.raises(ValueError, match=f"^has an empty {field}; fill it$"):
            to_messages(record)
    with pytest.raises(ValueError, match=r"has no response; end it with an assistant turn"):
        to_messages({"prompt": "q", "completion": turns("a", "b", "c")})
    with pytest.raises(ValueError, match=r"^has no field") as error:
        to_messages({f"{'x' * 5000}{number}": "x" for number in range(99)})
    assert len(str(error.value)) < 400


def talk(content, role="user"):
    """Two turns, the one of which has this content."""
    return [turn | ({"content": content} if turn["role"] == role else {}) for turn in ONE]


# fmt: off
BAD = {
    "no known field": ({"text": "x"},
        "has no field that holds a prompt or turns (it has text); rename the prompt to prompt,"),
    "two forms": ({"messages": ONE, "prompt": "q"},
        "messages and prompt_completion; say which with --format"),
    "two prompts": ({"prompt": "q", "question": "p", "answer": "r"}, "has both prompt and question"),
    "two lists": ({"conversations": SPOKEN, "conversation": SPOKEN[:1]},
        "both conversations and conversation"),
    "two speakers": ({"conversations": [{"from": "human", "role": "user", "value": "q"}]},
        "has both role and from"),
    "two system fields": ({"prompt": "q", "response": "r", "system": "a", "system_prompt": "b"},
        "has both system and system_prompt"),
    "system twice": ({"messages": turns("q", "r", system="a"), "system": "b"},
        "a system field and a system turn"),
    "no object in sharegpt": ({"conversations": ["q", "r"]}, "has a message 0 that is not an object"),
    "number as prompt": ({"prompt": 3, "completion": "r"},
        "has the field prompt of type int; it must be text"),
    "number as output": ({"instruction": "q", "output": 0}, "the field output of type int"),
    "list as system": ({"prompt": "q", "response": "r", "system": []}, "the field system of type list"),
    "history of a number": ({"instruction": "q", "output": "r", "history": 3}, "has a history that is not"),
    "history of texts": ({"instruction": "q", "output": "r", "history": ["ab"]}, "has a history that is not"),
    "history of nulls": ({"instruction": "q", "output": "r", "history": [["a", None]]},
        "no text in message 1"),
    "NUL in the system field": ({"prompt": "q", "answer": "r", "system": "\0"},
        "NUL character in the system or tools field"),
    "marker in the tools": ({"prompt": "q", "answer": "r", "tools": "<|user|>"},
        "marker <|user|> at the start of a line in the system or tools field"),
    "two kinds of tools": ({"prompt": "q", "answer": "r", "tools": ["a"], "functions": ["b"]},
        "has both tools and functions, which differ"),
}
BAD_MESSAGES = {
    "no list": ("q", "has messages of type str; they must be a list"),
    "unknown role": ([{"role": "robot", "content": "x"}], "has the unknown role 'robot' in message 0"),
    "no role": ([{"content": "x"}], "the unknown role of type NoneType in message 0; use system, user, ass"),
    "long role": ([{"role": "x" * 5000, "content": "x"}], f"role '{'x' * 40}' in"),
    "no content": (talk(None), "has no text in message 0"),
    "number": (talk(3, "assistant"), "has no text in message 1"),
    "image": (talk([{"type": "image_url", "image_url": "x"}]), "has a part 'image_url' without text in"),
    "part without text": (talk([{"type": "text", "text": None}]), "has a part 'text' without text in me"),
    "parts of numbers": (talk([3]), "has a part 'int' without text in message 0"),
    "calls that are no list": ([ONE[0], {**ONE[1], "tool_calls": "x"}], "has tool_calls of type str in mess"),
    "a call without a name": ([ONE[0], {**ONE[1], "tool_calls": [{"function": {"arguments": "{}"}}]}],
        "has a tool call without a name in message 1"),
    "reasoning of a list": ([ONE[0], {**ONE[1], "reasoning": ["x"]}], "has reasoning of type list in mess"),
    "a tool's data as text of a user": (talk({"x": 1}), "has no text in message 0"),
    "marker after blanks in a line": (talk("x\n \t<|user|>"), "format's marker <|user|> at"),
    "all empty": (turns("", " "), "has only empty messages"),
    "empty response": (turns("q", " \u3000\n"), "has an empty response in message 1"),
    "only system": (turns(system="s"), "has no response"),
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
KEYS = ["role", "content", "from", "value", "type", "text", "name", "arguments", "tool_calls", "reasoning"]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", " ", "x", *ROLES]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=12,
)
fields = [name for names in forms.FIELDS.values() for name in names]
fields += [*forms.COMPLETIONS, *forms.SYSTEM, *forms.TOOLS, "input", "context", "output", "history"]


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
    assert all(turn["role"] in ROLES and isinstance(turn["content"], str) for turn in messages)
    assert any(turn["content"].strip() for turn in messages if turn["role"] != "system")
    assert prompts or (messages[-1]["role"] == "assistant" and messages[-1]["content"].strip())
    assert to_messages(as_messages(record, form), "messages", prompts) == messages


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
