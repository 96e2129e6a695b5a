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

from rdslib.commands.outputs import check_apart
from rdslib.commands.run import ProfileOption
from rdslib.commands.text import show, table
from rdslib.errors import UserError, needs
from rdslib.evaluation.bootstrap import estimate_difference, estimate_mean
from rdslib.evaluation.harness import path_of
from rdslib.evaluation.judge import outputs, win_rates
from rdslib.profiles import find_model, load_profile, profile_path

if TYPE_CHECKING:
    from rdslib.pipeline.step import Step
    from rdslib.pipeline.study import Study

BITS = "bits per byte"

# Of each test sample, a numerator (NaN where there is no score) and a denominator, whose sums make the score.
Parts = tuple[np.ndarray, np.ndarray]
# A metric, the step that measured it, and its parts.
Scored = tuple[str, "Step", Parts]


def evaluate_command(
    profile: ProfileOption = "mini",
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A folder, a hub name, or a profile's name for its model; by default this one's. Repeated: "
            "compared."
        ),
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
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise UserError(f"--out {out}: cannot be written there; give a file in a folder that exists")
    if out is not None:
        experiment = load_profile(profile).experiment
        own = [experiment.model.path] if experiment and experiment.model.path else []
        check_apart([out], [profile_path(profile), *(model or own)])
    scores = evaluate(profile, model or (), task or (), limit, max_response, judge, judge_url)
    if out is not None:
        scores.to_csv(out, index=False)
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
        profile: Its name or file.
        models: Folders, hub names or profiles' names, in place of the profile's model.
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
    rows, first = [], dict[tuple[str, str], Parts]()
    for study in studies:
        for task in study.task_names:
            for metric, step, (tops, bottoms) in _scores(study, task, judge, judge_url):
                known = ~np.isnan(tops)
                if not known.any():
                    continue
                how = study.experiment.evaluate.bootstrap, study.experiment.seed
                score = estimate_mean({task: [(tops[known], bottoms[known])]}, *how)
                row: dict[str, Any] = {"model": study.experiment.model.title, "task": task, "metric": metric}
                row |= {"score": score.value, "low": score.low, "high": score.high, "n": score.n}
                row["seconds"] = float(study.store.manifest(step)["seconds"])
                base_tops, base_bottoms = first.setdefault((task, metric), (tops, bottoms))
                both = known & ~np.isnan(base_tops)
                if study is not studies[0] and both.any():
                    ours = {task: [(tops[both], bottoms[both])]}
                    diff = estimate_difference(ours, {task: [(base_tops[both], base_bottoms[both])]}, *how)
                    row |= {"diff": diff.value, "diff_low": diff.low, "diff_high": diff.high}
                rows.append(row)
    return pd.DataFrame(rows)


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
            raise UserError(f"--task {task.name}: has no protocol in profile {profile}; leave it out")
        path_of(task.protocol)
    if limit:
        chosen = tuple(task.model_copy(update={"test": min(limit, task.test)}) for task in chosen)
    evaluate = e.evaluate.model_copy(update={"max_response": max_response})
    changes: dict[str, Any] = {"tasks": chosen, "evaluate": evaluate}
    if model:
        changes["model"], downloads = find_model(model)
        changes["downloads"] = {**e.downloads, **downloads}
    changed = study.profile.model_copy(update={"experiment": e.model_copy(update=changes)})
    return Study(changed, folder=profile_path(profile).resolve().parent)


def _scores(study: Study, task: str, judge: str | None, judge_url: str | None) -> list[Scored]:
    """What a model's responses score by the protocol, which may leave that to a judge, and in bits."""
    run = study.untuned()
    step, measured, bits = study.measurement(run, task), study.measured(run, task), study.scores(run, task)
    scores = measured["score"].to_numpy()
    if np.isnan(scores).all():
        folder = study.store.folder.parent / "judged" / step.hash
        folder.mkdir(parents=True, exist_ok=True)
        samples = study.task_data(task).test
        asked = [sample.messages[0]["content"] for sample in samples]
        texts = [str(each[0]).strip() for each in measured["responses"]]
        responses = outputs(asked, texts, study.experiment.model.title)
        references = outputs(asked, [(each.references or [""])[0] for each in samples], "reference")
        for name, rows in (("responses", responses), ("references", references)):
            (folder / f"{name}.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1))
        study.store.progress.note(f"{task}: what is for a judge to compare is in {folder}")
        if judge is not None:
            scores = win_rates(responses, references, judge, judge_url, folder / "annotations.json")
    return [
        (study.store.manifest(step)["counts"]["metric"], step, (scores, np.ones(len(scores)))),
        (BITS, study.evaluation(run, task), (bits["bits"].to_numpy(), bits["bytes"].to_numpy(dtype=float))),
    ]


def shown(scores: pd.DataFrame) -> RenderableType:
    """The scores as people read them."""
    columns: dict[str, Iterable[object]] = {name: scores[name] for name in ("model", "task", "metric")}
    columns["score"] = _intervals(scores[["score", "low", "high"]], ".3f")
    columns |= {"n": scores["n"], "seconds": scores["seconds"].map("{:.0f}".format)}
    if "diff" in scores:
        columns["diff from the first"] = _intervals(scores[["diff", "diff_low", "diff_high"]], "+.3f")
    return table(columns, ["model", "task"])


def _intervals(rows: pd.DataFrame, form: str) -> list[str]:
    """Values with their intervals, empty where there is none; one of no width says more of n than of them."""
    cells = rows.map(f"{{:{form}}}".format)
    texts = cells.agg("{0[0]} [{0[1]}, {0[2]}]".format, axis=1, raw=True)
    texts = texts.mask(rows.iloc[:, 1] == rows.iloc[:, 2], cells.iloc[:, 0] + " (n too small)")
    return texts.where(rows.notna().all(axis=1), "").tolist()
