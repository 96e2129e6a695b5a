"""Exploring under `tiny`: against naive computations, and the widgets without a browser."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import shutil

import matplotlib.text
import numpy as np
import pandas as pd
import pytest

from rdslib.data.chat import TURNS, WIDTH, shortened, text_of
from rdslib.data.pool import subset
from rdslib.errors import UserError
from rdslib.figures import controls, style
from rdslib.figures.controls import SHOWN
from rdslib.figures.explore import Explorer
from rdslib.figures.notebook import run_notebooks
from rdslib.methods import features, get_scorer
from rdslib.params import ROOT
from rdslib.pipeline.runs import ablation_runs, multi_task_runs, runs_of, second_pool_runs, single_task_runs
from rdslib.pipeline.study import Study

NOTEBOOK = ROOT / "notebooks" / "explore.ipynb"
pytestmark = pytest.mark.slow
RUDE = '<img src=x onerror="alert(1)"> & <script>alert(2)</script>'


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def study(home):
    return Study.load("tiny", home=home)


@pytest.fixture(scope="module")
def explorer(study):
    explorer = Explorer.of(study)
    study.compute(explorer.steps())
    return explorer


@pytest.fixture
def rude(home):
    """An explorer of a pool and queries whose every message is HTML."""
    explorer = Explorer.of(Study.load("tiny", home=home))
    messages = [{"role": "user", "content": f"{RUDE}\n{RUDE}"}, {"role": "assistant", "content": RUDE}]
    explorer.samples["messages"] = [messages] * len(explorer.samples)
    explorer.samples["source"] = RUDE
    for task in explorer.tasks:
        for query in explorer.queries(task):
            query.messages[:] = messages
    return explorer


def vectors(explorer, task):
    """RDS+ vectors of the pool (None) or of a task's queries, read plainly."""
    step = explorer.pipeline.features("lm.weighted_all", task)
    return features.read_all(explorer.pipeline.store.path(step), "weighted_all").astype(np.float32)


# Tables.


@pytest.mark.parametrize("query", [0, 3])
def test_neighbours_equal_a_naive_computation(explorer, study, query):
    scores = vectors(explorer, None) @ vectors(explorer, "Reverse")[query]
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:7]
    pool = study.pool_table().iloc[order]
    found = explorer.neighbours("Reverse", query, "rds", 7)
    assert list(found.columns) == ["rank", "score", "source", "id", "text"]
    assert found["rank"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert found["id"].tolist() == pool["id"].tolist()
    assert found["source"].tolist() == pool["source"].tolist()
    np.testing.assert_allclose(found["score"], scores[order], rtol=1e-6)
    assert found["text"].iloc[0].startswith(pool["messages"].iloc[0][0]["content"])


def test_a_method_of_one_pool_finds_neighbours_there(explorer, study):
    small = study.pool_table()["id"].iloc[subset(120, 60, 7)]
    assert explorer.pools("less") == ["small"]
    assert explorer.pools("rds") == ["all", "small"]
    assert explorer.pools("rds", "less") == ["small"]
    assert set(explorer.neighbours("Sums", 0, "less", 60)["id"]) == set(small)


def test_selections_are_those_of_the_study(explorer, study):
    """Every run of the grid, method by method, to the last column."""
    grid = study.experiment.grid
    runs = [*single_task_runs(study), *ablation_runs(study), *multi_task_runs(study)]
    runs += second_pool_runs(study)
    for method in study.methods:
        for budget in grid.source_budgets:
            runs += runs_of(study, method, explorer.pools(method)[0], budget, multi=True)
    assert {run.method for run in runs} == set(study.methods) == set(explorer.methods)
    for run in runs:
        task = run.targets[0] if len(run.targets) == 1 else None
        found = explorer.selection(run.method, run.budget, task, run.pool)
        pd.testing.assert_frame_equal(found, study.picks(run), check_dtype=False)


def test_any_budget_up_to_the_largest(explorer):
    for method in explorer.methods:
        pool = explorer.pools(method)[0]
        for task in (None, "Sums"):
            largest = explorer.largest(method, task)
            whole = explorer.selection(method, largest, task)
            assert whole["position"].is_unique
            assert len(whole) == largest
            # A smaller selection is the beginning of a larger one.
            assert explorer.selection(method, 1, task)["id"].tolist() == whole["id"].tolist()[:1]
            some = explorer.selection(method, largest - 1, task)
            assert some["id"].tolist() == whole["id"].tolist()[:-1]
            with pytest.raises(UserError, match=f"method {method}: {largest + 1} samples are asked for"):
                explorer.selection(method, largest + 1, task)
        if pool == "all":
            assert explorer.largest(method, None, "small") <= 60
    # A third of the pool is passed over, and what has no IFD of at most 1 is not offered.
    assert explorer.largest("mid_ppl") == 120 - 39
    assert explorer.largest("ifd") < 120


def test_the_mix_counts_the_pool_and_the_selection(explorer, study):
    for method in ("less", "random_balanced", "rds"):
        table = explorer.mix(method, 15, "Sums").set_index(["selection", "source"])["count"]
        pool, method_name = table.index.unique("selection")
        assert pool == "The pool"
        kept = slice(None) if method != "less" else subset(120, 60, 7)
        sources = study.pool_table()["source"].iloc[kept]
        assert table[pool].to_dict() == sources.value_counts().to_dict()
        drawn = explorer.selection(method, 15, "Sums")["source"].value_counts()
        assert {name: n for name, n in table[method_name].items() if n} == drawn.to_dict()


@pytest.mark.parametrize(("second", "pool_size"), [("rds_eos", 120), ("less", 60), ("random", 120)])
def test_a_comparison_is_set_arithmetic(explorer, second, pool_size):
    pool = "small" if pool_size == 60 else "all"
    ours, theirs = (explorer.selection(method, 20, "Reverse", pool) for method in ("rds", second))
    a, b = list(ours["id"]), list(theirs["id"])
    found = explorer.compare("rds", second, 20, "Reverse")
    assert explorer.pool_size(explorer.pools("rds", second)[0]) == pool_size
    assert found["id"].is_unique
    parts = dict(iter(found.groupby("taken")))
    for name, picks, other in (("both", a, set(a) - set(b)), ("first", a, set(b)), ("second", b, set(a))):
        places = [place for place, i in enumerate(picks) if i not in other]
        assert parts[name]["id"].tolist() == [picks[place] for place in places]
        assert parts[name]["rank"].tolist() == [place + 1 for place in places]
    assert explorer.compare(second, second, 20)["taken"].tolist() == ["both"] * 20


@pytest.mark.parametrize(("task", "queries"), [("Sums", 4), (None, 8)])
def test_the_map_is_the_pool_and_the_queries(explorer, study, home, task, queries):
    table = explorer.map("rds", 10, task)
    assert table["kind"].value_counts().to_dict() == {"pool": 120, "query": queries}
    assert table["id"][:120].tolist() == study.pool_table()["id"].tolist()
    picks = explorer.selection("rds", 10, task)
    assert set(table["id"][table["selected"]]) == set(picks["id"])
    # By the singular vectors of the centred pool, up to the sign of each.
    pool, asked = vectors(explorer, None), vectors(explorer, "Sums")
    axes = np.linalg.svd(pool - pool.mean(axis=0), full_matrices=False)[2][:2]
    plain = np.concatenate([pool, asked]) - pool.mean(axis=0)
    np.testing.assert_allclose(table[["x", "y"]].abs()[:124], np.abs(plain @ axes.T), atol=1e-4)
    again = Explorer.of(Study.load("tiny", home=home)).map("rds", 10, task)
    pd.testing.assert_frame_equal(table, again)


@pytest.mark.parametrize("draw", [controls.mix_figure, controls.map_figure])
@pytest.mark.parametrize("method", ["random", "less", "rds"])
def test_figures_are_drawn_and_the_same_twice(explorer, draw, method):
    first, second = (draw(explorer, method, 10) for _ in range(2))
    assert style.png(first) == style.png(second)
    words = [text.get_text() for text in first.findobj(matplotlib.text.Text)]
    aim = "" if method == "random" else " for all tasks"
    size = 60 if method == "less" else 120
    assert any(word.endswith(f": 10 samples selected from {size}{aim}") for word in words)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda e: e.neighbours("Sum", 0, "rds"), "unknown task 'Sum'; tasks: Sums, Reverse"),
        (lambda e: e.neighbours("Sums", 4, "rds"), "query 4 of Sums: there are 4; use a number from 0 to 3"),
        (lambda e: e.neighbours("Sums", -1, "rds"), "query -1 of Sums"),
        (lambda e: e.neighbours("Sums", 0, "random"), "method random: does not look at queries; use one of"),
        (lambda e: e.neighbours("Sums", 0, "rds", 0), "0 neighbours are asked for; ask for at least 1"),
        (lambda e: e.selection("less", 1, None, "all"), "method less: selects from the pools small, not"),
        (lambda e: e.largest("rds", None, "big"), "method rds: selects from the pools all, small, not from"),
        (lambda e: e.selection("rsd", 1), "unknown method 'rsd'; methods: random,"),
        (lambda e: e.selection("rds", 0), "method rds: 0 samples are asked for"),
        (lambda e: e.selection("rds", 1, "Sum"), "unknown task 'Sum'"),
        (lambda e: e.map("random", 1, "Sum"), "unknown task 'Sum'"),
        (lambda e: Explorer.of(Study.load("paper")), "profile paper: has no pool to explore"),
    ],
)
def test_what_cannot_be_shown_is_one_line(explorer, ask, message):
    with pytest.raises(UserError) as error:
        ask(explorer)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_texts_are_whole_or_shortened():
    turns = [{"role": "system", "content": " be\nkind "}, {"role": "user", "content": "a\n\n b  c"}]
    turns += [{"role": "assistant", "content": "x" * (WIDTH + 1)}, {"role": "user", "content": "y" * WIDTH}]
    assert text_of(turns[:2]) == "be\nkind\na\n\n b  c"
    assert shortened(turns) == f"be kind\na b c\n→ {'x' * (WIDTH - 1)}…\n{'y' * WIDTH}"
    assert shortened(turns * 2).splitlines()[TURNS:] == ["… 4 more messages"]


# Controls.


@pytest.fixture(autouse=True)
def _nothing_chosen_before(home):
    shutil.rmtree(home / "explore", ignore_errors=True)


class Text(html.parser.HTMLParser):
    """The tags and the text of HTML, as a browser takes it."""

    def __init__(self, value):
        super().__init__()
        self.tags, self.points, self.text, self.style = set(), [], "", False
        self.feed(value)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.style = tag == "style"
        if tag == "a":
            self.link = dict(attributes)
        elif tag == "i":
            self.points.append(dict(attributes))
        elif tag != "img":
            assert {name for name, _ in attributes} <= {"dir", "style", "id", "class", "type"}

    def handle_data(self, data):
        if not self.style:
            self.text += data + "\n"


def shown(part):
    return part.children[-1].value


def chosen_of(part):
    return {control.description: control for control in part.children[0].children}


def test_another_query_shows_its_neighbours(explorer):
    part = controls.neighbours(explorer)
    chosen = chosen_of(part)
    assert [name for _, name in chosen["Method"].options] == [
        name for name in explorer.methods if get_scorer(name).needs_queries
    ]
    for task, number, method in (("Sums", 0, "rds"), ("Sums", 2, "rds"), ("Reverse", 0, "rds"),
                                 ("Reverse", 0, "less")):  # fmt: skip
        chosen["Task"].value = task
        chosen["Query"].value = number
        chosen["Method"].value = method
        text = Text(shown(part)).text
        assert text_of(explorer.queries(task)[number].messages) in text
        texts = explorer.neighbours(task, number, method)["text"]
        assert all(each in text for each in texts)
        assert text.index(texts.iloc[0]) < text.index(texts.iloc[1])
    assert [value for _, value in chosen["Query"].options] == list(range(4))


def test_it_opens_on_a_query_that_is_mostly_letters(explorer):
    part = controls.neighbours(explorer)
    chosen = chosen_of(part)
    # Sums are of digits, and sentences to be turned round are not.
    assert (chosen["Task"].value, chosen["Query"].value) == explorer.clearest()
    assert chosen["Task"].value == "Reverse"
    text = text_of(explorer.queries("Reverse")[chosen["Query"].value].messages)
    assert text in Text(shown(part)).text


def test_a_sample_is_whole_on_click(explorer, monkeypatch):
    long = [{"role": "user", "content": "A word. " * 200}, {"role": "assistant", "content": "Yes.\n<No.>"}]
    monkeypatch.setattr(explorer, "samples", explorer.samples.copy())
    explorer.samples["messages"] = [long] * len(explorer.samples)
    found = shown(controls.neighbours(explorer))
    assert found.count("<details>") == 10
    assert text_of(long) in Text(found).text
    assert "&lt;No.&gt;" in found


def test_what_has_no_effect_is_disabled(explorer):
    for build, names in ((controls.mix, ["Method"]), (controls.comparison, ["First", "Second"])):
        chosen = chosen_of(build(explorer))
        for name in names:
            chosen[name].value = "random"
        assert chosen["Task"].disabled
        chosen[names[-1]].value = "rds"
        assert not chosen["Task"].disabled
    # The map shows the task's queries whatever the method.
    chosen = chosen_of(controls.pool_map(explorer))
    chosen["Method"].value = "random"
    assert not chosen["Task"].disabled


def test_points_of_the_map_are_named_where_they_lie(explorer):
    part = controls.pool_map(explorer)
    chosen_of(part)["Budget"].value = 7
    points = Text(shown(part)).points
    table = explorer.map("rds", 7)
    assert len(points) == len(table) == 120 + 8
    figure = controls.map_figure(explorer, "rds", 7)
    style.settle(figure)
    drawn = figure.axes[0].collections[0]
    places = figure.axes[0].transData.transform(drawn.get_offsets()) / figure.bbox.size
    by_name = {each["aria-label"].split("\n")[0].split(", ")[1]: each["style"] for each in points}
    for (x, y), sample in zip(places, table["id"][:120], strict=True):
        assert by_name[sample] == f"left:{100 * x:.2f}%;top:{100 - 100 * y:.2f}%"
        assert explorer.samples.set_index("id")["source"][sample]


def test_what_was_chosen_is_chosen_again(explorer, home):
    chosen = {"Method": "less", "Task": "Sums", "Budget": 7}
    for build in (controls.mix, controls.pool_map):
        for name, value in chosen.items():
            chosen_of(build(explorer))[name].value = value
    chosen_of(controls.neighbours(explorer))["Query"].value = 2
    again = Explorer.of(Study.load("tiny", home=home))
    for build in (controls.mix, controls.pool_map):
        part = build(again)
        assert {name: control.value for name, control in chosen_of(part).items()} == chosen
        assert "LESS: 7 samples selected" in shown(part)
    assert chosen_of(controls.neighbours(again))["Query"].value == 2
    # What there is no longer is passed over, and so is a file that is not whole.
    (path,) = (home / "explore").iterdir()
    kept = json.loads(path.read_bytes())
    kept["mix_figure"] |= {"method": "gone", "colour": "red"}
    path.write_text(json.dumps(kept))
    values = {name: control.value for name, control in chosen_of(controls.mix(again)).items()}
    assert values == {"Method": "rds", "Task": "Sums", "Budget": 7}
    path.write_text("{")
    assert chosen_of(controls.mix(again))["Budget"].value == 48


def test_it_says_what_it_works_on(explorer, monkeypatch):
    part = controls.comparison(explorer)
    working, compare = [], explorer.compare

    def compared(*asked):
        working.append(Text(part.children[1].value).text.strip())
        return compare(*asked)

    monkeypatch.setattr(explorer, "compare", compared)
    chosen_of(part)["Budget"].value = 9
    assert working == ["Working on RDS+, Random (unbal.), all tasks, 9 …"]
    assert part.children[1].value == ""


def test_picks_can_be_saved(explorer):
    part = controls.mix(explorer)
    chosen_of(part)["Task"].value = "Sums"
    chosen_of(part)["Budget"].value = 5
    link = Text(shown(part)).link
    assert link["download"] == "picks-rds-5-Sums.csv"
    data = base64.b64decode(link["href"].removeprefix("data:text/csv;charset=utf-8;base64,"))
    expected = explorer.selection("rds", 5, "Sums")
    pd.testing.assert_frame_equal(pd.read_csv(io.BytesIO(data), dtype=expected.dtypes.to_dict()), expected)
    link = Text(shown(controls.comparison(explorer))).link
    data = base64.b64decode(link["href"].removeprefix("data:text/csv;charset=utf-8;base64,"))
    found = pd.read_csv(io.BytesIO(data))
    assert found["id"].tolist() == explorer.compare("rds", "random", 48)["id"].tolist()


def test_the_overview_has_every_method(explorer):
    (part,) = controls.overview(explorer).parts
    assert part.details == ["120 samples of 3 sources; 4 queries of Sums, 4 queries of Reverse"]
    cells = {row[0].text: [cell.text for cell in row[1:]] for row in part.rows}
    assert len(cells) == len(explorer.methods)
    assert cells["RDS+"] == ["yes", "120"]
    assert cells["LESS"] == ["yes", "60"]
    assert cells["Random (bal.)"] == ["no", "120"]


@pytest.mark.parametrize("build", [controls.mix, controls.pool_map])
def test_pictures_follow_their_controls(explorer, build):
    part = build(explorer)
    chosen = chosen_of(part)
    slider = chosen["Budget"]
    assert slider.value == 48
    assert '<img src="data:image/png;base64,' in shown(part)
    seen = [shown(part)]
    for control, value in ((slider, 7), (chosen["Task"], "Sums"), (chosen["Method"], "random"),
                           (chosen["Method"], "ifd")):  # fmt: skip
        control.value = value
        assert shown(part) not in seen
        seen.append(shown(part))
    assert slider.max == explorer.largest("ifd")
    # A budget that a method cannot give becomes the largest that it can.
    chosen["Method"].value = "rds"
    slider.value = 120
    chosen["Method"].value = "less"
    assert (slider.value, slider.max) == (60, 60)


def test_comparisons_follow_their_controls(explorer):
    part = controls.comparison(explorer)
    chosen = chosen_of(part)
    chosen["Budget"].value = 20
    for first, second, task in (("rds", "random", ""), ("rds", "less", "Sums"), ("ifd", "ifd", "")):
        chosen["First"].value, chosen["Second"].value, chosen["Task"].value = first, second, task
        found = explorer.compare(first, second, 20, task or None)
        both = (found["taken"] == "both").sum()
        size = 60 if second == "less" else 120
        text = Text(shown(part)).text
        assert f"Of 20 samples each, from a pool of {size}, both took {both} " in text
        for name in ("first", "second"):
            assert all(row in text for row in found.loc[found["taken"] == name, "text"].head(SHOWN))


def test_a_sample_cannot_bring_its_html(rude):
    for build in (controls.neighbours, controls.comparison):
        part = build(rude)
        read = Text(shown(part))
        assert read.tags <= {
            "div",
            "p",
            "style",
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
            "details",
            "summary",
            "a",
        }
        assert RUDE in read.text
        assert "<img" not in shown(part)
        assert "<summary>&lt;img" in shown(part)
        assert not any(control.description_allow_html for control in part.children[0].children)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (UserError("no <such> thing"), "no <such> thing"),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
    ],
)
def test_errors_are_one_line(explorer, monkeypatch, problem, message):
    part = controls.comparison(explorer)
    budget = chosen_of(part)["Budget"]

    def fails(*_):
        raise problem

    with monkeypatch.context() as patch:
        patch.setattr(explorer, "compare", fails)
        budget.value -= 1
    assert Text(shown(part)).text.strip() == message
    budget.value -= 1
    assert "both took" in Text(shown(part)).text


def test_the_notebook_runs_and_stays_as_it_was(explorer, home, monkeypatch, tmp_path):
    monkeypatch.setenv("RDSLIB_HOME", str(home))
    before = NOTEBOOK.read_bytes()
    assert len(list(run_notebooks(["explore"], "tiny", "both", tmp_path))) == 1
    assert NOTEBOOK.read_bytes() == before
    assert (tmp_path / "notebooks" / "explore.ipynb").is_file()
