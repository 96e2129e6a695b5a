"""`rds plan`: what a selection or a study will cost, before anything is spent, with nothing left behind.

Rows and characters are counted, tokens are estimated from a random sample of the rows, and the speed is that
of the method's extractors on some of these. FLOPs are counted as a study counts them.
"""

from __future__ import annotations

import functools
import math
import operator
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from rdslib.commands.request import SelectRequest, use_device, with_options
from rdslib.commands.speed import NOTHING, UNKNOWN, Costs, Part, PoolSample, Total, exactly, passes
from rdslib.commands.text import line, show, table
from rdslib.commands.user_data import UserSelection, check_kept, sort_out
from rdslib.data.chat import Sample
from rdslib.data.reader import Row
from rdslib.errors import UserError
from rdslib.models.flops import PAPER, training_flops
from rdslib.params import Profile, load_profile
from rdslib.pipeline.step import Step, in_order
from rdslib.pipeline.steps import model_folder
from rdslib.pipeline.store import Store
from rdslib.tasks.base import QUERIES, TEST, read_task

# Dense bf16 TFLOP/s by the data sheets, and the share of it that is assumed to be made use of.
GPUS = {"A100 80GB": 312, "H100 SXM": 989, "L40S": 362, "RTX 4090": 165}
UTILISATION = 0.4


@with_options(optional=("pool", "model", "k"), without=("as_", "resume"))
def plan_command(options: Mapping[str, Any]) -> None:
    """Say what a selection will cost, before anything is spent: with a profile alone, what a study will.

    The pool is read, its tokens are estimated from a sample, and the speed of this device is measured for a
    few seconds. Nothing is left behind.
    """
    use_device(options["device"])
    if options["pool"] is None and options["profile"] is not None:
        show(shown(plan_profile(options["profile"])))
    elif None in (options["pool"], options["model"], options["k"]):
        raise UserError("rds plan: give --pool, --model and -k, as to `rds select`, or --profile alone")
    else:
        show(shown(plan_request(SelectRequest.of(options))))


@dataclass(frozen=True)
class Plan:
    """What work costs.

    Attributes:
        title: What it is a plan of.
        facts: Counts and estimates by name.
        parts: The work.
        notes: What the numbers rest on.
        memory: Bytes of the largest things in memory, not all of them at once.
        alternatives: Whether the parts are alternatives, which have no sum.
    """

    title: str
    facts: Mapping[str, Total]
    parts: Sequence[Part]
    notes: Sequence[str]
    memory: Mapping[str, float] = field(default_factory=dict)
    alternatives: bool = False

    @property
    def left(self) -> Part:
        """All parts that are not there yet."""
        nothing = Part("still to do", False, NOTHING, NOTHING, NOTHING, NOTHING)
        return functools.reduce(operator.add, [part for part in self.parts if not part.there], nothing)


def plan_request(request: SelectRequest) -> Plan:
    """Plan a selection; raises UserError for what `rds select` would refuse before it loads a model."""
    from rdslib.models.loading import convert_gguf

    selection, started = UserSelection(request), time.monotonic()
    pipeline = selection.pipeline
    counts = Counter(dict.fromkeys(("read", "kept", "rejected", "contaminated", "duplicate"), 0))
    sources: list[str] = []

    def kept() -> Iterator[Sample]:
        rows = sort_out(selection.pool, selection.tests, request.format, request.on_error, request.dedup)
        for kind, row, _ in rows:
            counts.update(["read", kind])
            if kind == "kept" and isinstance(row, Row):
                sources.append(sys.intern(row.source))
                yield row.sample

    pool = PoolSample(kept(), request.seed)
    reading = time.monotonic() - started
    check_kept(selection.pool.name, counts)
    asked = selection.asked(counts["kept"], sources)
    steps = in_order([pipeline.selection(asked)])
    samples = {
        (pipeline.queries[task].hash, QUERIES): [row.sample for row in rows]
        for task, rows in selection.queries.items()
    }
    facts = {f"rows {kind}": exactly(count) for kind, count in counts.items()}
    facts["seconds to read the pool"] = exactly(reading)
    title = f"{request.method}: {asked.k:,} of {request.pool}, {request.model}"
    with tempfile.TemporaryDirectory(prefix="rds-plan-") as folder:
        model = Path(request.model)
        if pipeline.store.has(pipeline.model):
            model = model_folder(pipeline.store.path(pipeline.model))
        elif model.suffix.lower() == ".gguf":
            model = Path(folder) / "model"
            convert_gguf(Path(request.model), model)
        costs = Costs(pipeline, steps, model, pool, samples, Path(folder))
        return _plan(title, pipeline.store, steps, costs, facts, lambda step: step.label)


def plan_profile(profile: str) -> Plan:
    """Plan what is missing of a profile's study; of one without an experiment, the paper's selections.

    Raises:
        UserError: There is no such profile, or it has a mistake.
    """
    from rdslib import figures
    from rdslib.pipeline.study import Study

    if load_profile(profile).experiment is None:
        return _plan_paper(load_profile(profile))
    study = Study.load(profile)
    pipeline, store = study.pipeline, study.store
    steps = in_order([each for name in figures.FIGURES for each in figures.steps(study, name)])
    title, costs = f"profile {study.profile.name}", None
    with tempfile.TemporaryDirectory(prefix="rds-plan-") as folder:
        if all(map(store.has, [pipeline.model, *study.data_steps])):
            tasks = {each.hash: read_task(store.path(each)) for each in study.tasks.values()}
            samples: dict[tuple[str, str], Sequence[Sample]] = {}
            for each, data in tasks.items():
                samples |= {(each, QUERIES): data.queries, (each, TEST): data.test}
            pool = PoolSample(pipeline.pool_file(), study.experiment.seed)
            model = model_folder(store.path(pipeline.model))
            costs = Costs(pipeline, steps, model, pool, samples, Path(folder))
        return _plan(title, store, steps, costs, {}, lambda step: step.name)


def _plan(
    title: str,
    store: Store,
    steps: Sequence[Step],
    costs: Costs | None,
    facts: Mapping[str, Total],
    name_of: Callable[[Step], str],
) -> Plan:
    """Plan steps, those of one name together; without `costs`, which need the model and the data, count."""
    from rdslib.models.device import device_kind

    found: dict[tuple[str, bool], list[Part]] = defaultdict(list)
    for group in passes(steps):
        todo = [each for each in group if not store.has(each)]
        part = _taken(store, group) if not todo else costs.part(todo) if costs else Part("", False)
        found[name_of(group[0]), part.there].append(part)
    parts = []
    for (name, _), some in found.items():
        name = name if len(some) == 1 else f"{name} ({len(some)})"
        parts.append(replace(functools.reduce(operator.add, some), name=name))
    missing = len(store.missing(steps))
    facts = {**facts, "steps": exactly(len(steps)), "steps that exist": exactly(len(steps) - missing)}
    title = f"{title} on {device_kind()}"
    if costs is None:
        note = (
            "what is missing is not known before the model and the data are there; `rds run` gets them first"
        )
        return Plan(title, facts, parts, [note])
    return Plan(title, {**facts, **costs.facts}, parts, costs.notes, costs.memory)


def _taken(store: Store, group: Sequence[Step]) -> Part:
    """What steps that exist took; those of one pass have the same tokens and seconds."""
    found = [store.manifest(each) for each in group]
    counts = [each["counts"] for each in found]
    tokens = max(each.get("tokens", each.get("training_tokens", 0)) for each in counts)
    disk = sum(file["bytes"] for each in found for file in each["files"].values())
    seconds = max(each["seconds"] for each in found)
    return Part("", True, exactly(tokens), UNKNOWN, exactly(seconds), exactly(disk))


def _plan_paper(profile: Profile) -> Plan:
    """The methods of Figure 1, by the paper's formulas."""
    from rdslib import figures
    from rdslib.methods import get_scorer
    from rdslib.pipeline.study import Study

    rows = figures.table(Study(profile), "fig1_pareto", "published")
    budget, tokens = int(rows["budget"].iloc[0]), PAPER.tokens_per_sample
    training = exactly(tokens * budget * PAPER.epochs), exactly(training_flops(budget))
    parts = [Part(f"train on {budget:,}, any method", False, *training)]
    for method, size, note in zip(rows["method"], rows["pool_size"], rows["note"], strict=True):
        name = f"select {method} from {size:,}" + (f" ({note} in the paper)" if note else "")
        flops = get_scorer(method).paper_flops(size, budget, PAPER)
        parts.append(Part(name, False, flops=exactly(flops)))
    facts = {"parameters": exactly(PAPER.parameters), "tokens a sample": exactly(tokens)}
    note = (
        f"by the paper's formulas: Llama-2-7B counted as {PAPER.parameters:.0e} parameters, each sample as "
        f"{tokens:,} tokens, {PAPER.epochs} epochs; LESS with its warm-up, IFD with its training; the parts "
        "are alternatives, and were not measured here"
    )
    title = f"profile {profile.name}: Figure 1, {budget:,} samples for one task"
    return Plan(title, facts, parts, [note], alternatives=True)


# --- for a terminal


def gpu_hours(flops: float, gpu: str) -> float:
    """Hours that FLOPs take on one of `GPUS`, at the assumed utilisation."""
    return flops / (GPUS[gpu] * 1e12 * UTILISATION) / 3600


def shown(plan: Plan) -> list[RenderableType]:
    """The plan for a terminal."""
    rows = [*plan.parts, *([] if plan.alternatives else [plan.left])]
    work = {
        "work": [part.name for part in rows],
        "": ["exists" if part.there else "to do" for part in rows],
        "tokens": [_text(part.tokens, _count, False) for part in rows],
        "FLOPs": [_text(part.flops, "{:.3g}".format) for part in rows],
        "on this device": [_text(part.seconds, _time, none="not counted") for part in rows],
        "disk": [_text(part.disk, _bytes, none="little") for part in rows],
    }
    left = {part.name: part.flops.value for part in rows if not part.there and part.flops.value > 0}
    hours = {gpu: [_count(gpu_hours(each, gpu)) for each in left.values()] for gpu in GPUS}
    tables: list[Mapping[str, Iterable[object]]] = [
        {"": plan.facts, " ": [_text(each, _count) for each in plan.facts.values()]},
        work,
        {"GPU-hours": left, **hours},
    ]
    if plan.memory:
        tables.append({"memory": plan.memory, " ": map(_bytes, plan.memory.values())})
    peaks = ", ".join(f"{name} {peak}" for name, peak in GPUS.items())
    assumed = (
        f"GPU-hours are at {UTILISATION:.0%} of dense bf16 peak ({peaks} TFLOP/s): an assumption, not a "
        "measurement"
    )
    notes = [line(f"{note[0].upper()}{note[1:]}.") for note in [*plan.notes, assumed]]
    blocks = [line(plan.title), *(table(each, cut=["work"]) for each in tables), *notes]
    return [each for block in blocks for each in (block, "")][:-1]


def _text(total: Total, write: Callable[[float], str], ends: bool = True, none: str = "0") -> str:
    """A number, with its ends if they differ; "-" where it is not known, and `none` for 0."""
    if math.isnan(total.value) or total == NOTHING:
        return none if total == NOTHING else "-"
    value, low, high = map(write, (total.value, total.low, total.high))
    return f"{value} ({low} to {high})" if ends and low != high else value


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _time(seconds: float) -> str:
    unit, name = next((u, n) for u, n in ((3600, "h"), (60, "min"), (0, "s")) if seconds >= 2 * u)
    return f"{_count(seconds / (unit or 1))} {name}"


def _bytes(size: float) -> str:
    power = min(4, max(0, int(math.log(max(size, 1), 1024))))
    return f"{_count(size / 1024**power)} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
