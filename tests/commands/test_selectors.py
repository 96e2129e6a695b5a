"""`--selector` and `--max-similarity`: what `rds select` gives, what explains it, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from rdslib.commands.explain import explain
from rdslib.commands.explore import explore
from rdslib.commands.select import reopen, scores_at
from rdslib.errors import UserError
from rdslib.methods import features
from rdslib.pipeline.pipeline import Request
from rdslib.pipeline.runs import all_runs, selector_runs
from rdslib.pipeline.study import Study
from rdslib.profiles import load_profile
from rdslib.selection import SELECTORS
from tests.commands.test_select import POOL, QUERIES, ask, given, positions, row, write  # noqa: F401
from tests.selection.test_selectors import BY_ONE_LIST, naive_order

ONE_TASK = [{name: value for name, value in each.items() if name != "task"} for each in QUERIES]


def vectors_of(selection):
    folder = selection.store.path(selection.pipeline.features("lm.weighted_all"))
    return features.read_all(folder, "weighted_all").astype(np.float64)


@pytest.mark.parametrize("selector", BY_ONE_LIST)
def test_the_picks_are_the_definition_and_are_explained(ask, tmp_path, selector):  # noqa: F811
    rows, written = ask(queries=write(tmp_path / "one.jsonl", ONE_TASK), selector=selector)
    selection, asked = reopen(written.path)
    scores = scores_at(selection, asked, "queries", range(len(POOL)))
    order, shown = naive_order(selector, scores, vectors_of(selection))
    assert positions(rows) == order[:9]
    assert [each["rds_score"] for each in rows] == pytest.approx([shown[d] for d in order[:9]], abs=1e-5)
    # The query that is named is the best for the sample, since the list is of all.
    assert [each["rds_query"] for each in rows] == scores[:, order[:9]].argmax(axis=0).tolist()
    picked, next_best = (explain(written.path, str(d)) for d in (order[0], order[9]))
    (turn,) = picked.turns.to_dict("records")
    assert (picked.rank, turn["rank"], turn["picks"], turn["last_rank"]) == (0, 1, 9, 9)
    assert turn["score"] == pytest.approx(shown[order[0]], abs=1e-5)
    assert f"Picked by the task queries (for query {rows[0]['rds_query']})" in picked.why
    assert len(picked.queries) == 3
    assert (next_best.state, next_best.turns["rank"].tolist()) == ("not picked", [10])
    explorer = explore(written.path)
    assert explorer.selection("rds", 9, "queries")["position"].tolist() == order[:9]


def test_several_tasks_take_turns_by_the_selector(ask):  # noqa: F811
    rows, written = ask(selector="mean")
    selection, asked = reopen(written.path)
    orders = [
        naive_order("mean", scores_at(selection, asked, task, range(len(POOL))), None)[0]
        for task in ("sums", "words")
    ]
    walk = list(dict.fromkeys(d for ranks in zip(*orders, strict=True) for d in ranks))
    assert positions(rows) == walk[:9]
    assert {each["rds_task"] for each in rows} == {"sums", "words"}
    assert positions(ask(selector="max")[0]) == positions(ask()[0])


def test_no_pick_is_too_like_an_earlier_one(ask, tmp_path):  # noqa: F811
    pool = write(tmp_path / "twice.jsonl", [*POOL, *POOL])
    free, _ = ask(pool=pool)
    assert len({str(each["messages"]) for each in free}) < 9, "the limit is felt"
    rows, written = ask(pool=pool, max_similarity=0.9999)
    assert len({str(each["messages"]) for each in rows}) == 9
    selection, _ = reopen(written.path)
    vectors = vectors_of(selection)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    picks = [int(each["rds_id"]) for each in rows]
    alike = vectors[picks] @ vectors[picks].T - 2 * np.eye(9)
    assert alike.max() <= 0.9999
    again = explain(written.path, str((picks[0] + 36) % 72))
    assert "Offered by" in again.why
    assert "but it is too like an earlier pick." in again.why
    assert explore(written.path).selection("rds", 9)["position"].tolist() == picks
    few = (
        r"^-k 9: 9 samples are asked for, but there are only . to choose from with --max-similarity 0.0; ask"
    )
    with pytest.raises(UserError, match=few):
        ask(pool=pool, max_similarity=0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selector": "min"}, "unknown selector 'min'; selectors: round_robin, max, mean, knn_uniform"),
        ({"selector": "max", "method": "random"}, "selector max: is for methods with queries, and random"),
        ({"max_similarity": 0.9, "method": "top_ppl"}, "--max-similarity: is of vectors, and top_ppl"),
        ({"max_similarity": 2}, "max_similarity=2: input should be less than or equal to 1"),
    ],
)
def test_what_cannot_be_selected_so_is_one_line(ask, tmp_path, changes, message):  # noqa: F811
    with pytest.raises(UserError) as error:
        ask(**changes)
    assert str(error.value).startswith(message)
    assert not (tmp_path / "home").exists()


def test_what_was_selected_before_there_were_selectors_keeps_its_key(tmp_path):
    study = Study.load("tiny", home=tmp_path)
    default = Request("rds", 9, ("Sums",))
    assert not {"selector", "max_similarity"} & study.pipeline.selection(default).key["arguments"].keys()
    others = [Request("rds", 9, ("Sums",), selector=each) for each in BY_ONE_LIST]
    others.append(Request("rds", 9, ("Sums",), max_similarity=0.9))
    assert len({study.pipeline.selection(each).hash for each in (default, *others)}) == len(SELECTORS) + 1


def test_a_study_may_have_other_selectors(tmp_path):
    profile = load_profile("tiny")
    assert "selectors" not in profile.model_dump(mode="json")["experiment"]["grid"]
    grid = profile.experiment.grid.model_copy(update={"selectors": ("max", "knn_kde")})
    experiment = profile.experiment.model_copy(update={"grid": grid})
    plain, study = (
        Study(profile.model_copy(update={"experiment": each}), tmp_path)
        for each in (profile.experiment, experiment)
    )
    runs = selector_runs(study)
    assert selector_runs(plain) == []
    assert [run for run in all_runs(study) if run not in runs] == all_runs(plain)
    assert {run.selector for run in runs} == {"max", "knn_kde"}
    assert all(SELECTORS[run.selector] and run.targets for run in runs)
    assert str(runs[0]).endswith(" by max")
    assert len({study.selection(run).hash for run in runs}) == len(runs)
