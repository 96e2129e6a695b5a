"""A study that is computed piece by piece, and drawn of what is there: `rds compute` and `partial`."""

from __future__ import annotations

import io
import time

import pandas as pd
import pytest
import yaml

from rdslib import figures
from rdslib.figures import publish
from rdslib.params import ROOT
from rdslib.pipeline import records
from rdslib.pipeline.runs import by_worth, recorded
from rdslib.pipeline.store import Store
from rdslib.pipeline.study import Run, Study
from tests.command import rds

pytestmark = pytest.mark.slow


@pytest.fixture
def profile(tmp_path):
    """`tiny` with two seeds and few methods, as a partial study."""
    given = yaml.safe_load((ROOT / "params" / "tiny.yaml").read_text())
    grid = given["experiment"]["grid"]
    grid["single_task"] = {"all": ["random_balanced", "rds"]}
    grid.update(ablation_methods=[], multi_task_budgets=[12, 24], seeds=[7, 8])
    given.update(name="parts", partial=True)
    path = tmp_path / "parts.yaml"
    path.write_text(yaml.safe_dump(given))
    return path


def test_what_there_is_is_drawn_and_nothing_is_computed_for_it(profile, tmp_path):
    home, out = tmp_path / "home", tmp_path / "out"
    study = Study.load(str(profile), home)
    first = [run for run in by_worth(study.whole()) if run.seed in (7, study.experiment.seed)]
    done = [run for run in first if run.budget in (0, 12)]
    whole = study.whole()
    whole.compute([step for run in done for step in whole.steps_of(run)])
    out.mkdir()
    records.write(whole.store, records.those_there(whole.store, recorded(whole)), out / records.NAME)

    elsewhere = tmp_path / "elsewhere"
    names = ("fig4_scaling", "tab3_second_pool")
    only = [part for name in names for part in ("--only", name)]
    drawn = rds("run", "--profile", profile, "--out", out, *only, home=elsewhere)
    assert drawn.returncode == 0, drawn.stderr
    rows = pd.read_csv(out / "fig4_scaling.csv")
    measured = rows[rows["origin"] == "measured"]
    assert set(measured.loc[measured["score"].notna(), "budget"]) == {12}
    # What was not run is named.
    absent = measured[measured["score"].isna()]
    assert set(absent["budget"]) == {24}
    assert set(absent["note"]) == {"not run yet"}
    there = publish.records_csv(Study.load(str(profile), elsewhere))
    assert set(pd.read_csv(io.StringIO(there))["seed"]) == {7, study.experiment.seed}
    # Table 3 has no run yet: its published numbers stand alone.
    assert set(pd.read_csv(out / "tab3_second_pool.csv")["origin"]) == {"published"}
    assert not [
        path for path in (elsewhere / "artifacts").glob("train/*") if (path / "model.safetensors").exists()
    ]

    # What is left is computed from the records on, on another machine, and nothing of them again.
    before = (out / records.NAME).stat().st_size
    went_on = rds("compute", "--profile", profile, "--out", out, home=elsewhere)
    assert went_on.returncode == 0, went_on.stderr
    assert f"{len(by_worth(whole))} of {len(by_worth(whole))} runs" in went_on.stdout
    assert (out / records.NAME).stat().st_size > before
    there = Study.load(str(profile), elsewhere).whole()
    assert all(there.store.manifest(there.training(run)).get("recorded") for run in done[1:])
    assert not there.store.missing(step for name in figures.FIGURES for step in figures.steps(there, name))


def test_what_is_compared_first_soon_has_all_its_seeds(profile, tmp_path):
    runs = by_worth(
        Study.load(str(profile), tmp_path).whole(),
    )
    order = list(dict.fromkeys((run.method, run.seed) for run in runs if run.part is None))
    assert order[1:] == [("random_balanced", 7), ("random_balanced", 8), ("rds", 7), ("rds", 8)]
    assert [run.budget for run in runs if run.part is None][-2:] == [24, 24]


def test_no_step_begins_after_the_time_is_over(profile, tmp_path):
    whole = Study.load(str(profile), tmp_path / "home").whole()
    whole.compute(whole.data_steps)
    whole.compute([step for run in by_worth(whole) for step in whole.steps_of(run)], until=time.time() - 1)
    assert not (tmp_path / "home" / "artifacts" / "train").exists()


def test_what_is_there_does_not_bring_forward_what_would_have_been_made_with_it(
    profile, tmp_path, monkeypatch
):
    """A pass for RDS+ alone was made; the pass for its variants comes where the first of them is wanted."""
    whole = Study.load(str(profile), tmp_path / "home").whole()
    first = [Run(method, "all", 12, ("Sums",), 7) for method in ("rds", "rds_uniform")]
    rds, uniform = map(whole.selection, first)
    whole.compute([rds])
    (later,) = [each for each in whole.missing([uniform]) if each.label == "lm features of the pool"]
    turns = []
    real = Store.try_make
    monkeypatch.setattr(Store, "try_make", lambda store, steps: turns.append(steps) or real(store, steps))
    between = whole.training(Run("random_balanced", "all", 12, (), 7))
    whole.compute([rds, between, uniform], until=time.time() + 600)
    assert turns.index([between]) < next(at for at, group in enumerate(turns) if later in group)


def test_a_trained_model_is_scored_after_the_time_is_over(profile, tmp_path):
    whole = Study.load(str(profile), tmp_path / "home").whole()
    _, run, *_ = by_worth(whole)
    whole.store.make(whole.training(run))
    whole.compute(whole.steps_of(run), until=time.time() - 1)
    assert all(whole.store.has(step) for step in whole.evaluations([run]))


def test_a_study_with_nothing_to_draw_says_so(profile, tmp_path):
    out = tmp_path / "out"
    done = rds("compute", "--profile", profile, "--out", out, "--minutes", "0", home=tmp_path)
    assert done.returncode == 2
    assert done.stderr.endswith("nothing was computed in that time; give it more --minutes\n")
    assert not out.exists()
