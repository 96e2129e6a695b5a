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
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from rdslib.commands.request import SelectRequest, use_device, with_options
from rdslib.commands.speed import NOTHING, Costs, PoolSample, Total, added, exactly
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
    """A piece of the work; None is not known. `there`: it is done, and its seconds are what it took."""

    name: str
    tokens: Total | None = None
    flops: Total | None = None
    seconds: Total | None = None
    there: bool = False


def together(name: str, parts: Sequence[Part], there: bool = False) -> Part:
    """Parts as one; what is not known of one of them is not known of it."""
    tokens, flops, seconds = (
        added(getattr(part, each) for part in parts) for each in ("tokens", "flops", "seconds")
    )
    return Part(name, tokens, flops, seconds, there)


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
        alternatives: Whether the parts are alternatives, which have no sum.
    """

    title: str
    facts: Mapping[str, Total]
    parts: Sequence[Part]
    notes: Sequence[str]
    disk: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, float] = field(default_factory=dict)
    steps: Sequence[tuple[str, bool]] = ()
    alternatives: bool = False

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
        facts = {f"rows {kind}": exactly(count) for kind, count in counts.items()}
        facts |= {
            "characters": exactly(float(pool.all_sizes.sum())),
            "pool tokens": costs.over_pool(costs.lengths(pool.samples, cut), cut),
            "queries": exactly(sum(map(len, queries.values()))),
            "query tokens": exactly(float(asked_tokens)),
            "parameters": exactly(costs.parameters),
            "seconds to read the pool": exactly(reading),
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
        rates = _rates(study.store, groups)
        for name in dict.fromkeys(each.name for each in steps):
            of_name = [group for group in groups if group[0].name == name]
            todo = [group for group in of_name if not all(map(study.store.has, group))]
            made = [_taken(study.store, group) for group in of_name if group not in todo]
            if made:
                parts.append(together(f"{name}: {len(made)} of {len(of_name)}", made, there=True))
            if todo:
                planned = [_at_rate(part_of(costs, group), group, rates) for group in todo]
                parts.append(together(f"{name}: {len(todo)} of {len(of_name)}", planned))
    if missing:
        notes.append(
            "seconds: where steps of the same kind exist, by what these took; else by FLOPs, those of "
            "training and evaluation at the speed of a forward pass; one process; what is marked so is not "
            "counted, and evaluation is one pass of each test sample"
        )
    if missing and costs is None:
        notes.append("FLOPs: not known before the model and the data are there; `rds run` gets them first")
    facts = {"steps": exactly(len(steps)), "steps missing": exactly(len(missing))}
    notes += costs.notes if costs else []
    return Plan(f"profile {study.profile.name} on {device_kind()}", facts, parts, notes)


def _plan_paper(profile: Profile) -> Plan:
    """The methods of Figure 1, by the paper's formulas."""
    from rdslib import figures
    from rdslib.methods import get_scorer

    rows = figures.get_figure("fig1_pareto").published()
    budget = int(rows["budget"].iloc[0])
    tokens = PAPER.tokens_per_sample
    training = exactly(tokens * budget * PAPER.epochs), exactly(training_flops(budget))
    parts = [Part(f"train on {budget:,}, any method", *training)]
    for method, size, note in zip(rows["method"], rows["pool_size"], rows["note"], strict=True):
        name = f"select {method} from {size:,}" + (f" ({note} in the paper)" if note else "")
        parts.append(Part(name, None, exactly(get_scorer(method).paper_flops(size, budget, PAPER))))
    facts = {"parameters": exactly(PAPER.parameters), "tokens a sample": exactly(tokens)}
    note = (
        f"by the paper's formulas: Llama-2-7B counted as {PAPER.parameters:.0e} parameters, each sample as "
        f"{tokens:,} tokens, {PAPER.epochs} epochs; LESS with its warm-up, IFD with its training"
    )
    title = f"profile {profile.name}: Figure 1, {budget:,} samples for one task"
    return Plan(title, facts, parts, [note], alternatives=True)


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
    if flops == NOTHING:
        return Part(label, tokens, flops, NOTHING)
    # What is not measured itself goes at the speed of a plain forward pass.
    speed = costs.speed(group[0].arguments["extractor"] if group[0].name == "features" else "lm")
    return Part(label, tokens, flops, speed and speed.seconds(flops))


def _taken(store: Store, group: Sequence[Step]) -> Part:
    """What steps that exist took; those of one pass have the same seconds."""
    found = [store.manifest(each) for each in group]
    tokens = max(each["counts"].get("tokens", each["counts"].get("training_tokens", 0)) for each in found)
    seconds = max(each["seconds"] for each in found)
    return Part(group[0].label, exactly(tokens), None, exactly(seconds), there=True)


def _kind(group: Sequence[Step]) -> tuple[str, str]:
    return group[0].name, group[0].arguments.get("extractor", "")


def _rates(store: Store, groups: Sequence[Sequence[Step]]) -> dict[tuple[str, str], float]:
    """Seconds a unit of weight that existing steps took, by kind."""
    weights: dict[tuple[str, str], float] = defaultdict(float)
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for group in groups:
        if all(map(store.has, group)):
            weights[_kind(group)] += group[0].weight
            seconds[_kind(group)] += max(store.manifest(each)["seconds"] for each in group)
    return {kind: seconds[kind] / weights[kind] for kind in weights}


def _at_rate(part: Part, group: Sequence[Step], rates: Mapping[tuple[str, str], float]) -> Part:
    rate = rates.get(_kind(group))
    return part if rate is None else replace(part, seconds=exactly(group[0].weight * rate))


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
    pool, disk = costs.pool, {}
    disk["features"] = 0.0
    for each in costs.features:
        use = costs.use([each])
        speed = None if use else costs.speed(each.arguments["extractor"])
        # Beside each feature are the FLOPs of each sample.
        disk["features"] += each.weight * (use.row_bytes + 8 if use else speed.row_bytes if speed else 12)
    writer = PoolWriter(costs.scratch / "pool", costs.scratch / "records", ("record", "where"))
    for row in pool.rows:
        writer.add(row.sample, json.dumps(row.record, ensure_ascii=False, default=str), row.where)
    writer.close()
    written = sum((costs.scratch / name).stat().st_size for name in ("pool", "records"))
    disk["copy of the pool, about"] = float(written / pool.sizes.sum() * pool.all_sizes.sum())
    if costs.scratch in costs.model.parents:
        disk["model, converted"] = 2.0 * costs.weights
    for name in dict.fromkeys(each.arguments["extractor"] for each in costs.features):
        files = [each for each in (costs.scratch / name).rglob("*") if each.is_file()]
        if files:
            disk[f"prepared for {name}"] = sum(each.stat().st_size for each in files)
        elif _trains_whole(costs, name):
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
        name = group[0].arguments["extractor"]
        speed = None if costs.use(group) else costs.speed(name)
        if speed is not None and speed.tokens:
            words = f"weights of {name}, but for its word embeddings"
            memory[words] = 4.0 * speed.cost.sum() / speed.tokens / FORWARD
        if _trains_whole(costs, name):
            memory["training: weights, gradients and Adam's moments"] = 16.0 * costs.weights
    return memory


def _trains_whole(costs: Costs, name: str) -> bool:
    trained = get_extractor(name).trains_on(costs.settings, 1)
    return trained is not None and trained[1].method == "full"


# --- for a terminal


def gpu_hours(flops: float, gpu: str) -> float:
    """Hours that FLOPs take on one of `GPUS`, at the assumed utilisation."""
    return flops / (GPUS[gpu] * 1e12 * UTILISATION) / 3600


def shown(plan: Plan) -> list[RenderableType]:
    """The plan for a terminal."""
    rows = [*plan.parts, *([] if plan.alternatives else [plan.left])]
    lines = [line(plan.title)]
    lines.append(table({"": plan.facts, " ": [_text(each, _count) for each in plan.facts.values()]}))
    seconds = [_seconds(part, part is rows[-1]) for part in rows]
    work = {
        "work": [part.name for part in rows],
        "tokens": [_text(part.tokens, _count, False) for part in rows],
        "FLOPs": [_text(part.flops, "{:.3g}".format) for part in rows],
        "on this device": seconds,
    }
    left = {part.name: part.flops.value for part in rows if part.flops and not part.there}
    hours = {gpu: [_count(gpu_hours(each, gpu)) for each in left.values()] for gpu in GPUS}
    lines += [table(work), table({"GPU-hours": left, **hours})]
    peaks = ", ".join(f"{name} {peak}" for name, peak in GPUS.items())
    lines.append(
        line(
            f"GPU-hours are at {UTILISATION:.0%} of dense bf16 peak ({peaks} TFLOP/s): an assumption, "
            "not a measurement."
        )
    )
    for name, sizes in (("disk", plan.disk), ("memory", plan.memory)):
        if sizes:
            lines.append(table({name: sizes, " ": map(_bytes, sizes.values())}))
    if plan.steps:
        there = sum(exists for _, exists in plan.steps)
        states = ["exists" if exists else "missing" for _, exists in plan.steps]
        lines.append(
            table(
                {
                    f"{there} of {len(plan.steps)} exist": states,
                    "artifact": [label for label, _ in plan.steps],
                }
            )
        )
    notes = [line(f"{note[0].upper()}{note[1:]}.") for note in plan.notes]
    return [each for part in [*lines, *notes] for each in (part, "")][:-1]


def _seconds(part: Part, is_sum: bool) -> str:
    if part.seconds == NOTHING and not is_sum:
        return "not counted"
    return f"{'exists, took ' if part.there else ''}{_text(part.seconds, _time)}"


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
