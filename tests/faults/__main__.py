"""Run the faults, and write a table: `python -m tests.faults [--only KIND] [--trials N] [--seed S]`."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import damages, shortages, stops
from tests.faults.ground import STAGES, Ground, preload, serve

KINDS = ["kill", "stop", "together", "disk", "read-only", "memory", "clock", "error", "damage", "journal"]
RESULTS = Path(__file__).parent / "results.md"
ABOUT = """# Faults tried, and survived

By `make faults` (see `tests/faults`), on a small study. Survived: the process ended as it should and said why
in one line, and a rerun ended in the same files as without a fault, with nothing left lying about. Where
memory ends a native library may abort, or fault itself (SIGSEGV), which leaves no line. Scores are folded
into selections as they come, and so are killed with them.

"""
HEAD = "| kind | fault | stage | trials | survived |\n|---|---|---|---:|---:|\n"


def main() -> int:
    """Run what is asked for, and return 1 if something was not survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--only", action="append", choices=KINDS, help="a kind of fault; may be repeated")
    parser.add_argument("--stage", action="append", choices=list(STAGES), help="a stage; may be repeated")
    parser.add_argument(
        "--trials", type=int, help="of each fault and stage; by default 20 kills, and 3 others"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where it computes; by default a temporary folder")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="the table; rows of what is run are replaced"
    )
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1"}
    os.environ.pop("RDSLIB_MIRROR", None)
    with tempfile.TemporaryDirectory(prefix="rds-faults-") as scratch:
        server, address = serve()
        os.environ["HF_ENDPOINT"] = address
        try:
            preload()
            ground = Ground((given.folder or Path(scratch)).resolve())
            ground.prepare()
            return run(ground, given)
        finally:
            server.terminate()


def run(ground: Ground, given: argparse.Namespace) -> int:
    """Run each fault so many times, and keep a row of it as soon as it is through."""
    rows, failed = read(given.out), 0
    every = [each for of in (stops, shortages, damages) for each in of.campaign(ground)]
    for kind, fault, stage, trial in every:
        if (given.only and kind not in given.only) or (given.stage and stage not in given.stage):
            continue
        trials = given.trials or (20 if kind == "kill" else 3)
        survived, started = 0, time.monotonic()
        for number in range(trials):
            # Seeded by name, so that a part of it is as in the whole.
            trial_rng = random.Random(f"{given.seed}/{kind}/{fault}/{stage}/{number}")
            try:
                problems = trial(trial_rng)
            except Exception as error:
                problems = [f"the trial itself: {type(error).__name__}: {error}"]
            survived += not problems
            for problem in problems[:5]:
                print(f"{kind}, {fault}, {stage}, trial {number}: {problem}", flush=True)
        failed += survived < trials
        print(
            f"{kind}: {fault}: {stage}: {survived}/{trials} in {time.monotonic() - started:.0f} s", flush=True
        )
        rows[kind, fault, stage] = (trials, survived)
        write(given.out, rows)
    return int(failed > 0)


Rows = dict[tuple[str, str, str], tuple[int, int]]


def read(path: Path) -> Rows:
    """The rows of a table that there is."""
    rows: Rows = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[0] and cells[3].isdecimal():
            rows[cells[0], cells[1], cells[2]] = int(cells[3]), int(cells[4])
    return rows


def write(path: Path, rows: Rows) -> None:
    """Write the table, with a sum."""
    lines = [f"| {' | '.join([*key, *map(str, counts)])} |\n" for key, counts in rows.items()]
    trials, survived = (sum(counts[at] for counts in rows.values()) for at in (0, 1))
    path.write_text(f"{ABOUT}{HEAD}{''.join(lines)}| | | all | {trials} | {survived} |\n")


if __name__ == "__main__":
    sys.exit(main())
