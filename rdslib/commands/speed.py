"""What steps cost, from a sample of the pool: tokens, FLOPs, seconds on this device, bytes."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from rdslib.commands.pool_sample import NOTHING, UNKNOWN, PoolSample, Total, estimate_total, exactly
from rdslib.data.chat import Sample, format_chat, user_assistant
from rdslib.data.download import cache_dir
from rdslib.data.pool import subset
from rdslib.errors import UserError, reason_of
from rdslib.methods import (
    COST,
    Extract,
    Extracted,
    Extraction,
    Extractor,
    Preparation,
    get_extractor,
)
from rdslib.methods.base import ModelUse, token_counts
from rdslib.models.flops import FORWARD, TRAINING
from rdslib.params import Train
from rdslib.pipeline.reuse import SAMPLES, digests_of, known_rows
from rdslib.pipeline.step import File, Step
from rdslib.selection.topk import HELD
from rdslib.tasks.base import QUERIES

if TYPE_CHECKING:
    from rdslib.pipeline.pipeline import Pipeline

# Samples that are measured first, and the seconds that a measurement takes at least.
WARM_UP, SECONDS = 8, 2.0


# The rows of what steps cost: FLOPs, seconds on this device and bytes on disk beside tokens.
TOKENS, FLOPS, TIME, DISK = range(4)


def measure(extract: Extract, samples: Sequence[Sample]) -> tuple[Extracted, float]:
    """Make features of ever more samples, until that takes long enough; return the last and its seconds.

    Samples are read before, as another thread does in a selection.
    """
    size = WARM_UP
    while True:
        read, started = extract.read(samples[:size]), time.monotonic()
        made = extract.make(read, lambda batch: None)
        seconds = time.monotonic() - started
        if seconds >= SECONDS or size >= len(samples):
            return made, max(seconds, 1e-9)
        size *= 4


class Costs:
    """What the steps of a pipeline cost, from a sample of its pool.

    Args:
        steps: All that may be asked about.
        model: The folder of the language model.
        samples: Query and test samples, by the hash of their step and the file.
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

        self.pipeline, self.settings, self.steps, self.model = pipeline, pipeline.settings, steps, model
        self.pool, self.samples, self.scratch = pool, samples, scratch
        self.tokenizer = load_tokenizer(model)
        try:
            self.config = AutoConfig.from_pretrained(str(model))
            with torch.device("meta"):
                bare = AutoModelForCausalLM.from_config(self.config)
        except (OSError, ValueError) as error:
            raise UserError(
                f"model {model}: cannot be planned for ({reason_of(error)}); give a causal LM"
            ) from error
        self.parameters = non_embedding_parameters(bare)
        self.weights = sum(each.numel() for each in bare.parameters())
        self.bytes_a_number = compute_dtype().itemsize
        self.why_not: dict[str, str] = {}
        self._measured: dict[str, tuple[Extracted, float] | None] = {}
        self._encoded = self._reused = 0

    @property
    def facts(self) -> dict[str, Total]:
        """Counts of the pool, the queries, the model, and of the samples in what `costs` was asked of."""
        queries = [each for (_, file), each in self.samples.items() if file == QUERIES]
        return {
            "characters": exactly(self.pool.all_sizes.sum()),
            "pool tokens": self.over_pool(self._tokens(self.pool.samples)),
            "queries": exactly(sum(map(len, queries))),
            "query tokens": exactly(sum(self._tokens(each, queries=True).sum() for each in queries)),
            "parameters without embeddings": exactly(self.parameters),
            "samples to encode": exactly(self._encoded),
            "samples reused": exactly(self._reused),
        }

    def _tokens(self, samples: Sequence[Sample], cut: int | None = None, queries: bool = False) -> np.ndarray:
        return token_counts(self.tokenizer, samples, cut or self.settings.encode.max_length, queries)

    @cached_property
    def _limit(self) -> float:
        """Characters at which rows are cut, roughly."""
        a_token = np.median(self.pool.sizes / self._tokens(self.pool.samples))
        return float(self.settings.encode.max_length * a_token)

    def over_pool(self, found: np.ndarray, which: np.ndarray | None = None) -> Total:
        """The pool's total of what is known of the first rows of the sample.

        `which` are the rows that count, bool [N]; without it all do.
        """
        sizes, all_sizes = (np.minimum(e, self._limit) for e in (self.pool.sizes, self.pool.all_sizes))
        if which is not None and len(found) == len(all_sizes):
            return exactly(found[which[self.pool.at]].sum())
        total = estimate_total(found, sizes[: len(found)], all_sizes)
        return total if which is None else total * (all_sizes[which].sum() / all_sizes.sum())

    def costs(self, steps: Sequence[Step]) -> np.ndarray:
        """What steps that are made together cost: a total of each of `TOKENS` and so on, float64 [4, 3]."""
        first = steps[0]
        features = first.name == "features"
        # Training and evaluation are taken to be as fast as a forward pass.
        work = (
            self._features(steps) if features else (*(done := self._work(first)), self._time("lm", done[1]))
        )
        return np.array([*work, exactly(self._disk(steps))])

    def _time(self, extractor: str, flops: Total) -> Total:
        """Seconds that FLOPs take at an extractor's speed."""
        if not flops.any():
            return NOTHING
        measured = self.measured(extractor)
        return flops * measured[1] / measured[0].rows[COST].sum() if measured else UNKNOWN

    def _features(self, steps: Sequence[Step]) -> tuple[Total, Total, Total]:
        """Tokens, FLOPs and seconds of features that are made together."""
        given, use = steps[0].arguments, self._use(steps)
        maker, new = get_extractor(given["extractor"]), self._new(steps)
        asked = self.samples[_key(given["samples"])] if given["queries"] else None
        if use is not None:
            samples = self.pool.samples if asked is None else asked
            found = maker.tokens(self.settings, self.tokenizer, samples, asked is not None)
            tokens = self.over_pool(found, new) if asked is None else exactly(found[new].sum())
            flops = tokens * (use.operations * self.parameters)
            return tokens, flops, self._time(maker.name, flops)
        measured = self.measured(maker.name)
        if measured is None:
            return UNKNOWN, UNKNOWN, UNKNOWN
        made, seconds = measured
        # What takes no FLOPs takes a time by its characters.
        cost = made.rows[COST] if made.rows[COST].any() else self.pool.sizes[: len(made.rows[COST])]
        if asked is None:
            work = self.over_pool(cost, new)
        else:  # as rows of the pool of as many characters
            sizes, known = np.array([len(format_chat(each.messages, "")) for each in asked]), self.pool.sizes
            order = np.argsort(known[: len(cost)])
            work = exactly(np.interp(sizes[new], known[order], cost[order]).sum())
        each = work / (cost.sum() or 1)
        flops = work if made.rows[COST].any() else NOTHING
        return each * made.counts.get("tokens", 0), flops, each * seconds

    def _new(self, steps: Sequence[Step]) -> np.ndarray:
        """Which samples pass through a model: of queries bool [queries], else of the whole pool bool [N]."""
        given, store = steps[0].arguments, self.pipeline.store
        sees, every = get_extractor(given["extractor"]).sees, self.pool.digests
        if given["queries"]:
            digests = digests_of(self.samples[_key(given["samples"])], sees)
        else:
            rows = subset(len(every[sees]), *given["draw"]) if given["draw"] else slice(None)
            digests = every[sees][rows]
        siblings = {each.arguments["feature"]: store.siblings(each, SAMPLES) for each in steps}
        new = ~known_rows(siblings, digests)
        self._encoded += int(new.sum())
        self._reused += len(new) - int(new.sum())
        if given["queries"]:
            return new
        found = np.zeros(len(every[sees]), dtype=bool)
        found[rows] = new
        return found

    def _work(self, step: Step) -> tuple[Total, Total]:
        """Tokens and FLOPs of a step other than features."""
        if trained := self._training(step):
            samples, params = trained
            if queries := self._trained_on(step):
                tokens = exactly(params.epochs * self._tokens(queries, params.max_length).sum())
                return tokens, tokens * (TRAINING * self.parameters)
            share = params.epochs * samples / len(self.pool.all_sizes)
            tokens = self.over_pool(self._tokens(self.pool.samples, params.max_length)) * share
            return tokens, tokens * (TRAINING * self.parameters)
        if step.name == "evaluate":
            tests, cut = self.samples[_key(step.arguments["task"])], step.arguments["max_length"]
            tokens = exactly(self._tokens(tests, cut, queries=True).sum())
            return tokens, tokens * (FORWARD * self.parameters)
        return NOTHING, NOTHING

    def _training(self, step: Step) -> tuple[int, Train] | None:
        """On how many samples a step trains a model, and how."""
        given = step.arguments
        if step.name == "train":
            return given["selection"].arguments["k"], given["settings"]
        if step.name == "prepare":
            rows = len(self._trained_on(step)) or self._rows(given)
            return get_extractor(given["extractor"]).trains_on(self.settings, rows)
        return None

    def _trained_on(self, step: Step) -> Sequence[Sample]:
        """The queries that a model is trained on; none where it is trained on the pool's samples."""
        queries = step.arguments.get("task") if step.name == "prepare" else None
        return self.samples[_key(queries)] if queries else ()

    def _trains_whole(self, step: Step) -> bool:
        trained = self._training(step)
        return trained is not None and trained[1].method == "full"

    def _disk(self, steps: Sequence[Step]) -> float:
        """Bytes that steps leave; 0 for the little that is neither features nor a model nor a copy."""
        first = steps[0]
        if first.name in ("pool", "user_pool"):  # beside the samples are the rows as they were read
            return 2 * float(self.pool.all_sizes.sum())
        if first.name == "model":
            return 2.0 * self.weights if self.scratch in self.model.parents else 0
        if first.name == "features":
            use, row_bytes = self._use(steps), math.nan
            if use:  # beside each feature are the FLOPs of each sample
                row_bytes = use.row_bytes + 8 * len(steps)
            elif measured := self.measured(first.arguments["extractor"]):
                row_bytes = sum(rows[:1].nbytes for rows in measured[0].rows.values())
            return float(self._rows(first.arguments) * row_bytes)
        if self._trains_whole(first):
            return 4.0 * self.weights
        if first.name == "prepare" and self.measured(first.arguments["extractor"]):
            files = (self.scratch / first.arguments["extractor"]).rglob("*")
            return float(sum(file.stat().st_size for file in files if file.is_file()))
        return 0

    @property
    def memory(self) -> dict[str, float]:
        """Bytes of the largest things in memory, by what they are; not all of them at once."""
        from rdslib.models.device import device
        from rdslib.models.encode import logit_rows

        encode, c, size = self.settings.encode, self.config, self.bytes_a_number
        memory: dict[str, float] = {}
        for step in (each for each in self.steps if each.name == "select"):
            queries, k = step.arguments["queries"], step.arguments["k"]
            asked = [self._rows(feature.arguments) for each in queries[:1] for feature in each.values()]
            lists = len(queries) if len(queries) > 1 else max(asked, default=1)
            held = 24.0 * lists * min(k, HELD // lists)
            memory["ranking, at most"] = max(held, memory.get("ranking, at most", 0))
        uses = [use for use in map(self._use, self._extractions) if use]
        if uses:
            tokens = max(encode.token_budget, encode.max_length)
            width = 4 * c.hidden_size + 2 * getattr(c, "intermediate_size", 4 * c.hidden_size)
            # Scores of one layer's heads, of which plain attention, on a processor, has the softmax too.
            scores = c.num_attention_heads * tokens * encode.max_length * (2 * size + 4)
            heads = any(use.logits for use in uses)
            logits = min(tokens, logit_rows(device().type)) * c.vocab_size * (size + 8) if heads else 0
            layers = max(use.layers for use in uses)
            memory["weights"] = float(self.weights * size)
            memory["one batch, roughly"] = float(layers * (tokens * width * size + scores) + logits)
        if any(map(self._trains_whole, self.steps)):
            memory["training: weights, gradients, Adam's moments"] = 16.0 * self.weights
        return memory

    @property
    def notes(self) -> list[str]:
        """What the numbers rest on: what was estimated, measured, and not measured."""
        notes = [
            f"pool tokens: estimated from {len(self.pool.samples):,} rows at random by tokens a character, "
            "with the 95% interval; all else of the pool is counted"
        ]
        if made := [name for name, measured in self._measured.items() if measured]:
            notes.append(
                f"times: at the speed of {', '.join(made)} on sampled rows on this device; training and "
                "evaluation go at the speed of a forward pass; loading models, ranking and writing are not "
                "counted"
            )
        return notes + [f"not measured: {name} ({why})" for name, why in self.why_not.items()]

    def _rows(self, given: Mapping[str, Any]) -> int:
        """How many samples a step reads: queries, a smaller pool or the whole."""
        if given.get("queries"):
            return len(self.samples[_key(given["samples"])])
        return given["draw"][0] if given["draw"] else len(self.pool.all_sizes)

    @property
    def _extractions(self) -> list[list[Step]]:
        return passes(each for each in self.steps if each.name == "features")

    def _use(self, steps: Sequence[Step]) -> ModelUse | None:
        """How features that are made together use the language model."""
        wanted = [each.arguments["feature"] for each in steps]
        return get_extractor(steps[0].arguments["extractor"]).model_use(self.settings, wanted, self.config)

    def measured(self, name: str) -> tuple[Extracted, float] | None:
        """What an extractor makes on this device in how many seconds; None if it cannot, and `why_not`."""
        if name not in self._measured:
            try:
                self._measured[name] = self._measure(get_extractor(name))
            except (UserError, ValueError, RuntimeError, MemoryError) as error:
                self._measured[name], self.why_not[name] = None, reason_of(error)
        return self._measured[name]

    def _measure(self, maker: Extractor) -> tuple[Extracted, float]:
        """Measure an extractor; the language model, if no step asks for its features, as if RDS+ did."""
        made = next((e for e in self._extractions if e[0].arguments["extractor"] == maker.name), [])
        needed, there = self.weights * self.bytes_a_number, memory_of_device()
        if (not made or self._use(made)) and needed > there:
            gib = [f"{size / 2**30:.1f} GiB" for size in (needed, there)]
            raise UserError(f"the weights take {gib[0]}, and this device has {gib[1]}")
        prepared = self._prepared(maker, made[0].arguments["prepared"]) if made else None
        wanted = tuple(each.arguments["feature"] for each in made) or ("weighted_all",)
        given = Extraction(self.settings, self.model, prepared, wanted, queries=False)
        return measure(maker.open(given), self.pool.samples)

    def _prepared(self, maker: Extractor, step: Step | None) -> Path | None:
        """What the extractor has prepared, or something as fast, made from one short sample."""
        if step is None or self.pipeline.store.has_files(step):
            return None if step is None else self.pipeline.store.path(step)
        if self._trains_whole(step):
            return self.model  # a model of which all is trained is as fast as it was
        out, downloads = self.scratch / maker.name, Path(tempfile.mkdtemp(dir=self.scratch))
        out.mkdir()
        if cache_dir().is_dir():  # what was downloaded before is used, and more is kept for now
            no_locks = shutil.ignore_patterns("*.lock")
            shutil.copytree(cache_dir(), downloads, False, no_locks, os.symlink, dirs_exist_ok=True)
        sample = Sample("", "", user_assistant("Yes?", "Yes."))
        rows = {feature: np.ones((1, 1)) for feature in maker.prepare_features}
        unseen: tqdm[Any] = tqdm(disable=True)
        maker.prepare(Preparation(self.settings, self.model, [sample], rows, out, unseen, downloads))
        return out


def passes(steps: Iterable[Step]) -> list[list[Step]]:
    """The steps, those together that are made in one call, such as features of one pass."""
    groups: dict[str, list[Step]] = {}
    for each in steps:
        groups.setdefault(each.group, []).append(each)
    return list(groups.values())


def _key(file: File) -> tuple[str, str]:
    return file.step.hash, file.name


def memory_of_device() -> int:
    """Bytes of memory that the device has."""
    import torch

    from rdslib.models.device import device

    if device().type == "cuda":
        return torch.cuda.mem_get_info(device())[1]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
