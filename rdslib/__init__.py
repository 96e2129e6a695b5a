"""rdslib: large-scale data selection for instruction tuning (RDS+), reproduced.

`select` chooses samples of one's own from Python; the `rds` command does so from files.
"""

from rdslib.commands.api import select

__all__ = ["select"]

__version__ = "0.1.0"
