"""Selection from a pool of one's own: the study's own steps, from the user's files on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rdslib.data.chat import Sample
from rdslib.data.dedup import Contamination
from rdslib.data.pool import PoolFile, PoolWriter
from rdslib.data.reader import Input, Rejected, Row, find_input, read_rows
from rdslib.errors import UserError
from rdslib.files import sha256_of
from rdslib.methods import Scorer, ScoringInputs, get_scorer, load_plugins
from rdslib.params import (
    Encode,
    Evaluate,
    Experiment,
    Grid,
    Ifd,
    Less,
    Model,
    Pool,
    Profile,
    Source,
    Task,
    Train,
    load_profile,
    profile_path,
)
from rdslib.pipeline import steps as stages
from rdslib.pipeline.store import Step, Work
from rdslib.pipeline.study import Run, Study
from rdslib.selection.quota import per_source
from rdslib.tasks import base as tasks

# The task of queries that name none.
QUERIES = "queries"
# Files of the data artifact, beside the pool: each sample's record, and what was left out and why.
RECORDS, LEFT_OUT = "records.parquet", "left_out.jsonl"
# The paper's own settings (sections 2 and 5), where no profile gives others.
_FULL = Train(
    method="full", epochs=1, learning_rate=2e-5, warmup_ratio=0.03, batch_size=128, micro_batch_size=1,
    max_length=2048,
)  # fmt: skip
_WARM_UP = _FULL.model_copy(
    update={
        "method": "lora", "epochs": 4, "lora_rank": 128, "lora_alpha": 512, "lora_dropout": 0.1,
        "lora_targets": ("q_proj", "k_proj", "v_proj", "o_proj"),
    }
)  # fmt: skip
_ENCODE = Encode(max_length=2048, shard_size=1024)

Dedup = Literal["none", "exact", "near"]


@dataclass(frozen=True)
class Request:
    """What is to be selected: all that a selection depends on, but for the bytes of the files.

    `pool`, `queries`, `exclude`: files, folders or names of the hub (`rdslib.data.reader`). `k`: a count, or
    a percent of the pool as "5%". `model`: a folder, a hub name or a GGUF file. `profile`: whose parameters
    and plugins to use; None: the paper's parameters.
    """

    pool: str
    model: str
    k: str
    queries: str | None = None
    method: str = "rds"
    form: str | None = None
    on_error: Literal["stop", "quarantine"] = "stop"
    dedup: Dedup = "none"
    exclude: tuple[str, ...] = ()
    balance_sources: bool = False
    max_per_source: int | None = None
    profile: str | None = None
    engine: Literal["local", "ray"] = "local"
    seed: int = 42

    def in_full(self) -> Request:
        """The same with paths in full, so that it means the same from any folder."""
        return replace(
            self,
            pool=_in_full(self.pool),
            queries=_in_full(self.queries) if self.queries else None,
            model=_in_full(self.model),
            exclude=tuple(map(_in_full, self.exclude)),
            profile=_in_full(self.profile) if self.profile else None,
        )


def _in_full(name: str) -> str:
    """A path in full; a name that is no path, such as one of the hub or of a profile, as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else name


class OwnPool(Study):
    """The steps of a selection from files: every method, with its artifacts kept like any other's."""

    def __init__(self, request: Request) -> None:
        """Reads the queries. Raises UserError for bad queries, or a method that needs some without any."""
        self.request = request
        given, folder = None, None
        if request.profile:
            given = load_profile(request.profile).experiment
            folder = profile_path(request.profile).resolve().parent
            # A profile may bring methods of its own.
            load_plugins([folder / plugin for plugin in given.plugins] if given else [])
        scorer = _scorer_of(request)
        self.inputs = {"pool": find_input(request.pool)}
        self.inputs |= {f"exclude {i}": find_input(name) for i, name in enumerate(request.exclude)}
        self.queries: dict[str, list[tuple[int, Sample]]] = {}
        if request.queries is not None:
            self.inputs[QUERIES] = find_input(request.queries)
            self.queries = _read_queries(self.inputs[QUERIES], scorer.needs_response and request.method)
        if request.profile and given is None:
            raise UserError(
                f"profile {request.profile}: has no experiment to take parameters from; give another"
            )
        # What a profile has of a pool, of tasks and of a grid is not what is selected from here.
        settings: dict[str, Any] = {
            "model": Model(title=request.model, path=request.model),
            "pool": Pool(sources=(Source(name=request.pool, reader="own", samples=1),), max_chars=1),
            "tasks": tuple(
                Task(name=name, reader="own", queries=max(1, len(rows)), test=1)
                for name, rows in (self.queries or {QUERIES: []}).items()
            ),
            "grid": Grid(
                single_task={"all": (request.method,)}, single_task_budget=1, multi_task_methods=(),
                multi_task_budgets=(), seeds=(request.seed,),
            ),
        }  # fmt: skip
        if given is None:
            experiment = Experiment(
                seed=request.seed, encode=_ENCODE, train=_FULL, ifd=Ifd(train=_FULL),
                less=Less(train=_WARM_UP), evaluate=Evaluate(max_length=2048, bootstrap=1), **settings,
            )  # fmt: skip
        else:
            ifd = given.ifd.model_copy(update={"pool": "all"}) if given.ifd else None
            experiment = given.model_copy(update={**settings, "ifd": ifd, "seed": request.seed})
        profile = Profile(name="own", title="own", experiment=experiment, engine=request.engine)
        super().__init__(profile, folder=folder)

    @property
    def methods(self) -> tuple[str, ...]:
        """The one method that is asked for: no feature is made for another."""
        return (self.request.method,)

    @property
    def limits(self) -> Mapping[str, Any]:
        """`--max-per-source` and `--balance-sources`, where they are given."""
        limits = {"most": self.request.max_per_source, "balance": self.request.balance_sources}
        return {name: value for name, value in limits.items() if value}

    @cached_property
    def data(self) -> Step:
        """The pool, by the contents of its files."""
        params = {
            "inputs": {name: _contents(each) for name, each in self.inputs.items() if name != QUERIES},
            "form": self.request.form,
            "on_error": self.request.on_error,
            "dedup": self.request.dedup,
        }
        return self._step("data", params, {}, self._build_data, "the pool", 1)

    @cached_property
    def query_data(self) -> Step:
        """The queries, apart from the pool: features of a pool serve any queries."""
        params = {QUERIES: _contents(self.inputs[QUERIES])}
        return self._step("data", params, {}, self._build_queries, "the queries", 1)

    def _size(self, pool: str) -> int:
        return self.counts["kept"] if self.store.has(self.data) else 1

    @property
    def counts(self) -> dict[str, int]:
        """Rows of the pool, once `data` is made: read, rejected, contaminated, duplicate, kept."""
        return self.store.manifest(self.data)["counts"]

    def run(self) -> Run:
        """The selection that is asked for. Raises UserError if the pool, which is read, cannot give it."""
        for each in self.inputs.values():
            if each.ignored:
                names = ", ".join(path.name for path in each.ignored[:5])
                more = ", ..." if len(each.ignored) > 5 else ""
                self.store.progress.note(f"{each.name}: {len(each.ignored)} not read: {names}{more}")
        self.compute([self.data])
        kept, asked = self.counts["kept"], self.request.k
        k = _count_of(asked, kept)
        if not 1 <= k <= kept:
            raise UserError(
                f"-k {asked}: must be from 1 to {kept}, the number of samples in {self.request.pool}"
            )
        if self.limits:
            try:
                per_source(self.pool_file.sources, k, **self.limits)
            except ValueError as error:
                raise UserError(f"-k {asked}: {error}; ask for fewer, or allow more of a source") from error
        targets = tuple(self.queries) if get_scorer(self.request.method).needs_queries else ()
        return Run(self.request.method, "all", k, targets, self.request.seed)

    @property
    def pool_file(self) -> PoolFile:
        """The samples to choose from."""
        return PoolFile(self.store.path(self.data) / "pool.parquet")

    def scoring_inputs(self, run: Run, target: str | None) -> ScoringInputs:
        """What a run's method reads to score the pool for a task; its features must be there."""
        scorer = get_scorer(run.method)
        folders = {name: self.store.path(each) for name, each in self.selection(run).inputs.items()}
        seed = run.seed if scorer.seeded else self.experiment.seed
        return stages.scoring_inputs(folders, scorer, self.pool_file, seed, target)

    def _build_data(self, work: Work) -> dict[str, Any]:
        counts: Counter[str] = Counter(dict.fromkeys(("read", "rejected", "contaminated", "duplicate"), 0))
        writer = PoolWriter(work.path / "pool.parquet", work.path / RECORDS, ("record", "where"))
        with (
            (work.path / LEFT_OUT).open("w", encoding="utf-8") as left_out,
            work.progress.bar(work.label, 0, "row") as bar,
        ):
            for kind, row, reason in self._sorted_out():
                counts["read"] += 1
                counts[kind] += 1
                bar.update()
                if isinstance(row, Row) and kind == "kept":
                    record = json.dumps(row.record, ensure_ascii=False, default=str)
                    writer.add(Sample(row.id, row.source, row.messages), record, row.where)
                else:
                    content = row.raw if isinstance(row, Rejected) else row.record
                    told = {
                        "where": row.where,
                        "id": getattr(row, "id", None),
                        "kind": kind,
                        "reason": reason,
                        "row": content,
                    }
                    left_out.write(json.dumps(told, ensure_ascii=False, default=str) + "\n")
        writer.close()
        if not counts["kept"]:
            raise UserError(
                f"{self.request.pool}: no sample is left of its {counts['read']} rows, of which "
                f"{counts['rejected']} are bad; give a larger pool, or leave less out"
            )
        return {"kept": 0, **counts}

    def _build_queries(self, work: Work) -> dict[str, Any]:
        for name, rows in self.queries.items():
            data = tasks.TaskData(name, [sample for _, sample in rows], [], "")
            tasks.write_task(data, stages.task_folder(work.path, name))
        return {"queries": sum(map(len, self.queries.values()))}

    def _sorted_out(self) -> Iterator[tuple[str, Row | Rejected, str]]:
        """Every row of the pool, whether it is kept, and if not, why."""
        held_out = [
            Sample(row.where, row.source, row.messages)
            for name, given in self.inputs.items()
            if name.startswith("exclude ")
            for row in read_rows(given, queries=True)
            if isinstance(row, Row)
        ]
        contamination = Contamination(held_out) if held_out else None
        seen = None
        if self.request.dedup != "none":
            from rdslib.data import dedup as duplicates  # loads scipy

            near = self.request.dedup == "near"
            seen = duplicates.NearDuplicates() if near else duplicates.ExactDuplicates()
        kept_as: list[str] = []
        for row in read_rows(self.inputs["pool"], self.request.form, self.request.on_error):
            if isinstance(row, Rejected):
                yield "rejected", row, row.reason
                continue
            sample = Sample(row.id, row.source, row.messages)
            match = contamination.found(sample) if contamination else None
            if match is not None:
                yield "contaminated", row, f"has words of {match.test.id}: {match.words}"
                continue
            repeat = seen.repeats(sample) if seen else None
            if seen:
                kept_as.append(row.where)
            if repeat is not None:
                yield "duplicate", row, f"repeats {kept_as[repeat.of]} (similarity {repeat.similarity:.2f})"
            else:
                yield "kept", row, ""


def _scorer_of(request: Request) -> Scorer:
    """A request's method; raises UserError for an unknown one, or one that needs queries without any."""
    scorer = get_scorer(request.method)
    if scorer.needs_queries and request.queries is None:
        raise UserError(f"--method {request.method}: needs --queries, samples of what the model should do")
    return scorer


def _read_queries(given: Input, needs_response: str | Literal[False]) -> dict[str, list[tuple[int, Sample]]]:
    """The queries of each task, in the order in which tasks come, each with its number in the input."""
    queries: dict[str, list[tuple[int, Sample]]] = {}
    for number, row in enumerate(read_rows(given, queries=True)):
        assert isinstance(row, Row)
        if needs_response and row.messages[-1]["role"] != "assistant":
            raise UserError(
                f"{row.where}: this query has no response, and --method {needs_response} looks at responses; "
                f"add one, or take another method"
            )
        sample = Sample(row.id, row.source, row.messages)
        queries.setdefault(row.task or QUERIES, []).append((number, sample))
    return queries


def _contents(given: Input) -> Any:
    """What an input holds: its files by their bytes, or what the hub has under its name now."""
    if given.split is None:
        return [[path.name, sha256_of(path)] for path in given.files]
    from huggingface_hub import HfApi

    try:
        return [given.name, given.split, HfApi().dataset_info(given.name).sha]
    except Exception as error:  # of the hub's client or the network
        raise UserError(
            f"{given.name}: is no file or folder, and cannot be had from the hub "
            f"({' '.join(str(error).split())[:150]}); check the name and the connection"
        ) from error


def _count_of(asked: str, kept: int) -> int:
    """How many samples "1000" or "5%" are; a percent is rounded down, but to 1 at least."""
    try:
        if asked.endswith("%"):
            percent = float(asked[:-1])
            if not 0 < percent <= 100:
                raise ValueError
            return max(1, int(kept * percent / 100))
        return int(asked)
    except ValueError as error:
        raise UserError(
            f"-k {asked}: is neither a count nor a percent; give one such as 1000 or 5%"
        ) from error
