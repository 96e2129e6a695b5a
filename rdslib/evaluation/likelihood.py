"""Scores by likelihood: bits per byte of the gold responses, and accuracy where there are choices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from rdslib.data.chat import tokenize_query
from rdslib.errors import UserError
from rdslib.models.cache import LayerCache
from rdslib.models.encode import nll, pack, pad

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rdslib.tasks.base import TaskSample


@dataclass(frozen=True)
class Scores:
    """One row a test sample.

    Attributes:
        bits: Float [n], of the gold response.
        bytes: Int [n], its length in UTF-8.
        correct: Float [n]: 1, 0, or NaN where the task has no choices.
    """

    bits: np.ndarray
    bytes: np.ndarray
    correct: np.ndarray


@torch.inference_mode()
def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    samples: Sequence[TaskSample],
    max_length: int,
    token_budget: int,
    done: Callable[[list[int]], object] = lambda batch: None,
    layers: LayerCache | None = None,
) -> Scores:
    """Score the gold response of each test sample, given its prompt in the Tulu chat format.

    The end-of-sequence token is not counted, so that bits and bytes are of the same text. A sample with
    `choices` is answered by the choice whose first token is the likeliest. Longer samples than `max_length`
    tokens are cut on the left of the prompt. `layers` has what other adapters of the same model have computed
    of the layers below theirs.

    Raises:
        UserError: A response is missing or leaves no room for any of its prompt, or choices begin with the
            same token.
    """
    tokens = tokenize_query(tokenizer, [s.messages for s in samples], max_length, cut="left")
    for sample, each in zip(samples, tokens, strict=True):
        if not any(each.response):
            raise UserError(f"test sample {sample.id}: has no response; end it with an assistant message")
        if each.response[0]:
            raise UserError(
                f"test sample {sample.id}: its response does not fit {max_length} tokens; "
                f"raise evaluate.max_length"
            )
    bits = np.zeros(len(samples))
    correct = np.full(len(samples), np.nan)
    sizes = [len(t.ids) for t in tokens]
    autocast = torch.autocast(model.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16)
    for batch in pack(sizes, token_budget):
        ids = pad([tokens[i].ids for i in batch], model.device)
        with autocast, (layers or LayerCache()).over(model):
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            rows, targets, places = [], [], []
            for row, i in enumerate(batch):
                # Position t is predicted from t - 1; the last token is the end of sequence.
                at = [t for t in range(1, sizes[i] - 1) if tokens[i].response[t]]
                rows.append(hidden[row, [t - 1 for t in at]])
                targets += [tokens[i].ids[t] for t in at]
                places += [i] * len(at)
            nats = nll(model, torch.cat(rows), torch.tensor(targets, device=model.device))
            np.add.at(bits, places, nats.double().cpu().numpy() / math.log(2))
            for row, i in enumerate(batch):
                if samples[i].choices is not None:
                    before = tokens[i].response.index(True) - 1
                    logits = model.get_output_embeddings()(hidden[row, before]).float()
                    best = int(logits[_first_tokens(tokenizer, samples[i])].argmax())
                    correct[i] = float(best == samples[i].answer)
        done(batch)
    size = np.array([len(s.messages[-1]["content"].strip().encode()) for s in samples])
    return Scores(bits, size, correct)


def _first_tokens(tokenizer: PreTrainedTokenizerBase, sample: TaskSample) -> list[int]:
    """The first token of each choice."""
    first = [tokenizer(c, add_special_tokens=False)["input_ids"][0] for c in sample.choices or []]
    if len(set(first)) < len(first):
        raise UserError(f"test sample {sample.id}: its choices begin with the same token; reword them")
    return first
