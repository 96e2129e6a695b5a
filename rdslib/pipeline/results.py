"""What the runs of a study cost and scored, with intervals over test samples and seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rdslib.evaluation import bootstrap
from rdslib.evaluation.bootstrap import Estimate, estimate_difference, estimate_mean
from rdslib.models import flops
from rdslib.pipeline import costs
from rdslib.pipeline.study import UNTUNED, Run, Study


def measured_flops(study: Study, run: Run) -> float:
    """FLOPs of a run: selection and training, by the tokens that were really processed."""
    training = study.training(run)
    if training is None:
        return 0.0
    parameters = study.store.manifest(study.pipeline.model)["counts"]["non_embedding_parameters"]
    tokens = study.store.manifest(training)["counts"]["training_tokens"]
    return costs.measured(study.pipeline, run.request) + flops.TRAINING * parameters * tokens


def formula_flops(study: Study, run: Run) -> float:
    """What the paper's formula (Appendix E) gives for a run, with this model, pool and budget."""
    if run.method == UNTUNED:
        return 0.0
    return costs.by_formula(study.pipeline, run.request, study.experiment.train.epochs)


def bits_per_byte(study: Study, run: Run, task: str) -> Estimate:
    """Bits per byte of the reference answers of a task, with its 95% interval."""
    return estimate_mean({task: [_bits(study, run, task)]}, *_bootstrap(study))


def relative(study: Study, runs: Sequence[Run], task: str | None = None, bare: bool = False) -> Estimate:
    """Bits per byte relative to the untuned model's, mean over tasks and runs; below 1 is better.

    Of the tasks that the runs are for, or of `task` alone; of `bare` answers, if they are asked for. A
    plain mean over tasks would be that of the tasks with the shortest answers, whose bits per byte are
    several times those of the others.
    """
    base = _bits_by_task(study, [study.untuned()], bare=bare)
    return estimate_mean(_bits_by_task(study, runs, task, bare), *_bootstrap(study), base)


def difference(study: Study, ours: Sequence[Run], theirs: Sequence[Run]) -> Estimate:
    """`relative` of ours minus that of theirs, paired by test sample and seed."""
    base = _bits_by_task(study, [study.untuned()])
    both = _bits_by_task(study, ours), _bits_by_task(study, theirs)
    return estimate_difference(*both, *_bootstrap(study), base)


def by_seed(study: Study, runs: Sequence[Run]) -> pd.DataFrame:
    """`relative` of some runs by seed, and its resamples, for differences that are paired by both.

    Returns:
        A row a seed, by which it is named: the value, then the value of each resample.
    """
    base = _bits_by_task(study, [study.untuned()])
    rows = bootstrap.by_seed(_bits_by_task(study, runs), *_bootstrap(study), base)
    return pd.DataFrame(rows, index=list(dict.fromkeys(run.seed for run in runs)))


def over_seeds(study: Study, rows: pd.DataFrame) -> Estimate:
    """Estimate the mean over seeds of what `by_seed` returns, or of a difference of such; n is 0.

    Of seeds that one side of a difference has not, the rows are NaN, and are left out.
    """
    return bootstrap.over_seeds(rows.dropna().to_numpy(), study.experiment.seed)


def accuracy(study: Study, run: Run, task: str) -> Estimate | None:
    """Accuracy by likelihood on a task that has choices, with its 95% interval; else None."""
    correct = study.scores(run, task)["correct"].to_numpy()
    if np.isnan(correct).any():
        return None
    return estimate_mean({task: [(correct, np.ones_like(correct))]}, *_bootstrap(study))


def _bootstrap(study: Study) -> tuple[int, int]:
    """How many resamples an interval takes, and the seed of them."""
    return study.experiment.evaluate.bootstrap, study.experiment.seed


def _bits_by_task(
    study: Study, runs: Sequence[Run], only: str | None = None, bare: bool = False
) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Bits and bytes by test sample, of each run of a task, for the tasks that the runs are for."""
    return {
        task: [_bits(study, run, task, bare) for run in those]
        for task in study.task_names
        if only in (None, task) and (those := [run for run in runs if task in study.tasks_of(run)])
    }


def _bits(study: Study, run: Run, task: str, bare: bool = False) -> tuple[np.ndarray, np.ndarray]:
    scores = study.scores(run, task, bare)
    return scores["bits"].to_numpy(), scores["bytes"].to_numpy()
