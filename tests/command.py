"""The `rds` command, as tests run it."""

from __future__ import annotations

import os
import subprocess
import sys

COMMAND = [sys.executable, "-m", "rdslib.cli"]


def rds(*arguments, home, **options):
    """Run it to its end, with its own RDSLIB_HOME."""
    environment = {**os.environ, "RDSLIB_HOME": str(home), **options.pop("env", {})}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], env=environment, capture_output=True, text=True, **options
    )
