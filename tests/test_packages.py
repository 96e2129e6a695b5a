"""What is imported is installed: by `pip install rdslib`, or by an extra that the importing file names."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest

from rdslib.params import ROOT
from tests.lock import name_of

# Those that `rds select` goes through.
FOLDERS = ("data", "methods", "models", "selection", "tasks")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BASE = set(map(name_of, PROJECT["dependencies"]))


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_a_selection_imports_needs_no_extra_or_names_it(folder):
    distributions = packages_distributions()
    for path in (ROOT / "rdslib" / folder).glob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        named = {node.value for node in nodes if isinstance(node, ast.Constant)}
        imported = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        imported += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        for module in {name.partition(".")[0] for name in imported} - sys.stdlib_module_names - {"rdslib"}:
            installed = BASE.intersection(map(name_of, distributions[module]))
            assert installed or module in named, f"{path}: {module} is in no base dependency"
