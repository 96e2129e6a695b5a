"""`rds plan`: what a selection or a study will cost, before anything is spent, with nothing left behind.

Rows and characters are counted, tokens are estimated from a random sample of the rows, and the speed is that
of the method's extractors on some of these. FLOPs are counted as a study counts them.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import RenderableType
from rich.filesize import decimal

from rdslib.commands.pool_sample import UNKNOWN, Total, exactly, sample_pool
from rdslib.commands.request import SelectRequest, use_device, with_options
from rdslib.commands.run import whole_study
from rdslib.commands.speed import FLOPS, Costs, passes
from rdslib.commands.stated import StatedCosts, shown_runs, stage_of
from rdslib.commands.text import line, show, table
from rdslib.commands.user_data import Tally, sort_out
from rdslib.commands.user_selection import UserSelection
from rdslib.data.chat import Sample
from rdslib.data.reader import Row
from rdslib.errors import UserError
from rdslib.models.flops import PAPER, training_flops
from rdslib.params import Profile
from rdslib.pipeline.artifacts import size_of
from rdslib.pipeline.pipeline import in_turn
from rdslib.pipeline.step import Step, in_order
from rdslib.pipeline.steps import model_folder
from rdslib.pipeline.store import Store
from rdslib.profiles import load_profile
from rdslib.tasks.base import QUERIES, TEST, read_task

# Dense bf16 TFLOP/s by the data sheets, and the share of it that is assumed to be made use of.
GPUS = {"A100 80GB": 312, "H100 SXM": 989, "L40S": 362, "RTX 4090": 165}
UTILISATION = 0.4
# Bytes in memory for each row that stays, as measured, at most: what `NearDuplicates` holds, and where it is.
NEAR_DUPLICATE = 400


@with_options(optional=("pool", "k"), without=("as_", "resume"))
def plan_command(options: Mapping[str, Any]) -> None:
    """Say what a selection will cost, before anything is spent: with a profile alone, what a study will.

    The pool is read, its tokens are estimated from a sample, and the speed of this device is measured for a
    few seconds. Nothing is left behind.
    """
    use_device(options["device"])
    if options["pool"] is None and options["profile"] is not None:
        show(shown(plan_profile(options["profile"])))
    elif None in (options["pool"], options["k"]):
        raise UserError("rds plan: give --pool and -k, as to `rds select`, or --profile alone")
    else:
        show(shown(plan_request(SelectRequest.of(options))))


class Part(NamedTuple):
    """A piece of the work and what it costs (see `Costs.costs`), or has cost if it is there."""

    name: str
    there: bool
    costs: np.ndarray
    samples: int = 0


@dataclass(frozen=True)
class Plan:
    """What work costs.

    Attributes:
        notes: What the numbers rest on.
        memory: Bytes of the largest things in memory, not all of them at once.
        alternatives: Whether the parts are alternatives, which have no sum.
        runs: What the study's runs cost, by the columns of a table.
    """

    title: str
    facts: Mapping[str, Total]
    parts: Sequence[Part]
    notes: Sequence[str]
    memory: Mapping[str, float] = field(default_factory=dict)
    alternatives: bool = False
    runs: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def left(self) -> Part:
        """All parts that are not there yet."""
        costs = sum((part.costs for part in self.parts if not part.there), np.zeros((4, 3)))
        return Part("still to do", False, costs)


def plan_request(request: SelectRequest) -> Plan:
    """Plan a selection; raises UserError for what `rds select` would refuse before it loads a model."""
    from rdslib.models.loading import convert_gguf

    if request.model is None and request.profile is None:
        raise UserError("rds plan: give --model, whose tokens are counted, or --profile")
    selection, started = UserSelection(request), time.monotonic()
    pipeline = selection.pipeline
    sources: list[str] = []
    tally = Tally()

    def kept(scratch: Path) -> Iterator[Sample]:
        given = request.format, request.on_error, request.dedup
        for kind, row, reason in sort_out(selection.pool, selection.tests, *given, scratch):
            tally.add(kind, row, reason)
            if kind == "kept" and isinstance(row, Row):
                sources.append(row.source)
                yield row.sample

    with tempfile.TemporaryDirectory(prefix="rds-plan-") as folder:
        pool = sample_pool(kept(Path(folder)), request.seed)
        reading = time.monotonic() - started
        tally.check(selection.pool.name)
        asked = selection.asked(tally.counts, sources)
        steps = in_order([pipeline.selection(asked)])
        samples = {
            (pipeline.queries[task].hash, QUERIES): [row.sample for row in rows]
            for task, rows in selection.queries.items()
        }
        facts = {f"rows {kind}": exactly(count) for kind, count in tally.counts.items()}
        facts["seconds to read the pool"] = exactly(reading)
        title = f"{request.method}: {asked.k:,} of {request.pool}, {pipeline.settings.model.title}"
        model = Path(pipeline.settings.model.path or "")
        if pipeline.store.has_files(pipeline.model):
            model = model_folder(pipeline.store.path(pipeline.model))
        elif model.suffix.lower() == ".gguf":
            model = Path(folder) / "model"
            convert_gguf(Path(pipeline.settings.model.path or ""), model)
        elif pipeline.settings.model.path is None:  # one that is downloaded or random
            model = model_folder(Store(Path(folder, "store"), pipeline.store.progress).make(pipeline.model))
        costs = Costs(pipeline, steps, model, pool, samples, Path(folder))
        plan = _plan(title, pipeline.store, steps, costs, facts, lambda step: step.label)
    if request.dedup != "near":
        return plan
    memory = {**plan.memory, "near duplicates": float(NEAR_DUPLICATE * tally.counts["kept"])}
    note = f"near duplicates: {NEAR_DUPLICATE:,} bytes a row that stays; their time is in that of the pool"
    return replace(plan, memory=memory, notes=[*plan.notes, note])


def plan_profile(profile: str) -> Plan:
    """Plan what is missing of a profile's study; of one without an experiment, the paper's selections.

    Raises:
        UserError: There is no such profile, or it has a mistake.
    """
    from rdslib import figures

    if load_profile(profile).experiment is None:
        return _plan_paper(load_profile(profile))
    study = whole_study(profile)
    pipeline, store = study.pipeline, study.store
    steps = in_order([each for name in figures.FIGURES for each in figures.steps(study, name)])
    title, costs = f"profile {study.profile.name}", None
    with tempfile.TemporaryDirectory(prefix="rds-plan-") as folder:
        if all(map(store.has_files, [pipeline.model, *study.data_steps])):
            samples: dict[tuple[str, str], Sequence[Sample]] = {}
            for each in study.tasks.values():
                data = read_task(store.path(each))
                samples |= {(each.hash, QUERIES): data.queries, (each.hash, TEST): data.test}
            pool = sample_pool(pipeline.pool_file(), study.experiment.seed)
            model = model_folder(store.path(pipeline.model))
            costs = Costs(pipeline, steps, model, pool, samples, Path(folder))
        elif study.experiment.stated is not None:
            stated = StatedCosts(study, study.experiment.stated, Path(folder))
            # Of the evaluations only the untuned model's come before the trainings.
            turns = sorted(in_turn(steps), key=lambda step: step.name == "evaluate")
            plan = _plan(title, store, turns, stated, {}, stage_of)
            return replace(plan, runs=shown_runs(stated.runs()))
        return _plan(title, store, steps, costs, {}, lambda step: step.name)


def _plan(
    title: str,
    store: Store,
    steps: Sequence[Step],
    costs: Costs | StatedCosts | None,
    facts: Mapping[str, Total],
    name_of: Callable[[Step], str],
) -> Plan:
    """Plan steps, those of one name together; without `costs`, which need the model and the data, count."""
    from rdslib.models.device import device_kind

    found: dict[tuple[str, bool], list[np.ndarray]] = {}
    samples: Counter[tuple[str, bool]] = Counter()
    for group in passes(steps):
        todo = [each for each in group if not store.has(each)]
        unknown = np.array([UNKNOWN] * 4)
        cost = _taken(store, group) if not todo else costs.costs(todo) if costs else unknown
        kind = name_of(group[0]), not todo
        found.setdefault(kind, []).append(cost)
        samples[kind] += costs.samples(group[0]) if isinstance(costs, StatedCosts) else 0
    parts = [
        Part(
            name if len(some) == 1 else f"{name} ({len(some)})",
            there,
            np.sum(some, axis=0),
            samples[name, there],
        )
        for (name, there), some in found.items()
    ]
    there = len(steps) - len(store.missing(steps))
    facts = {**facts, "steps": exactly(len(steps)), "steps that exist": exactly(there)}
    title = f"{title} on {device_kind()}"
    if costs is None:
        note = "what is missing is not known before the model and the data are there; `rds run` gets them"
        return Plan(title, facts, parts, [note] if there < len(steps) else [])
    return Plan(title, {**facts, **costs.facts}, parts, costs.notes, costs.memory)


def _taken(store: Store, group: Sequence[Step]) -> np.ndarray:
    """What steps that exist took; those of one pass have the same tokens and seconds."""
    found = [store.manifest(each) for each in group]
    counts = [each["counts"] for each in found]
    tokens = max(each.get("tokens", each.get("training_tokens", 0)) for each in counts)
    disk = sum(map(size_of, found))
    seconds = max(each["seconds"] for each in found)
    return np.array([exactly(tokens), UNKNOWN, exactly(seconds), exactly(disk)])


def _plan_paper(profile: Profile) -> Plan:
    """The methods of Figure 1, by the paper's formulas."""
    from rdslib import figures
    from rdslib.methods import get_scorer
    from rdslib.pipeline.study import Study

    def part(name: str, tokens: float, flops: float) -> Part:
        return Part(name, False, np.array([exactly(tokens), exactly(flops), UNKNOWN, UNKNOWN]))

    rows = figures.table(Study(profile), "fig1_pareto", "published")
    budget, tokens = int(rows["budget"].iloc[0]), PAPER.tokens_per_sample
    parts = [part(f"train on {budget:,}, any method", tokens * budget * PAPER.epochs, training_flops(budget))]
    for method, size, note in zip(rows["method"], rows["pool_size"], rows["note"], strict=True):
        name = f"select {method} from {size:,}" + (f" ({note} in the paper)" if note else "")
        parts.append(part(name, np.nan, get_scorer(method).paper_flops(size, budget, PAPER)))
    facts = {"parameters": exactly(PAPER.parameters), "tokens a sample": exactly(tokens)}
    note = (
        f"by the paper's formulas: Llama-2-7B counted as {PAPER.parameters:.0e} parameters, each sample as "
        f"{tokens:,} tokens, {PAPER.epochs} epochs; LESS with its warm-up, IFD with its training; the parts "
        "are alternatives, and were not measured here"
    )
    title = f"profile {profile.name}: Figure 1, {budget:,} samples for one task"
    return Plan(title, facts, parts, [note], alternatives=True)


# --- for a terminal


def shown(plan: Plan) -> list[RenderableType]:
    """The plan for a terminal."""
    rows = [*plan.parts, *([] if plan.alternatives else [plan.left])]
    work: dict[str, Any] = {"work": [part.name for part in rows]}
    work[""] = ["exists" if part.there else "to do" for part in rows]
    written: dict[str, Callable[[Any], str]] = {
        "tokens": lambda count: _count(count) if count < 1e8 else f"{count:.3g}",
        "FLOPs": "{:.3g}".format,
        "h:min:s here": _time,
        "disk": _bytes,
    }
    if any(part.samples for part in rows):
        work["samples"] = [_count(part.samples) if part.samples else "" for part in rows]
    for at, (name, write) in enumerate(written.items()):
        # The interval of tokens is that of the pool's, which is shown above.
        work[name] = [_short(part.costs[at], write, ends=name != "tokens") for part in rows]
    left = {part.name: part.costs[FLOPS, 0] for part in rows if not part.there and part.costs[FLOPS, 0] > 0}
    hours = {
        gpu: [_count(flops / (peak * 1e12 * UTILISATION) / 3600) for flops in left.values()]
        for gpu, peak in GPUS.items()
    }
    tables: list[Mapping[str, Any]] = [
        {"": plan.facts, " ": [_text(each, _count) for each in plan.facts.values()]},
        work,
    ]
    if left:
        tables.append({"GPU-hours": left, **hours})
    if plan.runs:
        tables.append(plan.runs)
    if plan.memory:
        tables.append({"memory": plan.memory, " ": map(_bytes, plan.memory.values())})
    peaks = ", ".join(f"{name} {peak}" for name, peak in GPUS.items())
    assumed = (
        f"GPU-hours are at {UTILISATION:.0%} of dense bf16 peak ({peaks} TFLOP/s): an assumption, not a "
        "measurement"
    )
    written_notes = [*plan.notes, assumed] if left else plan.notes
    notes = [line(f"{note[0].upper()}{note[1:]}.") for note in written_notes]
    names = ["work", "GPU-hours", "method"]
    blocks = [line(plan.title), *(table(each, wrapped=names) for each in tables), *notes]
    return [each for block in blocks for each in (block, "")][:-1]


def _text(total: Total, write: Callable[[float], str]) -> str:
    """A number, with its ends if they differ; "-" where it is not known."""
    if np.isnan(total[0]):
        return "-"
    value, low, high = map(write, total)
    return f"{value} ({low} to {high})" if low != high else value


def _short(total: Total, write: Callable[[float], str], ends: bool) -> str:
    """As `_text`, with the end that is further off as a share, rounded up."""
    value, low, high = total
    if not ends or not value > 0 or write(low) == write(high):
        return "-" if np.isnan(value) else write(value)
    percent = 100 * max(value - low, high - value) / value
    step = 10.0 ** min(0, np.floor(np.log10(percent)))
    return f"{write(value)} ±{np.ceil(percent / step) * step:.10g}%"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60:,}:{minutes % 60:02}:{rest:02}"


def _bytes(size: float) -> str:
    return decimal(round(size))
