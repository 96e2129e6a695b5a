"""rdslib: large-scale data selection for instruction tuning (RDS+), reproduced."""

__version__ = "0.1.0"
