"""Make `requirements.lock` and `environment.yml` from `pyproject.toml`; run by `make lock`."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def name_of(requirement: str) -> str:
    """The normalised project name at the start of a requirement such as `Torch==2.13.0`."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement.strip(), maxsplit=1)[0]).lower()


def direct_requirements() -> list[str]:
    """What pyproject.toml asks for, the dev extra included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["dev"]]


def main() -> None:
    """Install the direct requirements into a new environment, and write down what came."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "bin", "python")
        pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", *direct_requirements()], check=True)
        frozen = subprocess.run(
            [*pip, "freeze", "--all", "--exclude", "pip"], check=True, capture_output=True, text=True
        ).stdout
    # A local version such as 2.13.0+cpu is one machine's build; the lock names the release.
    pins = sorted((line.split("+")[0] for line in frozen.split()), key=name_of)
    (ROOT / "requirements.lock").write_text("# Made by `make lock`.\n" + "\n".join(pins) + "\n")
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
    main()
