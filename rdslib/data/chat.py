"""The messages schema, the Tulu chat format, and tokenising with a loss mask (paper, section 4).

A *message* is ``{"role": str, "content": str}``, with one of `ROLES`; a *sample* is an id, the source it came
from, and a list of messages. Everything that enters the library becomes a `Sample`. What a tool gives back is
no turn of Tulu's: it has a header like the others, ``<|tool|>``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict

from rdslib.data.prefix import prefix, splits_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("system", "user", "assistant", "tool")
HEADER = len("<|assistant|>\n")
# Characters that are tokenised at once. A tokenizer holds some 100 bytes for each token of the whole text,
# also of what it cuts off.
HELD = 2**20
# Characters of a text that are looked at first, for each token that is wanted.
CHARS = 8
# A shortened conversation: characters of a message, and messages.
WIDTH, TURNS = 240, 4


# Tokens, and where each is in a text: [start, end).
Placed: TypeAlias = tuple[list[int], list[tuple[int, int]]]


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
    return [
        each
        for some in groups_of(lengths_of(conversations))
        for each in _tokenize_chat(tokenizer, conversations[some], max_length)
    ]


def lengths_of(conversations: Sequence[Sequence[Message]]) -> list[int]:
    """Return the characters of each conversation."""
    return [sum(len(message["content"]) for message in messages) for messages in conversations]


def groups_of(lengths: Sequence[int]) -> Iterator[slice]:
    """Split texts of these lengths into groups of at most `HELD` characters, or of one text."""
    start = size = 0
    for at, length in enumerate(lengths):
        if at > start and size + length > HELD:
            yield slice(start, at)
            start, size = at, 0
        size += length
    if start < len(lengths):
        yield slice(start, None)


def _tokenize_chat(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Message]], max_length: int
) -> list[Tokens]:
    eos = str(tokenizer.eos_token)
    texts = [format_chat(messages, eos) for messages in conversations]
    most = min(max_length, tokenizer.model_max_length)  # no more than the model has positions
    encoded = first_tokens(tokenizer, texts, most)
    tokens = []
    for row, messages in enumerate(conversations):
        at, prompt_end, responses = 0, None, []
        for message in messages:
            turn = format_turn(message, eos)
            if message["role"] == "assistant":
                prompt_end = at if prompt_end is None else prompt_end
                responses.append((at + HEADER, at + len(turn) - 1))
            at += len(turn)
        tokens.append(marked(encoded[row], len(texts[row]), responses, prompt_end))
    return tokens


def marked(
    placed: Placed, length: int, responses: Sequence[tuple[int, int]], prompt_end: int | None
) -> Tokens:
    """Mark the tokens of a text of some `length` that are trained on, and those before the first of them.

    `responses`: where in the text they are, [start, end); `prompt_end`: where the header of the first starts.
    """
    inside = bytearray(length + 1)  # 1 at every character that is trained on
    for start, end in responses:
        inside[start:end] = b"\1" * (end - start)
    ids, offsets = placed
    response = [end > start and inside[start] == 1 for start, end in offsets]
    return Tokens(ids, response, sum(prompt_end is None or start < prompt_end for start, _ in offsets))


def first_tokens(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], most: int, special: bool = True
) -> list[Placed]:
    """Return the first `most` tokens of each text, and where in it they are, as if all were tokenised."""
    groups = groups_of([len(text) for text in texts])
    return [each for some in groups for each in _first_tokens(tokenizer, texts[some], most, special)]


def _first_tokens(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], most: int, special: bool
) -> list[Placed]:
    found: dict[int, Placed] = {}
    size = CHARS * most if splits_words(tokenizer) else math.inf
    while left := [row for row in range(len(texts)) if row not in found]:
        cut = [texts[row] if len(texts[row]) <= size else prefix(texts[row], int(size)) for row in left]
        encoded = tokenizer(
            cut,
            truncation=True,
            max_length=most,
            return_offsets_mapping=True,
            add_special_tokens=special,
        )
        for at, row in enumerate(left):
            ids = encoded["input_ids"][at]
            if len(ids) == most or len(cut[at]) == len(texts[row]):
                found[row] = ids, encoded["offset_mapping"][at]
        size *= 4
    return [found[row] for row in range(len(texts))]


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
    leads = leads or []
    return [
        each
        for some in groups_of(lengths_of(conversations))
        for each in _tokenize_query(tokenizer, conversations[some], max_length, cut, leads[some])
    ]


def _tokenize_query(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[Message]],
    max_length: int,
    cut: Literal["left", "right"],
    leads: Sequence[str],
) -> list[Tokens]:
    eos = str(tokenizer.eos_token)
    prompts, ends, labels = [], [], []
    for messages, lead in zip(conversations, leads or [""] * len(conversations), strict=True):
        answered = messages[-1]["role"] == "assistant"
        asked = messages[:-1] if answered else messages
        prompts.append("".join(format_turn(m, eos) for m in asked) + "<|assistant|>\n" + lead)
        answer = messages[-1]["content"] if leads else messages[-1]["content"].strip()
        ends.append(len(prompts[-1]) - HEADER)
        labels.append(answer + eos if answered else "")
    return joined(tokenizer, prompts, ends, labels, max_length, cut)


def joined(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    ends: Sequence[int],
    labels: Sequence[str],
    max_length: int,
    cut: Literal["left", "right"],
    special: bool = True,
) -> list[Tokens]:
    """Tokenise prompts, without a response's header up to `ends`, and responses apart; join and cut them."""
    max_length = min(max_length, tokenizer.model_max_length)  # no more than the model has positions
    encoded = tokenizer(list(prompts), return_offsets_mapping=True, add_special_tokens=special)
    label_ids = tokenizer(list(labels), add_special_tokens=False)["input_ids"]
    tokens = []
    for row, label in enumerate(label_ids):
        prompt = encoded["input_ids"][row]
        before = sum(start < ends[row] for start, _ in encoded["offset_mapping"][row])
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
