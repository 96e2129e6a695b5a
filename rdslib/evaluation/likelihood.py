"""Scores by likelihood: bits per byte of the gold responses, and accuracy where there are choices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from rdslib.data.chat import tokenize_query, user_assistant
from rdslib.errors import UserError
from rdslib.models import prefixes
from rdslib.models.cache import LayerCache
from rdslib.models.encode import nll

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rdslib.tasks.base import TaskSample


class Question(NamedTuple):
    """What a model is asked, and what it is scored by.

    Attributes:
        id: That of the test sample.
        prompt: The user's turn.
        lead: What the response is given to begin with; no bits are counted of it.
        gold: The gold response, from there on.
        choices: The fixed set of responses in its place, where the task has one.
        answer: Which of them is right.
    """

    id: str
    prompt: str
    lead: str
    gold: str
    choices: list[str] | None
    answer: int | None


def bare(samples: Iterable[TaskSample]) -> list[Question]:
    """Ask for the gold response alone, after the question alone.

    Raises:
        UserError: A sample has no response.
    """
    questions = []
    for sample in samples:
        if [message["role"] for message in sample.messages] != ["user", "assistant"]:
            raise UserError(f"test sample {sample.id}: is not a prompt and a response; give it both")
        prompt, gold = (message["content"] for message in sample.messages)
        questions.append(Question(sample.id, prompt, "", gold.strip(), sample.choices, sample.answer))
    return questions


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
    questions: Sequence[Question],
    max_length: int,
    token_budget: int,
    done: Callable[[list[int]], object] = lambda batch: None,
    layers: LayerCache | None = None,
) -> Scores:
    """Score the gold response to each question, in the Tulu chat format.

    The end-of-sequence token is not counted, so that bits and bytes are of the same text. A question with
    `choices` is answered by the choice whose first token is the likeliest, after those that all of them begin
    with. Longer ones than `max_length` tokens are cut on the left of the prompt. What prompts begin with in
    common, such as exemplars, is computed once. `layers` has what other adapters of the same model have
    computed of the layers below theirs.

    Raises:
        UserError: A response leaves no room for any of its prompt, or choices begin with the same tokens.
    """
    conversations = [user_assistant(each.prompt, each.gold) for each in questions]
    leads = [each.lead for each in questions]
    tokens = tokenize_query(tokenizer, conversations, max_length, "left", leads)
    for question, each in zip(questions, tokens, strict=True):
        if each.response[0]:
            raise UserError(
                f"test sample {question.id}: its response does not fit {max_length} tokens; "
                f"raise evaluate.max_length"
            )
    bits = np.zeros(len(questions))
    correct = np.full(len(questions), np.nan)
    ids, sizes = [each.ids for each in tokens], [len(each.ids) for each in tokens]
    # The first token of a response is predicted from the one before it, which has to be computed.
    shareable = [each.response.index(True) - 1 for each in tokens]
    passes = prefixes.forward(model, ids, shareable, token_budget, layers)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16):
        for batch, prefix, hidden in passes:
            rows, targets, places = [], [], []
            for row, i in enumerate(batch):
                # Position t is predicted from t - 1; the last token is the end of sequence.
                at = [t for t in range(1, sizes[i] - 1) if tokens[i].response[t]]
                rows.append(hidden[row, [t - 1 - prefix for t in at]])
                targets += [ids[i][t] for t in at]
                places += [i] * len(at)
            nats = nll(model, torch.cat(rows), torch.tensor(targets, device=model.device))
            np.add.at(bits, places, nats.double().cpu().numpy() / math.log(2))
            for row, i in enumerate(batch):
                if questions[i].choices is not None:
                    # The gold response is one of the choices, and begins with what all do.
                    shared, first = _first_tokens(tokenizer, questions[i])
                    before = tokens[i].response.index(True) + shared - 1
                    logits = model.get_output_embeddings()(hidden[row, before - prefix]).float()
                    best = int(logits[first].argmax())
                    correct[i] = float(best == questions[i].answer)
            done(batch)
    size = np.array([len(each.gold.strip().encode()) for each in questions])
    return Scores(bits, size, correct)


def _first_tokens(tokenizer: PreTrainedTokenizerBase, question: Question) -> tuple[int, list[int]]:
    """How many tokens all choices begin with, and the token of each that follows."""
    choices = tokenizer(question.choices, add_special_tokens=False)["input_ids"]
    for shared, first in enumerate(zip(*choices, strict=False)):
        if len(set(first)) == len(first):
            return shared, list(first)
        if len(set(first)) > 1:
            break
    raise UserError(f"test sample {question.id}: its choices begin with the same tokens; reword them")
