"""The messages schema, the Tulu chat format, and tokenising with a loss mask (paper, section 4).

A *message* is ``{"role": str, "content": str}``, with one of `ROLES`; a *sample* is an id, the source it came
from, and a list of messages. Everything that enters the library becomes a `Sample`. What a tool gives back is
no turn of Tulu's: it has a header like the others, ``<|tool|>``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("system", "user", "assistant", "tool")
HEADER = len("<|assistant|>\n")
# A shortened conversation: characters of a message, and messages.
WIDTH, TURNS = 240, 4


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Sample:
    """One sample: its `id` is unique within its pool, and `source` names the data set it came from."""

    id: str
    source: str
    messages: list[Message]


@dataclass(frozen=True)
class Tokens:
    """A tokenised conversation: `ids[i]` is trained on where `response[i]` is true.

    `prompt`: how many tokens stand before the header of the first assistant turn that is trained on.
    """

    ids: list[int]
    response: list[bool]
    prompt: int

    @property
    def first_response(self) -> tuple[int, int]:
        """Where the first assistant turn's content starts and ends: [start, end), empty if it is cut off."""
        if True not in self.response:
            return len(self.ids), len(self.ids)
        start = self.response.index(True)
        after = self.response[start:]
        return start, start + (after.index(False) if False in after else len(after))


def user_assistant(prompt: str, response: str) -> list[Message]:
    """Return the messages of a one-turn sample."""
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]


def format_turn(message: Message, eos: str) -> str:
    """Format one turn as Tulu does; an assistant turn ends with the end-of-sequence token."""
    end = eos if message["role"] == "assistant" else ""
    return f"<|{message['role']}|>\n{message['content'].strip()}{end}\n"


def format_chat(messages: Sequence[Message], eos: str) -> str:
    """Format a whole conversation as Tulu does, stripped."""
    return "".join(format_turn(message, eos) for message in messages).strip()


def tokenize_chat(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Message]], max_length: int
) -> list[Tokens]:
    """Tokenise pool samples: the formatted text at once, cut on the right (paper, section 4).

    The response mask covers each assistant turn's content and its end-of-sequence token, not its header.
    """
    eos = str(tokenizer.eos_token)
    texts = [format_chat(messages, eos) for messages in conversations]
    most = min(max_length, tokenizer.model_max_length)  # no more than the model has positions
    encoded = tokenizer(texts, truncation=True, max_length=most, return_offsets_mapping=True)
    tokens = []
    for row, messages in enumerate(conversations):
        inside = bytearray(len(texts[row]) + 1)  # 1 at every character that is trained on
        at, prompt_end = 0, None
        for message in messages:
            turn = format_turn(message, eos)
            if message["role"] == "assistant":
                prompt_end = at if prompt_end is None else prompt_end
                inside[at + HEADER : at + len(turn) - 1] = b"\1" * (len(turn) - 1 - HEADER)
            at += len(turn)
        offsets = encoded["offset_mapping"][row]
        response = [end > start and inside[start] == 1 for start, end in offsets]
        prompt = sum(prompt_end is None or start < prompt_end for start, _ in offsets)
        tokens.append(Tokens(list(encoded["input_ids"][row]), response, prompt))
    return tokens


def tokenize_query(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[Message]],
    max_length: int,
    cut: Literal["left", "right"] = "right",
    leads: Sequence[str] | None = None,
) -> list[Tokens]:
    """Tokenise query or test samples: prompt and gold response apart, then joined (paper, section 4).

    A conversation that ends with an assistant turn has that as its gold response. One that does not is a
    prompt alone, and ends with the header that a response would have. A longer one is cut on the right, as
    the paper does, or on the left of the prompt, so that the response stays whole wherever it fits. That is
    also done where nothing of the response would be left.

    `leads`: what each response is given to begin with, as part of its prompt. The response goes on from there
    as it is; without leads it is stripped.
    """
    max_length = min(max_length, tokenizer.model_max_length)  # no more than the model has positions
    eos = str(tokenizer.eos_token)
    prompts, labels = [], []
    for messages, lead in zip(conversations, leads or [""] * len(conversations), strict=True):
        answered = messages[-1]["role"] == "assistant"
        asked = messages[:-1] if answered else messages
        prompts.append("".join(format_turn(m, eos) for m in asked) + "<|assistant|>\n" + lead)
        answer = messages[-1]["content"] if leads else messages[-1]["content"].strip()
        labels.append(answer + eos if answered else "")
    encoded = tokenizer(prompts, return_offsets_mapping=True)
    label_ids = tokenizer(labels, add_special_tokens=False)["input_ids"]
    tokens = []
    for row, label in enumerate(label_ids):
        prompt = encoded["input_ids"][row]
        before = sum(start < len(prompts[row]) - HEADER for start, _ in encoded["offset_mapping"][row])
        ids = [*prompt, *label]
        response = [False] * len(prompt) + [True] * len(label)
        keeps_start = cut == "right" and (not label or len(prompt) < max_length)
        at = 0 if keeps_start else min(max(0, len(ids) - max_length), len(prompt))
        kept = slice(at, at + max_length)
        tokens.append(Tokens(ids[kept], response[kept], min(max(0, before - at), max_length)))
    return tokens


def text_of(messages: Sequence[Message]) -> str:
    """Write a conversation as plain text, each message on new lines, an arrow before a response."""
    return "\n".join(_marked(message["role"], message["content"].strip()) for message in messages)


def shortened(messages: Sequence[Message]) -> str:
    """Write the first messages as `text_of` does, each cut to one line."""
    lines = []
    for message in messages[:TURNS]:
        words = " ".join(message["content"].split())
        lines.append(_marked(message["role"], words if len(words) <= WIDTH else words[: WIDTH - 1] + "…"))
    more = len(messages) - TURNS
    return "\n".join([*lines, *([f"… {more} more messages"] if more > 0 else [])])


def _marked(role: str, text: str) -> str:
    # Nothing but the arrow, which has no direction, stands before a message: so each is shown in the
    # direction in which its words are read.
    return f"→ {text}" if role == "assistant" else text
