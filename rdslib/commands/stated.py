"""What a study costs, from what its profile states, where neither its model nor its pool is there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from rdslib.commands.pool_sample import NOTHING, UNKNOWN, Total, exactly
from rdslib.data.chat import Sample, user_assistant
from rdslib.figures.base import method_title, paper_flops
from rdslib.methods import get_extractor
from rdslib.models.flops import FORWARD, TRAINING
from rdslib.params import RandomModel, Stated, StatedEmbedder
from rdslib.pipeline import costs as of_runs
from rdslib.pipeline.runs import multi_task_runs, single_task_runs
from rdslib.pipeline.step import Step
from rdslib.pipeline.study import Run, Study


class StatedCosts:
    """What the steps of a study cost, if every sample has as many tokens as its profile states.

    Args:
        study: One whose profile states sizes.
        scratch: An empty folder.
    """

    def __init__(self, study: Study, stated: Stated, scratch: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, LlamaConfig

        from rdslib.models.loading import load_tokenizer, make_random, non_embedding_parameters

        self.study, self.stated, self.settings = study, stated, study.pipeline.settings
        self.config = LlamaConfig.from_dict(dict(stated.architecture))
        with torch.device("meta"):
            bare = AutoModelForCausalLM.from_config(self.config)
        self.parameters = non_embedding_parameters(bare)
        self.weights = sum(each.numel() for each in bare.parameters())
        # A token a byte, so that each method counts, in its way, those of a sample of the stated size.
        make_random(RandomModel(layers=1, hidden_size=8, heads=1), 0, scratch / "model")
        self._tokenizer = load_tokenizer(scratch / "model")
        said = user_assistant("x" * stated.prompt_tokens, "x" * stated.response_tokens)
        self._sample = Sample("", "", said)
        self._tasks = {step.hash: study.task(name) for name, step in study.tasks.items()}
        self.tokens = cache(self._tokens)

    def _tokens(self, extractor: str | None, queries: bool = False) -> float:
        """The tokens of one sample that pass through an extractor's model, or are trained on."""
        maker = get_extractor(extractor or "lm")
        return float(maker.tokens(self.settings, self._tokenizer, [self._sample], queries)[0])

    @property
    def facts(self) -> dict[str, Total]:
        """Counts of the pool, the queries, the tests and the model."""
        tasks = self.study.experiment.tasks
        counts = {
            "pool samples": self.study.pipeline.pool_size(),
            "pool tokens": self.study.pipeline.pool_size() * self.tokens(None),
            "queries": sum(task.queries for task in tasks),
            "test samples": sum(task.test for task in tasks),
            "parameters": self.weights,
            "parameters without embeddings": self.parameters,
        }
        return {name: exactly(count) for name, count in counts.items()}

    def samples(self, step: Step) -> int:
        """How many samples a step reads; 0 of one that reads little."""
        given = step.arguments
        if step.name in ("features", "evaluate"):
            task = self._tasks.get(given["samples" if step.name == "features" else "task"].step.hash)
            if task is not None:
                return task.test if step.name == "evaluate" else task.queries
        if step.name == "prepare" and given["pool"] is None:
            return self._tasks[given["task"].step.hash].queries if "task" in given else 0
        if step.name in ("pool", "features", "prepare"):
            draw = given.get("draw")
            return int(draw[0]) if draw else self.study.pipeline.pool_size()
        return int(given["k"]) if step.name == "select" else self._trained(step)[0]

    def _trained(self, step: Step) -> tuple[int, int]:
        """On how many samples a step trains a model, and how often."""
        if step.name == "train":
            return step.arguments["selection"].arguments["k"], step.arguments["settings"].epochs
        if step.name == "prepare":
            found = get_extractor(step.arguments["extractor"]).trains_on(self.settings, self.samples(step))
            return (found[0], found[1].epochs) if found else (0, 0)
        return 0, 0

    def costs(self, steps: Sequence[Step]) -> np.ndarray:
        """What steps that are made together cost: tokens, FLOPs, seconds, bytes on disk, float64 [4, 3]."""
        first = steps[0]
        tokens, flops = self.work(first)
        disk = sum(self._disk(each) for each in steps)
        seconds = UNKNOWN if flops else NOTHING
        return np.array([exactly(tokens), exactly(flops), seconds, exactly(disk)])

    def work(self, step: Step, samples: int | None = None) -> tuple[float, float]:
        """Tokens and FLOPs of a step, of all its samples or of so many."""
        samples = self.samples(step) if samples is None else samples
        if step.name == "features":
            extractor = step.arguments["extractor"]
            use = get_extractor(extractor).model_use(self.settings, [step.arguments["feature"]], self.config)
            tokens = samples * self.tokens(extractor if use else None, step.arguments["queries"])
            each = use.operations * self.parameters if use else FORWARD * self._embedder(extractor).parameters
            return tokens, tokens * each
        if step.name == "evaluate":
            tokens = samples * self.tokens(None)
            return tokens, tokens * FORWARD * self.parameters
        trained, epochs = self._trained(step)
        tokens = trained * epochs * self.tokens(None)
        return tokens, tokens * TRAINING * self.parameters

    def _embedder(self, extractor: str) -> StatedEmbedder:
        return self.stated.embedders[extractor]

    def _disk(self, step: Step) -> float:
        """Bytes that a step leaves; nothing for what is dropped again, or is small."""
        if step.name == "pool":  # as text, four bytes a token
            return 4.0 * self.samples(step) * (self.stated.prompt_tokens + self.stated.response_tokens)
        if step.name == "model":
            return 2.0 * self.weights
        if step.name == "train":
            return 0.0 if step.transient else 4.0 * self.weights
        if step.name == "features":
            extractor, feature = step.arguments["extractor"], step.arguments["feature"]
            use = get_extractor(extractor).model_use(self.settings, [feature], self.config)
            row = use.row_bytes if use else 2 * self._embedder(extractor).dimension
            return float(self.samples(step) * (row + 8))
        return 0.0

    def flops(self, run: Run) -> float:
        """FLOPs of a run, of selection and training, as `Study.measured_flops` counts them."""
        pipeline, training = self.study.pipeline, self.study.training(run)
        total = self.work(training)[1] if training else 0.0
        for step in of_runs.steps_of(pipeline, run.request):
            if step.name == "cost":
                draw = step.arguments["draw"]
                total += self.work(step.arguments["features"], draw[0] if draw else None)[1]
            else:
                total += self.work(step)[1]
        return total

    def runs(self) -> pd.DataFrame:
        """What the points of Figures 1 and 3 cost: FLOPs by the paper's formula, and as counted here.

        Of a method with a model for each task the mean of these.
        """
        found: dict[tuple[str, str, int, int], list[float]] = {}
        size, studied = self.study.pipeline.pool_size, self.study
        for figure, runs in (("1", single_task_runs(studied)), ("3", multi_task_runs(studied))):
            for run in runs:
                found.setdefault((figure, run.method, size(run.pool), run.budget), []).append(self.flops(run))
        columns = ["figure", "method", "pool_size", "budget"]
        rows = pd.DataFrame(list(found), columns=columns)
        rows["paper"] = paper_flops(rows)
        return rows.assign(here=[float(np.mean(each)) for each in found.values()])

    @property
    def memory(self) -> dict[str, float]:
        """Bytes of the largest things in memory, over all devices that share them."""
        return {
            "weights": 2.0 * self.weights,
            "training: weights, gradients, Adam's moments": 16.0 * self.weights,
            "ids and texts' hashes of the pool, as it is built": 300.0 * self.study.pipeline.pool_size(),
        }

    @property
    def notes(self) -> list[str]:
        """What the numbers rest on."""
        stated = self.stated
        return [
            f"neither pool nor model is here: every sample is taken to have {stated.prompt_tokens:,} tokens "
            f"in its prompt and {stated.response_tokens:,} in its response, as the profile states "
            f"({stated.basis}), beside those of the chat format, and exemplars in prompts are not counted; "
            "once the model and the data are here, tokens are counted and this device's speed is measured",
            "the parts are in the order of work; a model that was trained is dropped once it is evaluated, "
            f"and takes {4 * self.weights / 1e9:.0f} GB till then",
        ]


def stage_of(step: Step) -> str:
    """Name the stage that a step is of, as a plan lists it."""
    given = step.arguments
    if step.name == "features":
        return f"{given['extractor']} features of queries" if given["queries"] else step.label
    if step.name == "train":
        return f"train on {given['selection'].arguments['k']:,}"
    return step.label if step.name in ("prepare", "pool") else step.name


def shown_runs(rows: pd.DataFrame) -> dict[str, list[str]]:
    """The rows of `StatedCosts.runs` as the columns of a table."""
    points = rows.to_dict("records")
    return {
        "figure": [f"Figure {each['figure']}" for each in points],
        "method": [method_title(each["method"]) for each in points],
        "selected": [f"{each['budget']:,} of {each['pool_size']:,}" for each in points],
        "paper's FLOPs": [f"{each['paper']:.4g}" for each in points],
        "FLOPs here": [f"{each['here']:.3g}" for each in points],
    }
