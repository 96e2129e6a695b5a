"""Shards on a Ray cluster: one model a worker, and a shard the unit that is sent, made and lost.

Samples go out and features come back through Ray; this process alone writes them, so that artifacts are
the same as those of a run without Ray. What a worker reads by itself (the model, and the features that are
scored) it reads under `RDSLIB_HOME`, which all nodes must see.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rdslib.data.chat import Sample
from rdslib.errors import UserError, needs, reason_of
from rdslib.methods import (
    Extracted,
    Extraction,
    Extractor,
    Scorer,
    ScoringInputs,
    get_extractor,
    get_scorer,
    load_plugins,
)
from rdslib.methods.blocks import blocks_of
from rdslib.models.device import share_threads, threads
from rdslib.pipeline.executors import Done, Shards
from rdslib.selection.topk import HELD, Ranked, Ranker, Ranking, Reduce, over

# Shards that wait at a worker while it is busy with another.
AHEAD = 1
# How often a shard is tried again that its worker did not live through.
TRIES = 5


class RayExecutor:
    """Workers of a Ray cluster: that of `RAY_ADDRESS`, or one started on this machine."""

    def __init__(self, plugins: Sequence[Path] = ()) -> None:
        """`plugins`: files with methods of the user's, which workers load too."""
        needs("ray", "ray")
        import ray

        self.ray = ray
        self.plugins = [str(path.resolve()) for path in plugins]
        if not ray.is_initialized():
            address = os.environ.get("RAY_ADDRESS", "local")
            _check_address(address)
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent that nobody asked for
            if len(tempfile.gettempdir()) > 40:  # a socket's path has 107 bytes at most, and Ray's name 60
                os.environ.setdefault("RAY_TMPDIR", "/tmp")
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"RAY_ADDRESS={address}: the Ray cluster cannot be joined ({reason_of(error)})"
                ) from error
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        # As many threads to a process as without Ray, so that sums are taken in the same order.
        self.options: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": threads()}
        self.workers = max(1, gpus or int(resources.get("CPU", 1)) // threads())

    def extract(
        self, extractor: Extractor, given: Extraction, shards: Shards, done: Done
    ) -> Iterator[tuple[int, Extracted]]:
        """Features of shards as they come back; the shard of a worker that dies is made anew."""
        ray = self.ray
        remote = ray.remote(max_restarts=-1, max_task_retries=TRIES, **self.options)(_Worker)
        workers = [remote.remote(extractor.name, self.plugins, given) for _ in range(self.workers)]
        busy: dict[Any, tuple[Any, int, int]] = {}

        def send(worker: Any) -> None:
            for start, samples in itertools.islice(shards, 1):
                busy[worker.make.remote(list(samples))] = (worker, start, len(samples))

        try:
            for worker in workers * (1 + AHEAD):
                send(worker)
            while busy:
                (ready, *_), _ = ray.wait(list(busy))
                worker, start, size = busy.pop(ready)
                send(worker)
                made = self._get(ready)
                done(size)
                yield start, made
        finally:
            for worker in workers:
                ray.kill(worker)

    def ranker(self, scorer: Scorer, inputs: ScoringInputs) -> Ranker:
        """Ranks a part of the shards at each worker, and merges; alone, where all are needed at once."""
        if not scorer.by_shard:
            return over(lambda: blocks_of(scorer, inputs))
        remote = self.ray.remote(max_retries=TRIES, **self.options)(_rank)
        # Of sources, which each worker would be sent a copy, methods that go by shards read none.
        parts = [replace(inputs, sources=(), part=(index, self.workers)) for index in range(self.workers)]

        def ranker(k: int, reduce: Reduce | None, after: Sequence[Ranked] | None) -> Ranking:
            asked = (k, reduce, after, self.workers)
            ranked = [remote.remote(scorer.name, self.plugins, part, *asked) for part in parts]
            total, *others = map(self._get, ranked)
            for each in others:
                total.merge(each)
            return total

        return ranker

    def _get(self, reference: Any) -> Any:
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except (self.ray.exceptions.RayActorError, self.ray.exceptions.WorkerCrashedError) as error:
            raise UserError(
                f"engine ray: workers died {TRIES + 1} times over the same shard; see that they have the "
                "memory for it, or lower encode.token_budget"
            ) from error


class _Worker:
    """One process with one model, which is loaded with the first shard."""

    def __init__(self, extractor: str, plugins: Sequence[str], given: Extraction) -> None:
        _start(plugins)
        self.extractor, self.given = extractor, given
        self.extract: Any = None

    def make(self, samples: Sequence[Sample]) -> Extracted:
        """Features of one shard."""
        if self.extract is None:
            self.extract = get_extractor(self.extractor).open(self.given)
        made: Extracted = self.extract.make(self.extract.read(samples), lambda batch: None)
        return made


def _rank(
    scorer: str,
    plugins: Sequence[str],
    inputs: ScoringInputs,
    k: int,
    reduce: Reduce | None,
    after: Sequence[Ranked] | None,
    workers: int,
) -> Ranking:
    """The ranking of one part of the pool."""
    _start(plugins)
    return over(lambda: blocks_of(get_scorer(scorer), inputs), HELD // workers)(k, reduce, after)


def _check_address(address: str) -> None:
    """Raise UserError if nobody listens at HOST:PORT, which Ray would wait for, for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(
            f"RAY_ADDRESS={address}: no Ray cluster answers there ({reason_of(error)}); start it, or "
            "unset RAY_ADDRESS to use this machine alone"
        ) from error


def _start(plugins: Sequence[str]) -> None:
    share_threads()
    load_plugins([Path(plugin) for plugin in plugins])
