"""The `rds` command, as tests run it."""

from __future__ import annotations

import os
import subprocess
import sys
from unittest import mock

import pytest

from rdslib.cli import main

COMMAND = [sys.executable, "-m", "rdslib.cli"]


def rds(*arguments, home, **options):
    """Run it to its end, with its own RDSLIB_HOME; `before` is what runs it."""
    environment = {**os.environ, "RDSLIB_HOME": str(home), **options.pop("env", {})}
    command = [*options.pop("before", []), *COMMAND, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, **options)


def refused(capsys, *arguments, home):
    """Run it in this process, to be refused: the one line that it says beside its progress."""
    environment = {"RDSLIB_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    with (
        mock.patch.dict(os.environ, environment),
        mock.patch.object(sys, "argv", ["rds", *map(str, arguments)]),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    (line,) = [line for line in error.splitlines() if line.startswith("rds: ")]
    return line
