"""What steps cost, from a sample of the pool: tokens, FLOPs, and how fast this device makes features."""

from __future__ import annotations

import math
import os
import time
from array import array
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from rdslib.data.chat import Sample, format_chat, user_assistant
from rdslib.data.download import cache_dir
from rdslib.errors import UserError
from rdslib.methods import COST, Extraction, Extractor, Preparation, get_extractor
from rdslib.methods.base import ModelUse, token_counts
from rdslib.models.flops import FORWARD, TRAINING
from rdslib.params import Train
from rdslib.pipeline.step import File, Step
from rdslib.seeds import generator

if TYPE_CHECKING:
    from rdslib.pipeline.pipeline import Pipeline

# Rows of the pool that are looked at.
SAMPLE = 512
# What is measured: for how many seconds, in how many parts.
SECONDS, PARTS = 5.0, 3


class Total(NamedTuple):
    """A number between two others: an estimate in its 95% interval, or a measurement in its range."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Total:
        """All three, scaled."""
        return Total(*(float(factor * each) for each in self))


NOTHING = Total(0, 0, 0)


def exactly(value: float) -> Total:
    """A number that is known."""
    return Total(value, value, value)


def added(totals: Iterable[Total | None]) -> Total | None:
    """The sum, or None if one of them is not known.

    The ends are added as they are, which is a wider interval than independence would give.
    """
    known: list[Total] = []
    for each in totals:
        if each is None:
            return None
        known.append(each)
    return Total(*(math.fsum(ends) for ends in zip(NOTHING, *known, strict=True)))


class PoolSample:
    """The characters of each sample of a pool (4 bytes a sample), and a random sample of the samples.

    Args:
        seed: What it is drawn with.
    """

    def __init__(self, seed: int) -> None:
        self._all = array("I")
        self._kept: list[tuple[int, Sample, Any]] = []
        self._rng = generator(seed, "plan")

    def add(self, sample: Sample, row: Any = None) -> None:
        """Look at the next sample, with what else is to be kept of it."""
        size, seen = len(format_chat(sample.messages, "")), len(self._all)
        self._all.append(size)
        if len(self._kept) < SAMPLE:
            self._kept.append((size, sample, row))
        elif (at := int(self._rng.integers(seen + 1))) < SAMPLE:
            self._kept[at] = (size, sample, row)

    def close(self) -> None:
        """Bring the sample into random order, so that its first samples are one too."""
        order = self._rng.permutation(len(self._kept)).tolist()
        self.all_sizes = np.array(self._all)
        self.sizes = np.array([self._kept[i][0] for i in order])
        self.samples = [self._kept[i][1] for i in order]
        self.rows = [self._kept[i][2] for i in order]


def estimate_total(found: np.ndarray, sizes: np.ndarray, all_sizes: np.ndarray, limit: float) -> Total:
    """Estimate the total over a pool of what is known of a random sample, by its ratio to the characters.

    What is found is roughly in proportion to the characters, up to `limit` of them, where rows are cut.

    Args:
        found: What is known of each sampled row: float64 [n].
        sizes: Their characters: [n].
        all_sizes: The characters of all rows: [N].
        limit: Characters at which rows are cut.

    Returns:
        The total. Its 95% interval is that of the residuals, with Student's t, and is empty if all rows are
        in the sample.
    """
    n, rows = len(found), len(all_sizes)
    if n == rows:
        return exactly(float(found.sum()))
    from scipy.stats import t

    counted = np.minimum(sizes, limit)
    ratio = found.sum() / counted.sum()
    value = float(ratio * np.minimum(all_sizes, limit).sum())
    spread = float(np.std(found - ratio * counted, ddof=1)) * math.sqrt((1 - n / rows) / n)
    error = float(t.ppf(0.975, n - 1)) * rows * spread
    return Total(value, max(0.0, value - error), value + error)


class Speed(NamedTuple):
    """What an extractor does on this device.

    Attributes:
        flops: FLOPs a second, of each part.
        cost: FLOPs of each measured row, the first of the sample: float64 [m].
        tokens: How many tokens these rows had.
        row_bytes: Bytes of features that a row takes, `COST` among them.
    """

    flops: list[float]
    cost: np.ndarray
    tokens: int
    row_bytes: float

    def seconds(self, flops: Total) -> Total:
        """How long some FLOPs take: at the mean of all parts, the fastest and the slowest."""
        mean = len(self.flops) / sum(1 / each for each in self.flops)
        return Total(flops.value / mean, flops.low / max(self.flops), flops.high / min(self.flops))


def measure(extractor: Extractor, given: Extraction, samples: Sequence[Sample], least: int) -> Speed:
    """Make features of as many samples as fit in `SECONDS`, in `PARTS`, after a warm-up.

    A part takes as long as the longer of reading and making, which go side by side in a selection. No part
    has fewer than `least` samples, such as fill a batch; where these take longer than all parts should, there
    is one part.
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
    parts = [timed(samples[:count])]
    while parts[0][0] < SECONDS / 10 and count < len(samples):
        count *= 2
        parts = [timed(samples[:count])]
    if parts[0][0] <= SECONDS:
        fitting = int(count * SECONDS / PARTS / parts[0][0])
        size = min(-(-len(samples) // PARTS), max(least, fitting))
        starts = range(0, min(PARTS * size, len(samples)), size)
        parts = [timed(samples[start : start + size]) for start in starts]
    cost = np.concatenate([made.rows[COST] for _, made in parts])
    return Speed(
        [float(made.rows[COST].sum()) / seconds for seconds, made in parts],
        cost,
        sum(made.counts.get("tokens", 0) for _, made in parts),
        sum(rows.nbytes for _, made in parts for rows in made.rows.values()) / len(cost),
    )


class Costs:
    """What the steps of a pipeline cost, from a sample of its pool.

    Args:
        pipeline: The pipeline.
        steps: All that may be asked about.
        model: The folder of the language model.
        pool: The sample of the pool.
        samples: Those of other files of steps: queries and test samples, by the step's hash and the file.
        scratch: An empty folder.

    Raises:
        UserError: The model cannot be planned for.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        steps: Sequence[Step],
        model: Path,
        pool: PoolSample,
        samples: Mapping[tuple[str, str], Sequence[Sample]],
        scratch: Path,
    ) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        from rdslib.models.device import compute_dtype
        from rdslib.models.loading import load_tokenizer, non_embedding_parameters

        self.pipeline, self.settings, self.scratch = pipeline, pipeline.settings, scratch
        self.model, self.pool, self.samples = model, pool, samples
        self.features = [each for each in steps if each.name == "features"]
        self.tokenizer = load_tokenizer(model)
        try:
            self.config = AutoConfig.from_pretrained(str(model))
            with torch.device("meta"):
                bare = AutoModelForCausalLM.from_config(self.config)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"model {model}: cannot be planned for ({reason}); give a causal LM") from error
        self.parameters = non_embedding_parameters(bare)
        self.weights = sum(each.numel() for each in bare.parameters())
        self.bytes_a_number = compute_dtype().itemsize
        self.why_not: dict[str, str] = {}
        self._speeds: dict[str, Speed | None] = {}

    def lengths(self, samples: Sequence[Sample], cut: int, queries: bool = False) -> np.ndarray:
        """Tokens of each sample: float64 [n]."""
        return token_counts(self.tokenizer, samples, cut, queries)

    @cached_property
    def characters_a_token(self) -> float:
        """Of the samples that are not cut; if all are, what gives the shortest of them a whole context."""
        cut, sizes = self.settings.encode.max_length, self.pool.sizes
        lengths = self.lengths(self.pool.samples, cut)
        whole = lengths < cut
        return float(sizes[whole].sum() / lengths[whole].sum() if whole.any() else sizes.min() / cut)

    def over_pool(self, found: np.ndarray, cut: int) -> Total:
        """The pool's total of what is known of the sample's first rows, which are cut at `cut` tokens."""
        limit = cut * self.characters_a_token
        return estimate_total(found, self.pool.sizes[: len(found)], self.pool.all_sizes, limit)

    def cost(self, steps: Sequence[Step]) -> tuple[Total, Total]:
        """Tokens and FLOPs of steps that are made together.

        Raises:
            UserError: They follow from a measurement that fails.
        """
        of_kind = {"features": self._features, "prepare": self._preparation, "train": self._training,
                   "evaluate": self._evaluation}  # fmt: skip
        name = steps[0].name
        return of_kind[name](steps) if name in of_kind else (NOTHING, NOTHING)

    def _features(self, steps: Sequence[Step]) -> tuple[Total, Total]:
        given = steps[0].arguments
        maker = get_extractor(given["extractor"])
        queries = self._samples_of(given["samples"]) if given["queries"] else None
        # A smaller pool is drawn at random from the whole.
        share = self._size(given) / len(self.pool.all_sizes)
        use = self.use(steps)
        if use is None:
            return self._by_measurement(maker, queries, share)
        found = maker.tokens(self.settings, self.tokenizer, queries or self.pool.samples, queries is not None)
        if queries is not None:
            tokens = exactly(float(found.sum()))
        else:
            tokens = self.over_pool(found, maker.cut(self.settings)).times(share)
        return tokens, tokens.times(use.operations * self.parameters)

    def _by_measurement(
        self, maker: Extractor, queries: Sequence[Sample] | None, share: float
    ) -> tuple[Total, Total]:
        """By the FLOPs that the measured rows took, and of queries by their characters."""
        speed = self.speed(maker.name)
        if speed is None:
            reason = self.why_not[maker.name]
            raise UserError(f"{maker.name}: what it costs is known by measuring alone ({reason})")
        flops = self.over_pool(speed.cost, maker.cut(self.settings)).times(share)
        if queries is not None:
            limit = maker.cut(self.settings) * self.characters_a_token
            asked = sum(min(limit, len(format_chat(each.messages, ""))) for each in queries)
            known = np.minimum(self.pool.sizes[: len(speed.cost)], limit).sum()
            flops = exactly(float(asked * speed.cost.sum() / known))
        return flops.times(speed.tokens / (speed.cost.sum() or 1)), flops

    def _preparation(self, steps: Sequence[Step]) -> tuple[Total, Total]:
        given = steps[0].arguments
        trained = get_extractor(given["extractor"]).trains_on(self.settings, self._size(given))
        return self._fine_tuning(*trained) if trained else (NOTHING, NOTHING)

    def _training(self, steps: Sequence[Step]) -> tuple[Total, Total]:
        given = steps[0].arguments
        return self._fine_tuning(given["selection"].arguments["k"], given["settings"])

    def _fine_tuning(self, samples: int, params: Train) -> tuple[Total, Total]:
        pool = self.over_pool(self.lengths(self.pool.samples, params.max_length), params.max_length)
        tokens = pool.times(params.epochs * samples / len(self.pool.all_sizes))
        return tokens, tokens.times(TRAINING * self.parameters)

    def _evaluation(self, steps: Sequence[Step]) -> tuple[Total, Total]:
        given = steps[0].arguments
        tests = self._samples_of(given["task"])
        tokens = exactly(float(self.lengths(tests, given["max_length"], queries=True).sum()))
        return tokens, tokens.times(FORWARD * self.parameters)

    def _samples_of(self, file: File) -> Sequence[Sample]:
        return self.samples[file.step.hash, file.name]

    def _size(self, arguments: Mapping[str, Any]) -> int:
        """How many samples of the pool a step reads."""
        return arguments["draw"][0] if arguments["draw"] else len(self.pool.all_sizes)

    def use(self, steps: Sequence[Step]) -> ModelUse | None:
        """How features that are made together use the language model."""
        maker = get_extractor(steps[0].arguments["extractor"])
        wanted = [each.arguments["feature"] for each in steps]
        return maker.model_use(self.settings, wanted, self.config)

    def speed(self, name: str) -> Speed | None:
        """What an extractor does on this device; None if that cannot be had, and `why_not`."""
        if name not in self._speeds:
            try:
                self._speeds[name] = self._measure(get_extractor(name))
            except (UserError, ValueError, RuntimeError, MemoryError) as error:
                self.why_not[name] = " ".join(str(error).split())[:200]
                self._speeds[name] = None
        return self._speeds[name]

    def _measure(self, maker: Extractor) -> Speed:
        """Measure an extractor; of one that no step asks for, as if RDS+ did."""
        made = [s for s in self.features if s.arguments["extractor"] == maker.name]
        made = [s for s in made if s.group == made[0].group]
        needed, there = self.weights * self.bytes_a_number, memory_of_device()
        if (not made or self.use(made)) and needed > there:
            raise UserError(
                f"the weights take {needed / 2**30:.1f} GiB, and this device has {there / 2**30:.1f} GiB"
            )
        prepared = self._prepared(maker, made[0].arguments["prepared"]) if made else None
        wanted = tuple(s.arguments["feature"] for s in made) or ("weighted_all",)
        given = Extraction(self.settings, self.model, prepared, wanted, queries=False)
        samples = self.pool.samples
        mean = float(self.lengths(samples, self.settings.encode.max_length).mean())
        return measure(maker, given, samples, maker.least(self.settings, mean))

    def _prepared(self, maker: Extractor, step: Step | None) -> Path | None:
        """What the extractor has prepared, or something as fast, made from one short sample."""
        if step is None or self.pipeline.store.has(step):
            return None if step is None else self.pipeline.store.path(step)
        out, downloads = self.scratch / maker.name, self.scratch / "downloads"
        # What was downloaded before is used, and more is kept for now.
        for folder in (out, downloads):
            folder.mkdir(exist_ok=True)
        for file in cache_dir().glob("*"):
            if file.suffix != ".lock" and not (downloads / file.name).exists():
                (downloads / file.name).symlink_to(file)
        sample = Sample("", "", user_assistant("Yes?", "Yes."))
        rows = {feature: np.ones((1, 1)) for feature in maker.prepare_features}
        bar: tqdm[Any] = tqdm(disable=True)
        return maker.rehearse(Preparation(self.settings, self.model, [sample], rows, out, bar, downloads))

    @property
    def notes(self) -> list[str]:
        """What was measured, and what was not."""
        made = {name: found for name, found in self._speeds.items() if found is not None}
        notes = [f"not measured: {name} ({why})" for name, why in self.why_not.items()]
        if made:
            notes.append(
                f"seconds: at the speed of {', '.join(made)} on sampled rows on this device ({PARTS} parts "
                f"of about {SECONDS / PARTS:.1f} s after a warm-up, slowest to fastest); loading models, "
                "ranking and writing are not counted"
            )
        alone = [name for name, found in made.items() if len(found.flops) == 1]
        if alone:
            notes.append(f"seconds by {', '.join(alone)} have no range: it is one measurement")
        return notes


def memory_of_device() -> int:
    """Bytes of memory that the device has."""
    import torch

    from rdslib.models.device import device

    if device().type == "cuda":
        return torch.cuda.mem_get_info(device())[1]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
