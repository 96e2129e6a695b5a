"""Training on several processes, on a tiny model: two that talk over gloo, and one, against `MasterAdamW`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from rdslib.data.chat import Sample, user_assistant
from rdslib.errors import UserError
from rdslib.models.launch import CHECKPOINTS, WHOLE, launch, processes_of
from rdslib.models.train import train
from rdslib.params import ROOT, Train
from tests.killing import WITH_TESTS

# 22 of them are five micro-batches and a half: the last update is short, and one process has less of it.
SAMPLES = [Sample(str(i), "s", user_assistant(f"say {i}", f"it is {i}" * (1 + i % 4))) for i in range(22)]
SHIPPED = ROOT / "params" / "accelerate"


def params(**changes):
    values = {
        "method": "full", "epochs": 12, "learning_rate": 1e-3, "warmup_ratio": 0.03, "batch_size": 8,
        "micro_batch_size": 4, "max_length": 96,
    }  # fmt: skip
    return Train(**{**values, **changes})


class Bar:
    """Notes how far each update went."""

    def __init__(self):
        self.steps, self.total = [], 0

    def reset(self, total):
        self.total = total

    def update(self, n):
        self.steps.append(n)


def config(folder, **changes):
    path = folder / "accelerate.yaml"
    given = yaml.safe_load((SHIPPED / "processes_2.yaml").read_text())
    path.write_text(yaml.safe_dump({**given, **changes}))
    return str(path)


def written(folder):
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()}


def weights(folder):
    return torch.cat([each.float().flatten() for each in load_file(folder / "model.safetensors").values()])


@pytest.fixture(scope="module")
def two(tiny_model, tmp_path_factory):
    """What two processes have trained without a break: the folder, and what they found."""
    out, bar = tmp_path_factory.mktemp("two"), Bar()
    found = launch(tiny_model, SAMPLES, params(accelerate="processes_2"), 1, out, bar)
    assert sum(bar.steps) == bar.total == found["training_tokens"]
    assert len(bar.steps) == found["updates"] == 36
    return out, found


@pytest.mark.slow
def test_two_processes_train_as_one_does(tiny_model, two, tmp_path):
    for name in ("plain", "one"):
        (tmp_path / name).mkdir()
    train(tiny_model, SAMPLES, params(), 1, tmp_path / "plain")
    alone = params(accelerate=config(tmp_path, num_processes=1), gradient_checkpointing=True)
    found = launch(tiny_model, SAMPLES, alone, 1, tmp_path / "one", None)
    # One process of FSDP does what `MasterAdamW` does, to the last bit, layers computed anew or not.
    assert written(tmp_path / "one") == written(tmp_path / "plain")
    out, shared = two
    assert written(out).keys() == written(tmp_path / "plain").keys()
    counts = ("samples", "without_response", "training_tokens", "updates")
    assert [shared[name] for name in counts] == [found[name] for name in counts]
    assert shared["losses"][-1] < 0.9 * shared["losses"][0]
    np.testing.assert_allclose(shared["losses"], found["losses"], rtol=2e-3)
    start, one, both = (weights(each) for each in (tiny_model, tmp_path / "plain", out))
    assert (both - one).norm() < 0.05 * (one - start).norm()


PROGRAM = """
import sys
from pathlib import Path
from rdslib.models.train import train
from tests.models.test_launch import SAMPLES, params
train(Path(sys.argv[1]), SAMPLES, params(accelerate="processes_2"), 1, Path(sys.argv[2]))
"""


def running(folder):
    """Processes whose commands name a folder."""
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if f"{folder}/tmp-" in line]


@pytest.mark.slow
def test_a_training_that_was_killed_ends_in_the_same_weights(tiny_model, two, tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tiny_model), str(tmp_path)]
    process = subprocess.Popen(command, env={**os.environ, **WITH_TESTS}, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(tmp_path.glob(f"{CHECKPOINTS}/*/{WHOLE}"))) == 0:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "model.safetensors").exists()
    while running(tmp_path):  # those that it started end by themselves
        time.sleep(0.1)
    (half,) = (each for each in tmp_path.glob(f"{CHECKPOINTS}/*/{WHOLE}"))
    (tmp_path / CHECKPOINTS / "checkpoint-35").mkdir()  # as one that a kill has cut short
    bar = Bar()
    counts = train(tiny_model, SAMPLES, params(accelerate="processes_2"), 1, tmp_path, bar)
    done = int(half.parent.name.rpartition("-")[2])
    assert 4 <= done < 36
    assert len(bar.steps) == 36 - done
    assert bar.steps[0] >= 3 * max(bar.steps[1:])
    out, found = two
    assert written(tmp_path) == written(out)
    assert counts == {name: each for name, each in found.items() if name != "losses"}
    assert not (tmp_path / CHECKPOINTS).exists()


@pytest.mark.slow
def test_what_a_process_fails_of_is_told_in_one_line(tiny_model, tmp_path):
    with pytest.raises(UserError, match=r"^training on 2 processes: none of the 22 samples has a response"):
        launch(tiny_model, SAMPLES, params(accelerate="processes_2", max_length=3), 1, tmp_path, None)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"distributed_type": "MULTI_GPU"}, r"is not for FSDP, version 2, on one machine \(distributed_type"),
        ({"fsdp_config": {"fsdp_version": 1}}, "is not for FSDP, version 2, on one machine"),
        ({"num_machines": 2}, "is not for FSDP, version 2, on one machine"),
        ({"num_processes": None}, "is not for FSDP, version 2, on one machine"),
        ({"num_processes": 3}, "has 3 processes, and train.batch_size 8 is no multiple of 3 x train.micro"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(tmp_path, changes, expected):
    with pytest.raises(UserError, match=expected):
        processes_of(config(tmp_path, **changes), params())


def test_shipped_configurations_are_for_as_many_processes_as_their_names_say():
    for path in SHIPPED.glob("*.yaml"):
        assert processes_of(path.stem, params(batch_size=32)) == int(path.stem.rpartition("_")[2])
    with pytest.raises(UserError, match=r"cannot be read .* give one of gpus_8, processes_2"):
        processes_of("gpus_9", params())


def test_keys_name_the_configuration_and_no_default():
    assert "accelerate" not in params().model_dump()
    assert params(accelerate="gpus_8").model_dump()["accelerate"] == "gpus_8"
    # Which changes no number.
    assert params(gradient_checkpointing=True).model_dump() == params().model_dump()
    with pytest.raises(ValueError, match="has accelerate, which is for all weights"):
        params(method="lora", accelerate="gpus_8")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_layers_that_are_computed_anew_change_nothing(tiny_model, tmp_path, method):
    spec = params(method=method, epochs=2)
    for name in ("kept", "anew"):
        train(tiny_model, SAMPLES, spec, 1, tmp_path / name)
        spec = spec.model_copy(update={"gradient_checkpointing": True})
    assert written(tmp_path / "anew") == written(tmp_path / "kept")
