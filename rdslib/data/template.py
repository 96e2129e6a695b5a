"""Conversations written by a tokenizer's own chat template, in place of Tulu's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rdslib.data.chat import Message, Tokens, first_tokens, groups_of, joined, lengths_of, marked
from rdslib.errors import UserError, reason_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Some templates write the day into the system turn; those of Llama take this one in its place.
DATE = "26 Jul 2024"
_TULU = "take another model, or use --template tulu"


def tokenize_by_template(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[Message]],
    max_length: int,
    queries: bool,
    spans: bool = True,
) -> list[Tokens]:
    """Tokenise pool samples, or queries, as `tokenize_chat` and `tokenize_query` do, by the model's template.

    Without `spans` it is not told which tokens of a pool sample are a response's, which some templates hide.

    Raises:
        UserError: There is no template, or it cannot write a conversation, or hides where a response is.
    """
    if not tokenizer.chat_template:
        raise UserError(f"model {tokenizer.name_or_path}: has no chat template; {_TULU}")
    if "strftime_now" in tokenizer.chat_template and "date_string" not in tokenizer.chat_template:
        raise UserError(
            f"model {tokenizer.name_or_path}: its chat template writes the day, with which features would "
            f"change; {_TULU}"
        )
    how = _queries if queries else _samples
    return [
        each
        for some in groups_of(lengths_of(conversations))
        for each in how(tokenizer, conversations[some], max_length, spans)
    ]


def _samples(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Message]], most: int, spans: bool
) -> list[Tokens]:
    texts = [_written(tokenizer, messages, False).rstrip() for messages in conversations]
    most = min(most, tokenizer.model_max_length)
    tokens = []
    for text, messages, placed in zip(
        texts, conversations, first_tokens(tokenizer, texts, most, special=False), strict=True
    ):
        responses, prompt = [], None
        for at, message in enumerate(messages if spans else []):
            if message["role"] == "assistant":
                before = _written(tokenizer, messages[:at], False)
                start = _start(tokenizer, text, _written(tokenizer, messages[:at], True))
                end = _start(tokenizer, text, _written(tokenizer, messages[: at + 1], False).rstrip())
                prompt = len(before) if prompt is None else prompt
                responses.append((start, end))
        tokens.append(marked(placed, len(text), responses, prompt))
    return tokens


def _queries(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Message]], most: int, spans: bool
) -> list[Tokens]:
    prompts, ends, labels = [], [], []
    for messages in conversations:
        answered = messages[-1]["role"] == "assistant"
        asked = messages[:-1] if answered else messages
        prompts.append(_written(tokenizer, asked, True))
        ends.append(len(_written(tokenizer, asked, False)))
        text = _written(tokenizer, messages, False).rstrip() if answered else prompts[-1]
        labels.append(text[_start(tokenizer, text, prompts[-1]) :])
    return joined(tokenizer, prompts, ends, labels, most, "right", special=False)


def _written(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], asks: bool) -> str:
    """A conversation as the template writes it, with the header of a response if it `asks` for one."""
    if not messages:
        return ""
    try:
        return str(
            tokenizer.apply_chat_template(
                [{"role": message["role"], "content": message["content"]} for message in messages],
                tokenize=False,
                add_generation_prompt=asks,
                date_string=DATE,
            )
        )
    except Exception as error:  # whatever a template raises
        first = messages[0]["content"][:40]
        raise UserError(
            f"model {tokenizer.name_or_path}: its chat template cannot write the conversation that begins "
            f"with {first!r} ({reason_of(error)}); leave it out, or use --template tulu"
        ) from error


def _start(tokenizer: PreTrainedTokenizerBase, text: str, before: str) -> int:
    """Where a text goes on after what comes before it; raises UserError if that is not its start."""
    if not text.startswith(before):
        raise UserError(
            f"model {tokenizer.name_or_path}: its chat template writes earlier turns in another way as a "
            f"conversation goes on, so that it does not show where a response is; {_TULU}"
        )
    return len(before)
