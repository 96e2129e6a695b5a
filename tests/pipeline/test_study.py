"""The whole path under `tiny`, as a person runs it: the command line, real processes, real kills."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdslib import figures
from rdslib.data.chat import tokenize_chat
from rdslib.data.pool import subset as pool_subset
from rdslib.errors import UserError
from rdslib.evaluation import likelihood
from rdslib.methods import COST, features
from rdslib.models.device import device_kind, recorded_on
from rdslib.models.loading import load_causal_lm, load_tokenizer
from rdslib.params import ROOT, Download
from rdslib.pipeline import records, results
from rdslib.pipeline.artifacts import damage
from rdslib.pipeline.runs import all_runs, quantile_runs, recorded, runs_of
from rdslib.pipeline.steps import SELECTION, SOURCES, model_folder
from rdslib.pipeline.store import MANIFEST
from rdslib.pipeline.study import Run, Study
from rdslib.pipeline.train_steps import SCORES
from tests.command import rds
from tests.killing import WITH_TESTS

pytestmark = pytest.mark.slow

RDS = "lm.weighted_all"


def all_steps(study):
    return [step for name in figures.FIGURES for step in figures.steps(study, name)]


def contents(folder, but=(MANIFEST,)):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if p.name not in but}


@pytest.fixture
def tiny(tiny_home):
    return Study.load("tiny", home=tiny_home)


@pytest.fixture
def home(tiny_home, tmp_path):
    """A copy of that home's artifacts, to be changed."""
    shutil.copytree(tiny_home / "artifacts", tmp_path / "home" / "artifacts")
    return tmp_path / "home"


def test_every_notebook_runs_and_leaves_its_figure(tiny_home):
    names = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert names == sorted([*figures.FIGURES, "explore"])
    names.remove("explore")
    for name in names:
        kinds = ("md", "tex") if name.startswith(("tab", "claims")) else ("png", "svg")
        for suffix in (*kinds, "csv", "json"):
            assert (tiny_home / "figures" / f"{name}.{suffix}").stat().st_size > 0


def test_provenance_names_the_artifacts_behind_a_figure(tiny_home, tiny):
    record = json.loads((tiny_home / "figures" / "fig1_pareto.json").read_text())
    assert record["origins"] == ["measured", "published"]
    assert {"task", "pool", "prepare", "features", "cost", "select", "train", "evaluate", "model"} == {
        artifact["step"] for artifact in record["artifacts"]
    }
    for artifact in record["artifacts"]:
        assert damage(tiny.store.folder / artifact["step"] / artifact["hash"]) == []


def test_measured_rows_agree_with_the_artifacts(tiny_home, tiny):
    table = pd.read_csv(tiny_home / "figures" / "fig1_pareto.csv")
    table = table[table["origin"] == "measured"].set_index(["method", "pool_size"])
    runs = runs_of(tiny, "rds", "all", 12, multi=False)
    values = []
    for run in runs:
        task = run.targets[0]
        before, after = (
            pd.read_parquet(tiny.store.path(tiny.evaluation(each, task)) / "scores.parquet").sum()
            for each in (tiny.untuned(), run)
        )
        values.append(after["bits"] / after["bytes"] / (before["bits"] / before["bytes"]))
    assert table.loc[("rds", 120), "score"] == pytest.approx(np.mean(values), rel=1e-5)
    # FLOPs: 2N for each token of the pool and the task's queries, 6N for each token trained on.
    parameters = tiny.store.manifest(tiny.pipeline.model)["counts"]["non_embedding_parameters"]
    pool_tokens = tiny.store.manifest(tiny.pipeline.features(RDS))["counts"]["tokens"]
    costs = []
    for run in runs:
        query = tiny.store.manifest(tiny.pipeline.features(RDS, run.targets[0]))["counts"]["tokens"]
        trained = tiny.store.manifest(tiny.training(run))["counts"]["training_tokens"]
        costs.append(2 * parameters * (pool_tokens + query) + 6 * parameters * trained)
    assert table.loc[("rds", 120), "flops"] == pytest.approx(np.mean(costs), rel=1e-5)


def test_models_are_dropped_and_one_run_is_exported_by_training_it_again(home, tmp_path):
    tiny = Study.load("tiny", home=home)
    (run,) = runs_of(tiny, "rds", "all", 12, multi=False)[:1]
    folders = [tiny.store.path(step) for each in all_runs(tiny) if (step := tiny.training(each))]
    assert len(folders) > 10
    assert all([path.name for path in folder.iterdir()] == [MANIFEST] for folder in folders)
    asked = ("export", "--profile", "tiny", "--method", "rds", "--pool", "all", "-k", 12)
    unclear = rds(*asked, "--out", tmp_path / "model", home=home)
    assert (unclear.returncode, unclear.stdout) == (2, "")
    assert re.search(
        r"3 runs are meant: rds 12 of all for .* \(seed .*; say which by --method", unclear.stderr
    )
    none = rds(*asked, "--seed", 1, "--out", tmp_path / "model", home=home)
    assert (none.returncode, "has no such run" in none.stderr) == (2, True)
    assert not (tmp_path / "model").exists()
    done = rds(*asked, "--task", run.targets[0], "--out", tmp_path / "model", home=home)
    assert done.returncode == 0, done.stderr
    model, tokenizer = load_causal_lm(tmp_path / "model"), load_tokenizer(tmp_path / "model")
    samples, e = tiny.task_data(run.targets[0]).test, tiny.experiment.evaluate
    found = likelihood.evaluate(model, tokenizer, likelihood.bare(samples), e.max_length, 512)
    assert found.bits == pytest.approx(tiny.scores(run, run.targets[0])["bits"].to_numpy(), rel=0.02)
    again = rds(*asked, "--task", run.targets[0], "--out", tmp_path / "model", home=home)
    assert (again.returncode, "is there already" in again.stderr) == (2, True)


def test_records_redraw_and_verify_figures_where_nothing_was_computed(tiny_home, tmp_path):
    figured, home = tiny_home / "figures", tmp_path / "home"
    assert (figured / records.NAME).stat().st_size < 300_000
    done = rds("verify", figured, home=home)
    assert done.returncode == 0, done.stdout
    assert re.search(
        r"fig1_pareto: \d+ rows, the same bytes; (\d+) of \1 artifacts from records", done.stdout
    )
    again = rds("verify", figured, home=tiny_home)
    assert (again.returncode, "from records" in again.stdout) == (0, False)
    shutil.rmtree(home)
    # Of scores, of selections and of the pool; what `verify` computed above were all of them.
    some = ("fig1_pareto", "fig7_sources_by_method", "tab2_multi_task", "fig2_pools")
    asked = ("--records", figured / records.NAME, *(part for name in some for part in ("--only", name)))
    drawn = rds("run", "--profile", "tiny", *asked, "--out", tmp_path / "drawn", home=home)
    assert drawn.returncode == 0, drawn.stderr
    for name in some:
        assert (tmp_path / "drawn" / f"{name}.csv").read_bytes() == (figured / f"{name}.csv").read_bytes()
    assert {path.name for path in (home / "artifacts").rglob("*.parquet")} == {SCORES, SELECTION, SOURCES}
    # What needs files that did not travel has them made again, and they are the same.
    ours, theirs = Study.load("tiny", home=home), Study.load("tiny", home=tiny_home)
    pool = contents(ours.store.make(ours.pool))
    assert pool == contents(theirs.store.path(theirs.pool))
    assert damage(ours.store.path(ours.pool)) == []


def test_records_of_several_machines_are_put_together(tiny, tmp_path):
    runs, store = [*all_runs(tiny), *quantile_runs(tiny)], Study.load("tiny", home=tmp_path).store
    ours = Study.load("tiny", home=tmp_path)
    for number, some in enumerate((runs[::2], runs[1::2])):
        path = tmp_path / f"{number}.parquet"
        records.write(tiny.store, [step for run in some for step in tiny.steps_of(run)], path)
        assert ours.missing(recorded(ours))
        assert records.take(store, path) == device_kind()
    assert not ours.missing(recorded(ours))
    for run in runs[:3]:
        assert results.bits_per_byte(ours, run, ours.tasks_of(run)[0]) == results.bits_per_byte(
            tiny, run, ours.tasks_of(run)[0]
        )
        assert results.measured_flops(ours, run) == results.measured_flops(tiny, run)


def test_records_of_another_device_are_looked_up_and_not_gone_on_with(tiny, tmp_path):
    path, (step, *_) = tmp_path / records.NAME, tiny.evaluations([tiny.untuned()])
    with recorded_on("cuda-bfloat16"):
        records.write(tiny.store, [step], path)
        assert tiny.evaluations([tiny.untuned()])[0].hash != step.hash
    done = rds("run", "--profile", "tiny", "--records", path, "--out", tmp_path / "x", home=tmp_path / "home")
    assert done.returncode == 2
    assert "steps are not in the records, which are of cuda-bfloat16, and this is cpu-" in done.stderr


@pytest.mark.parametrize("change", ["text", "columns", "hash", "folder", "manifest"])
def test_what_is_no_file_of_records_is_one_line(tiny, tmp_path, change):
    path, store = tmp_path / records.NAME, Study.load("tiny", home=tmp_path / "home").store
    records.write(tiny.store, tiny.evaluations([tiny.untuned()]), path)
    table = pq.read_table(path)
    first = {name: column[0].as_py() for name, column in zip(table.column_names, table.columns, strict=True)}
    if change == "text":
        path.write_text("no Parquet")
    elif change == "columns":
        pq.write_table(table.drop_columns(["hash"]), path)
    else:
        wrong = {"hash": {"hash": "0" * 16}, "folder": {"step": "../x"}, "manifest": {"manifest": "[1]"}}[
            change
        ]
        changed = pa.Table.from_pylist([{**first, **wrong}], schema=table.schema)
        pq.write_table(changed, path)
    with pytest.raises(UserError, match=r"records\.parquet: is no file of records \(.*\); give one"):
        records.take(store, path)
    assert not (tmp_path / "x").exists()
    assert not list(tmp_path.glob("home/artifacts/*"))


PLUGIN = """
import numpy as np
from rdslib.methods import COST, Extract, Extracted, Extractor, Scorer, register


class Vowels(Extractor):
    name = "letters"

    def open(self, given):
        def read(samples):
            return ["".join(m["content"] for m in s.messages) for s in samples]

        def make(texts, done):
            share = [sum(t.count(v) for v in "aeiou") / len(t) for t in texts]
            done(range(len(texts)))
            return Extracted({"vowels": np.array(share), COST: np.ones(len(texts))}, {"tokens": 0})

        return Extract(read, make)


class MostVowels(Scorer):
    name = "most_vowels"
    features = ("letters.vowels",)

    def blocks(self, inputs):
        for start, rows in inputs.pool("letters.vowels"):
            yield start, rows[None, :]


register(Vowels())
register(MostVowels())
"""


def test_a_method_from_a_file_outside_the_package_is_in_the_figures(home, tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    text = (ROOT / "params" / "tiny.yaml").read_text()
    text = text.replace("small: [random,", "small: [most_vowels, random,").replace("name: tiny", "name: mine")
    (tmp_path / "mine.yaml").write_text(text.replace("  seed: 7\n", "  seed: 7\n  plugins: [mine.py]\n", 1))
    names = ("fig1_pareto", "fig7_sources_by_method", "tab1_single_task")
    only = [part for name in names for part in ("--only", name)]
    # A relative path, as a person would give it.
    done = rds("run", "--profile", "mine.yaml", *only, "--out", "figures", home=home, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in names:
        rows = pd.read_csv(tmp_path / "figures" / f"{name}.csv").query("method == 'most_vowels'")
        assert set(rows["origin"]) == {"measured"}
    row = pd.read_csv(tmp_path / "figures" / "fig1_pareto.csv").query("method == 'most_vowels'").iloc[0]
    assert row["low"] <= row["score"] <= row["high"]

    # In this process too, and its picks are what it says; another file under its name is another method.
    mine = Study.load(str(tmp_path / "mine.yaml"), home=home)
    run = runs_of(mine, "most_vowels", "small", 12, multi=False)[0]
    rows = mine.pool_table().set_index("id")
    texts = {i: "".join(m["content"] for m in row) for i, row in rows["messages"].items()}
    share = {i: sum(t.count(v) for v in "aeiou") / len(t) for i, t in texts.items()}
    kept = rows.index[pool_subset(len(rows), 60, 7)]
    assert set(mine.picks(run)["id"]) == set(sorted(kept, key=lambda i: -share[i])[:12])
    before = mine.selection(run).hash
    (tmp_path / "mine.py").write_text(PLUGIN.replace("aeiou", "aeiouy"))
    with pytest.raises(UserError, match="has changed since it was loaded"):
        Study.load(str(tmp_path / "mine.yaml"), home=home)
    status = rds("status", "--all", "--profile", tmp_path / "mine.yaml", home=home).stdout
    assert before not in status
    assert "select most_vowels 12 of small" in status


def test_a_plugin_that_cannot_be_run_is_one_line(tmp_path):
    text = (ROOT / "params" / "tiny.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("  seed: 7\n", "  seed: 7\n  plugins: [mine.py]\n", 1))
    for content, message in ((None, "mine.py: cannot be read"), ("1 / 0", "mine.py: cannot be run (ZeroDiv")):
        if content:
            (tmp_path / "mine.py").write_text(content)
        done = rds("status", "--profile", tmp_path / "mine.yaml", home=tmp_path)
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_helpers_run_nothing_of_the_working_folder_and_end_when_the_one_who_started_them_is_killed(tmp_path):
    for name in ("json", "typer", "torch", "rdslib", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open('{tmp_path}/{name}.ran', 'w')")
    program = (
        "import sys, time; from rdslib.pipeline.executors import helpers;"
        "h = helpers(['help', '--profile', 'tiny', '--only', 'fig1_pareto'], 1); h.__enter__();"
        "time.sleep(5); print('up', flush=True); time.sleep(100)"
    )
    environment = {**os.environ, "RDSLIB_HOME": str(tmp_path)}
    command = [sys.executable, "-P", "-c", program]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=tmp_path)
    children = psutil.Process(process.pid).children
    process.stdout.readline()
    (helper,) = children()
    process.kill()
    process.wait()
    helper.wait(timeout=30)
    assert not helper.is_running()
    assert not list(tmp_path.glob("*.ran"))


def test_costs_are_the_tokens_each_method_has_processed(tiny):
    """2N a token forward and 6N a token of training, selection included; beside it the paper's formula."""
    of = tiny.pipeline
    made = {
        "lm": of.features(RDS),
        "ifd": of.features("ifd.ratio"),
        "ifd prepared": of.preparation("ifd.ratio", "all"),
        "less": of.features("less.gradient", None, "small"),
        "less queries": of.features("less.gradient", "Sums", "small"),
        "less prepared": of.preparation("less.gradient", "small"),
    }
    counts = {name: tiny.store.manifest(step)["counts"] for name, step in made.items()}
    tokens = {name: each["tokens"] for name, each in counts.items()}
    model = model_folder(tiny.store.path(tiny.pipeline.model))
    parameters = tiny.store.manifest(tiny.pipeline.model)["counts"]["non_embedding_parameters"]
    tokenizer = load_tokenizer(model)
    messages = [list(row) for row in tiny.pool_table()["messages"]]
    lengths = np.array([len(t.ids) for t in tokenize_chat(tokenizer, messages, 256)])
    small = lengths[pool_subset(120, 60, 7)].sum()
    assert tokens["lm"] == lengths.sum()
    assert tokens["less"] == 2 * small  # two checkpoints
    n = parameters
    of_samples = features.read_all(tiny.store.path(made["ifd"]), COST).sum()
    assert of_samples >= 2 * n * tokens["ifd"]
    selection = {
        ("random", "all", ()): 0,
        ("mid_ppl", "all", ()): 2 * n * tokens["lm"],
        ("mid_ppl", "small", ()): 2 * n * small,
        # The prompts of the small pool are clustered; few are trained on; all is then read.
        # What was read of a sample for the small pool is not read again for all: each counts once.
        ("ifd", "all", ()): 2 * n * small + 6 * n * tokens["ifd prepared"] + of_samples,
        ("less", "small", ("Sums",)): sum(6 * n * tokens[name] for name in tokens if "less" in name),
    }
    for (method, pool, targets), expected in selection.items():
        run = Run(method, pool, 12, targets, 7)
        trained = tiny.store.manifest(tiny.training(run))["counts"]["training_tokens"]
        assert results.measured_flops(tiny, run) == pytest.approx(expected + 6 * n * trained, rel=1e-9), (
            method
        )
        y = 60 if pool == "small" else 120
        one_pass = 2 * n * 2048
        formula = {
            "random": 0,
            "mid_ppl": one_pass * y,
            "ifd": one_pass * 60 + 3 * one_pass * 4 * 3 + one_pass * y,
            "less": 3 * one_pass * 12 + 9 * one_pass * y,
        }[method]
        assert results.formula_flops(tiny, run) == pytest.approx(3 * one_pass * 12 + formula, rel=1e-9), (
            method
        )


def test_records_hold_every_run_with_its_interval_and_artifacts(tiny_home, tiny):
    records = pd.read_csv(tiny_home / "figures" / "records.csv")
    assert set(records["method"]) == {"untuned", *tiny.methods}
    assert set(records["task"]) == {"Sums", "Reverse"}
    assert (records["low"] <= records["bits_per_byte"]).all()
    assert (records["bits_per_byte"] <= records["high"]).all()
    assert records["accuracy"].notna().equals(records["task"] == "Sums")
    for row in records.itertuples():
        assert (tiny.store.folder / "evaluate" / row.evaluation / MANIFEST).is_file()


def test_selection_equals_a_naive_reading(tiny):
    run = Run("rds", "small", 12, ("Sums",), 7)
    pool, queries = (
        features.read_all(tiny.store.path(step), "weighted_all").astype(np.float32)
        for step in (tiny.pipeline.features(RDS), tiny.pipeline.features(RDS, "Sums"))
    )
    keep = pool_subset(len(pool), 60, 7)
    scores = queries @ pool[keep].T
    order = [sorted(range(60), key=lambda d: (-row[d], d)) for row in scores]
    picks = list(dict.fromkeys(order[q][rank] for rank in range(60) for q in range(len(queries))))[:12]
    assert tiny.picks(run)["position"].tolist() == keep[picks].tolist()


def test_every_method_and_seed_draws_from_the_same_smaller_pool(tmp_path):
    tiny = Study.load("tiny", home=tmp_path)
    keep = set(pool_subset(120, 60, 7).tolist())
    for run in (Run("random", "small", 60, (), 8), Run("rds", "small", 60, ("Sums",), 8)):
        assert set(tiny.picks(run)["position"]) == keep


def test_one_random_run_serves_both_settings(tiny):
    single = runs_of(tiny, "random_balanced", "all", 12, multi=False)
    multi = runs_of(tiny, "random_balanced", "all", 12, multi=True)
    assert [tiny.training(run).hash for run in single] == [tiny.training(run).hash for run in multi]


def test_a_second_run_computes_nothing(tiny_home, tiny, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in tiny.store.folder.rglob(MANIFEST)}
    arguments = ["run", "--profile", "tiny", "--only", "fig6_sources_by_task", "--out", tmp_path]
    done = rds(*arguments, home=tiny_home)
    assert done.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in tiny.store.folder.rglob(MANIFEST)} == before


def test_status_tells_what_exists_and_what_is_missing(tiny_home, tmp_path):
    full = rds("status", "--profile", "tiny", "--all", home=tiny_home).stdout
    assert "missing  " not in full
    assert "To run" not in full
    none = rds("status", "--profile", "tiny", "--all", home=tmp_path).stdout
    assert "exists " not in none
    assert "To run: 1 model" in none


def test_a_flipped_byte_anywhere_is_noticed_and_repaired(home):
    study = Study.load("tiny", home=home)
    before = contents(study.store.folder)
    kinds = sorted(each.name for each in study.store.folder.iterdir())
    assert {"task", "pool", "prepare", "features", "select", "train", "evaluate", "model"} <= {*kinds}
    for name in kinds:  # one of each
        rng = random.Random(name)
        files = [path for path in sorted((study.store.folder / name).rglob("*")) if path.is_file()]
        victim = rng.choice([path for path in files if path.suffix != ".lock"])
        data = bytearray(victim.read_bytes())
        data[rng.randrange(len(data))] ^= 0x10
        victim.write_bytes(data)
        assert damage(victim.parent) or damage(victim.parent.parent) or damage(victim.parent.parent.parent)
    study.compute(all_steps(study))
    assert contents(study.store.folder) == before


@pytest.mark.parametrize("left", [None, b"", b"PAR1"])
def test_a_pool_that_cannot_be_read_is_made_again(home, left):
    study = Study.load("tiny", home=home)
    path = study.store.path(study.pool) / "pool.parquet"
    whole = path.read_bytes()
    path.unlink() if left is None else path.write_bytes(left)
    again = Study.load("tiny", home=home)
    assert {step.hash for step in all_steps(again)} == {step.hash for step in all_steps(study)}
    again.compute([again.pool])
    assert path.read_bytes() == whole


KILLED = """
import sys
from pathlib import Path
from rdslib import figures
from rdslib.models import loading, train
from rdslib.pipeline.study import Study
from tests.killing import forks_with_kills

home = Path(sys.argv[1])


def work():
    study = Study.load("tiny", home=home)
    study.compute([step for n in ("quantiles", "tab2_multi_task") for step in figures.steps(study, n)])


print(*forks_with_kills(work, lambda: len([*home.glob("artifacts/*/*/manifest.json")]), 6, 8, 0.3))
"""


def test_one_process_and_sigkills_at_random_moments_end_in_the_files_that_two_made(tiny_home, tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **WITH_TESTS})
    code, kills = map(int, done.stdout.split())
    assert code == 0, done.stderr
    assert kills >= 3  # a fork may have ended before its turn
    made, there = contents(tmp_path / "artifacts"), contents(tiny_home / "artifacts")
    assert {name.split("/")[0] for name in made} == {name.split("/")[0] for name in there}  # of every kind
    assert made.items() <= there.items()


def changed(study, home, **changes):
    """The study with another experiment, on the same home."""
    experiment = study.experiment.model_copy(update=changes)
    return Study(study.profile.model_copy(update={"experiment": experiment}), home)


def to_compute(study):
    """What is missing of a study: the names of its steps, with the methods or tasks in their labels."""
    return [step.label for step in study.missing(all_steps(study))]


def grid_of(study, **changes):
    return {"grid": study.experiment.grid.model_copy(update=changes)}


def test_one_more_method_computes_its_own_feature_selections_and_what_follows(tiny_home, tiny):
    small = (*tiny.experiment.grid.single_task["small"], "embed_nv")
    more = {**tiny.experiment.grid.single_task, "small": small}
    assert "embed_nv" not in tiny.methods
    labels = to_compute(changed(tiny, tiny_home, **grid_of(tiny, single_task=more)))
    assert labels
    nv = re.compile("(prepare nv|nv features|FLOPs of nv)")
    assert all("embed_nv" in label or nv.match(label) for label in labels)


def test_one_more_ablation_computes_the_new_feature_alone_in_a_pass_of_its_own(tiny_home, tiny):
    fewer = changed(tiny, tiny_home, **grid_of(tiny, ablation_methods=("rds_eos",)))
    assert to_compute(fewer) == []
    step = tiny.pipeline.features("lm.last_prompt")
    assert tiny.missing([step]) == [step]


def test_one_more_budget_or_seed_computes_its_own_runs(tiny_home, tiny):
    budgets = (*tiny.experiment.grid.multi_task_budgets, 13)
    labels = to_compute(changed(tiny, tiny_home, **grid_of(tiny, multi_task_budgets=budgets)))
    assert labels
    assert all(" 13 of " in label for label in labels)
    seeds = (*tiny.experiment.grid.seeds, 99)
    missing = changed(tiny, tiny_home, **grid_of(tiny, seeds=seeds))
    steps = missing.missing(all_steps(missing))
    assert {step.name for step in steps} == {"select", "quantile", "train", "evaluate"}
    assert {step.arguments["seed"] for step in steps if step.name != "evaluate"} == {99}


def test_one_more_download_that_nothing_reads_computes_nothing(tiny_home, tiny):
    unread = Download(uri="file:unread", sha256="0" * 64)
    assert to_compute(changed(tiny, tiny_home, downloads={"unread": unread})) == []


def test_one_more_task_computes_the_task_and_the_runs_that_are_for_it(home, tiny):
    third = tiny.experiment.tasks[1].model_copy(update={"name": "Third"})
    more = changed(tiny, home, tasks=(*tiny.experiment.tasks, third))
    more.compute(more.data_steps)
    # Its tests leave the pool as it was, so that nothing that was made of the pool is made again.
    labels = to_compute(more)
    assert labels
    assert all("Third" in label or "all tasks" in label for label in labels)


def test_more_test_samples_leave_selections_and_training_as_they_are(home, tiny):
    first, *rest = tiny.experiment.tasks
    more = changed(tiny, home, tasks=(first.model_copy(update={"test": first.test + 2}), *rest))
    more.compute(more.data_steps)
    labels = to_compute(more)
    assert labels
    assert all(label.startswith("evaluate") and label.endswith(first.name) for label in labels)


def test_another_token_budget_is_another_artifact_and_changes_few_picks(tiny, tmp_path):
    encode = tiny.experiment.encode.model_copy(update={"token_budget": 300})
    other = changed(tiny, tmp_path, encode=encode)
    run = Run("rds", "all", 24, ("Sums",), 7)
    mine, theirs = tiny.picks(run)["id"], other.picks(run)["id"]
    assert tiny.selection(run).hash != other.selection(run).hash
    assert len(set(mine) & set(theirs)) >= 22
