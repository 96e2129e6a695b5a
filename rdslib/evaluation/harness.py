"""The paper's protocols (section 6): what a model is asked on a task, and what its response scores.

A protocol is a YAML file of lm-eval's beside its task's readers: a prompt made of a test sample's fields,
how the model responds, and which function of `metrics` scores that. lm-eval runs it, with every prompt in the
Tulu chat format.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from rdslib import tasks
from rdslib.errors import UserError, needs
from rdslib.tasks.base import TaskSample

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rdslib.evaluation.likelihood import Question

FOLDER = Path(tasks.__path__[0])

# The Tulu chat format (`rdslib.data.chat`) as a template: a turn's content is stripped, as there.
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] | trim }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Measured:
    """What a protocol measured, one row a test sample.

    Attributes:
        metric: The name of the score.
        scores: Float [n], from 0 to 1, or NaN where a judge gives them.
        prompts: What the model was asked.
        responses: What it responded, once or several times; of choices, the likeliest.
    """

    metric: str
    scores: np.ndarray
    prompts: list[str]
    responses: list[list[str]]


def names() -> list[str]:
    """List the protocols."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def path_of(name: str) -> Path:
    """Return the file of a protocol; raise UserError where there is none."""
    if name not in names():  # no name is taken for a path
        raise UserError(f"unknown protocol {name!r}; protocols: {', '.join(names())}")
    return FOLDER / f"{name}.yaml"


def digest(name: str) -> str:
    """Return a checksum of a protocol's file and of the metrics: another one is another measurement."""
    files = (path_of(name), Path(__file__).with_name("metrics.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


class _Loader(yaml.SafeLoader):
    """Reads a protocol without lm-eval, which takes long to load; functions are left as names."""


_Loader.add_constructor("!function", lambda loader, node: str(node.value))


@functools.cache
def form(name: str) -> dict[str, Any]:
    """Return what `questions` takes of a protocol's file: it is a part of the key of what is scored by it."""
    config = yaml.load(path_of(name).read_text(encoding="utf-8"), _Loader)
    about = config["metadata"]
    return {
        "prompt": config["doc_to_text"],
        "lead": about.get("lead") or config.get("gen_prefix", ""),
        "delimiter": config.get("target_delimiter", ""),
        "context_tokens": about.get("context_tokens"),
    }


def questions(
    form: Mapping[str, Any], samples: Iterable[TaskSample], tokenizer: PreTrainedTokenizerBase
) -> list[Question]:
    """Ask for the gold response of test samples as a protocol does, exemplars and all.

    A response begins with what the protocol has it begin with. Where of a chain of thought the answer alone
    is known, that is what leads to the answer in the exemplars (the protocol's `lead`).
    """
    needs("study", "lm_eval")
    from lm_eval.utils import env

    from rdslib.evaluation.likelihood import Question

    prompt_of, lead_of = (env.from_string(form[name]) for name in ("prompt", "lead"))
    asked = []
    for sample in samples:
        row = _row(sample, tokenizer, form["context_tokens"])
        choices = None if sample.choices is None else [form["delimiter"] + each for each in sample.choices]
        prompt, lead = prompt_of.render(row), lead_of.render(row)
        gold = sample.gold or sample.messages[-1]["content"].strip()
        asked.append(Question(sample.id, prompt.strip(), lead, gold, choices, sample.answer))
    return asked


def measure(
    model: PreTrainedModel | Path,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    samples: Sequence[TaskSample],
    max_length: int,
    batch_size: int,
    seed: int,
    longest: int | None = None,
) -> Measured:
    """Put test samples to a model by a protocol; the model and its tokenizer are left as they were.

    Of a model's folder, vLLM computes the responses.
    Prompts of more than `max_length` tokens are cut on the left, or where the model has no room for more. The
    seed is for responses that are sampled; they have at most `longest` tokens, or what the protocol says.

    Raises:
        UserError: The protocol is unknown, a sample lacks a field that it needs, or the protocol's check of
            the samples fails.
    """
    needs("study", "lm_eval")
    import datasets
    from lm_eval import evaluate
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml
    from transformers import set_seed

    config = load_yaml(path_of(name))
    about = config["metadata"]
    if longest is not None and "generation_kwargs" in config:
        generation = config["generation_kwargs"]
        generation["max_gen_toks"] = min(longest, generation["max_gen_toks"])
    rows = [_row(sample, tokenizer, about.get("context_tokens")) for sample in samples]
    _check(name, config, rows)
    if "check" in about:
        about["check"](rows)
    for noisy in ("lm_eval", "lm-eval"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    task = ConfigurableTask(
        config={
            **config,
            "test_split": "test",
            "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(rows)},
            "num_fewshot": 0,  # exemplars are in the prompt
            "metadata": {"version": 1},
        }
    )
    room = config.get("generation_kwargs", {}).get("max_gen_toks", 0)
    longest = min(max_length + room, tokenizer.model_max_length)
    with _asked(model, tokenizer, batch_size, longest, seed) as lm:
        set_seed(seed)
        found = evaluate(lm, {"tasks": {name: task}}, bootstrap_iters=0, apply_chat_template=True)
    by_place = {row["doc_id"]: row for row in found["samples"][name]}
    ordered = [by_place[at] for at in range(len(samples))]
    (key,) = (each["metric"] for each in config["metric_list"])
    return Measured(
        about["metric"],
        np.array([float(row[key]) for row in ordered]),
        [row["arguments"][0][0] for row in ordered],
        [_responses(config, sample, row) for sample, row in zip(samples, ordered, strict=True)],
    )


@contextmanager
def _asked(
    model: PreTrainedModel | Path,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    max_length: int,
    seed: int,
) -> Iterator[LM]:
    """What lm-eval puts prompts to, in the Tulu chat format."""
    if isinstance(model, Path):
        if find_spec("vllm") is None:
            raise UserError("evaluate.engine: vllm is not installed; run `pip install vllm`, or leave it out")
        from lm_eval.models.vllm_causallms import VLLM

        lm = VLLM(pretrained=str(model), max_model_len=max_length, seed=seed)
        lm.tokenizer.chat_template = TEMPLATE
        yield lm
        return
    from lm_eval.models.huggingface import HFLM

    kept = tokenizer.chat_template, model.training
    try:
        tokenizer.chat_template = TEMPLATE
        yield HFLM(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=batch_size,
            max_length=max_length,
            truncation=True,
        )
    finally:
        tokenizer.chat_template = kept[0]
        model.train(kept[1])


def _row(
    sample: TaskSample, tokenizer: PreTrainedTokenizerBase, context_tokens: int | None
) -> dict[str, Any]:
    """The fields that a protocol may use, with contexts cut to so many tokens."""
    row = asdict(sample)
    if context_tokens is not None:
        row["context"] = _cut(row["context"], tokenizer, context_tokens)
        row["exemplars"] = [
            {**each, "context": _cut(each["context"], tokenizer, context_tokens)}
            for each in row["exemplars"] or []
        ]
    return row


def _cut(text: str, tokenizer: PreTrainedTokenizerBase, tokens: int) -> str:
    """The longest start of a text that has no more than so many tokens."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return text if len(offsets) <= tokens else text[: offsets[tokens - 1][1]]


def _check(name: str, config: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Raise UserError for a row without a field that the protocol's templates name."""
    keys = ("doc_to_text", "doc_to_choice", "doc_to_target", "gen_prefix")
    text = " ".join(str(config.get(key, "")) for key in keys)
    wanted = [field for field in ("question", "references", "program", "choices") if "{{" + field in text]
    for row in rows:
        for field in wanted:
            if not row[field]:
                raise UserError(
                    f"protocol {name}: test sample {row['id']} has no {field}; use a reader that gives one"
                )


def _responses(config: dict[str, Any], sample: TaskSample, row: dict[str, Any]) -> list[str]:
    """What the model responded, from lm-eval's record of a sample."""
    if config["output_type"] == "multiple_choice":
        likelihoods = [each[0] for each in row["filtered_resps"]]
        assert sample.choices is not None
        return [sample.choices[int(np.argmax(likelihoods))]]
    (found,) = row["resps"]
    return [str(each) for each in found]
