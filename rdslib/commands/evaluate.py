"""`rds evaluate`: how well models do on tasks, by the paper's metric and in bits per byte."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import typer
from rich.console import RenderableType

from rdslib.commands.run import ProfileOption
from rdslib.commands.text import show, table
from rdslib.errors import UserError, needs
from rdslib.evaluation.bootstrap import estimate_difference, estimate_mean
from rdslib.evaluation.harness import path_of
from rdslib.evaluation.judge import outputs, win_rates
from rdslib.params import Model, profile_path

if TYPE_CHECKING:
    from rdslib.pipeline.study import Study

BITS = "bits per byte"

# Of each test sample, a numerator (NaN where there is no score) and a denominator, whose sums make the score.
Parts = tuple[np.ndarray, np.ndarray]


def evaluate_command(
    profile: ProfileOption = "mini",
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model, a folder or hub name; by default the profile's. Repeated: compared."),
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="A task of the profile; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many test samples a task; 0 is all.")] = 0,
    max_response: Annotated[
        int, typer.Option(min=0, help="At most so many tokens a response; 0 is what the protocol says.")
    ] = 0,
    judge: Annotated[
        str | None,
        typer.Option(help="For AlpacaEval: the model that compares responses; key in OPENAI_API_KEY."),
    ] = None,
    judge_url: Annotated[
        str | None, typer.Option(help="Its OpenAI-compatible address; by default OpenAI's own.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A CSV file to write the scores to as well.")] = None,
) -> None:
    """Score models on a profile's tasks, by the paper's protocols and in bits per byte.

    Each score has its 95% interval, and each further model its difference from the first on the same test
    samples. What was measured is kept: a run that was stopped goes on with the next task.
    """
    needs("study", "lm_eval")
    scores = evaluate(profile, model or (), task or (), limit, max_response, judge, judge_url)
    if out is not None:
        write(scores, out)
    show([shown(scores)])


def evaluate(
    profile: str,
    models: Sequence[str] = (),
    tasks: Sequence[str] = (),
    limit: int = 0,
    max_response: int = 0,
    judge: str | None = None,
    judge_url: str | None = None,
) -> pd.DataFrame:
    """Score models on a profile's tasks, and take each model's differences from the first.

    Args:
        profile: The profile.
        models: Folders or hub names, in place of the profile's model.
        tasks: Some of the profile's.
        limit: At most so many test samples of each, drawn with the profile's seed and evenly over subtasks.
        max_response: At most so many tokens of a response.
        judge: What compares responses with the references where a protocol leaves the score to a judge;
            without one there is no score.
        judge_url: Where the judge is.

    Returns:
        A row a model, task and metric: model, task, metric, score, low, high, n, seconds, and the difference
        from the first model (diff, diff_low, diff_high), paired by test sample. Intervals are 95%, by
        resampling test samples.

    Raises:
        UserError: The profile has no experiment, or a task is unknown or has no protocol.
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
                row |= {"score": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
                run = study.untuned()
                step = study.evaluation(run, task) if metric == BITS else study.measurement(run, task)
                row["seconds"] = float(study.store.manifest(step)["seconds"])
                both = known & ~np.isnan(first[metric][0])
                if study is not studies[0] and both.any():
                    diff = estimate_difference(
                        {task: [_of(parts, both)]},
                        {task: [_of(first[metric], both)]},
                        e.bootstrap,
                        study.experiment.seed,
                    )
                    row |= {"diff": diff.value, "diff_low": diff.low, "diff_high": diff.high}
                rows.append(row)
    return pd.DataFrame(rows)


def _of(parts: Parts, which: np.ndarray) -> Parts:
    return parts[0][which], parts[1][which]


def _study(profile: str, model: str, tasks: Sequence[str], limit: int, max_response: int) -> Study:
    from rdslib.pipeline.study import Study  # loads torch

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


def shown(scores: pd.DataFrame) -> RenderableType:
    """The scores as people read them."""
    columns: dict[str, Iterable[object]] = {name: scores[name] for name in ("model", "task", "metric")}
    columns["score"] = _intervals(scores, "score", "low", "high", ".3f")
    columns |= {"n": scores["n"], "seconds": scores["seconds"].map("{:.0f}".format)}
    if "diff" in scores:
        columns["diff from the first"] = _intervals(scores, "diff", "diff_low", "diff_high", "+.3f")
    return table(columns, ["model", "task"])


def _intervals(scores: pd.DataFrame, value: str, low: str, high: str, form: str) -> list[str]:
    """Values with their intervals, empty where there is none."""
    rows = scores[[value, low, high]].to_numpy(dtype=float)
    return [
        "" if np.isnan(row).any() else "{} [{}, {}]".format(*(f"{x:{form}}" for x in row)) for row in rows
    ]


def write(scores: pd.DataFrame, out: Path) -> None:
    """Write scores as CSV; raises UserError if that cannot be done."""
    try:
        scores.to_csv(out, index=False)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); give another --out") from error
