"""The guides: every command runs, every file they show is read, and what is made from the code is up to date.

A page's blocks are gone through in order, in a copy of the checkout, where `.venv` is this interpreter's and
`MODEL` a tiny random model:

- a block after a line that starts with a file's name and ends with a colon, as in "`POOL.jsonl`:", is written
  to that file;
- `bash` and `python` blocks are run, but for the commands in `EXEMPT`;
- a `text` block is what the block before it prints, where `...` stands for any text, `/home/you/rdslib` for
  the folder and `MODEL` for the model's; in an `output` block numbers and blanks may differ, as machines do;
- other JSON and YAML must be valid.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import yaml

from rdslib.methods import SCORERS, digest_of
from rdslib.params import ROOT
from rdslib.profiles import load_profile
from rdslib.selection import SELECTORS
from tests.docs import architecture
from tests.docs.docs import DOCS, PARTS, RENEW, renewed
from tests.lock import locked

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
# What cannot be run here, and why.
EXEMPT = {
    "make setup": "installs everything",
    "make lint": "is a step of CI",
    ".venv/bin/python -m pytest tests/selection": "runs other tests",
    ".venv/bin/python -m tests.docs.docs": "changes pages; what it makes is compared below",
    "make figures": "downloads half a gigabyte, and computes for a quarter of an hour",
    "make figures PROFILE=lab": "draws from committed records, as tests/commands/test_verify.py does",
    ".venv/bin/rds compute --profile lab --minutes 60": "takes an hour; see tests/pipeline/test_partial.py",
    "make test": "runs all tests, these among them",
    ".venv/bin/jupyter lab --preferred-dir notebooks": "serves a browser until it is stopped",
    ".venv/bin/rds evaluate --profile tasks --model MODEL --task GSM8k --limit 100": "downloads test sets",
    ".venv/bin/rds run --records figures/mini/records.parquet --only fig4_scaling --out redrawn": (
        "is of another model than mini's here; tests/commands/test_verify.py goes by these records"
    ),
    "#!/bin/bash": "a script for Slurm",
}

# The line before a block, its language and its text.
_BLOCK = re.compile(r"^([^\n]*)\n+```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"`([\w/-]+\.[\w.]+)`.*:")


class Block(NamedTuple):
    """A block of code: in which language, of which file (or None), and its text."""

    language: str
    name: str | None
    text: str


def blocks(page: str) -> list[Block]:
    """The blocks of a page that name a language."""
    found = _BLOCK.findall(page)
    names = [_NAMED.fullmatch(before) for before, _, _ in found]
    return [Block(each[1], name and name[1], each[2]) for each, name in zip(found, names, strict=True)]


def commands(text: str) -> dict[str, str]:
    """The commands of a block of bash: as one plain line each, and as they are written."""
    if text.startswith("#!"):
        return {text.splitlines()[0]: text}
    found, command = {}, ""
    for line in text.splitlines():
        command += line + "\n"
        try:
            words = shlex.split(command.replace("\\\n", " "), comments=True)
        except ValueError:  # a quotation that goes on
            continue
        if words and not line.endswith("\\"):
            found[" ".join(words)] = command
            command = ""
    assert not command.strip(), f"a command that does not end: {command}"
    return found


def run(page: str, folder: Path, environment: dict[str, str]) -> None:
    """Go through a page's blocks in a folder."""
    printed = ""
    for block in blocks(page):
        if block.name is not None:
            path = folder / block.name
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "bash":
            wanted = [text for plain, text in commands(block.text).items() if plain not in EXEMPT]
            printed = _printed(["bash", "-euo", "pipefail", "-c", "".join(wanted)], folder, environment)
        elif block.language == "python":
            printed = _printed([".venv/bin/python", "-c", block.text], folder, environment)
        elif block.language in ("text", "output"):
            assert_shown(block, printed, folder)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml":
            assert yaml.safe_load(block.text)


def assert_shown(block: Block, printed: str, folder: Path) -> None:
    """What was printed is what a page shows."""

    def counted(text: str) -> str:
        return re.sub(r"\d[\d.,]*", "0", "".join(text.split()))

    if block.language == "output":  # without blanks, since lines are broken by the length of paths
        printed = "".join(printed.split())
    model = str((folder / "MODEL").resolve())
    printed, shown = printed.replace(model, "MODEL").replace(str(folder), "/home/you/rdslib"), block.text
    parts = re.split(r"\.\.\.\s*", shown)
    if block.language == "output":
        printed, parts = counted(printed), [counted(each) for each in parts]
    pattern = ".*".join(map(re.escape, parts))
    assert re.fullmatch(pattern, printed, re.DOTALL), printed


def _printed(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def checkout(tmp_path, tiny_model):
    """A copy of the checkout, as a reader has it before them, and an environment that looks nowhere else."""
    for name in ("rdslib", "params", "notebooks", "figures"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "MODEL").symlink_to(tiny_model)
    mini = tmp_path / "params" / "mini.yaml"
    own = re.search(r"    download: smollm2\n    member: .*\n", mini.read_text(encoding="utf-8"))
    text = mini.read_text(encoding="utf-8").replace(own[0], f"    path: {tiny_model}\n")
    mini.write_text(text, encoding="utf-8")
    apart = {
        "PYTHONPATH": str(tmp_path),
        "RDSLIB_HOME": str(tmp_path / "home"),
        "RDSLIB_MIRROR": "",
        "HF_HOME": str(tmp_path / "hub"),
        # A command that would download fails instead.
        "HF_HUB_OFFLINE": "1",
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    }
    return tmp_path, {**os.environ, **apart}


def runnable(path: Path) -> bool:
    return any(
        block.language == "python"
        or (block.language == "bash" and not block.name and set(commands(block.text)) - EXEMPT.keys())
        for block in blocks(path.read_text(encoding="utf-8"))
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in PAGES if runnable(path)], ids=lambda path: path.name)
def test_every_command_of_a_page_runs(path, checkout):
    run(path.read_text(encoding="utf-8"), *checkout)


def test_what_is_exempt_is_still_there():
    shown = {
        command
        for path in PAGES
        for block in blocks(path.read_text(encoding="utf-8"))
        if block.language == "bash"
        for command in commands(block.text)
    }
    assert EXEMPT.keys() <= shown
    # No block of any page is missed.
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        assert len(blocks(text)) == len(re.findall(r"^```\w+$", text, re.MULTILINE)), path.name


BAD = {
    "```bash\nfalse\n```": "false",
    "```bash\nfalse | true\n```": "false",
    "```bash\necho $UNKNOWN\n```": "unbound",
    "```python\n1 / 0\n```": "ZeroDivision",
    "```bash\necho yes\n```\n\n```text\nno\n```": "yes",
    "```bash\necho a; echo b; echo c\n```\n\n```text\na\n...\nb\n```": "a",
    "```bash\necho took 1.5 s\n```\n\n```output\ntook 3 minutes\n```": "took",
    "`here.txt`:\n\n```text\nyes\n```\n\n```bash\ngrep no here.txt\n```": "grep",
}


@pytest.mark.parametrize("page", BAD)
def test_a_page_that_is_wrong_fails(page, tmp_path):
    (tmp_path / ".venv").symlink_to(sys.prefix)
    with pytest.raises(AssertionError, match=BAD[page]):
        run(f"A page.\n\n{page}\n", tmp_path, {"PATH": os.environ["PATH"]})
    for broken in ("```json\n{]\n```", "```yaml\na: [\n```"):
        with pytest.raises((ValueError, yaml.YAMLError)):
            run(f"A page.\n\n{broken}\n", tmp_path, {})


def test_commands_of_a_block_are_kept_apart():
    text = "a 'b\nc' | d  # why\n\n# nothing\ne \\\n  --f\n"
    assert list(commands(text)) == ["a b\nc | d", "e --f"]


LICENCES = DOCS / "licences.md"
MADE = [
    DOCS / "commands.md",
    *(path for path in PAGES if "<!-- made: " in path.read_text(encoding="utf-8")),
]


def is_locked() -> bool:
    """Whether what is installed is the lock's."""
    try:
        return all(version(name).split("+")[0] == pinned for name, pinned in locked().items())
    except PackageNotFoundError:
        return False


@pytest.mark.parametrize("path", MADE, ids=lambda path: path.name)
def test_what_is_made_from_code_and_results_is_up_to_date(path):
    assert path.is_file(), f"make it: {RENEW}"
    if path == LICENCES and not is_locked():
        pytest.skip("others than the packages of the lock are installed")
    assert path.read_text(encoding="utf-8") == renewed(path), f"renew it: {RENEW}"


def test_the_picture_has_the_imports_that_there_are():
    assert architecture.shown() == architecture.arrows(), f"renew it: {RENEW}"
    assert {name for row in architecture.layers() for name in row} == set(architecture.imports().nodes)


def test_what_is_made_replaces_what_was_there(tmp_path):
    old = tmp_path / "page.md"
    old.write_text("a\n<!-- made: costs -->\nold\n<!-- end -->\nb\n<!-- end -->\n", encoding="utf-8")
    assert renewed(old) == f"a\n<!-- made: costs -->\n{PARTS['costs']()}<!-- end -->\nb\n<!-- end -->\n"
    assert "| `-k` | text | required |" in (DOCS / "commands.md").read_text(encoding="utf-8")


def test_every_method_and_selector_is_described_as_it_is():
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    of_methods, of_selectors = text.partition("\n## ")[0], text.partition("\n## Selectors\n")[2]
    lines = [*of_methods.splitlines(), *of_selectors.partition("\n## ")[0].splitlines()]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| `")]
    methods, selectors = ([each for each in cells if len(each) == size] for size in (5, 3))
    assert [name.strip("`") for name, *_ in selectors[1:]] == list(SELECTORS)
    queries = {name.strip("`"): cell for name, _, _, cell, _ in methods[1:]}
    wanted = {True: "with responses", False: "prompts will do"}
    assert queries == {
        name: wanted[scorer.needs_response] if scorer.needs_queries else "none"
        for name, scorer in SCORERS.items()
        if digest_of(name) is None
    }


def test_the_licence_of_every_source_task_and_model_is_there():
    wanted = set(pd.read_csv(ROOT / "rdslib" / "figures" / "published" / "tab5.csv")["source"])
    for profile in ("mini", "lab", "tulu2", "tulu3"):
        e = load_profile(profile).experiment
        wanted |= {e.model.title, *(each.name for each in [*e.pool.sources, *e.tasks])}
        methods = {name for named in e.grid.single_task.values() for name in named}
        wanted |= {name.removeprefix("embed_") for name in methods if name.startswith("embed_")}
    data = LICENCES.read_text(encoding="utf-8").partition("\n## Data\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1].strip() for line in data.splitlines() if line.startswith("| ")]
    named = {name for cell in cells for name in cell.split(", ")}
    assert named - {"source", "task", "model"} == wanted


def test_links_lead_somewhere():
    lost, found = [], 0
    for path in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
            name, _, heading = link.partition("#")
            if "://" in link:
                continue
            found += 1
            target = path.parent / name if name else path
            if not target.exists() or (heading and heading not in _anchors(target)):
                lost.append((path.name, link))
    assert found > 30
    assert lost == []


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
