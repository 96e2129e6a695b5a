"""How much of a long text a tokenizer has to see, so that its first tokens are those of the whole.

A text is cut between an ASCII letter and a blank that another follows. Tokenizers that split there whatever
stands around it (GPT-2, Llama 3, Qwen and their like) make the same tokens of what comes before; others see
the whole text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CUT = re.compile("[A-Za-z](?= [A-Za-z])")
# How the tokenizers of Llama 3 and Qwen split: no alternative goes from a letter over a blank to another, or
# looks further.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = (_WORDS % "{1,3}", _WORDS % "")


def splits_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a tokenizer is known to split every text between a letter and a blank before another."""
    core = tokenizer.backend_tokenizer
    state = core.normalizer.__getstate__() if core.normalizer else None
    normalizer = json.loads(state) if state else {"type": "NFC"}
    if normalizer["type"] != "NFC" or core.pre_tokenizer is None or tokenizer.truncation_side != "right":
        return False
    # A token that was added may hold a blank, or take those after it.
    for added in core.get_added_tokens_decoder().values():
        if re.search("[A-Za-z] ", added.content) or (added.rstrip and re.search("[A-Za-z]$", added.content)):
            return False
    given = json.loads(core.pre_tokenizer.__getstate__())
    return _split_words(given["pretokenizers"] if given["type"] == "Sequence" else [given])


def _split_words(steps: Sequence[dict[str, Any]]) -> bool:
    """Whether the first steps do; what comes after them sees their words one by one."""
    for step in steps:
        if step["type"] == "ByteLevel":
            return bool(step["use_regex"])
        if step["type"] == "Split":
            return step["pattern"].get("Regex") in _SPLITS and step["behavior"] in ("Isolated", "Removed")
        if step["type"] != "Digits":
            return False
    return False


def prefix(text: str, size: int) -> str:
    """Return the first part of a text, of at least `size` characters, up to where it may be cut."""
    found = _CUT.search(text, size - 1)
    return text[: found.end()] if found else text
