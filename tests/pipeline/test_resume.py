"""An encode of 200 shards through twenty SIGKILLs, and shards that were damaged afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from rdslib.params import Encode
from rdslib.pipeline.store import MANIFEST
from rdslib.pipeline.study import Run, Study
from rdslib.profiles import load_profile
from tests.killing import WITH_TESTS

pytestmark = pytest.mark.slow

SHARDS, KILLS = 200, 20

# Each fork is killed after a random number of more shards, and a random part of the next one's time.
PROGRAM = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from rdslib.models import encode
    from rdslib.models import loading as models
    from rdslib.models import train
    from tests.killing import forks_with_kills
    from tests.pipeline.test_resume import KILLS, features, study
    home = Path(sys.argv[1])

    def work():
        made = study(home)
        made.compute(features(made))

    def shards():
        # Lines of the journal, in which each whole shard has one.
        return sum(path.read_bytes().count(b"\\n") for path in home.glob("artifacts/features/*/shards.jsonl"))

    made = study(home)
    made.compute([made.pipeline.model, made.pool])
    print(*forks_with_kills(work, shards, KILLS, 8, 0.02))
    """
)


def study(home):
    """The tiny study, with a pool of 400 samples in shards of two."""
    profile = load_profile("tiny")
    experiment = profile.experiment
    sources = tuple(source.model_copy(update={"samples": 200}) for source in experiment.pool.sources[:2])
    experiment = experiment.model_copy(
        update={
            "pool": experiment.pool.model_copy(update={"sources": sources}),
            "encode": Encode(max_length=256, token_budget=512, shard_size=2 * 200 // SHARDS),
        }
    )
    return Study(profile.model_copy(update={"experiment": experiment}), home)


def features(made):
    """Two features of one pass."""
    return [made.pipeline.features(name) for name in ("lm.nll", "lm.weighted_all")]


def files(made):
    paths = [path for step in features(made) for path in made.store.path(step).iterdir()]
    return {path.relative_to(made.store.folder): path.read_bytes() for path in paths if path.name != MANIFEST}


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    """The homes of an encode that was killed again and again, and of one that was not."""
    killed, whole = tmp_path_factory.mktemp("killed"), tmp_path_factory.mktemp("whole")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(killed)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, **WITH_TESTS},
    )
    assert done.stdout.split() == ["0", str(KILLS)], done.stderr[-2000:]
    calm = study(whole)
    calm.compute(features(calm))
    return killed, whole


def test_twenty_kills_leave_no_trace(homes):
    killed, whole = homes
    assert files(study(killed)) == files(study(whole))
    for one, other in zip(features(study(killed)), features(study(whole)), strict=True):
        manifest = study(whole).store.manifest(other)
        assert len(manifest["shards"]) > SHARDS * 0.9  # a few samples are duplicates, and left out
        assert study(killed).store.manifest(one)["files"] == manifest["files"]
    assert not list(killed.rglob("*.part"))


def test_damaged_shards_are_found_before_their_scores_are_used(homes, capsys):
    home, whole = homes
    step = study(home).pipeline.features("lm.weighted_all")
    shards = sorted(study(home).store.path(step).glob("weighted_all-*.npy"))
    flipped = bytearray(shards[3].read_bytes())
    flipped[-5] ^= 64
    shards[3].write_bytes(flipped)
    shards[9].write_bytes(shards[9].read_bytes()[:-100])
    run = Run("rds", "all", 30, ("Sums",), 7)
    mended, calm = study(home), study(whole)
    for each in (mended, calm):
        each.compute([each.selection(run)])
    printed = capsys.readouterr().err
    assert f"{shards[3].name} is damaged" in printed
    assert f"{shards[9].name} is damaged" in printed
    assert files(study(home)) == files(calm)
    assert mended.picks(run).equals(calm.picks(run))
