"""What the tests share: a tiny random model, and the real one of the `mini` profile."""

from __future__ import annotations

import os
import signal

# Before torch is imported: test processes share the cores, and so do the processes that they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import filelock
import pytest

from rdslib import methods
from rdslib.models import loading as models
from rdslib.params import RandomModel
from rdslib.pipeline.study import Study
from tests.command import rds


def pytest_configure():
    """Heed Ctrl-C, which tests that run in the background ignore, and with them all that they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """The files that take longest first, so that no process waits for one at the end."""
    longest = ("test_study.py", "test_rehearsal.py", "test_installed.py", "test_browser.py")
    place = {name: at for at, name in enumerate(longest)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(scope="module", autouse=True)
def _plugins_of_this_file_alone():
    """What the tests of one file register is gone after them, since many files share a process."""
    registries = (methods.SCORERS, methods.EXTRACTORS, methods._DIGESTS, methods._LOADED)
    before = [dict(registry) for registry in registries]
    yield
    for registry, kept in zip(registries, before, strict=True):
        registry.clear()
        registry.update(kept)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The folder of a random-weight model of two layers."""
    folder = tmp_path_factory.mktemp("model")
    models.make_random(RandomModel(layers=2, hidden_size=32, heads=2), 0, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory):
    """A home where every artifact of `tiny` is, made by the command line, with its figures beside.

    All test processes share it: what a test changes, or adds to, is a copy.
    """
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    home, made = place / "tiny", place / "tiny.made"
    with filelock.FileLock(place / "tiny.lock"):
        if not made.exists():
            done = rds("run", "--profile", "tiny", "--workers", 2, "--out", home / "figures", home=home)
            assert done.returncode == 0, done.stderr
            made.touch()
    return home


@pytest.fixture(scope="session")
def mini():
    """The mini study in the user's own cache, with its model and data there."""
    study = Study.load("mini")
    study.compute([study.pipeline.model, *study.data_steps])
    return study
