"""`rds evaluate`: models scored on tasks by their protocols, and compared."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from rdslib.commands.evaluate import evaluate, shown
from rdslib.commands.text import as_text
from rdslib.errors import UserError
from rdslib.evaluation import harness
from rdslib.models.loading import make_random
from rdslib.params import ROOT, RandomModel
from rdslib.pipeline.study import Study


@pytest.fixture
def profile(tmp_path):
    """The tiny profile, whose sums have a protocol, in another folder."""
    text = (ROOT / "params" / "tiny.yaml").read_text()
    text = text.replace(
        "      reader: made_up_sums\n      queries",
        "      reader: made_up_sums\n      protocol: mmlu\n      queries",
    )
    (tmp_path / "mine.yaml").write_text(text)
    return str(tmp_path / "mine.yaml")


def test_models_are_scored_and_compared_on_the_same_samples(profile, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))
    other = tmp_path / "other"
    make_random(RandomModel(layers=1, hidden_size=16, heads=2), 5, other)
    table = evaluate(profile, [str(tiny_model), str(other)], ["Sums"], limit=6)
    assert table["metric"].tolist() == ["accuracy", "bits per byte"] * 2
    assert (table["n"] == 6).all()
    assert (table["low"] <= table["score"]).all()
    assert (table["score"] <= table["high"]).all()
    ours, theirs = table.iloc[:2], table.iloc[2:]
    assert theirs["diff"].to_numpy() == pytest.approx(theirs["score"].to_numpy() - ours["score"].to_numpy())
    assert ours["diff"].isna().all()
    assert "diff from the first" in as_text([shown(table)], 100)

    # What was measured is kept.
    def not_again(*arguments, **named):
        raise AssertionError("measured twice")

    monkeypatch.setattr(harness, "measure", not_again)
    again = evaluate(profile, [str(tiny_model), str(other)], ["Sums"], limit=6)
    assert again.equals(table)


def test_a_model_may_be_that_of_another_profile(profile, tmp_path, monkeypatch):
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))
    table = evaluate(profile, ["tiny", str(ROOT / "params" / "tiny.yaml")], ["Sums"], limit=3)
    assert set(table["model"]) == {Study.load("tiny").experiment.model.title}
    assert table["score"].iloc[:2].tolist() == table["score"].iloc[2:].tolist()


def test_responses_for_a_judge_are_written_without_one(profile, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))
    text = (tmp_path / "mine.yaml").read_text().replace("protocol: mmlu", "protocol: alpaca_eval")
    (tmp_path / "mine.yaml").write_text(text)
    table = evaluate(profile, [str(tiny_model)], ["Sums"], limit=3, max_response=4)
    assert table["metric"].tolist() == ["bits per byte"]
    (responses,) = (tmp_path / "home" / "judged").glob("*/responses.json")
    rows = json.loads(responses.read_text())
    assert len(rows) == 3
    assert set(rows[0]) == {"instruction", "output", "generator"}


def test_what_cannot_be_evaluated_is_one_line(profile):
    with pytest.raises(UserError, match=r"^--task Nope: is not in profile .*; tasks: Sums, Reverse$"):
        evaluate(profile, tasks=["Nope"])
    with pytest.raises(UserError, match=r"^--task Reverse: has no protocol in profile .*; leave it out"):
        evaluate(profile)


def test_a_profile_that_names_no_protocol_there_is_is_one_line(profile, tmp_path):
    text = (tmp_path / "mine.yaml").read_text().replace("protocol: mmlu", "protocol: mmlv")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=r"^unknown protocol 'mmlv'; protocols: "):
        evaluate(profile, tasks=["Sums"])
    assert isinstance(Study.load(profile), Study)


def test_an_interval_without_a_width_says_that_n_is_too_small():
    rows = {"score": [0.0, 0.5], "low": [0.0, 0.25], "high": [0.0, 0.75], "n": [2, 8], "seconds": [1.0, 1.0]}
    table = pd.DataFrame({"model": "m", "task": "t", "metric": "accuracy", **rows})
    text = as_text([shown(table)], 80)
    assert "0.000 (n too small)" in text
    assert "0.500 [0.250, 0.750]" in text
