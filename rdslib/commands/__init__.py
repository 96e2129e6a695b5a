"""The work behind each command of `rds`."""
