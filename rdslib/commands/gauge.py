"""How fast the extractors of a method are on this device, and what its other parts take beside that."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from tqdm import tqdm

from rdslib.commands.estimates import NOTHING, Part, Total, estimate_total, exactly, taken
from rdslib.data.chat import Sample, format_chat, user_assistant
from rdslib.data.download import Archives, cache_dir
from rdslib.errors import UserError
from rdslib.methods import COST, Extraction, Extractor, Preparation, features, get_extractor
from rdslib.methods.base import tokenize
from rdslib.methods.embed import SentenceEmbedding, unpack
from rdslib.methods.ifd import PreExperienced, turns_alone
from rdslib.methods.less import LessGradients
from rdslib.methods.lm import LanguageModel
from rdslib.models.device import compute_dtype, device
from rdslib.models.flops import FORWARD, TRAINING
from rdslib.params import Experiment, Train
from rdslib.pipeline.step import Step
from rdslib.pipeline.study import Study

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What is measured: for how many seconds, in how many repeats.
SECONDS, REPEATS = 5.0, 3
# Extractors whose FLOPs follow from the language model's tokens.
BY_TOKENS = (LanguageModel, PreExperienced, LessGradients)


class Measured(NamedTuple):
    """Of each repeat FLOPs and tokens a second, and of the measured rows, the first of the sample, the FLOPs
    of each (float64 [m]), how many tokens they had, and the bytes of features that a row takes.
    """

    flops: list[float]
    tokens: list[float]
    cost: np.ndarray
    total_tokens: int
    row_bytes: float


def measure(extractor: Extractor, given: Extraction, samples: Sequence[Sample], least: int) -> Measured:
    """Make features of as many samples as fit in `SECONDS`, in `REPEATS` parts, after a warm-up.

    A part takes as long as the longer of reading and making, which go side by side in a selection. No
    part has fewer than `least` samples, such as fill a batch; where these take longer than all parts should,
    there is one part.
    """
    extract = extractor.open(given)

    def timed(some: Sequence[Sample]) -> tuple[float, Any]:
        started = time.monotonic()
        read = extract.read(some)
        between = time.monotonic()
        made = extract.make(read, lambda batch: None)
        return max(between - started, time.monotonic() - between, 1e-9), made

    timed(samples[:least])  # the first is several times as slow
    count = least
    seconds, made = timed(samples[:count])
    while seconds < SECONDS / 10 and count < len(samples):
        count *= 2
        seconds, made = timed(samples[:count])
    parts = [(seconds, made)]
    if seconds <= SECONDS:
        size = min(-(-len(samples) // REPEATS), max(least, int(count * SECONDS / REPEATS / seconds)))
        starts = range(0, min(REPEATS * size, len(samples)), size)
        parts = [timed(samples[start : start + size]) for start in starts]
    cost = np.concatenate([made.rows[COST] for _, made in parts])
    seen = [made.counts.get("tokens", 0) for _, made in parts]
    return Measured(
        [float(made.rows[COST].sum()) / seconds for seconds, made in parts],
        [tokens / seconds for tokens, (seconds, _) in zip(seen, parts, strict=True)],
        cost,
        sum(seen),
        sum(rows.nbytes for _, made in parts for rows in made.rows.values()) / len(cost),
    )


def without_weights(name: Path) -> PreTrainedModel:
    """A causal language model as its configuration describes it; raises UserError if there is none."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(str(name))
        with torch.device("meta"):
            return cast("PreTrainedModel", AutoModelForCausalLM.from_config(config))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"model {name}: cannot be planned for ({reason}); give a causal LM") from error


def trained_on(extractor: Extractor, e: Experiment, size: int) -> tuple[int, Train] | None:
    """How many samples of a pool of `size` an extractor trains a model on, and how; None if on none."""
    if isinstance(extractor, PreExperienced) and e.ifd is not None:
        return min(size, e.ifd.clusters * e.ifd.per_cluster), e.ifd.train
    if isinstance(extractor, LessGradients) and e.less is not None:
        return max(1, round(e.less.warmup_share * size)), e.less.train
    return None


def memory_of_device() -> int:
    """Bytes of memory that the device has."""
    if device().type == "cuda":
        return torch.cuda.mem_get_info(device())[1]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@dataclass
class Gauge:
    """Tells what steps cost.

    `samples`, `sizes`: a random sample of the pool, and its characters; `all_sizes`: those of the whole pool;
    `queries`, `tests`: samples by task; `scratch`: a folder; `steps`: all that may be asked about.
    """

    study: Study
    model: Path
    samples: list[Sample]
    sizes: np.ndarray
    all_sizes: np.ndarray
    queries: Mapping[str, Sequence[Sample]]
    tests: Mapping[str, Sequence[Sample]]
    scratch: Path
    steps: list[Step]

    def __post_init__(self) -> None:
        from rdslib.models.loading import load_tokenizer, non_embedding_parameters

        self.experiment = self.study.experiment
        self.tokenizer = load_tokenizer(self.model)
        self.bare = without_weights(self.model)
        self.parameters = non_embedding_parameters(self.bare)
        self.weights = sum(p.numel() for p in self.bare.parameters())
        self.why_not: dict[str, str] = {}
        self._measured: dict[str, Measured | None] = {}

    def lengths(self, samples: Sequence[Sample], cut: int, queries: bool = False) -> np.ndarray:
        """Tokens of each sample: float64 [n]."""
        tokens = tokenize(self.tokenizer, samples, cut, queries) if samples else []
        return np.array([len(each.ids) for each in tokens], dtype=np.float64)

    @cached_property
    def characters_a_token(self) -> float:
        """Of the samples that are not cut; if all are, what gives the shortest of them a whole context."""
        cut = self.experiment.encode.max_length
        lengths = self.lengths(self.samples, cut)
        whole = lengths < cut
        return float(
            self.sizes[whole].sum() / lengths[whole].sum() if whole.any() else self.sizes.min() / cut
        )

    def over_pool(self, found: np.ndarray, cut: int) -> Total:
        """The pool's total of what is known of the sample's first rows, which are cut at `cut` tokens."""
        return estimate_total(found, self.sizes[: len(found)], self.all_sizes, cut * self.characters_a_token)

    def passed(self, extractor: Extractor, samples: Sequence[Sample], queries: bool) -> np.ndarray:
        """Tokens of each sample that an extractor of the language model passes through it: float64 [n]."""
        cut = self.experiment.encode.max_length
        lengths = self.lengths(samples, cut, queries)
        if isinstance(extractor, LessGradients) and self.experiment.less is not None:
            return lengths * self.experiment.less.train.epochs
        if isinstance(extractor, PreExperienced):
            whole = tokenize(self.tokenizer, samples, cut, queries)
            owners, turns = turns_alone(self.tokenizer, samples, whole, cut)
            return lengths + np.bincount(owners, [len(t.ids) for t in turns], minlength=len(samples))
        return lengths

    def cost(self, step: Step) -> tuple[Total, Total]:
        """Tokens and FLOPs of a step; raises UserError where they follow from a measurement that fails."""
        p, e = step.params, self.experiment
        if step.stage == "train":
            return self._training(step.inputs["selection"].params["k"], e.train)
        if step.stage == "evaluate":
            lengths = self.lengths(self.tests[p["task"]], e.evaluate.max_length, queries=True)
            return self._of_model(exactly(float(lengths.sum())), FORWARD)
        if step.stage == "prepare":
            size = p["pool"][0] if p["pool"] else len(self.all_sizes)
            trained = trained_on(get_extractor(p["extractor"]), e, size)
            return self._training(*trained) if trained else (NOTHING, NOTHING)
        if step.stage != "encode":
            return NOTHING, NOTHING
        extractor = get_extractor(p["extractor"])
        queries = self.queries[p["task"]] if p["task"] else None
        # A smaller pool is drawn at random from the whole.
        share = min(1.0, step.weight / len(self.all_sizes))
        if not isinstance(extractor, BY_TOKENS):
            return self._by_measurement(extractor, queries, share)
        if queries is not None:
            tokens = exactly(float(self.passed(extractor, queries, True).sum()))
        else:
            found = self.passed(extractor, self.samples, False)
            tokens = self.over_pool(found, e.encode.max_length).times(share)
        return self._of_model(tokens, TRAINING if isinstance(extractor, LessGradients) else FORWARD)

    def _of_model(self, tokens: Total, operations: int) -> tuple[Total, Total]:
        return tokens, tokens.times(operations * self.parameters)

    def _by_measurement(
        self, extractor: Extractor, queries: Sequence[Sample] | None, share: float
    ) -> tuple[Total, Total]:
        """By the FLOPs that the measured rows took, and of queries by their characters."""
        measured = self.measured(extractor.name)
        if measured is None:
            reason = self.why_not[extractor.name]
            raise UserError(f"{extractor.name}: what it costs is known by measuring alone ({reason})")
        cut = self.experiment.encode.max_length
        if isinstance(extractor, SentenceEmbedding):
            cut = extractor.params(self.experiment).max_length
        flops = self.over_pool(measured.cost, cut).times(share)
        if queries is not None:
            limit = cut * self.characters_a_token
            asked = sum(min(limit, len(format_chat(each.messages, ""))) for each in queries)
            known = np.minimum(self.sizes[: len(measured.cost)], limit).sum()
            flops = exactly(float(asked * measured.cost.sum() / known))
        return flops.times(measured.total_tokens / (measured.cost.sum() or 1)), flops

    def _training(self, samples: int, params: Train) -> tuple[Total, Total]:
        pool = self.over_pool(self.lengths(self.samples, params.max_length), params.max_length)
        return self._of_model(pool.times(params.epochs * samples / len(self.all_sizes)), TRAINING)

    def part(self, step: Step) -> Part:
        """A step's tokens, FLOPs and seconds on this device; of one that exists, what it took."""
        if self.study.store.has(step):
            manifest = self.study.store.manifest(step)
            flops = manifest["counts"].get("flops", 0.0)
            if step.stage == "encode":
                flops = float(features.read_all(self.study.store.path(step), COST).sum())
            return replace(taken(manifest), name=step.label, flops=exactly(flops))
        tokens, flops = self.cost(step)
        # What is not measured itself goes at the speed of a plain forward pass.
        name = step.params["extractor"] if step.stage == "encode" else "lm"
        if flops == NOTHING or (measured := self.measured(name)) is None:
            return Part(step.label, tokens, flops, NOTHING if flops == NOTHING else None)
        speeds = measured.flops
        mean = len(speeds) / sum(1 / each for each in speeds)  # as of all repeats together
        seconds = Total(flops.value / mean, flops.low / max(speeds), flops.high / min(speeds))
        found = measured.tokens
        rate = Total(len(found) / sum(1 / max(each, 1e-9) for each in found), min(found), max(found))
        return Part(step.label, tokens, flops, seconds, rate if step.stage == "encode" else None)

    def measured(self, name: str) -> Measured | None:
        """What an extractor does on this device; None if that cannot be had, and `why_not`."""
        if name not in self._measured:
            try:
                self._measured[name] = self._measure(name)
            except (UserError, RuntimeError, MemoryError) as error:
                self.why_not[name] = " ".join(str(error).split())[:200]
                self._measured[name] = None
        return self._measured[name]

    def _measure(self, name: str) -> Measured:
        extractor = get_extractor(name)
        made = [s for s in self.steps if s.stage == "encode" and s.params["extractor"] == name]
        step = next((s for s in made if s.params["task"] is None), None)
        needed, there = self.weights * compute_dtype().itemsize, memory_of_device()
        if not isinstance(extractor, SentenceEmbedding) and needed > there:
            raise UserError(
                f"the weights take {needed / 2**30:.1f} GiB, and this device has {there / 2**30:.1f} GiB"
            )
        prepared = self._prepared(extractor, step.inputs.get("prepared")) if step else None
        wanted = tuple(step.params["wanted"]) if step else ("weighted_all",)
        given = Extraction(self.experiment, self.model, prepared, wanted, queries=False)
        least = 2  # which give an interval of what is known by measuring alone
        if isinstance(extractor, SentenceEmbedding):
            least = max(least, extractor.params(self.experiment).batch_size)
        elif isinstance(extractor, LessGradients):
            least = 1  # whose projection alone may take minutes
        elif isinstance(extractor, BY_TOKENS):
            length = self.lengths(self.samples, self.experiment.encode.max_length).mean()
            least = max(1, round(self.experiment.encode.token_budget / length))
        return measure(extractor, given, self.samples, least)

    def _prepared(self, extractor: Extractor, step: Step | None) -> Path | None:
        """What the extractor has prepared, or something as fast: a model trained on one short sample."""
        if step is None or self.study.store.has(step):
            return self.study.store.path(step) if step else None
        out = self.scratch / extractor.name
        out.mkdir()
        e, bar = self.experiment, tqdm(disable=True)
        if isinstance(extractor, SentenceEmbedding):
            params = extractor.params(e)
            if params.download is None:
                extractor.prepare(Preparation(e, self.model, [], {}, out, bar, cache_dir()))
            else:
                archives = Archives(e.downloads, self._downloads())
                unpack(archives.members(params.download, [params.members or "*"]), out)
            return out
        trained = trained_on(extractor, e, 1)
        if trained is None:
            raise UserError("what it prepares is not known to a plan")
        if isinstance(extractor, PreExperienced) and trained[1].method == "full":
            return self.model  # a fully trained model is loaded and used as the one that it was made from
        # The one update is to change something.
        train = {"train": trained[1].model_copy(update={"warmup_ratio": 0.0})}
        quick = e.model_copy(
            update={
                "ifd": e.ifd and e.ifd.model_copy(update=train),
                "less": e.less and e.less.model_copy(update=train),
            }
        )
        sample = Sample("", "", user_assistant("Yes?", "Yes."))
        rows = {feature: np.ones((1, 1)) for feature in extractor.prepare_features}
        extractor.prepare(Preparation(quick, self.model, [sample], rows, out, bar, cache_dir()))
        return out

    def _downloads(self) -> Path:
        """A folder that has the downloads that are there, and that takes more of them for now."""
        folder = self.scratch / "downloads"
        folder.mkdir()
        for file in cache_dir().glob("*"):
            if file.suffix != ".lock":
                (folder / file.name).symlink_to(file)
        return folder

    @property
    def remarks(self) -> list[str]:
        """What was measured, and what was not."""
        made = {name: found for name, found in self._measured.items() if found is not None}
        remarks = []
        if made:
            remarks.append(
                f"seconds: at the speed of {', '.join(made)} on sampled rows on this device ({REPEATS} parts "
                f"of about {SECONDS / REPEATS:.1f} s after a warm-up, slowest to fastest); loading models, "
                "ranking and writing are not counted"
            )
        alone = [name for name, found in made.items() if len(found.flops) == 1]
        if alone:
            remarks.append(f"seconds by {', '.join(alone)} have no range: it is one measurement")
        return remarks + [f"not measured: {name} ({why})" for name, why in self.why_not.items()]

    def row_bytes(self, step: Step) -> float:
        """Bytes of features that a sample of an `encode` step takes."""
        name, less = step.params["extractor"], self.experiment.less
        if name == "lm":
            wide = 2 * self.bare.config.hidden_size
            return 8 + sum(4 if each == "nll" else wide for each in step.params["wanted"])
        if name == "less" and less is not None:
            return 8 + 2 * less.train.epochs * less.dimension
        measured = None if name == "ifd" else self.measured(name)
        return 8 + 4 if measured is None else measured.row_bytes
