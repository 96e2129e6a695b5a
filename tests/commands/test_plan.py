"""What a plan says against what a selection then takes, and that it leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from math import isnan

import numpy as np
import pytest

from rdslib import figures
from rdslib.commands import plan, pool_sample, speed
from rdslib.commands.plan import plan_profile, plan_request, shown
from rdslib.commands.pool_sample import estimate_total, sample_pool
from rdslib.commands.request import SelectRequest
from rdslib.commands.select import compute, write_selection
from rdslib.commands.speed import DISK, FLOPS, TIME, TOKENS
from rdslib.commands.text import as_text
from rdslib.commands.user_selection import UserSelection
from rdslib.data.chat import Sample, format_chat, tokenize_chat, tokenize_query, user_assistant
from rdslib.data.reader import read_rows
from rdslib.errors import UserError
from rdslib.files import sha256_of
from rdslib.methods import COST, SCORERS, get_scorer
from rdslib.methods import features as shards
from rdslib.models import flops
from rdslib.models.loading import load_causal_lm, load_tokenizer, non_embedding_parameters
from rdslib.params import ROOT
from rdslib.pipeline.step import in_order
from rdslib.pipeline.store import Store
from rdslib.pipeline.study import Study
from rdslib.seeds import generator
from tests.methods.test_embed import tiny_bert  # noqa: F401  # a fixture

ROWS = 30


def row(prompt, response):
    return {"messages": user_assistant(prompt, response), "dataset": "ab"[len(prompt) % 2]}


def write(path, rows):
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")


@pytest.fixture
def ask(tmp_path, tiny_model, monkeypatch):
    """Makes requests for a pool of rows of all lengths, in a home of its own; measuring takes every row."""
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(speed, "SECONDS", 1e9)
    write(
        tmp_path / "pool.jsonl",
        [row(f"Say {i}!" + "x" * (i * i % 97), "yes" * (i % 7 + 1)) for i in range(ROWS)],
    )
    write(tmp_path / "queries.jsonl", [row("Say 3!", "yes"), row("What is it?", "a thing")])

    def request(method="rds", profile="tiny", **changes):
        queries = str(tmp_path / "queries.jsonl") if get_scorer(method).needs_queries else None
        given = {"pool": str(tmp_path / "pool.jsonl"), "model": str(tiny_model), "k": "5", "queries": queries}
        return SelectRequest.of({**given, "method": method, "profile": profile, **changes})

    return request


@pytest.fixture
def embedding(tmp_path, tiny_bert):  # noqa: F811
    """A profile with a sentence encoder as a pinned download, whose archive is made here."""
    archive = tmp_path / "model.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in sorted(tiny_bert.rglob("*")):
            if path.is_file():
                zipped.write(path, f"package/{path.relative_to(tiny_bert)}")

    def profile(uri):
        text = (ROOT / "params" / "tiny.yaml").read_text()
        text = text.replace(
            "  seed: 7\n",
            f"""  seed: 7
  downloads:
    model: {{uri: "{uri}", sha256: {sha256_of(archive)}}}
  embedders:
    minilm: {{download: model, members: "package/*", max_length: 50, batch_size: 4}}
""",
        )
        (tmp_path / "mine.yaml").write_text(text)
        return str(tmp_path / "mine.yaml")

    return profile


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) if folder.exists() else None


def said(found):
    return " ".join(as_text(shown(found), 150).split())


def parts(found, word):
    return [part for part in found.parts if word in part.name]


@pytest.mark.parametrize("method", ["rds", "top_ppl", "ifd", "less", "random"])
def test_a_sampled_whole_pool_is_planned_as_it_then_is(ask, method):
    """Tokens, FLOPs and bytes of features are those of the artifacts that the selection makes."""
    request = ask(method)
    found = plan_request(request)
    selection = UserSelection(request)
    steps = in_order([selection.pipeline.selection(compute(selection))])
    assert [(part.name, part.there) for part in found.parts] == [(step.label, False) for step in steps]
    for step, part in zip(steps, found.parts, strict=True):
        if step.name == "features":
            costs, path = shards.read_all(selection.store.path(step), COST), selection.store.path(step)
            assert all(part.costs[FLOPS] == costs.sum())
            assert all(part.costs[TOKENS] == selection.store.manifest(step)["counts"]["tokens"])
            rows = shards.read_all(path, step.arguments["feature"])
            assert all(part.costs[DISK] == rows.nbytes + costs.nbytes)
    there = plan_request(request)
    assert all(there.left.costs[FLOPS] == 0)
    assert all(there.facts["steps that exist"] == len(steps))
    for before, after in zip(found.parts, there.parts, strict=True):
        assert after.there
        assert after.name == before.name
        if "features" in before.name:
            assert all(after.costs[TOKENS] == before.costs[TOKENS])


@pytest.mark.parametrize("method", ["rds", "embed_minilm"])
def test_samples_that_are_reused_cost_nothing(ask, embedding, tmp_path, method):
    profile = embedding(f"file:{tmp_path / 'model.zip'}") if method == "embed_minilm" else "tiny"
    compute(UserSelection(ask(method, profile=profile)))
    pool = tmp_path / "pool.jsonl"
    rows = [json.loads(line) for line in pool.read_text().splitlines()]
    more = [row("A new one, and a longer one", "no " * 9), row("Another", "no")]
    write(pool, [rows[0], more[0], *rows[1:], more[1]])
    write(tmp_path / "queries.jsonl", [row("Say 3!", "yes"), row("What is that?", "nothing")])

    request = ask(method, profile=profile)
    found = plan_request(request)
    # 2 rows and a query.
    assert found.facts["samples to encode"].tolist() == [3] * 3
    assert found.facts["samples reused"].tolist() == [ROWS + 1] * 3
    selection = UserSelection(request)
    steps = [
        each
        for each in in_order([selection.pipeline.selection(compute(selection))])
        if each.name == "features"
    ]
    counts = [selection.store.manifest(each)["counts"] for each in steps]
    assert sum(each["encoded"] for each in counts) == 3
    (part,) = parts(found, "features of the pool")
    cost = shards.read_all(selection.store.path(next(s for s in steps if "pool" in s.label)), COST)
    assert part.costs[FLOPS, 0] == pytest.approx(cost[[1, -1]].sum())
    assert 0 < part.costs[TIME, 0] < float("inf")

    # Another name changes no sample.
    pool.rename(tmp_path / "renamed.jsonl")
    again = plan_request(ask(method, profile=profile, pool=str(tmp_path / "renamed.jsonl")))
    assert again.facts["samples to encode"][0] == 0
    assert again.facts["samples reused"][0] == ROWS + 2
    assert again.left.costs[FLOPS, 0] == 0


def test_of_a_sampled_pool_what_is_reused_is_left_out_by_its_characters(ask, tmp_path, monkeypatch):
    monkeypatch.setattr(pool_sample, "SAMPLE", 12)
    request = ask()
    whole = plan_request(request)
    lines = (tmp_path / "pool.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "pool.jsonl").write_text("".join(lines[: ROWS // 2]))
    compute(UserSelection(request))
    (tmp_path / "pool.jsonl").write_text("".join(lines))
    found = plan_request(request)
    assert found.facts["samples to encode"][0] == ROWS - ROWS // 2
    (before,), (after,) = (parts(each, "features of the pool") for each in (whole, found))
    sizes = np.array([len(format_chat(each.messages, "")) for each in read_rows(tmp_path / "pool.jsonl")])
    share = sizes[ROWS // 2 :].sum() / sizes.sum()
    assert after.costs[FLOPS, 0] == pytest.approx(before.costs[FLOPS, 0] * share, rel=0.05)


@pytest.mark.parametrize("method", ["ifd", "less"])
def test_training_is_planned_as_it_is_counted(ask, tmp_path, method):
    """On rows of one length, so that it does not matter which of them it takes; of IFD all of two."""
    rows = [row(f"Say {i}!", f"{i}") for i in range(10, 16 if method == "less" else 12)]
    write(tmp_path / "pool.jsonl", rows)
    request = ask(method, k="1")
    (part,) = parts(plan_request(request), "prepare")
    selection = UserSelection(request)
    prepared = selection.pipeline.preparation(f"{method}.x")
    selection.pipeline.compute([prepared])
    assert part.costs[FLOPS, 0] == pytest.approx(selection.store.manifest(prepared)["counts"]["flops"])


def test_what_is_counted_is_what_is_there(ask, tiny_model, tmp_path):
    found = plan_request(ask())
    pool = list(read_rows(tmp_path / "pool.jsonl"))
    tokenizer = load_tokenizer(tiny_model)
    tokens = tokenize_chat(tokenizer, [r.messages for r in pool], 256)
    queries = [r.messages for r in read_rows(tmp_path / "queries.jsonl")]
    asked = tokenize_query(tokenizer, queries, 256)
    assert all(found.facts["rows read"] == ROWS)
    assert all(found.facts["rows kept"] == ROWS)
    assert all(found.facts["characters"] == sum(len(format_chat(r.messages, "")) for r in pool))
    assert all(found.facts["pool tokens"] == sum(len(t.ids) for t in tokens))
    assert all(found.facts["queries"] == 2)
    assert all(found.facts["query tokens"] == sum(len(t.ids) for t in asked))
    assert found.facts["parameters without embeddings"][0] == non_embedding_parameters(
        load_causal_lm(tiny_model)
    )


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted_without_the_weights(ask, tiny_model, tmp_path, tied):
    """From a folder without any, where speed and memory cannot be measured but all else is told."""
    folder = tmp_path / "bare"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": tied}))
    found, whole = plan_request(ask(model=str(folder))), plan_request(ask())
    assert all(found.facts["parameters without embeddings"] == whole.facts["parameters without embeddings"])
    assert all(found.left.costs[FLOPS] == whole.left.costs[FLOPS])
    assert whole.left.costs[TIME, 1] > 0
    assert isnan(found.left.costs[TIME, 0])
    assert f"not measured: lm (model {folder}: cannot be loaded" in "\n".join(found.notes)
    for method in ("less", "ifd"):
        assert isnan(plan_request(ask(method, model=str(folder))).left.costs[TIME, 0])


def test_a_model_that_memory_does_not_hold_is_not_loaded(ask, monkeypatch):
    monkeypatch.setattr(speed, "memory_of_device", lambda: 1000)
    monkeypatch.setattr("rdslib.models.loading.load_causal_lm", None)
    found = plan_request(ask())
    assert isnan(found.left.costs[TIME, 0])
    assert "the weights take 0.0 GiB, and this device has 0.0 GiB" in said(found)


EMBEDDERS = {"embed_gtr", "embed_nv"}


@pytest.mark.parametrize("method", sorted(set(SCORERS) - EMBEDDERS))
def test_every_method_has_a_plan_that_leaves_nothing(ask, embedding, tmp_path, method):
    """Sentence encoders other than this one are from the hub."""
    profile = embedding(f"file:{tmp_path / 'model.zip'}") if method == "embed_minilm" else "tiny"
    request = ask(method, profile=profile)
    before = tree(tmp_path)
    found = plan_request(request)
    assert tree(tmp_path) == before
    free = method.startswith("random") or method == "dsir"
    # What takes no FLOPs may take a time.
    assert (parts(found, "features of the pool")[0].costs[TIME, 0] > 0) if method == "dsir" else True
    assert (found.left.costs[FLOPS, 0] == 0) == free
    assert all(p.costs[TIME, 0] > 0 for p in found.parts if p.costs[FLOPS, 0])
    assert bool([p for p in found.parts if p.costs[FLOPS, 0]]) != free
    assert parts(found, "the pool")[0].costs[DISK, 0] > 0
    assert found.memory["ranking, at most"] > 0


def test_an_embedder_costs_what_it_does(ask, embedding, tmp_path):
    request = ask("embed_minilm", profile=embedding(f"file:{tmp_path / 'model.zip'}"))
    found = plan_request(request)
    write_selection(request, tmp_path / "out.jsonl")
    pipeline = UserSelection(request).pipeline
    pool, queries = (pipeline.features("minilm.sentence", task) for task in (None, "queries"))
    cost = shards.read_all(pipeline.store.path(pool), COST).sum()
    (part,) = parts(found, "features of the pool")
    assert all(part.costs[FLOPS] == cost)
    assert part.costs[TOKENS, 0] == pytest.approx(pipeline.store.manifest(pool)["counts"]["tokens"])
    # Of queries by their characters.
    cost = shards.read_all(pipeline.store.path(queries), COST).sum()
    assert parts(found, "features of queries queries")[0].costs[FLOPS, 0] == pytest.approx(cost, rel=0.2)


def test_one_slow_batch_is_enough(ask, embedding, tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "SECONDS", 0)
    found = plan_request(ask("embed_minilm", profile=embedding(f"file:{tmp_path / 'model.zip'}")))
    (part,) = parts(found, "features of the pool")
    assert 0 <= part.costs[FLOPS, 1] <= part.costs[FLOPS, 0] <= part.costs[FLOPS, 2] < float("inf")
    assert part.costs[TIME, 0] > 0


def skewed(seed, n):
    """Samples whose lengths are far apart, from two sources that differ in characters a token."""
    rng = generator(seed, "skewed")
    lengths = np.minimum(rng.lognormal(5, 1.3, n).astype(int) + 1, 100_000)
    return [Sample(str(i), "", user_assistant("?", "y" * size)) for i, size in enumerate(lengths)]


def test_the_interval_covers_the_truth_in_nine_of_ten_samples():
    """Of a pool whose longest rows, with many of the characters, are cut."""
    pool, cut = skewed(0, 4000), 500
    sizes = np.array([len(format_chat(s.messages, "")) for s in pool])
    a_token = np.where(np.arange(len(pool)) % 3 == 0, 2.5, 4.5)
    tokens = np.minimum(sizes / a_token, cut)
    assert 0.02 < (tokens == cut).mean() < 0.5
    totals = []
    for seed in range(100):
        taken = sample_pool(pool, seed)
        drawn, rows = taken.sizes, [int(sample.id) for sample in taken.samples]
        assert len(set(rows)) == pool_sample.SAMPLE
        assert drawn.tolist() == sizes[rows].tolist()
        found = tokens[rows]
        whole = found < cut
        limit = cut * drawn[whole].sum() / found[whole].sum()
        totals.append(estimate_total(found, np.minimum(drawn, limit), np.minimum(taken.all_sizes, limit)))
    covered = [total[1] <= tokens.sum() <= total[2] for total in totals]
    assert np.mean(covered) >= 0.9
    assert np.mean([t[0] for t in totals]) == pytest.approx(tokens.sum(), rel=0.01)
    # Half of the width of an estimate that does without the characters, or less.
    alone = 2 * 1.96 * len(pool) * tokens.std() * np.sqrt(1 / pool_sample.SAMPLE - 1 / len(pool))
    assert np.mean([t[2] - t[1] for t in totals]) < alone / 2
    assert all(estimate_total(tokens, sizes, sizes) == tokens.sum())


def test_a_gguf_is_converted_elsewhere(ask, tiny_model, tmp_path, monkeypatch):
    where = []

    def convert(file, folder):
        where.append(folder)
        shutil.copytree(tiny_model, folder)

    monkeypatch.setattr("rdslib.models.loading.convert_gguf", convert)
    (tmp_path / "model.gguf").write_bytes(b"")
    found = plan_request(ask(model=str(tmp_path / "model.gguf")))
    assert all(found.left.costs[FLOPS] == plan_request(ask()).left.costs[FLOPS])
    (part,) = parts(found, "model ")
    assert part.costs[DISK, 0] == 2 * sum(p.numel() for p in load_causal_lm(tiny_model).parameters())
    (folder,) = where
    assert tmp_path / "temporary" in folder.parents
    assert not folder.exists()
    assert not (tmp_path / "home").exists()


BAD = [
    ({"model": str(ROOT / "params")}, "params: cannot be loaded"),
    ({"k": "31"}, "-k 31: must be from 1 to 30"),
    ({"k": "9", "max_per_source": 1}, "-k 9: "),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_what_a_selection_refuses_a_plan_refuses_in_one_line(ask, tmp_path, changes, message):
    method = changes.pop("method", "rds")
    request = ask().model_copy(update={"method": method, **changes})
    with pytest.raises(UserError) as error:
        plan_request(request)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "home").exists()


def test_bad_rows_stop_a_plan_or_are_counted(ask, tmp_path):
    with (tmp_path / "pool.jsonl").open("a") as stream:
        stream.write('{"messages": [\n')
    with pytest.raises(UserError, match=r"pool.jsonl:31: is not valid JSON"):
        plan_request(ask())
    found = plan_request(ask(on_error="quarantine", dedup="exact"))
    kinds = ("read", "kept", "rejected", "duplicate")
    assert [found.facts[f"rows {kind}"][0] for kind in kinds] == [31, 30, 1, 0]
    found = plan_request(ask(on_error="quarantine", dedup="near"))
    assert found.memory["near duplicates"] == plan.NEAR_DUPLICATE * found.facts["rows kept"][0]
    assert "400 bytes a row that stays" in said(found)
    write(tmp_path / "pool.jsonl", [{"messages": []}])
    with pytest.raises(UserError, match="no sample is left of its 1 rows"):
        plan_request(ask(on_error="quarantine"))


def test_the_text_says_all_of_it(ask, monkeypatch):
    monkeypatch.setattr(pool_sample, "SAMPLE", 20)
    found = plan_request(ask("less"))
    text = said(found)
    tokens = found.facts["pool tokens"]
    assert f"{tokens[0]:,.0f} ({tokens[1]:,.0f} to {tokens[2]:,.0f})" in text
    for part in found.parts:
        assert part.name[:12] in text
        assert f"{part.costs[FLOPS, 0]:.3g}" in text
    for name in (*plan.GPUS, *found.facts, *found.memory, *found.notes):
        assert name in text or name[0].upper() + name[1:] in text
    assert "40% of dense bf16 peak" in text
    assert "an assumption, not a measurement" in text
    assert "training and evaluation go at the speed of a forward pass" in text


@pytest.mark.parametrize("width", [80, 100])
def test_names_and_numbers_are_whole_in_a_narrow_terminal(width):
    """Of what each column has at its widest."""
    costs = [[3.1e9] * 3, [2.13e13, 2.12e13, 2.14e13], [86399, 80000, 90000], [190.9e9] * 3]
    names = [
        "the pool",
        "lm features of the small pool for Question answering (12)",
        "prepare less on the small pool",
    ]
    found = plan.Plan("title", {}, [plan.Part(name, False, np.array(costs)) for name in names], [])
    lines = as_text(shown(found), width).splitlines()
    assert not [each for each in lines if "…" in each or len(each) > width]
    numbers = "to do 3.1e+09 2.13e+13 ±0.5% 23:59:59 ±8% 190.9 GB"
    assert sum(" ".join(each.split()).endswith(numbers) for each in lines) == 3
    for name in names:
        assert name.split()[-1] in "".join(lines)
    assert max(len(each.split("to do")[0].strip()) for each in lines if "to do" in each) > 12


@pytest.mark.parametrize(
    ("total", "text"),
    [
        ([200, 199, 200], "200 ±0.5%"),
        ([1000, 0, 1001], "1,000 ±100%"),
        ([9, 1, 90], "9 ±900%"),
        ([7, 7, 7], "7"),
        ([0, 0, 3], "0"),
        ([float("nan")] * 3, "-"),
    ],
)
def test_an_interval_is_its_further_end(total, text):
    assert plan._short(np.array(total, dtype=float), plan._count, ends=True) == text


def test_of_what_exists_nothing_is_to_be_spent(tmp_path):
    assert plan._plan("title", Store(tmp_path), [], None, {}, str).notes == []
    found = plan.Plan("title", {}, [plan.Part("the pool", True, np.zeros((4, 3)))], [])
    assert "GPU-hours" not in said(found)


def test_a_profile_without_an_experiment_is_the_papers_own_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))
    found = plan_profile("paper")
    by_name = {part.name: part.costs[FLOPS, 0] for part in found.parts}
    assert by_name["train on 10,000, any method"] == flops.training_flops(10_000)
    assert by_name["select rds from 5,817,792"] == get_scorer("rds").paper_flops(
        5_817_792, 10_000, flops.PAPER
    )
    assert by_name["select less from 5,817,792 (not run in the paper)"] > 1e21
    assert len(found.parts) == 1 + 18
    hours = 2 * 8e9 * 2048 * 5_817_792 / (0.4 * 989e12) / 3600
    (line,) = [
        each
        for each in as_text(shown(found), 150).splitlines()
        if "rds from 5,817,792" in each and "e+" not in each
    ]
    assert f" {hours:,.0f} " in line
    assert "alternatives, and were not measured here" in said(found)
    assert "still to do" not in said(found)
    assert not (tmp_path / "home").exists()


def test_a_profile_is_planned_by_what_is_there(ask):
    study = Study.load("tiny")
    steps = in_order([step for name in figures.FIGURES for step in figures.steps(study, name)])
    study.compute([study.pipeline.model, *study.data_steps])
    found = plan_profile("tiny")
    assert all(found.facts["steps"] == len(steps))
    assert all(found.facts["steps that exist"] == len(steps) - len(study.missing(steps)))
    made = [group for group in plan.passes(steps) if group[0].name == "features"]
    missing = next(group for group in made if group[0].label == "lm features of Reverse queries")
    made.remove(missing)
    study.compute([step for group in made for step in group])
    after = plan_profile("tiny")
    (there,), (todo,) = (
        parts(after, f"features ({len(made)})"),
        [p for p in after.parts if p.name == "features"],
    )
    assert there.there
    manifests = [study.store.manifest(group[0]) for group in made]
    assert all(there.costs[TOKENS] == sum(each["counts"]["tokens"] for each in manifests))
    (before,) = parts(found, "features")
    # A plan counts samples of two pools twice, where features are made for each; made, they are reused.
    needed = there.costs[TOKENS, 0] + todo.costs[TOKENS, 0]
    assert 0.95 * needed <= before.costs[TOKENS, 0] <= 1.25 * needed
    assert before.costs[TIME, 1] > 0
    assert parts(found, "train")[0].costs[FLOPS, 0] > 0
    assert parts(found, "evaluate")[0].costs[FLOPS, 0] > 0
    assert found.memory["weights"] > 0


def test_a_profile_whose_data_are_yet_to_come_is_counted_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path / "home"))
    found = plan_profile("mini")
    assert found.facts["steps"][0] > 120
    assert all(found.facts["steps that exist"] == 0)
    assert isnan(found.left.costs[FLOPS, 0])
    assert "not known before the model and the data" in "".join(found.notes)
    assert not (tmp_path / "home").exists()
