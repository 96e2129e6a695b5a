"""Executors: features and selections from a real Ray cluster of two nodes are those of one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rdslib.data.chat import Sample
from rdslib.errors import UserError
from rdslib.methods import Extraction, ScoringInputs, features, get_extractor, get_scorer, load_plugins
from rdslib.models.device import threads
from rdslib.params import Encode, Settings
from rdslib.pipeline.executors import Local
from rdslib.pipeline.store import MANIFEST
from rdslib.pipeline.study import Run, Study
from rdslib.profiles import load_profile
from rdslib.selection.round_robin import choose
from rdslib.selection.topk import over

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow

PLUGIN = r"""
import os, time
from pathlib import Path
import numpy as np
from rdslib.errors import UserError
from rdslib.methods import COST, Extract, Extracted, Extractor, register


class Slow(Extractor):
    name = "slow"

    def open(self, given):
        def read(samples):
            return [int(sample.id) for sample in samples]

        def make(numbers, done):
            if -1 in numbers:
                raise UserError("sample -1: is not to be had; leave it out")
            with Path(given.model, "log").open("a") as log:
                log.write(f"{os.getpid()} {numbers[0]}\n")
            time.sleep(0.4)
            done(range(len(numbers)))
            return Extracted({"square": np.array(numbers) ** 2, COST: np.ones(len(numbers))}, {"tokens": 0})

        return Extract(read, make)


register(Slow())
"""


@pytest.fixture(scope="module")
def cluster():
    """A head and a second node, each with the cores of one worker."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": threads()})
    nodes.add_node(num_cpus=threads())
    os.environ["RAY_ADDRESS"] = nodes.address
    yield nodes
    ray.shutdown()
    nodes.shutdown()
    del os.environ["RAY_ADDRESS"]


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A slow extractor of the user's own, its file, and what it is given."""
    folder = tmp_path_factory.mktemp("plugin")
    path = folder / "slow.py"
    path.write_text(PLUGIN)
    load_plugins([path])
    settings = Settings.model_construct(encode=Encode(max_length=8, token_budget=8, shard_size=1))
    return get_extractor("slow.square"), path, Extraction(settings, folder, None, ("square",), False)


def samples_of(*ids):
    return [Sample(str(each), "made up", []) for each in ids]


def files(study, step):
    folder = study.store.path(step)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST}


def test_features_and_selections_are_those_of_one_process(cluster, tmp_path):
    profile = load_profile("tiny")
    whole, parts = (
        Study(profile.model_copy(update={"engine": engine}), tmp_path / engine) for engine in ("local", "ray")
    )
    runs = [Run(method, "all", 20, ("Sums",), 7) for method in ("rds", "less")]
    runs += [Run("rds", "small", 20, ("Sums", "Reverse"), 7), Run("mid_ppl", "all", 20, (), 7)]
    runs.append(Run("random_balanced", "all", 20, (), 7))
    runs += [Run("rds", "all", 20, ("Sums", "Reverse"), 7, selector=each) for each in ("mean", "knn_kde")]
    for study in (whole, parts):
        study.compute([study.selection(run) for run in runs])
    assert parts.pipeline.executor.workers == 2
    for run in runs:
        assert files(parts, parts.selection(run)) == files(whole, whole.selection(run))
    step = whole.pipeline.features("lm.nll")
    assert files(parts, parts.pipeline.features("lm.nll")) == files(whole, step)
    counts = [study.store.manifest(step)["counts"] for study in (whole, parts)]
    assert counts[0] == counts[1]


def test_a_killed_worker_costs_its_shard(cluster, slow):
    from rdslib.pipeline.ray_executor import RayExecutor

    extractor, path, given = slow
    log = Path(given.model, "log")
    found = {}

    def kill():
        """Kill who makes the newest shard, once all that it made before has arrived."""
        while True:
            lines = log.read_text().splitlines() if log.exists() else []
            made = [tuple(map(int, line.split())) for line in lines]
            if len(made) > 4 and all(start in found for worker, start in made[:-1] if worker == made[-1][0]):
                return os.kill(made[-1][0], signal.SIGKILL)
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    shards = ((start, samples_of(start, start + 1)) for start in range(0, 24, 2))
    found.update(RayExecutor([path]).extract(extractor, given, shards, lambda more: None))
    killer.join()
    assert sorted(found) == list(range(0, 24, 2))
    for start, made in found.items():
        assert made.rows["square"].tolist() == [start**2, (start + 1) ** 2]
    made = [int(line.split()[1]) for line in log.read_text().splitlines()]
    again = sorted(made)
    for each in sorted(set(made)):
        again.remove(each)
    assert len(again) == 1, "one shard was made twice, and no other"
    workers = {int(line.split()[0]) for line in log.read_text().splitlines()}
    assert len(workers) == 3, "two workers, and the one that took the killed one's place"


def test_a_users_mistake_comes_back_as_one_line(cluster, slow):
    from rdslib.pipeline.ray_executor import RayExecutor

    extractor, path, given = slow
    with pytest.raises(UserError, match=r"^sample -1: is not to be had; leave it out$"):
        list(RayExecutor([path]).extract(extractor, given, iter([(0, samples_of(-1))]), lambda more: None))


def test_a_ranking_goes_deeper_on_a_cluster_too(cluster, tmp_path, monkeypatch):
    from rdslib.pipeline.ray_executor import RayExecutor

    rng = np.random.default_rng(0)
    for start in range(0, 90, 10):
        features.write(tmp_path / features.shard_name("weighted_all", start), rng.standard_normal((10, 4)))
    queries = tmp_path / "queries"
    queries.mkdir()
    # All queries want the same samples, so that the walk goes as deep as the budget.
    features.write(
        queries / features.shard_name("weighted_all", 0), np.ones((6, 4)) + 1e-3 * np.arange(6)[:, None]
    )
    inputs = ScoringInputs((), 0, {"lm.weighted_all": tmp_path}, {"lm.weighted_all": queries})
    scorer = get_scorer("rds")
    whole = choose([Local().ranker(scorer, inputs)], 60)
    monkeypatch.setattr("rdslib.pipeline.ray_executor.HELD", 2 * 6 * 7)
    parts = choose([RayExecutor().ranker(scorer, inputs)], 60)
    assert parts.indices.tolist() == whole.indices.tolist()
    assert parts.picked_by.tolist() == whole.picked_by.tolist()
    again = choose([over(lambda: scorer.blocks(inputs), 6 * 7)], 60)
    assert again.indices.tolist() == whole.indices.tolist()


def test_no_cluster_at_the_address(monkeypatch):
    program = "from rdslib.pipeline.ray_executor import RayExecutor; RayExecutor()"
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120
    )
    assert "UserError: RAY_ADDRESS=127.0.0.1:1: no Ray cluster answers there" in done.stderr
