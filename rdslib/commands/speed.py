"""What steps cost, from a sample of the pool: tokens, FLOPs, and how fast this device makes features."""

from __future__ import annotations

import math
import os
import time
from array import array
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from rdslib.data.chat import Sample, format_chat, user_assistant
from rdslib.data.download import cache_dir
from rdslib.errors import UserError
from rdslib.methods import COST, Extracted, Extraction, Extractor, Preparation, get_extractor
from rdslib.methods.base import ModelUse, tokenize
from rdslib.models.flops import FORWARD, TRAINING
from rdslib.params import Train
from rdslib.pipeline.step import File, Step
from rdslib.seeds import generator

if TYPE_CHECKING:
    from rdslib.pipeline.pipeline import Pipeline

# Rows of the pool that are looked at, and for about how many seconds speed is measured.
SAMPLE, SECONDS = 512, 5.0


class Total(NamedTuple):
    """An estimate in its 95% interval."""

    value: float
    low: float
    high: float


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

    Args:
        found: What is known of each sampled row, roughly in proportion to its characters: float64 [n].
        sizes: Their characters: [n].
        all_sizes: The characters of all rows: [N].
        limit: Characters at which rows are cut.

    Returns:
        The total. Its interval is that of the residuals, with Student's t; it is empty if n is N.
    """
    n, rows = len(found), len(all_sizes)
    if n == rows:
        return Total(*[float(found.sum())] * 3)
    from scipy.stats import t

    counted = np.minimum(sizes, limit)
    ratio = found.sum() / counted.sum()
    value = float(ratio * np.minimum(all_sizes, limit).sum())
    spread = float(np.std(found - ratio * counted, ddof=1)) * math.sqrt((1 - n / rows) / n)
    error = float(t.ppf(0.975, n - 1)) * rows * spread
    return Total(value, max(0.0, value - error), value + error)


class Speed(NamedTuple):
    """What an extractor does on this device: FLOPs a second, and what is known of the measured rows.

    These are the first of the sample: `cost` has the FLOPs of each (float64 [m]), `tokens` how many they had,
    `row_bytes` how many bytes of features a row takes, with `COST`.
    """

    flops: float
    cost: np.ndarray
    tokens: int
    row_bytes: float


def measure(extractor: Extractor, given: Extraction, samples: Sequence[Sample], least: int) -> Speed:
    """Make features of more and more samples for about `SECONDS`, from `least` on, after a warm-up.

    Reading and making go side by side in a selection, so what takes longer counts.
    """
    extract = extractor.open(given)
    extract.make(extract.read(samples[:least]), lambda batch: None)  # the first is several times as slow
    found: list[Extracted] = []
    start, size, spent = 0, least, 0.0
    while start < len(samples) and (not found or spent < SECONDS):
        began = time.monotonic()
        read = extract.read(samples[start : start + size])
        between = time.monotonic()
        found.append(extract.make(read, lambda batch: None))
        spent += max(between - began, time.monotonic() - between, 1e-9)
        start, size = start + size, 2 * size
    cost = np.concatenate([each.rows[COST] for each in found])
    tokens = sum(each.counts.get("tokens", 0) for each in found)
    stored = sum(rows.nbytes for each in found for rows in each.rows.values())
    return Speed(float(cost.sum()) / spent, cost, tokens, stored / len(cost))


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
        tokens = tokenize(self.tokenizer, samples, cut, queries) if samples else []
        return np.array([len(each.ids) for each in tokens], dtype=np.float64)

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

    def cost(self, steps: Sequence[Step]) -> tuple[float, float]:
        """Tokens and FLOPs of steps that are made together.

        Raises:
            UserError: They follow from a measurement that fails.
        """
        given, name = steps[0].arguments, steps[0].name
        if name == "features":
            return self._features(steps)
        if name == "train":
            return self._training(given["selection"].arguments["k"], given["settings"])
        if name == "prepare":
            trained = get_extractor(given["extractor"]).trains_on(self.settings, self._size(given))
            return self._training(*trained) if trained else (0.0, 0.0)
        if name == "evaluate":
            lengths = self.lengths(self._samples_of(given["task"]), given["max_length"], queries=True)
            return lengths.sum(), lengths.sum() * FORWARD * self.parameters
        return 0.0, 0.0

    def _training(self, samples: int, params: Train) -> tuple[float, float]:
        pool = self.over_pool(self.lengths(self.pool.samples, params.max_length), params.max_length).value
        tokens = pool * params.epochs * samples / len(self.pool.all_sizes)
        return tokens, tokens * TRAINING * self.parameters

    def _features(self, steps: Sequence[Step]) -> tuple[float, float]:
        given = steps[0].arguments
        maker, use, queries = get_extractor(given["extractor"]), self.use(steps), given["queries"]
        cut, samples = maker.cut(self.settings), self.pool.samples
        if queries:
            samples = list(self._samples_of(given["samples"]))
        # A smaller pool is drawn at random from the whole.
        share = 1.0 if queries else self._size(given) / len(self.pool.all_sizes)
        if use is not None:
            found = maker.tokens(self.settings, self.tokenizer, samples, queries)
            tokens = found.sum() if queries else self.over_pool(found, cut).value * share
            return tokens, tokens * use.operations * self.parameters
        # By the FLOPs that the measured rows took, and of queries by their characters.
        speed = self.speed(maker.name)
        if speed is None:
            reason = self.why_not[maker.name]
            raise UserError(f"{maker.name}: what it costs is known by measuring alone ({reason})")
        flops = self.over_pool(speed.cost, cut).value * share
        if queries:
            limit = cut * self.characters_a_token
            asked = sum(min(limit, len(format_chat(each.messages, ""))) for each in samples)
            flops = asked * speed.cost.sum() / np.minimum(self.pool.sizes[: len(speed.cost)], limit).sum()
        return flops * speed.tokens / (speed.cost.sum() or 1), flops

    def _samples_of(self, file: File) -> Sequence[Sample]:
        return self.samples[file.step.hash, file.name]

    def rows(self, step: Step) -> int:
        """How many rows a feature has."""
        given = step.arguments
        return len(self._samples_of(given["samples"])) if given["queries"] else self._size(given)

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
        made = ", ".join(name for name, found in self._speeds.items() if found is not None)
        notes = [f"not measured: {name} ({why})" for name, why in self.why_not.items()]
        if made:
            notes.append(
                f"seconds: at the speed of {made} on sampled rows on this device; loading models, ranking "
                "and writing are not counted"
            )
        return notes


def memory_of_device() -> int:
    """Bytes of memory that the device has."""
    import torch

    from rdslib.models.device import device

    if device().type == "cuda":
        return torch.cuda.mem_get_info(device())[1]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
