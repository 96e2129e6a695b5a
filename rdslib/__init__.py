"""rdslib: large-scale data selection for instruction tuning (RDS+), reproduced.

`select` chooses samples of a user's data from Python; of selections that `rds select` has written, `explain`
says why a sample is in one or not, `compare` what two share, and `explore` opens one for the notebook of that
name. The `rds` command selects, explains and compares from files.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rdslib.commands.compare import compare
    from rdslib.commands.explain import explain
    from rdslib.commands.explore import explore
    from rdslib.commands.select import select

__all__ = ["compare", "explain", "explore", "select"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load a function when it is asked for: what it needs takes a second."""
    if name in __all__:
        return getattr(import_module(f"rdslib.commands.{name}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
