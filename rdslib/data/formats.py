"""The forms in which people keep instruction-tuning samples, and what makes a sample usable.

A *record* is one row of a user's data as a dict. Its fields show its form:

- ``messages``: a list of ``{role, content}`` (Tulu, OpenAI).
- ``sharegpt``: ``conversations`` or ``conversation``, a list of ``{from, value}`` or ``{role, content}``.
- ``alpaca``: ``instruction``, with ``input`` (or ``context``), ``output`` (or ``response``) and ``history``,
  a list of earlier (prompt, response) pairs.
- ``prompt_completion``: ``prompt``, ``question`` or ``query``, with ``completion``, ``response`` or
  ``answer``; either side may be a list of messages.

In any form, ``system`` or ``system_prompt`` beside the conversation is its system turn, and ``tools`` or
``functions`` are those that it may call. Null is as absent.

What is no plain text is shown to the model as most chat templates of models that call tools do: tools at the
end of the system turn in ``<tools>``, a call at the end of its turn in ``<tool_call>``, both as JSON; what a
tool gives back as a turn of the role ``tool``; reasoning at the start of its turn in ``<think>``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rdslib.data.chat import ROLES, Message, user_assistant

Record = Mapping[str, Any]
# A turn in the form of messages: one of `ROLES`, `content` in any of its kinds, and whatever else it has.
Turn = dict[str, Any]

# The fields that show a form; a record has one of one form.
FIELDS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations", "conversation"),
    "alpaca": ("instruction",),
    "prompt_completion": ("prompt", "question", "query"),
}
FORMS = tuple(FIELDS)
INPUTS, OUTPUTS, HISTORY = ("input", "context"), ("output", "response"), ("history",)
COMPLETIONS = ("completion", "response", "answer")
SYSTEM, TOOLS = ("system", "system_prompt"), ("tools", "functions")
REASONING = ("reasoning_content", "reasoning", "thinking")
# Where forms with a field of its own have the response, and what else holds the conversation.
_RESPONSES = {"alpaca": OUTPUTS, "prompt_completion": COMPLETIONS}
_OTHERS = {"alpaca": (*INPUTS, *OUTPUTS, *HISTORY), "prompt_completion": COMPLETIONS}
# Forms of a prompt, and of turns.
_KINDS = (("prompt_completion", "alpaca"), ("messages", "sharegpt"))

# A turn of these is a call of a tool.
_CALLS = ("function_call", "tool_call")
SPEAKERS = {role: role for role in ROLES} | {
    "developer": "system",
    "human": "user",
    **dict.fromkeys(("gpt", "chatgpt", "bard", "bing", "model", *_CALLS), "assistant"),
    **dict.fromkeys(("function", "observation", "ipython", "environment", "tool_response"), "tool"),
}

# Characters of all turns of a sample: several books, and far more than any model reads.
MAX_CHARS = 4_000_000

# A turn's text is stripped before it is written after its header, so blanks do not hide a marker.
_MARKER = re.compile(rf"^[ \t]*(<\|(?:{'|'.join(ROLES)})\|>)", re.MULTILINE)


def form_of(record: Record, cure: str = "say which with --format") -> str:
    """Return the form of a record, by its fields; raise ValueError for none, or (with `cure`) for two."""
    forms = [form for form, fields in FIELDS.items() if _given(record, fields)]
    if not forms:
        prompts, turns = ((*FIELDS[one], *FIELDS[other]) for one, other in _KINDS)
        _fill(record, (*prompts, *turns))
        raise ValueError(
            f"has no field that holds a prompt or turns ({_names(record)}); rename the prompt to "
            f"{_either(prompts)} and the response to response, or turns to {_either(turns)}"
        )
    if len(forms) > 1:
        raise ValueError(f"has the fields of the forms {' and '.join(forms)}; {cure}")
    return forms[0]


def holders(record: Record, form: str) -> list[str]:
    """Return which fields of a record, in one of `FORMS`, hold its prompt and its response, or its turns."""
    return _given(record, (*FIELDS[form], *_RESPONSES.get(form, ())))


def to_messages(
    record: Record, form: str | None = None, prompts: bool = False, check: bool = True
) -> list[Message]:
    """Return what the model is shown of a record: messages of `ROLES`, the last of them a response.

    Without one of `FORMS`, its fields show its form. With `prompts`, the last one need not be a response.
    Without `check` whatever has a text will do, as in the paper's pools.

    Raises:
        ValueError: It is of no form, or no usable conversation; the reason completes "this sample ...".
    """
    # Of queries and test sets there is no option that says it.
    form = form or (form_of(record, "keep one of them") if prompts else form_of(record))
    turns = _turns(record, form)
    messages: list[Message] = [
        {"role": turn["role"], "content": _shown(turn, f"message {at}")} for at, turn in enumerate(turns)
    ]
    if all(_blank(message["content"]) for message in messages):
        raise ValueError("has only empty messages")
    if check:
        fields = _RESPONSES.get(form, ())
        if fields and not prompts and not _given(record, fields) and messages[-1]["role"] != "assistant":
            _fill(record, fields)
            raise ValueError(
                f"has no field that holds a response ({_names(record)}); rename it to {_either(fields)}"
            )
        _check(messages, prompts)
        if messages[0]["role"] == "system" and _blank(messages[0]["content"]):
            del messages[0]
    system, tools = _text(record, SYSTEM) or "", _shown_tools(record)
    if tools or not _blank(system):
        there = messages[0]["role"] == "system"
        first = messages[0]["content"] if there else ""
        if not _blank(first) and not _blank(system):
            raise ValueError("has a system field and a system turn; keep one of them")
        text = "\n\n".join(part for part in (first, system, tools) if not _blank(part))
        messages[:there] = [{"role": "system", "content": text}]
        if check:
            _check_text(text, "the system or tools field")
    size = sum(len(message["content"]) for message in messages)
    if check and size > MAX_CHARS:
        raise ValueError(f"is too large ({size} characters, at most {MAX_CHARS}); split it")
    return messages


def as_messages(record: Record, form: str | None = None) -> dict[str, Any]:
    """Return a record in the form of messages, with all that it and its turns have beside the conversation.

    Roles have the names of `ROLES`, parts of text are one text, and the system field is a turn.

    Raises:
        ValueError: It is of no form, or no usable conversation.
    """
    form = form or form_of(record)
    turns = _turns(record, form)
    for turn in turns:
        if isinstance(turn.get("content"), list) and turn["role"] != "tool":
            turn["content"] = _joined(turn["content"], "a message")
    system = _text(record, SYSTEM) or ""
    if not _blank(system):
        if turns[0]["role"] == "system":  # a blank one, as the field is no other
            del turns[0]
        turns.insert(0, {"role": "system", "content": system})
    held = {*FIELDS[form], *_OTHERS.get(form, ()), *SYSTEM}
    for other in FORMS:  # whose fields are null in a table of several forms
        held |= {name for name in (*FIELDS[other], *_OTHERS.get(other, ())) if record.get(name) is None}
    return {**{name: value for name, value in record.items() if name not in held}, "messages": turns}


def _check(messages: Sequence[Message], prompts: bool) -> None:
    """Raise ValueError for text that no model can be shown, and unless the last message is a response."""
    for position, message in enumerate(messages):
        _check_text(message["content"], f"message {position}")
    last = messages[-1]
    if last["role"] == "assistant" and _blank(last["content"]):
        raise ValueError(f"has an empty response in message {len(messages) - 1}")
    if last["role"] != "assistant" and not prompts:
        raise ValueError("has no response; end it with an assistant turn")
    if all(message["role"] == "system" or _blank(message["content"]) for message in messages):
        raise ValueError("has no user turn with text")


def _check_text(text: str, where: str) -> None:
    """Raise ValueError for text that cannot be tokenised, or that would be read as further turns."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"has half a surrogate pair in {where} (character {error.start}), which is not text"
            ) from error
    if "\0" in text:
        raise ValueError(f"has a NUL character in {where} (character {text.index(chr(0))})")
    marker = _MARKER.search(text.strip()) if "<|" in text else None
    if marker:
        raise ValueError(
            f"has the chat format's marker {marker[1]} at the start of a line in {where}, where it would "
            f"pass for a turn"
        )


# --- the turns of a record


def _turns(record: Record, form: str) -> list[Turn]:
    """The turns of a record, in any form, as those of messages; new dicts."""
    if not _given(record, FIELDS[form]):
        raise ValueError(f"has no field {' or '.join(FIELDS[form])}, as the form {form} does")
    value = _one(record, FIELDS[form])
    if form == "alpaca":
        value = _alpaca(record)
    elif form == "prompt_completion":
        value = []
        for role, fields in (("user", FIELDS[form]), ("assistant", COMPLETIONS)):
            side = _one(record, fields)
            if side is not None and not isinstance(side, list):
                side = [{"role": role, "content": _text(record, fields)}]
            value += side or []
    if not isinstance(value, list):
        raise ValueError(f"has messages of type {type(value).__name__}; they must be a list")
    if not value:
        raise ValueError("has no messages")
    return [_turn(turn, position) for position, turn in enumerate(value)]


def _alpaca(record: Record) -> list[Any]:
    pairs = _one(record, HISTORY) or []
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise ValueError("has a history that is not a list of [prompt, response] pairs")
    turns: list[Any] = [turn for prompt, response in pairs for turn in user_assistant(prompt, response)]
    parts = [_text(record, fields) or "" for fields in (FIELDS["alpaca"], INPUTS)]
    prompt = "\n\n".join(part for part in parts if not _blank(part))
    response = _text(record, OUTPUTS)
    asked = user_assistant(prompt, response or "")
    return turns + (asked[:1] if response is None else asked)


def _turn(turn: Any, position: int) -> Turn:
    if not isinstance(turn, dict):
        raise ValueError(f"has a message {position} that is not an object with role and content")
    name, content = _one(turn, ("role", "from")), _one(turn, ("content", "value"))
    speaker = name.lower() if isinstance(name, str) else ""
    if speaker not in SPEAKERS:
        unknown = repr(name[:40]) if isinstance(name, str) else f"of type {type(name).__name__}"
        raise ValueError(f"has the unknown role {unknown} in message {position}; use {', '.join(ROLES)}")
    others = {key: value for key, value in turn.items() if key not in ("role", "from", "content", "value")}
    calls = _calls_in(content) if speaker in _CALLS else []
    if calls:
        content, others["tool_calls"] = "", [{"type": "function", "function": call} for call in calls]
    return {"role": SPEAKERS[speaker], "content": content, **others}


def _calls_in(text: Any) -> list[Any]:
    """The calls that a turn's text holds as JSON; none if it does not."""
    value = _parsed(text)
    calls = value if isinstance(value, list) else [value]
    named = all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls)
    return calls if named else []


# --- what the model is shown


def _shown(turn: Turn, where: str) -> str:
    """A turn as text: its reasoning, its content and its calls."""
    content = turn["content"]
    if len(turn) == 2 and isinstance(content, str):  # most are no more than their text
        return content
    reasoning, calls = _one(turn, REASONING), _calls(turn, where)
    if isinstance(content, list) and not (turn["role"] == "tool" and _data(content)):
        content = _joined(content, where)
    elif turn["role"] == "tool" and isinstance(content, dict | list):
        content = _json(content)
    elif content is None and (calls or reasoning):
        content = ""
    if not isinstance(content, str):
        raise ValueError(f"has no text in {where}; content must be a string")
    if reasoning and not isinstance(reasoning, str):
        raise ValueError(f"has reasoning of type {type(reasoning).__name__} in {where}; it must be text")
    if not calls and not reasoning:
        return content
    thought = f"<think>\n{reasoning.strip()}\n</think>" if reasoning else ""
    return "\n".join(part for part in (thought, content, *calls) if not _blank(part))


def _calls(turn: Turn, where: str) -> list[str]:
    """The calls of a turn, each as text."""
    calls = turn.get("tool_calls") or []
    if not isinstance(calls, list):
        raise ValueError(f"has tool_calls of type {type(calls).__name__} in {where}; they must be a list")
    calls = [call.get("function") or call if isinstance(call, dict) else call for call in calls]
    if turn.get("function_call"):  # OpenAI's earlier name
        calls.append(turn["function_call"])
    for call in calls:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            raise ValueError(f"has a tool call without a name in {where}; give it name and arguments")
    shown = [{"name": call["name"], "arguments": _parsed(call.get("arguments"))} for call in calls]
    return [f"<tool_call>\n{_json(call)}\n</tool_call>" for call in shown]


def _shown_tools(record: Record) -> str:
    """The tools of a record as text; empty if it has none."""
    tools = _parsed(_one(record, TOOLS))
    listed = tools if isinstance(tools, list) else [tools] if tools else []
    lines = [tool if isinstance(tool, str) else _json(tool) for tool in listed]
    return "\n".join(["<tools>", *lines, "</tools>"]) if lines else ""


def _data(content: Sequence[Any]) -> bool:
    """Whether a list is what a tool gave back, not parts of a text."""
    return not all(isinstance(part, dict) and "type" in part for part in content)


def _joined(content: Sequence[Any], where: str) -> str:
    """The parts of OpenAI's content in parts as one text."""
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        text = part.get("text") if isinstance(part, dict) else part
        if kind not in ("text", "input_text", "output_text", "str") or not isinstance(text, str):
            raise ValueError(f"has a part {str(kind)[:40]!r} without text in {where}; keep its text alone")
        texts.append(text)
    return "\n".join(texts)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _parsed(value: Any) -> Any:
    """JSON within text as what it says; anything else as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


# --- fields


def _given(record: Record, fields: Sequence[str]) -> list[str]:
    return [field for field in fields if record.get(field) is not None]


def _fill(record: Record, fields: Sequence[str]) -> None:
    """Raise ValueError for the first of the fields that is there, but null or an empty cell."""
    for field in fields:
        if field in record and record[field] is None:
            raise ValueError(f"has an empty {field}; fill it")


def _names(record: Record) -> str:
    """What fields a record has, those of the largest in part."""
    names = [str(name)[:24] for name, value in record.items() if value is not None]
    return f"it has {', '.join(names[:6]) or 'none'}{', ...' if len(names) > 6 else ''}"


def _either(fields: Sequence[str]) -> str:
    return f"{', '.join(fields[:-1])} or {fields[-1]}"


def _one(record: Record, fields: Sequence[str]) -> Any:
    """The value of these fields, or None; raises ValueError if two are given that differ."""
    given = _given(record, fields)
    for other in given[1:]:
        if record[other] != record[given[0]]:
            raise ValueError(f"has both {given[0]} and {other}, which differ; keep one of them")
    return record[given[0]] if given else None


def _text(record: Record, fields: Sequence[str]) -> str | None:
    """As `_one`, for text."""
    value = _one(record, fields)
    if value is not None and not isinstance(value, str):
        name = _given(record, fields)[0]
        raise ValueError(f"has the field {name} of type {type(value).__name__}; it must be text")
    return value


def _blank(text: str) -> bool:
    return not text or text.isspace()
