"""What a selection or a study will cost, told before anything is spent, with nothing left behind.

Rows and characters are counted, tokens are estimated from a random sample of the rows, and the speed is that
of the method's own extractors on some of these. FLOPs are counted as a study counts them
(`rdslib.models.flops`).
"""

from __future__ import annotations

import copy
import json
import math
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np

from rdslib.commands.estimates import NOTHING, Part, Reservoir, Total, exactly, taken, together
from rdslib.commands.gauge import Gauge
from rdslib.commands.own_pool import OwnPool, Request
from rdslib.data.chat import Sample
from rdslib.data.pool import PoolFile, PoolWriter
from rdslib.data.reader import Row
from rdslib.errors import UserError
from rdslib.figures import published
from rdslib.figures import specs as tables
from rdslib.methods import get_scorer
from rdslib.models.device import compute_dtype, device_kind
from rdslib.models.flops import FORWARD, PAPER, training_flops
from rdslib.params import Profile, load_profile
from rdslib.pipeline import steps as stages
from rdslib.pipeline.store import Step, Store, in_order
from rdslib.pipeline.study import Run, Study
from rdslib.selection.topk import HELD
from rdslib.tasks import base as tasks

# Dense bf16 TFLOP/s by the data sheets, and the share of it that is assumed to be made use of.
GPUS = {"A100 80GB": 312, "H100 SXM": 989, "L40S": 362, "RTX 4090": 165}
UTILISATION = 0.4


@dataclass(frozen=True)
class Plan:
    """What work costs.

    `facts`: counts and estimates by name. `notes`: what the numbers rest on. `disk`, `memory`: bytes by what
    takes them. `steps`: the artifacts, and whether they exist. `alternatives`: the parts have no sum.
    """

    title: str
    facts: Mapping[str, Total]
    parts: tuple[Part, ...]
    notes: tuple[str, ...]
    disk: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, float] = field(default_factory=dict)
    steps: tuple[tuple[str, bool], ...] = ()
    alternatives: bool = False

    @property
    def left(self) -> Part:
        """All parts that are not there yet."""
        return together("still to do", [part for part in self.parts if not part.there])


class _Uncomputed(OwnPool):
    """A selection of which nothing is made: its pool is counted where it lies."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.reservoir = Reservoir(request.seed)
        self.sources: list[str] = []
        seen = Counter(dict.fromkeys(("read", "kept", "rejected", "contaminated", "duplicate"), 0))
        started = time.monotonic()
        with self.store.progress.bar("rows of the pool", 0, "row") as bar:
            for kind, row, _ in self._sorted_out():
                seen["read"] += 1
                seen[kind] += 1
                bar.update()
                if kind == "kept" and isinstance(row, Row):
                    if self.limits:
                        self.sources.append(sys.intern(row.source))
                    self.reservoir.add(Sample(row.id, row.source, row.messages), row)
        self.reading = time.monotonic() - started
        self._seen = dict(seen)
        if not seen["kept"]:
            raise UserError(f"{request.pool}: no sample is left of {seen['read']} rows; see to its form")

    @property
    def counts(self) -> dict[str, int]:
        return self._seen

    @property
    def pool_file(self) -> PoolFile:
        # Limits are checked against the sources alone.
        return cast("PoolFile", SimpleNamespace(sources=self.sources))

    def _size(self, pool: str) -> int:
        return self.counts["kept"]

    def compute(self, steps: Iterable[Step]) -> None:
        """Nothing is computed."""


def plan_request(request: Request) -> Plan:
    """What `rds select` would cost. Raises UserError for what it would refuse before it loads a model."""
    study = _Uncomputed(request.in_full())
    run = study.run()
    steps = in_order([study.selection(run)])
    sizes, rows = study.reservoir.drawn()
    samples = [Sample(row.id, row.source, row.messages) for row in rows]
    queries = {task: [sample for _, sample in found] for task, found in study.queries.items()}
    with tempfile.TemporaryDirectory(prefix="rds-plan-") as folder:
        scratch = Path(folder)
        all_sizes = np.array(study.reservoir.sizes)
        model = _model_folder(study, scratch)
        gauge = Gauge(study, model, samples, sizes, all_sizes, queries, {}, scratch, steps)
        cut = study.experiment.encode.max_length
        asked = sum(gauge.lengths(each, cut, queries=True).sum() for each in queries.values())
        facts = {f"rows {kind}": exactly(count) for kind, count in study.counts.items()}
        facts |= {
            "characters": exactly(float(all_sizes.sum())),
            "pool tokens": gauge.over_pool(gauge.lengths(samples, cut), cut),
            "queries": exactly(sum(map(len, queries.values()))),
            "query tokens": exactly(float(asked)),
            "parameters": exactly(gauge.parameters),
            "seconds to read the pool": exactly(study.reading),
        }
        parts = tuple(gauge.part(step) for step in steps if step.stage in ("prepare", "encode"))
        notes = [
            f"pool tokens: estimated from {len(samples):,} rows at random by tokens a character (rows are "
            f"cut at {cut:,} tokens), with its 95% interval; all else of the pool is counted",
            *gauge.remarks,
        ]
        names = {step.params["extractor"] for step in steps if step.stage == "prepare"}
        if names & {"ifd", "less"}:
            notes.append(
                "training before the features was not measured: its tokens are those of as many average "
                "rows, and its FLOPs go at the speed of a plain forward pass"
            )
        if "less" in names:
            notes.append("projecting gradients is in the seconds, but not in the FLOPs, as in a study's")
        return Plan(
            f"{request.method}: {run.budget:,} of {request.pool}, {request.model} on {device_kind()}",
            facts, parts, tuple(notes), _disk(gauge, rows), _memory(gauge, run),
            tuple((f"{step.stage}: {step.label}", study.store.has(step)) for step in steps),
        )  # fmt: skip


def plan_profile(profile: str) -> Plan:
    """What is missing of a profile's study, and what that would cost.

    Of a profile without an experiment, what the paper's selections cost. Raises UserError for no such
    profile, or a mistake in it.
    """
    if load_profile(profile).experiment is None:
        return _paper(load_profile(profile))
    study = Study.load(profile)
    steps = in_order([step for name in tables.FIGURES for step in tables.steps(study, name)])
    missing = study.missing(steps)
    rates = _rates(study, steps)
    parts, notes = [], []
    with tempfile.TemporaryDirectory(prefix="rds-plan-") as folder:
        gauge = _gauge_of(study, Path(folder), steps) if missing else None
        for stage in dict.fromkeys(step.stage for step in steps):
            of_stage = [step for step in steps if step.stage == stage]
            made = [taken(study.store.manifest(step)) for step in of_stage if study.store.has(step)]
            if made:
                parts.append(together(f"{stage}: {len(made)} of {len(of_stage)} steps", made, there=True))
            todo = [step for step in of_stage if step in missing]
            if todo:
                found = []
                for step in todo:
                    part = gauge.part(step) if gauge else Part(step.label)
                    if _kind(step) in rates:
                        part = replace(part, seconds=exactly(step.weight * rates[_kind(step)]))
                    found.append(part)
                parts.append(together(f"{stage}: {len(todo)} of {len(of_stage)} steps", found))
    if missing:
        notes.append(
            "seconds: where steps of the same kind exist, by what these took; else by FLOPs, those "
            "of training and evaluation at the speed of a forward pass; one process; what is marked so is "
            "not counted, and evaluation is one pass of each test sample"
        )
    if missing and gauge is None:
        notes.append("FLOPs: not known before the model and the data are there; `rds run` gets them first")
    if gauge:
        notes += gauge.remarks
    facts = {"steps": exactly(len(steps)), "steps missing": exactly(len(missing))}
    return Plan(f"profile {study.profile.name} on {device_kind()}", facts, tuple(parts), tuple(notes))


def _paper(profile: Profile) -> Plan:
    """The methods of Figure 1, by the paper's formulas."""
    table = published.fig1()
    budget = int(table["budget"].iloc[0])
    tokens = PAPER.tokens_per_sample
    parts = [
        Part(f"train on {budget:,}, any method", exactly(tokens * budget * PAPER.epochs),
             exactly(training_flops(budget)), None)
    ]  # fmt: skip
    for method, size, note in zip(table["method"], table["pool_size"], table["note"], strict=True):
        name = f"select {method} from {size:,}" + (f" ({note} in the paper)" if note else "")
        parts.append(Part(name, None, exactly(get_scorer(method).paper_flops(size, budget, PAPER)), None))
    facts = {"parameters": exactly(PAPER.parameters), "tokens a sample": exactly(tokens)}
    note = (
        f"by the paper's formulas: Llama-2-7B counted as {PAPER.parameters:.0e} parameters, each sample as "
        f"{tokens:,} tokens, {PAPER.epochs} epochs; LESS with its warm-up, IFD with its training"
    )
    title = f"profile {profile.name}: Figure 1, {budget:,} samples for one task"
    return Plan(title, facts, tuple(parts), (note,), alternatives=True)


def _model_folder(study: Study, scratch: Path) -> Path:
    """Where the language model is; a GGUF file that was not converted yet is, into `scratch`."""
    from rdslib.models.loading import convert_gguf

    if study.store.has(study.model):
        return stages.model_folder(study.store.path(study.model))
    path = Path(study.experiment.model.path or "")
    if path.suffix.lower() != ".gguf":
        return path
    convert_gguf(path, scratch / "model")
    return scratch / "model"


def _gauge_of(study: Study, scratch: Path, steps: list[Step]) -> Gauge | None:
    """A gauge with a profile's own data; None where the model or the data would have to be downloaded."""
    where = study
    if not (study.store.has(study.model) and study.store.has(study.data)):
        if study.experiment.downloads:
            return None
        where = copy.copy(study)
        where.store = Store(scratch / "home", study.store.progress)
        where.compute([where.model, where.data])
    reservoir = Reservoir(study.experiment.seed)
    data = where.store.path(where.data)
    for sample in PoolFile(data / "pool.parquet"):
        reservoir.add(sample, sample)
    sizes, samples = reservoir.drawn()
    found = {name: tasks.read_task(stages.task_folder(data, name)) for name in study.task_names}
    return Gauge(
        study, stages.model_folder(where.store.path(where.model)), samples, sizes, np.array(reservoir.sizes),
        {name: each.queries for name, each in found.items()},
        {name: each.test for name, each in found.items()}, scratch, steps,
    )  # fmt: skip


def _kind(step: Step) -> tuple[str, str]:
    return step.stage, step.params.get("extractor", "")


def _rates(study: Study, steps: list[Step]) -> dict[tuple[str, str], float]:
    """Seconds a unit of weight that existing steps took, by kind."""
    weights: dict[tuple[str, str], float] = defaultdict(float)
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for step in steps:
        if study.store.has(step):
            weights[_kind(step)] += step.weight
            seconds[_kind(step)] += study.store.manifest(step)["seconds"]
    return {kind: seconds[kind] / weights[kind] for kind in weights}


def _disk(gauge: Gauge, rows: list[Row]) -> dict[str, float]:
    """Bytes below RDSLIB_HOME, by what takes them."""
    encoded = [step for step in gauge.steps if step.stage == "encode"]
    writer = PoolWriter(gauge.scratch / "pool", gauge.scratch / "records", ("record", "where"))
    for row, sample in zip(rows, gauge.samples, strict=True):
        writer.add(sample, json.dumps(row.record, ensure_ascii=False, default=str), row.where)
    writer.close()
    written = sum((gauge.scratch / name).stat().st_size for name in ("pool", "records"))
    disk = {
        "features": sum(step.weight * gauge.row_bytes(step) for step in encoded),
        "copy of the pool, about": float(written / gauge.sizes.sum() * gauge.all_sizes.sum()),
    }
    if str(gauge.model).startswith(str(gauge.scratch)):
        disk["model, converted"] = 2.0 * gauge.weights
    for step in encoded:
        folder = gauge.scratch / step.params["extractor"]
        if (size := sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())) > 0:
            disk[f"prepared for {step.params['extractor']}"] = size
        elif step.params["extractor"] == "ifd" and _trains_whole(gauge):
            disk["trained model"] = 4.0 * gauge.weights
    return disk


def _memory(gauge: Gauge, run: Run) -> dict[str, float]:
    """Bytes of the largest things in memory, by what they are; not all of them at once."""
    from rdslib.models.encode import LOGIT_ROWS

    e, c, size = gauge.experiment, gauge.bare.config, compute_dtype().itemsize
    encoded = [step for step in gauge.steps if step.stage == "encode"]
    names = {step.params["extractor"] for step in encoded}
    lists = len(run.targets) if len(run.targets) > 1 else sum(map(len, gauge.queries.values())) or 1
    memory = {"ranking, at most": 24.0 * lists * min(run.budget, HELD // lists)}
    if names & {"lm", "ifd", "less"}:
        tokens = max(e.encode.token_budget, e.encode.max_length)
        width = 4 * c.hidden_size + 2 * getattr(c, "intermediate_size", 4 * c.hidden_size)
        # Scores of one layer's heads, of which plain attention, on a processor, has the softmax too.
        scores = c.num_attention_heads * tokens * e.encode.max_length * (2 * size + 4)
        heads = names & {"ifd", "less"} or any("nll" in step.params["wanted"] for step in encoded)
        logits = min(tokens, LOGIT_ROWS) * c.vocab_size * (size + 8) if heads else 0
        layers = (e.less.train.lora_layers or c.num_hidden_layers) if "less" in names and e.less else 1
        memory["weights"] = float(gauge.weights * size)
        memory["one batch, roughly"] = float(layers * (tokens * width * size + scores) + logits)
    for name in names - {"lm", "ifd", "less"}:
        measured = gauge.measured(name)
        if measured is not None and measured.total_tokens:
            memory[f"weights of {name}, but for its word embeddings"] = (
                4.0 * measured.cost.sum() / measured.total_tokens / FORWARD
            )
    if "ifd" in names and _trains_whole(gauge):
        memory["training: weights, gradients and Adam's moments"] = 16.0 * gauge.weights
    return memory


def _trains_whole(gauge: Gauge) -> bool:
    return gauge.experiment.ifd is not None and gauge.experiment.ifd.train.method == "full"


def as_text(plan: Plan) -> str:
    """The plan for a person to read."""
    rows = [*plan.parts, *([] if plan.alternatives else [plan.left])]
    wide = max(len(part.name) for part in rows)
    lines = [plan.title, *(f"  {name:<26}{_text(total, _count)}" for name, total in plan.facts.items())]
    lines += ["", f"{'work':<{wide}}  {'tokens':>15} {'FLOPs':>10}  seconds on this device"]
    for part in rows:
        tokens, flops = _text(part.tokens, _count, False), _text(part.flops, "{:.3g}".format, False)
        seconds = f"{'exists, took ' if part.there else ''}{_text(part.seconds, _time)}"
        if part.seconds == NOTHING and part is not rows[-1]:
            seconds = "not counted"
        rate = f", at {_text(part.rate, _count)} tokens/s" if part.rate else ""
        lines.append(f"  {part.name:<{wide}}{tokens:>15} {flops:>10}  {seconds}{rate}")
    if not plan.alternatives:
        lines.append(f"  FLOPs still to do: {_text(plan.left.flops, '{:.3g}'.format)}")
    lines += ["", f"{'GPU-hours':<{wide}}  " + "".join(f"{name:>12}" for name in GPUS)]
    for part in rows:
        if part.flops is not None and not part.there:
            hours = "".join(f"{_count(gpu_hours(part.flops.value, name)):>12}" for name in GPUS)
            lines.append(f"  {part.name:<{wide}}{hours}")
    peaks = ", ".join(f"{name} {peak}" for name, peak in GPUS.items())
    lines.append(
        f"  at {UTILISATION:.0%} of dense bf16 peak ({peaks} TFLOP/s): an assumption, not a measurement"
    )
    for name, sizes in (("disk", plan.disk), ("memory", plan.memory)):
        if sizes:
            lines += ["", name, *(f"  {what:<48}{_bytes(size)}" for what, size in sizes.items())]
    if plan.steps:
        there = sum(exists for _, exists in plan.steps)
        lines += ["", f"artifacts: {there} of {len(plan.steps)} exist"]
        lines += [f"  {'exists ' if exists else 'missing'}  {label}" for label, exists in plan.steps]
    return "\n".join([*lines, "", *(f"{note[0].upper()}{note[1:]}." for note in plan.notes)])


def gpu_hours(flops: float, gpu: str) -> float:
    """Hours that FLOPs take on one of `GPUS`, at the assumed utilisation."""
    return flops / (GPUS[gpu] * 1e12 * UTILISATION) / 3600


def _text(total: Total | None, write: Callable[[float], str], ends: bool = True) -> str:
    """A number, with its ends if they differ; "-" where it is not known."""
    if total is None:
        return "-"
    value, low, high = map(write, total)
    return f"{value} ({low} to {high})" if ends and low != high else value


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _time(seconds: float) -> str:
    unit, name = next((u, n) for u, n in ((3600, "h"), (60, "min"), (0, "s")) if seconds >= 2 * u)
    return f"{_count(seconds / (unit or 1))} {name}"


def _bytes(size: float) -> str:
    power = min(4, max(0, int(math.log(max(size, 1), 1024))))
    return f"{_count(size / 1024**power)} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
