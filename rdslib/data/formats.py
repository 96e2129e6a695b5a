"""The forms in which people keep instruction-tuning samples, and what makes a sample usable.

A *record* is one row of a user's data as a dict. Its fields show its form:

- ``messages``: a list of ``{role, content}`` (Tulu, OpenAI).
- ``sharegpt``: ``conversations`` or ``conversation``, a list of ``{from, value}`` or ``{role, content}``.
- ``alpaca``: ``instruction``, with ``input`` (or ``context``), ``output`` (or ``response``) and ``history``,
  a list of earlier (prompt, response) pairs.
- ``prompt_completion``: ``prompt``, ``question`` or ``query``, with ``completion``, ``response`` or
  ``answer``; either side may be a list of messages.

In any form, ``system`` or ``system_prompt`` beside the conversation is its system turn. Null is as absent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rdslib.data.chat import ROLES, Message, user_assistant

Record = Mapping[str, Any]

# The fields that show a form; a record has one of one form.
FIELDS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations", "conversation"),
    "alpaca": ("instruction",),
    "prompt_completion": ("prompt", "question", "query"),
}
FORMS = tuple(FIELDS)
SYSTEM = ("system", "system_prompt")
COMPLETIONS = ("completion", "response", "answer")

# OpenAI's newer models call the system the developer.
MESSAGE_ROLES = {role: role for role in ROLES} | {"developer": "system"}
SPEAKERS = MESSAGE_ROLES | {
    "human": "user",
    **dict.fromkeys(("gpt", "chatgpt", "bard", "bing", "model"), "assistant"),
}

# Characters of all turns of a sample: several books, and far more than any model reads.
MAX_CHARS = 4_000_000

# A turn's text is stripped before it is written after its header, so blanks do not hide a marker.
_MARKER = re.compile(rf"^[ \t]*(<\|(?:{'|'.join(ROLES)})\|>)", re.MULTILINE)


def form_of(record: Record) -> str:
    """Return the form of a record, by its fields; raise ValueError for those of no form or of two."""
    forms = [form for form, fields in FIELDS.items() if _given(record, fields)]
    if not forms:
        known = ", ".join(field for fields in FIELDS.values() for field in fields)
        raise ValueError(f"has none of the fields that hold a sample ({known}); rename its fields")
    if len(forms) > 1:
        raise ValueError(f"has the fields of the forms {' and '.join(forms)}; say which with --format")
    return forms[0]


def to_messages(
    record: Record, form: str | None = None, prompts: bool = False, check: bool = True
) -> list[Message]:
    """Return the messages of a record: at most one system turn, then user and assistant in turns, none empty.

    Without one of `FORMS`, its fields show its form. With `prompts`, its last turn may be the user's. Without
    `check`, any order, any text and empty turns but not only these will do, as in the paper's pools.

    Raises:
        ValueError: It is of no form, or no usable conversation; the reason completes "this sample ...".
    """
    form = form_of(record) if form is None else form
    if not _given(record, FIELDS[form]):
        raise ValueError(f"has no field {' or '.join(FIELDS[form])}, as the form {form} does")
    messages = _check_kinds(_TURNS[form](record))
    if not check:
        return messages
    _check_turns(messages)
    if messages[-1]["role"] != "assistant" and not prompts:
        raise ValueError("has no response; end it with an assistant turn")
    if _blank(messages[0]["content"]):  # only a system turn may be
        del messages[0]
    system = _text(record, SYSTEM) or ""
    if not _blank(system):
        if messages[0]["role"] == "system":
            raise ValueError("has a system field and a system turn; keep one of them")
        _check_text(system, "the system field")
        messages.insert(0, {"role": "system", "content": system})
    size = sum(len(message["content"]) for message in messages)
    if size > MAX_CHARS:
        raise ValueError(f"is too large ({size} characters, at most {MAX_CHARS}); split it")
    return messages


def _check_kinds(turns: Any) -> list[Message]:
    """Raise ValueError unless these are turns of known roles with text, of which one is not blank."""
    if not isinstance(turns, list):
        raise ValueError(f"has messages of type {type(turns).__name__}; they must be a list")
    if not turns:
        raise ValueError("has no messages")
    for position, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise ValueError(f"has a message {position} that is not an object with role and content")
        if turn["role"] not in ROLES:
            known = ", ".join(ROLES)
            raise ValueError(f"has the unknown role {turn['role']!r} in message {position}; use {known}")
        if not isinstance(turn["content"], str):
            raise ValueError(f"has no text in message {position}; content must be a string")
    if all(_blank(turn["content"]) for turn in turns):
        raise ValueError("has only empty messages")
    return turns


def _check_turns(messages: Sequence[Message]) -> None:
    """Raise ValueError unless user and assistant turns alternate after at most one system turn."""
    first = int(messages[0]["role"] == "system")
    if len(messages) == first:
        raise ValueError("has no user turn")
    for position, message in enumerate(messages):
        role, content = message["role"], message["content"]
        expected = ("user", "assistant")[(position - first) % 2]
        if position >= first and role != expected:
            raise ValueError(
                f"has the role {role} in message {position}, where {expected} belongs; after at most one "
                f"system turn, user and assistant take turns, user first"
            )
        if role != "system" and _blank(content):
            raise ValueError(f"has an empty {role} turn in message {position}")
        _check_text(content, f"message {position}")


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


def _sharegpt(record: Record) -> Any:
    turns = _one(record, FIELDS["sharegpt"])
    if isinstance(turns, list):
        turns = [_sharegpt_turn(turn) if isinstance(turn, dict) else turn for turn in turns]
    return _turns(turns, SPEAKERS)


def _sharegpt_turn(turn: Record) -> dict[str, Any]:
    role = _one(turn, ("from", "role"))
    role = role.lower() if isinstance(role, str) else role
    return {"role": role, "content": _one(turn, ("value", "content"))}


def _alpaca(record: Record) -> Any:
    pairs = [] if record.get("history") is None else record["history"]
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise ValueError("has a history that is not a list of [prompt, response] pairs")
    turns = [turn for prompt, response in pairs for turn in user_assistant(prompt, response)]
    parts = [_text(record, fields) or "" for fields in (FIELDS["alpaca"], ("input", "context"))]
    prompt = "\n\n".join(part for part in parts if not _blank(part))
    response = _text(record, ("output", "response"))
    asked = user_assistant(prompt, response or "")
    return turns + (asked[:1] if response is None else asked)


def _prompt_completion(record: Record) -> Any:
    turns = []
    for role, fields in (("user", FIELDS["prompt_completion"]), ("assistant", COMPLETIONS)):
        value = _one(record, fields)
        if isinstance(value, list):
            turns += _turns(value, MESSAGE_ROLES)
        elif value is not None:
            turns.append({"role": role, "content": _text(record, fields)})
    return turns


_TURNS: dict[str, Callable[[Record], Any]] = {
    "messages": lambda record: _turns(_one(record, FIELDS["messages"]), MESSAGE_ROLES),
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
}


def _turns(value: Any, roles: Mapping[str, str]) -> Any:
    """A list of turns with the roles' usual names and content in one piece; what is no turn, as it is."""
    if not isinstance(value, list):
        return value
    return [
        {"role": _role(turn.get("role"), roles), "content": _joined(turn.get("content"))}
        if isinstance(turn, dict)
        else turn
        for turn in value
    ]


def _role(role: Any, roles: Mapping[str, str]) -> str:
    if not isinstance(role, str):
        raise ValueError(f"has a role of type {type(role).__name__}; use {', '.join(ROLES)}")
    return roles.get(role, role[:40])  # cut, since an error shows it


def _joined(content: Any) -> Any:
    """The parts of OpenAI's content in parts as one text, if all are text; anything else as it is."""
    if not isinstance(content, list):
        return content
    texts: list[Any] = [
        part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        for part in content
    ]
    return "\n".join(texts) if all(isinstance(text, str) for text in texts) else content


def _given(record: Record, fields: Sequence[str]) -> list[str]:
    return [field for field in fields if record.get(field) is not None]


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
