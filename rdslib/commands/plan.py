"""`rds plan`: what a selection or a study will cost, before anything is spent, with nothing left behind.

Rows and characters are counted, tokens are estimated from a random sample of the rows, and the speed is that
of the method's extractors on some of these. FLOPs are counted as a study counts them.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from rdslib.commands.request import SelectRequest, use_device, with_options
from rdslib.commands.speed import Costs, PoolSample, Total
from rdslib.commands.text import line, show, table
from rdslib.commands.user_data import UserSelection, check_kept, sort_out
from rdslib.data.chat import Sample
from rdslib.data.pool import PoolFile, PoolWriter
from rdslib.data.reader import Row
from rdslib.errors import UserError
from rdslib.methods import get_extractor
from rdslib.models.flops import FORWARD, PAPER, training_flops
from rdslib.params import Profile, load_profile
from rdslib.pipeline.step import Step, in_order
from rdslib.pipeline.steps import POOL, model_folder
from rdslib.pipeline.store import Store
from rdslib.selection.topk import HELD
from rdslib.tasks.base import QUERIES, TEST, read_task

if TYPE_CHECKING:
    from rdslib.pipeline.pipeline import Pipeline, Request
    from rdslib.pipeline.study import Study

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
        return
    if None in (options["pool"], options["model"], options["k"]):
        raise UserError("rds plan: give --pool, --model and -k, as to `rds select`, or --profile alone")
    show(shown(plan_request(SelectRequest.of(options))))


@dataclass(frozen=True)
class Part:
    """A piece of the work; NaN is not known. `there`: it is done, and its seconds are what it took."""

    name: str
    tokens: float = math.nan
    flops: float = math.nan
    seconds: float = math.nan
    there: bool = False


def together(name: str, parts: Sequence[Part], there: bool = False) -> Part:
    """Parts as one; what is not known of one of them is not known of it."""
    sums = {each: math.fsum(getattr(part, each) for part in parts) for each in ("tokens", "flops", "seconds")}
    return Part(name, **sums, there=there)


@dataclass(frozen=True)
class Plan:
    """What work costs.

    Attributes:
        title: What it is a plan of.
        facts: Counts and estimates by name.
        parts: The work.
        notes: What the numbers rest on.
        disk: Bytes by what takes them.
        memory: The same of the largest things in memory, not all of them at once.
        steps: The artifacts, and whether they exist.
        summed: Whether the parts have a sum; else they are alternatives.
    """

    title: str
    facts: Mapping[str, float | Total]
    parts: Sequence[Part]
    notes: Sequence[str]
    disk: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, float] = field(default_factory=dict)
    steps: Sequence[tuple[str, bool]] = ()
    summed: bool = True

    @property
    def left(self) -> Part:
        """All parts that are not there yet."""
        return together("still to do", [part for part in self.parts if not part.there])


def plan_request(request: SelectRequest) -> Plan:
    """Plan a selection; raises UserError for what `rds select` would refuse before it loads a model."""
    from rdslib.models.device import device_kind

    selection = UserSelection(request)
    pipeline, pool, started = selection.pipeline, PoolSample(request.seed), time.monotonic()
    counts = Counter(dict.fromkeys(("read", "kept", "rejected", "contaminated", "duplicate"), 0))
    sources: list[str] = []
    with selection.store.progress.bar("rows of the pool", 0, "row") as bar:
        for kind, row, _ in sort_out(
            selection.pool, selection.tests, request.format, request.on_error, request.dedup
        ):
            counts["read"] += 1
            counts[kind] += 1
            bar.update()
            if kind == "kept" and isinstance(row, Row):
                pool.add(row.sample, row)
                if selection.limits:
                    sources.append(sys.intern(row.source))
    reading = time.monotonic() - started
    check_kept(selection.pool.name, counts)
    pool.close()
    pipeline.size = counts["kept"]
    asked = selection.asked(counts["kept"], sources)
    steps = in_order([pipeline.selection(asked)])
    queries = {
        (pipeline.queries[task].hash, QUERIES): [row.sample for row in rows]
        for task, rows in selection.queries.items()
    }
    with tempfile.TemporaryDirectory(prefix="rds-plan-") as folder:
        model = _model_of(pipeline, Path(folder))
        costs = Costs(pipeline, steps, model, pool, queries, Path(folder))
        cut = pipeline.settings.encode.max_length
        asked_tokens = sum(costs.lengths(each, cut, queries=True).sum() for each in queries.values())
        facts: dict[str, float | Total] = {f"rows {kind}": count for kind, count in counts.items()}
        facts |= {
            "characters": float(pool.all_sizes.sum()),
            "pool tokens": costs.over_pool(costs.lengths(pool.samples, cut), cut),
            "queries": sum(map(len, queries.values())),
            "query tokens": float(asked_tokens),
            "parameters": costs.parameters,
            "seconds to read the pool": reading,
        }
        made = [group for group in passes(steps) if group[0].name in ("prepare", "features")]
        parts = [part_of(costs, group) for group in made]
        notes = [
            f"pool tokens: estimated from {len(pool.samples):,} rows at random by tokens a character (rows "
            f"are cut at {cut:,} tokens), with its 95% interval; all else of the pool is counted"
        ]
        if any(part.name.startswith("prepare") for part in parts):
            notes.append(
                "training before the features was not measured: its tokens are those of as many average "
                "rows, and its FLOPs go at the speed of a forward pass"
            )
        return Plan(
            f"{request.method}: {asked.k:,} of {request.pool}, {request.model} on {device_kind()}",
            facts,
            parts,
            [*notes, *costs.notes],
            _disk(costs),
            _memory(costs, asked),
            [(f"{each.name}: {each.label}", selection.store.has(each)) for each in steps],
        )


def plan_profile(profile: str) -> Plan:
    """Plan what is missing of a profile's study; of one without an experiment, the paper's selections.

    Raises:
        UserError: There is no such profile, or it has a mistake.
    """
    from rdslib import figures
    from rdslib.models.device import device_kind
    from rdslib.pipeline.study import Study

    if load_profile(profile).experiment is None:
        return _plan_paper(load_profile(profile))
    study = Study.load(profile)
    steps = in_order([each for name in figures.FIGURES for each in figures.steps(study, name)])
    parts, notes = [], []
    with tempfile.TemporaryDirectory(prefix="rds-plan-") as folder:
        missing = study.missing(steps)
        costs = _costs_of(study, steps, Path(folder)) if missing else None
        groups = passes(steps)
        for name in dict.fromkeys(each.name for each in steps):
            of_name = [group for group in groups if group[0].name == name]
            todo = [group for group in of_name if not all(map(study.store.has, group))]
            made = [_taken(study.store, group) for group in of_name if group not in todo]
            if made:
                parts.append(together(f"{name}: {len(made)} of {len(of_name)}", made, there=True))
            if todo:
                planned = [part_of(costs, group) for group in todo]
                parts.append(together(f"{name}: {len(todo)} of {len(of_name)}", planned))
    if missing:
        notes.append(
            "training and evaluation are at the speed of a forward pass, and evaluation is one pass of each "
            "test sample; one process; what is marked so is not counted"
        )
    if missing and costs is None:
        notes.append("FLOPs: not known before the model and the data are there; `rds run` gets them first")
    facts = {"steps": len(steps), "steps missing": len(missing)}
    notes += costs.notes if costs else []
    return Plan(f"profile {study.profile.name} on {device_kind()}", facts, parts, notes)


def _plan_paper(profile: Profile) -> Plan:
    """The methods of Figure 1, by the paper's formulas."""
    from rdslib import figures
    from rdslib.methods import get_scorer
    from rdslib.pipeline.study import Study

    rows = figures.table(Study(profile), "fig1_pareto", "published")
    budget = int(rows["budget"].iloc[0])
    tokens = PAPER.tokens_per_sample
    trained = tokens * budget * PAPER.epochs
    parts = [Part(f"train on {budget:,}, any method", trained, training_flops(budget))]
    for method, size, note in zip(rows["method"], rows["pool_size"], rows["note"], strict=True):
        name = f"select {method} from {size:,}" + (f" ({note} in the paper)" if note else "")
        flops = get_scorer(method).paper_flops(size, budget, PAPER)
        parts.append(Part(name, flops=flops))
    facts = {"parameters": PAPER.parameters, "tokens a sample": tokens}
    note = (
        f"by the paper's formulas: Llama-2-7B counted as {PAPER.parameters:.0e} parameters, each sample as "
        f"{tokens:,} tokens, {PAPER.epochs} epochs; LESS with its warm-up, IFD with its training"
    )
    title = f"profile {profile.name}: Figure 1, {budget:,} samples for one task"
    return Plan(title, facts, parts, [note], summed=False)


# --- the parts


def passes(steps: Sequence[Step]) -> list[list[Step]]:
    """The steps, those together that are made in one call, such as features of one pass."""
    groups: dict[str, list[Step]] = {}
    for each in steps:
        groups.setdefault(each.group, []).append(each)
    return list(groups.values())


def part_of(costs: Costs | None, group: Sequence[Step]) -> Part:
    """What is to be done of a group of steps; of one that exists, what it took."""
    label = group[0].label
    if costs is None:
        return Part(label)
    todo = [each for each in group if not costs.pipeline.store.has(each)]
    if not todo:
        return _taken(costs.pipeline.store, group)
    tokens, flops = costs.cost(todo)
    if not flops:
        return Part(label, tokens, flops, 0)
    # What is not measured itself goes at the speed of a plain forward pass.
    speed = costs.speed(group[0].arguments["extractor"] if group[0].name == "features" else "lm")
    return Part(label, tokens, flops, flops / speed.flops if speed else math.nan)


def _taken(store: Store, group: Sequence[Step]) -> Part:
    """What steps that exist took; those of one pass have the same seconds."""
    found = [store.manifest(each) for each in group]
    tokens = max(each["counts"].get("tokens", each["counts"].get("training_tokens", 0)) for each in found)
    seconds = max(each["seconds"] for each in found)
    return Part(group[0].label, tokens, math.nan, seconds, there=True)


def _model_of(pipeline: Pipeline, scratch: Path) -> Path:
    """Where the language model is; a GGUF file that was not converted yet is, into `scratch`."""
    from rdslib.models.loading import convert_gguf

    if pipeline.store.has(pipeline.model):
        return model_folder(pipeline.store.path(pipeline.model))
    path = Path(pipeline.settings.model.path or "")
    if path.suffix.lower() != ".gguf":
        return path
    convert_gguf(path, scratch / "model")
    return scratch / "model"


def _costs_of(study: Study, steps: Sequence[Step], scratch: Path) -> Costs | None:
    """The costs of a study with its data; None where the model or the data would have to be downloaded."""
    pipeline, store = study.pipeline, study.store
    needed = [pipeline.model, *study.data_steps]
    if not all(map(store.has, needed)):
        if study.experiment.downloads:
            return None
        store = Store(scratch / "home", store.progress)
    model, *_ = [store.make(each) for each in needed]
    pool = PoolSample(study.experiment.seed)
    for sample in PoolFile(store.path(study.pool) / POOL):
        pool.add(sample)
    pool.close()
    tasks = {each.hash: read_task(store.path(each)) for each in study.tasks.values()}
    samples: dict[tuple[str, str], Sequence[Sample]] = {}
    for each, data in tasks.items():
        samples |= {(each, QUERIES): data.queries, (each, TEST): data.test}
    return Costs(pipeline, steps, model_folder(model), pool, samples, scratch)


def _disk(costs: Costs) -> dict[str, float]:
    """Bytes below RDSLIB_HOME, by what takes them."""
    pool, disk = costs.pool, {"features": 0.0}
    for each in costs.features:
        use = costs.use([each])
        speed = None if use else costs.speed(each.arguments["extractor"])
        # Beside each feature are the FLOPs of each sample.
        row_bytes = use.row_bytes + 8 if use else speed.row_bytes if speed else 12
        disk["features"] += costs.rows(each) * row_bytes
    writer = PoolWriter(costs.scratch / "pool", costs.scratch / "records", ("record", "where"))
    for row in pool.rows:
        writer.add(row.sample, json.dumps(row.record, ensure_ascii=False, default=str), row.where)
    writer.close()
    written = sum((costs.scratch / name).stat().st_size for name in ("pool", "records"))
    disk["copy of the pool, about"] = float(written / pool.sizes.sum() * pool.all_sizes.sum())
    if costs.scratch in costs.model.parents:
        disk["model, converted"] = 2.0 * costs.weights
    if any(_trains_whole(costs, each) for each in costs.features):
        disk["trained model"] = 4.0 * costs.weights
    return disk


def _memory(costs: Costs, asked: Request) -> dict[str, float]:
    """Bytes of the largest things in memory, by what they are; not all of them at once."""
    from rdslib.models.encode import LOGIT_ROWS

    encode, c, size = costs.settings.encode, costs.config, costs.bytes_a_number
    lists = len(asked.targets) if len(asked.targets) > 1 else sum(map(len, costs.samples.values())) or 1
    memory = {"ranking, at most": 24.0 * lists * min(asked.k, HELD // lists)}
    uses = [use for use in map(costs.use, passes(costs.features)) if use]
    if uses:
        tokens = max(encode.token_budget, encode.max_length)
        width = 4 * c.hidden_size + 2 * getattr(c, "intermediate_size", 4 * c.hidden_size)
        # Scores of one layer's heads, of which plain attention, on a processor, has the softmax too.
        scores = c.num_attention_heads * tokens * encode.max_length * (2 * size + 4)
        heads = any(use.logits for use in uses)
        logits = min(tokens, LOGIT_ROWS) * c.vocab_size * (size + 8) if heads else 0
        layers = max(use.layers for use in uses)
        memory["weights"] = float(costs.weights * size)
        memory["one batch, roughly"] = float(layers * (tokens * width * size + scores) + logits)
    for group in passes(costs.features):
        speed = None if costs.use(group) else costs.speed(group[0].arguments["extractor"])
        if speed and speed.tokens:
            memory["weights of the embedder, roughly"] = 4.0 * speed.cost.sum() / speed.tokens / FORWARD
    if any(_trains_whole(costs, each) for each in costs.features):
        memory["training: weights, gradients and Adam's moments"] = 16.0 * costs.weights
    return memory


def _trains_whole(costs: Costs, step: Step) -> bool:
    trained = get_extractor(step.arguments["extractor"]).trains_on(costs.settings, 1)
    return trained is not None and trained[1].method == "full"


# --- for a terminal


def gpu_hours(flops: float, gpu: str) -> float:
    """Hours that FLOPs take on one of `GPUS`, at the assumed utilisation."""
    return flops / (GPUS[gpu] * 1e12 * UTILISATION) / 3600


def shown(plan: Plan) -> list[RenderableType]:
    """The plan for a terminal."""
    rows = [*plan.parts, *([plan.left] if plan.summed else [])]
    left = {part.name: part.flops for part in rows if not math.isnan(part.flops) and not part.there}
    peaks = ", ".join(f"{name} {peak}" for name, peak in GPUS.items())
    work = {
        "work": [part.name for part in rows],
        "tokens": [_count(part.tokens) for part in rows],
        "FLOPs": ["-" if math.isnan(part.flops) else f"{part.flops:.3g}" for part in rows],
        "on this device": [_seconds(part) for part in rows],
    }
    parts = [
        line(plan.title),
        table({"": plan.facts, " ": [_fact(each) for each in plan.facts.values()]}),
        table(work, ["work"]),
        table(
            {
                "GPU-hours": left,
                **{gpu: [_count(gpu_hours(each, gpu)) for each in left.values()] for gpu in GPUS},
            }
        ),
        line(
            f"GPU-hours are at {UTILISATION:.0%} of dense bf16 peak ({peaks} TFLOP/s): an assumption, not a "
            "measurement."
        ),
    ]
    for name, sizes in (("disk", plan.disk), ("memory", plan.memory)):
        if sizes:
            parts.append(table({name: sizes, " ": map(_bytes, sizes.values())}))
    if plan.steps:
        head = f"{sum(exists for _, exists in plan.steps)} of {len(plan.steps)} exist"
        states = ["exists" if exists else "missing" for _, exists in plan.steps]
        parts.append(table({head: states, "artifact": [label for label, _ in plan.steps]}, ["artifact"]))
    parts += [line(f"{note[0].upper()}{note[1:]}.") for note in plan.notes]
    return [each for part in parts for each in (part, "")][:-1]


def _seconds(part: Part) -> str:
    if part.there:
        return f"exists, took {_time(part.seconds)}"
    return _time(part.seconds) if part.flops else "not counted"


def _fact(value: float | Total) -> str:
    if isinstance(value, Total) and value.low < value.high:
        return "{} ({} to {})".format(*map(_count, value))
    return _count(value.value if isinstance(value, Total) else value)


def _count(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    unit, name = next((u, n) for u, n in ((3600, "h"), (60, "min"), (0, "s")) if seconds >= 2 * u)
    return f"{_count(seconds / (unit or 1))} {name}"


def _bytes(size: float) -> str:
    power = min(4, max(0, int(math.log(max(size, 1), 1024))))
    return f"{_count(size / 1024**power)} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
