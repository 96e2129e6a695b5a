"""Faults on purpose: what is killed, damaged, filled or starved at each stage ends as if nothing had been.

`make faults` runs all of them on a small study and writes `results.md`, and `make fuzz` gives readers what is
nearly right and writes `fuzz.md`. `make determinism` makes the same selections in other surroundings, and
writes `determinism.md`. `python -m tests.faults --help` says how to run a part.
"""
