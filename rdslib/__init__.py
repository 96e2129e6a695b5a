"""rdslib: large-scale data selection for instruction tuning (RDS+), reproduced.

`select` chooses samples of a user's data from Python; the `rds` command does so from files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rdslib.commands.select import select

__all__ = ["select"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load `select` when it is asked for: what it needs takes a second."""
    if name == "select":
        from rdslib.commands.select import select

        return select
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
