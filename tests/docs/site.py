"""The site: `python -m tests.docs.site` builds it in `build/site`, from the guides and executed notebooks.

Pages keep their places, so that their links lead to the same files in the checkout and in the site.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import rdslib
from rdslib.params import ROOT

CONFIG = ROOT / "mkdocs.yml"
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
# What a method author composes, beside what `rdslib` offers itself.
_METHODS = ("Scorer", "ScoringInputs", "InnerProduct", "Extractor", "Extract", "Extracted", "register")
AUTHORS = (
    *(f"rdslib.methods.{name}" for name in _METHODS),
    "rdslib.models.flops.one_pass_flops",
    "rdslib.errors.UserError",
)
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")


def build(place: Path, reports: Mapping[str, Path]) -> Path:
    """Build the site, and fail for a link that leads nowhere.

    Args:
        place: A folder for the gathered pages and the site.
        reports: By profile, the page that `rds report` wrote.

    Returns:
        The folder of the site.
    """
    pages, site = place / "pages", place / "site"
    shutil.rmtree(pages, ignore_errors=True)
    gather(pages, reports)
    config = place / "mkdocs.yml"
    text = CONFIG.read_text(encoding="utf-8")
    for old, new in (("build/pages", pages), ("build/site", site), ("paths: [.]", f"paths: [{ROOT}]")):
        text = text.replace(old, str(new))
    config.write_text(text, encoding="utf-8")
    # Without what its theme says of its own future. (With --quiet, a link that leads nowhere passes.)
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", str(config)]
    subprocess.run(command, check=True, env=environment)
    return site


def gather(pages: Path, reports: Mapping[str, Path]) -> None:
    """Copy the guides, with every file of the checkout that they link to, and make the other pages."""
    for path in (*map(ROOT.joinpath, PAGES), *sorted((ROOT / "docs").iterdir())):
        _copy(path, pages)
        if path.suffix == ".md":
            for link in LINK.findall(path.read_text(encoding="utf-8")):
                if "://" not in link:
                    _copy((path.parent / link).resolve(), pages)
    docs = pages / "docs"
    shutil.copy(ROOT / "rdslib" / "figures" / "sort.js", docs)
    listed = ""
    for profile, page in reports.items():
        shutil.copy(page, docs / f"report-{profile}.html")
        listed += f"- [The profile `{profile}`](report-{profile}.html)\n"
    (docs / "reports.md").write_text(
        "# Notebooks with their outputs\n\nEvery figure and table, its numbers, and the runs and versions "
        "behind it, as one page a profile. [reproduce.md](reproduce.md) says how to draw them again.\n\n"
        + listed,
        encoding="utf-8",
    )
    offered = [f"rdslib.{name}" for name in rdslib.__all__]
    parts = {"From Python": offered, "For authors of methods": AUTHORS}
    api = "".join(
        f"## {title}\n\n" + "".join(f"::: {each}\n\n" for each in of) for title, of in parts.items()
    )
    (docs / "api.md").write_text(f"# API\n\n{api}", encoding="utf-8")


def _copy(path: Path, pages: Path) -> None:
    target = pages / path.relative_to(ROOT)
    if path.is_file() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


if __name__ == "__main__":
    drawn = ROOT / "build" / "figures"
    print(build(ROOT / "build", {name: drawn / name / "report.html" for name in ("lab", "paper")}))
