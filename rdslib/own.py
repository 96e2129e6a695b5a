"""Selection from a pool of one's own: the study's own steps, from the user's files to a file of picks."""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

from rdslib import pool, tasks
from rdslib.chat import Sample
from rdslib.errors import UserError
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
from rdslib.pool_file import write_pool
from rdslib.recipes import Run
from rdslib.scorers import get_scorer
from rdslib.stages import read_selection, task_folder
from rdslib.store import Step, Work, sha256_of
from rdslib.study import Study

QUERIES = "queries"
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


class OwnPool(Study):
    """The steps of a selection from files: every method, with its artifacts kept like any other's."""

    def __init__(
        self, samples: Path, queries: Path | None, model: str, run: Run, profile: str | None
    ) -> None:
        self.files = {"pool": samples} | ({QUERIES: queries} if queries else {})
        self.rows = pool.read_jsonl(samples)
        self.wanted = pool.read_jsonl(queries) if queries else []
        given = load_profile(profile).experiment if profile else None
        if profile and given is None:
            raise UserError(f"profile {profile}: has no experiment to take parameters from; give another")
        settings: dict[str, Any] = {
            "model": Model(title=model, path=model),
            "pool": Pool(
                sources=(Source(name=str(samples), reader="own", samples=len(self.rows)),), max_chars=1
            ),
            "tasks": (Task(name=QUERIES, reader="own", queries=max(1, len(self.wanted)), test=1),),
            "grid": Grid(
                single_task={"all": (run.method,)}, single_task_budget=1, multi_task_methods=(),
                multi_task_budgets=(), seeds=(run.seed,),
            ),
        }  # fmt: skip
        if given is None:
            experiment = Experiment(
                seed=run.seed, encode=_ENCODE, train=_FULL, ifd=Ifd(train=_FULL), less=Less(train=_WARM_UP),
                evaluate=Evaluate(max_length=2048, bootstrap=1), **settings,
            )  # fmt: skip
        else:
            ifd = given.ifd.model_copy(update={"pool": "all"}) if given.ifd else None
            experiment = given.model_copy(update={**settings, "ifd": ifd, "seed": run.seed})
        folder = profile_path(profile).resolve().parent if profile else None
        super().__init__(Profile(name="own", title="own", experiment=experiment), folder=folder)

    @cached_property
    def data(self) -> Step:
        """The user's samples, by the contents of the files."""
        return self._step(
            "data",
            {name: sha256_of(path) for name, path in self.files.items()},
            {},
            self._build_data,
            "the pool and the queries",
            1,
        )

    def _build_data(self, work: Work) -> dict[str, Any]:
        write_pool(self.rows, work.path / "pool.parquet")
        tasks.write_task(tasks.TaskData(QUERIES, self.wanted, [], ""), task_folder(work.path, QUERIES))
        return {"samples": len(self.rows)}


def select_own(
    samples: Path,
    queries: Path | None,
    model: str,
    k: int,
    out: Path,
    method: str = "rds",
    profile: str | None = None,
    seed: int = 42,
) -> None:
    """Write the `k` samples of a file that `method` picks to `out`, in the order of picking.

    A method's parameters are those of `profile`, or the paper's. What can be checked is checked before the
    model is loaded, and `out` is written whole or not at all. Raises UserError for bad files, a method that
    needs queries without them, a `k` that the pool cannot give, or an `out` that cannot be written.
    """
    targets = (QUERIES,) if queries is not None else ()
    study = OwnPool(samples, queries, model, Run(method, "all", k, targets, seed), profile)
    scorer = get_scorer(method)
    if scorer.needs_queries and queries is None:
        raise UserError(f"--method {method}: needs --queries, samples of what the model should do")
    if not 1 <= k <= len(study.rows):
        raise UserError(f"-k {k}: must be from 1 to {len(study.rows)}, the number of samples in {samples}")
    _check_queries(queries, study.wanted)
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder for the output; create it first")

    step = study.selection(Run(method, "all", k, targets if scorer.needs_queries else (), seed))
    study.compute([step])
    picks = read_selection(study.store.path(step)).to_pylist()
    lines = [line for line in samples.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            for rank, pick in enumerate(picks):
                row = json.loads(lines[pick["position"]])
                row |= {"rds_score": round(pick["score"], 6), "rds_rank": rank}
                if scorer.needs_queries:
                    row["rds_query"] = int(pick["taker"])
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        os.replace(temporary, out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{out}: cannot be written ({error.strerror})") from error


def _check_queries(queries: Path | None, wanted: list[Sample]) -> None:
    for number, query in enumerate(wanted):
        if query.messages[-1]["role"] != "assistant":
            raise UserError(f"{queries}: query {number} has no response; end it with an assistant message")
