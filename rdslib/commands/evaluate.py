"""How well models do on tasks: the paper's metric and bits per byte, and what one has over another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rdslib.errors import UserError
from rdslib.evaluation.bootstrap import Estimate, estimate_difference, estimate_mean
from rdslib.evaluation.harness import path_of
from rdslib.evaluation.judge import outputs, win_rates
from rdslib.params import Model, profile_path
from rdslib.pipeline.study import Study

BITS = "bits per byte"

# Of each test sample, a numerator (NaN where there is no score) and a denominator, whose sums make the score.
Parts = tuple[np.ndarray, np.ndarray]


def examine(
    profile: str,
    models: Sequence[str] = (),
    tasks: Sequence[str] = (),
    limit: int = 0,
    max_response: int = 0,
    judge: str | None = None,
    judge_url: str | None = None,
) -> pd.DataFrame:
    """Scores of models on a profile's tasks, and each model's differences from the first.

    `models`: folders or hub names, in place of the profile's own; `tasks`: some of the profile's; `limit`:
    at most so many test samples of each, drawn with the profile's seed and evenly over subtasks;
    `max_response`: at most so many tokens of a response; `judge`, at `judge_url`: what compares responses
    with the references where a protocol leaves the score to a judge; without one there is no score.

    A row a model, task and metric: model, task, metric, score, low, high, n, seconds, and what it is less
    the first model's (less, less_low, less_high), paired by test sample. Intervals are 95%, by resampling
    test samples. Raises UserError for a profile without an experiment, an unknown task, or a task without a
    protocol.
    """
    studies = [_study(profile, model, tasks, limit, max_response) for model in models or [""]]
    for study in studies:
        for task in study.task_names:
            run = study.untuned()
            study.compute([study.evaluation(run, task), study.measurement(run, task)])
    scores = [
        {task: _scores(study, task, judge, judge_url) for task in study.task_names} for study in studies
    ]
    rows = []
    for study, by_task in zip(studies, scores, strict=True):
        for task, found in by_task.items():
            e = study.experiment.evaluate
            first = scores[0][task]
            for metric, parts in found.items():
                known = ~np.isnan(parts[0])
                if not known.any():
                    continue
                estimate = estimate_mean({task: [_of(parts, known)]}, e.bootstrap, study.experiment.seed)
                row: dict[str, Any] = {"model": study.experiment.model.title, "task": task, "metric": metric}
                row |= _columns(estimate, "score", "low", "high") | {"n": estimate.n}
                row["seconds"] = _seconds(study, task, metric)
                both = known & ~np.isnan(first[metric][0])
                if study is not studies[0] and both.any():
                    less = estimate_difference(
                        {task: [_of(parts, both)]},
                        {task: [_of(first[metric], both)]},
                        e.bootstrap,
                        study.experiment.seed,
                    )
                    row |= _columns(less, "less", "less_low", "less_high")
                rows.append(row)
    return pd.DataFrame(rows)


def _of(parts: Parts, which: np.ndarray) -> Parts:
    return parts[0][which], parts[1][which]


def _study(profile: str, model: str, tasks: Sequence[str], limit: int, max_response: int) -> Study:
    study = Study.load(profile)
    e = study.experiment
    known = {task.name: task for task in e.tasks}
    for name in tasks:
        if name not in known:
            raise UserError(f"--task {name}: is not in profile {profile}; tasks: {', '.join(known)}")
    chosen = tuple(known[name] for name in tasks) or e.tasks
    for task in chosen:
        if task.protocol is None:
            raise UserError(
                f"--task {task.name}: has no protocol in profile {profile}; leave it out with --task"
            )
        path_of(task.protocol)
    if limit:
        chosen = tuple(task.model_copy(update={"test": min(limit, task.test)}) for task in chosen)
    changes: dict[str, Any] = {
        "tasks": chosen,
        "evaluate": e.evaluate.model_copy(update={"max_response": max_response}),
    }
    if model:
        changes["model"] = Model(title=model, path=model)
    changed = study.profile.model_copy(update={"experiment": e.model_copy(update=changes)})
    return Study(changed, folder=profile_path(profile).resolve().parent)


def _scores(study: Study, task: str, judge: str | None, judge_url: str | None) -> dict[str, Parts]:
    run = study.untuned()
    step, bits = study.measurement(run, task), study.scores(run, task)
    scores = study.measured(run, task)["score"].to_numpy()
    if np.isnan(scores).all():
        folder = study.store.folder.parent / "judged" / step.hash
        folder.mkdir(parents=True, exist_ok=True)
        responses, references = _for_judge(study, task)
        for name, rows in (("responses", responses), ("references", references)):
            (folder / f"{name}.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1))
        study.store.progress.note(f"{task}: what is for a judge to compare is in {folder}")
        if judge is not None:
            scores = win_rates(responses, references, judge, judge_url, folder / "annotations.json")
    return {
        study.store.manifest(step)["counts"]["metric"]: (scores, np.ones(len(scores))),
        BITS: (bits["bits"].to_numpy(), bits["bytes"].to_numpy(dtype=float)),
    }


def _for_judge(study: Study, task: str) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The model's responses to a task's test samples, and the references, as the package reads them."""
    samples = study.task_data(task).test
    asked = [sample.messages[0]["content"] for sample in samples]
    responses = [str(each[0]).strip() for each in study.measured(study.untuned(), task)["responses"]]
    references = [(sample.references or [""])[0] for sample in samples]
    return outputs(asked, responses, study.experiment.model.title), outputs(asked, references, "reference")


def _seconds(study: Study, task: str, metric: str) -> float:
    run = study.untuned()
    step = study.evaluation(run, task) if metric == BITS else study.measurement(run, task)
    return float(study.store.manifest(step)["seconds"])


def _columns(estimate: Estimate, value: str, low: str, high: str) -> dict[str, float]:
    return {value: estimate.value, low: estimate.low, high: estimate.high}


def as_text(table: pd.DataFrame) -> str:
    """The table as people read it."""
    shown = table[["model", "task", "metric"]].assign(
        score=_intervals(table, "score", "low", "high", ".3f"),
        n=table["n"],
        seconds=table["seconds"].map("{:.0f}".format),
    )
    if "less" in table:
        shown["less the first"] = _intervals(table, "less", "less_low", "less_high", "+.3f")
    return shown.to_string(index=False)


def _intervals(table: pd.DataFrame, value: str, low: str, high: str, form: str) -> list[str]:
    """Values with their intervals, empty where there is none."""
    rows = table[[value, low, high]].to_numpy(dtype=float)
    return [
        "" if np.isnan(row).any() else "{} [{}, {}]".format(*(f"{x:{form}}" for x in row)) for row in rows
    ]


def write(table: pd.DataFrame, out: Path) -> None:
    """The table as CSV; raises UserError if it cannot be written."""
    try:
        table.to_csv(out, index=False)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); give another --out") from error
