"""Environments from `pyproject.toml`: the newest versions, for the lock, and the lowest that are allowed.

`requirements.lock` and `environment.yml` have what was installed by `make lock`; the first with the hashes of
every file of each release, and what other systems need besides. torch has a file of its own, without any:
which build of it is installed, for which processor, is the machine's choice. The lowest versions go into an
environment of their own, `.venv-lowest`.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK, TORCH_LOCK = ROOT / "requirements.lock", ROOT / "requirements-torch.lock"
# What the tests need to run, whatever they test.
TOOLS = ("hypothesis", "psutil", "pytest", "pytest-xdist", "selenium")


def name_of(requirement: str) -> str:
    """The normalised project name at the start of a requirement such as `Torch==2.13.0`."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement.strip(), maxsplit=1)[0]).lower()


def direct_requirements(dev: bool = True) -> list[str]:
    """What pyproject.toml asks for: for selection, for every extra and, if asked, for development."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    of_extras = [each for extra, found in extras.items() if dev or extra != "dev" for each in found]
    return [each for each in project["dependencies"] + of_extras if name_of(each) != project["name"]]


def locked(anywhere: bool = False) -> dict[str, str]:
    """Every package of the lock files by its normalised name, with its version.

    Without those that some systems alone need, unless they are for `anywhere`.
    """
    text = LOCK.read_text() + TORCH_LOCK.read_text()
    pins = re.findall(r"^([\w.-]+)==(\S+)( ;)?", text, re.MULTILINE)
    return {name_of(name): version for name, version, condition in pins if anywhere or not condition}


def install(folder: Path, requirements: list[str]) -> list[str]:
    """Make an environment with the requirements, and return the command that is its pip."""
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(folder / "bin" / "python"), "-I", "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", *requirements], check=True)
    return pip


def lowest() -> None:
    """Make an environment of the lowest versions that are allowed of what is imported."""
    pins = [each.replace(">=", "==") for each in direct_requirements(dev=False)]
    pip = install(ROOT / ".venv-lowest", [*pins, *TOOLS])
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--editable", str(ROOT)], check=True)


def lock() -> None:
    """Install the direct requirements into a new environment, and write down what came."""
    with tempfile.TemporaryDirectory() as folder:
        pip = install(Path(folder), direct_requirements())
        frozen = subprocess.run(
            [*pip, "freeze", "--all", "--exclude", "pip"], check=True, capture_output=True, text=True
        ).stdout
    # A local version such as 2.13.0+cpu is one machine's build; the lock names the release.
    pins = sorted((line.split("+")[0] for line in frozen.split()), key=name_of)
    write_lock(pins)
    write_environment(pins)


def write_lock(pins: list[str]) -> None:
    """Write `requirements.lock` and `requirements-torch.lock`."""
    torch = [pin for pin in pins if name_of(pin) == "torch"]
    TORCH_LOCK.write_text("# Made by `make lock`.\n" + "\n".join(torch) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder), ["uv"])
        without = Path(folder, "without.txt")
        without.write_text("torch\n")
        command = [f"{folder}/bin/uv", "pip", "compile", "--universal", "--generate-hashes", "--upgrade"]
        command += ["--python-version", platform.python_version(), "--quiet"]
        command += ["--no-annotate", "--custom-compile-command", "make lock"]
        command += ["--excludes", str(without), "--output-file", str(LOCK), "-"]
        locked = "\n".join(pin for pin in pins if pin not in torch)
        subprocess.run(command, input=locked, check=True, text=True)


def write_environment(pins: list[str]) -> None:
    """Write `environment.yml`: the direct requirements, in the versions of the lock."""
    versions = {name_of(pin): pin for pin in pins}
    direct = sorted(versions[name_of(requirement)] for requirement in direct_requirements())
    python_version = f"{sys.version_info.major}.{sys.version_info.minor}"
    lines = [
        "# Made by `make lock`: the versions of requirements.lock, for conda users.",
        "name: rdslib",
        "channels: [conda-forge]",
        "dependencies:",
        f"  - python={python_version}",
        "  - pip",
        "  - pip:",
        *(f"      - {pin}" for pin in direct),
        "      - -e .",
    ]
    (ROOT / "environment.yml").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    lowest() if "lowest" in sys.argv else lock()
