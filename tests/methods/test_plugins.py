"""A method of a user's file has all that one of the library's has: title, colour, paper's cost, a plan."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tqdm import tqdm

from rdslib import cli, methods
from rdslib.data.chat import Sample, user_assistant
from rdslib.errors import UserError
from rdslib.methods import (
    COST,
    EXTRACTORS,
    SCORERS,
    Extraction,
    InnerProduct,
    Preparation,
    Scorer,
    ScoringInputs,
    digest_of,
    get_extractor,
    get_scorer,
    load_plugins,
    plugin_line,
    register,
)
from rdslib.methods.blocks import blocks_of
from rdslib.methods.features import shard_name, split_feature, write
from rdslib.models.flops import PAPER, one_pass_flops
from rdslib.models.loading import load_causal_lm, load_tokenizer, non_embedding_parameters
from rdslib.params import NO_MODEL, Encode, Settings

PLUGIN = """
import numpy as np
from rdslib.methods import COST, Extract, Extracted, Extractor, Scorer, register
from rdslib.models.flops import one_pass_flops

class Counts(Extractor):
    name = "counts"
    prepares = True

    def prepare(self, given):
        (given.out / "samples").write_text(str(len(given.samples)))
        return {"flops": 0}

    def open(self, given):
        def make(words, done):
            done(range(len(words)))
            return Extracted({"words": np.array(words), COST: np.zeros(len(words))}, {"tokens": 0})
        return Extract(lambda samples: [len(s.messages[0]["content"].split()) for s in samples], make)

class Plain(Scorer):
    name = "plain"
    features = ("counts.words",)

    def blocks(self, inputs):
        for start, words in inputs.pool("counts.words"):
            yield start, words[None, :]

class Dressed(Plain):
    name = "dressed"
    title = "Most words"
    colour = "#123ABC"

    def paper_flops(self, pool_size, samples, cost):
        return one_pass_flops(pool_size, cost)

for method in (Counts(), Plain(), Dressed()):
    register(method)
"""
SAMPLES = [Sample(str(i), "s", user_assistant("what is it " * i, "that " * (i % 3))) for i in range(1, 30)]
SETTINGS = Settings.model_construct(
    encode=Encode(max_length=60, token_budget=300, shard_size=8), seed=1, model=NO_MODEL
)


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The file of a scorer with defaults, one with all of its facts, and an extractor; loaded."""
    for name in ("SCORERS", "EXTRACTORS", "_DIGESTS", "_LOADED"):
        monkeypatch.setattr(methods, name, dict(getattr(methods, name)))
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    # What the file registers goes into the copies, of which no other test knows.
    load_plugins([path])
    return path


def test_a_plugins_scorer_has_a_title_a_colour_and_a_cost(plugin):
    plain, dressed = get_scorer("plain"), get_scorer("dressed")
    assert (plain.title, plain.colour) == ("plain", None)
    assert math.isnan(plain.paper_flops(1000, 10, PAPER))
    assert (dressed.title, dressed.colour) == ("Most words", "#123ABC")
    assert dressed.paper_flops(1000, 10, PAPER) == one_pass_flops(1000)
    assert list(methods.SCORERS)[-2:] == ["plain", "dressed"]
    assert digest_of("plain") == digest_of("counts") is not None
    assert "plain" not in SCORERS
    load_plugins([plugin])  # once is enough
    plugin.write_text(PLUGIN + "\n")
    with pytest.raises(UserError, match="has changed since it was loaded"):
        load_plugins([plugin])


def test_a_plugins_extractor_has_a_plan(plugin, tmp_path):
    counts = get_extractor("counts.words")
    assert counts.model_use(SETTINGS, ["words"], None) is None
    assert counts.trains_on(SETTINGS, 1000) is None
    assert counts.prepare_pool(SETTINGS, "small") is None
    assert counts.cost_model(PAPER, SETTINGS, {}, 0) == PAPER
    out = tmp_path / "out"
    out.mkdir()
    given = Preparation(SETTINGS, tmp_path, SAMPLES[:1], {}, out, tqdm(disable=True), tmp_path)
    counts.prepare(given)
    assert (out / "samples").read_text() == "1"
    opened = counts.open(Extraction(SETTINGS, tmp_path, out, ("words",), queries=False))
    made = opened.make(opened.read(SAMPLES), lambda batch: None)
    assert made.rows["words"].tolist() == [3 * i for i in range(1, 30)]


@pytest.mark.parametrize("code", ["1 +", "import nothing_by_this_name", "raise SystemError('mine')"])
def test_a_plugin_that_cannot_be_run_is_named(tmp_path, code):
    path = tmp_path / "broken.py"
    path.write_text(code)
    with pytest.raises(UserError, match=r"broken\.py: cannot be run \("):
        load_plugins([path])
    with pytest.raises(UserError, match=r"absent\.py: cannot be read"):
        load_plugins([tmp_path / "absent.py"])


def test_features_are_a_tuple():
    bad = Blocks()
    bad.features = "counts.words"
    with pytest.raises(UserError, match=r"its features are a text; make them a tuple, \('counts.words',\)"):
        register(bad)


def test_names_are_taken_once_and_colours_are_colours():
    with pytest.raises(UserError, match="there is a 'rds' already"):
        register(InnerProduct("rds", "lm.weighted_all"))
    with pytest.raises(UserError, match="its colour is 'red'; write it as #RRGGBB"):
        register(InnerProduct("mine", "lm.weighted_all", colour="red"))


def test_every_feature_has_an_extractor_and_every_method_its_own_title():
    for scorer in SCORERS.values():
        for feature in scorer.features:
            assert get_extractor(feature).name == split_feature(feature)[0]
    for extractor in EXTRACTORS.values():
        assert all(get_extractor(feature) for feature in extractor.prepare_features)
    titles = [scorer.title for scorer in SCORERS.values()]
    assert len(set(titles)) == len(titles) == 18
    with pytest.raises(UserError, match=r"unknown method 'rsd'; did you mean rds\? methods: .*rds"):
        get_scorer("rsd")
    with pytest.raises(UserError, match=r"unknown extractor of 'ml.nll'; extractors: .*lm"):
        get_extractor("ml.nll")


@pytest.mark.parametrize("wanted", [("nll",), ("weighted_all",), ("last_prompt", "nll", "weighted_all")])
def test_the_plan_of_the_language_model_is_what_it_takes(tiny_model, wanted):
    lm, model, tokenizer = get_extractor("lm.nll"), load_causal_lm(tiny_model), load_tokenizer(tiny_model)
    use = lm.model_use(SETTINGS, wanted, model.config)
    for queries in (False, True):
        opened = lm.open(Extraction(SETTINGS, tiny_model, None, wanted, queries))
        made = opened.make(opened.read(SAMPLES), lambda batch: None)
        tokens = lm.tokens(SETTINGS, tokenizer, SAMPLES, queries)
        flops = use.operations * non_embedding_parameters(model) * tokens
        np.testing.assert_array_equal(made.rows[COST], flops)
        assert use.row_bytes == sum(made.rows[name].nbytes for name in wanted) / len(SAMPLES)
    assert use.logits == ("nll" in wanted)


class Blocks(Scorer):
    """Gives the blocks that it was made with."""

    name = "given"

    def __init__(self, *blocks, needs_queries=True):
        self.given, self.needs_queries = blocks, needs_queries

    def blocks(self, inputs):
        yield from self.given


@pytest.fixture
def three_queries(tmp_path):
    """Inputs of five samples and three queries."""
    write(tmp_path / shard_name("words", 0), np.zeros((3, 1)))
    return ScoringInputs(["s"] * 5, 0, query_folders={"counts.words": tmp_path})


GOOD = (0, np.zeros((3, 2))), (2, np.zeros((3, 3)))


@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        (
            [(0, np.zeros((2, 3))), (2, np.zeros((3, 3)))],
            "the block at 0 has 2 rows of 3 samples, and the task",
        ),
        (
            [(0, np.zeros((1, 5)))],
            "has 1 rows of 5 samples, and the task has 3 queries; give each query a row",
        ),
        ([(0, np.zeros(5))], r"the block at 0 has shape \(5,\); make it \[queries, samples\]"),
        (GOOD[:1], r"do not cover each of the 5 samples once \(see position 2\)"),
        (GOOD[1:], r"do not cover each of the 5 samples once \(see position 0\)"),
        ([*GOOD, (0, np.zeros((3, 2)))], "do not cover each of the 5 samples once"),
        ([GOOD[0], (3, np.zeros((3, 2)))], r"once \(see position 2\)"),
        ([], r"once \(see position 0\)"),
    ],
)
def test_blocks_that_are_not_of_every_query_and_sample_are_refused(blocks, said, three_queries):
    with pytest.raises(UserError, match=f"^method given: .*{said}"):
        list(blocks_of(Blocks(*blocks), three_queries))


def test_blocks_that_are_as_they_should_be_pass(three_queries):
    assert list(blocks_of(Blocks(*GOOD), three_queries)) == list(GOOD)
    assert len(list(blocks_of(Blocks(*GOOD[::-1]), three_queries))) == 2
    # Without queries there may be any number of rows, and of a part of a pool any samples.
    assert len(list(blocks_of(Blocks((0, np.zeros((2, 5))), needs_queries=False), three_queries))) == 1
    part = ScoringInputs([], 0, query_folders=three_queries.query_folders, part=(1, 2))
    assert len(list(blocks_of(Blocks(GOOD[1]), part))) == 1


def test_a_feature_that_was_not_asked_for_is_one_line(three_queries):
    with pytest.raises(UserError, match=r"reads lm.nll, which it does not ask for; add it to its features"):
        three_queries.queries("lm.nll")
    with pytest.raises(UserError, match=r"which it does not ask for; .* \(there are none\)"):
        next(three_queries.pool("lm.nll"))


BAD = """
from rdslib.methods import Scorer, register

class Bad(Scorer):
    name = "bad"

    def blocks(self, inputs):
        yield 0, undefined
register(Bad())
"""


def test_a_mistake_in_a_plugin_is_one_line_that_names_it(tmp_path, monkeypatch, capsys):
    path = tmp_path / "bad.py"
    path.write_text(BAD)

    def app():
        load_plugins([path])
        list(blocks_of(get_scorer("bad"), ScoringInputs(["s"], 0)))

    monkeypatch.setattr("rdslib.commands.app.app", app)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = f"rds: {path}:8: NameError: name 'undefined' is not defined; correct this line of your method\n"
    assert (ended.value.code, capsys.readouterr().err) == (2, said)
    # Any other mistake is ours, and keeps its traceback.
    monkeypatch.setattr("rdslib.commands.app.app", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError) as ours:
        cli.main()
    assert plugin_line(ours.value) is None
