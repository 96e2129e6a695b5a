"""Whether the same parameters give the same selections, whatever the surroundings: `make determinism`.

`mini`'s selections are made from the features up in each of `SETTINGS`, and compared with the first. What is
there is kept, so that it may be stopped and run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

from rdslib.data import download
from rdslib.figures.base import in_order, method_title
from rdslib.files import write_whole
from rdslib.pipeline.runs import all_runs
from rdslib.pipeline.study import Study
from tests.bench.report import machine
from tests.killing import run_with_kills

RESULTS = Path(__file__).parent / "determinism.md"
ABOUT = """# The same selections again

By `make determinism` (see `tests/faults/determinism.py`): every selection of the profile `mini`, from the
features up, and how many of a method's picks are others than in a first run, which had one process, one
thread, batches of 1,024 tokens and bfloat16. 0: the same ids in the same order; 0.0%: the same in another
order. Of several runs the one with most. What is not in the table was not run.

"""
# By method, by run, the ids that were picked, in order.
Picks = dict[str, dict[str, list[str]]]


@dataclass(frozen=True)
class Setting:
    """Surroundings: how often they are tried, what is changed, and whether a process is killed on its way."""

    times: int = 1
    engine: str = "local"
    processes: int = 1
    threads: int = 1
    token_budget: int = 1024
    killed: bool = False
    replaced: Mapping[str, Any] = field(default_factory=dict)


FIRST = "the first run"
SETTINGS = {
    FIRST: Setting(),
    "the same again": Setting(),
    "two processes": Setting(processes=2, times=4),
    "SIGKILLs on the way": Setting(killed=True),
    "Ray": Setting(engine="ray"),
    "2 threads": Setting(threads=2, replaced={"rdslib.models.device.PROCESSES": 1}),
    "batches of 512 tokens": Setting(token_budget=512),
    "batches of 2,048 tokens": Setting(token_budget=2048),
    "float32": Setting(replaced={"torch.cpu._is_avx512_bf16_supported": lambda: False}),
}


def select(setting: Setting, out: Path) -> None:
    """Make every selection of `mini` in the home of `RDSLIB_HOME`, and write which ids were picked."""
    with ExitStack() as stack:
        for name, value in setting.replaced.items():
            stack.enter_context(mock.patch(name, value))
        loaded = Study.load("mini", engine=setting.engine)
        e = loaded.experiment
        encode = e.encode.model_copy(update={"token_budget": setting.token_budget})
        changed = {"experiment": e.model_copy(update={"encode": encode})}
        study = Study(loaded.profile.model_copy(update=changed), folder=loaded.folder)
        runs = [run for run in all_runs(study) if study.training(run) is not None]
        study.compute(study.selection(run) for run in runs)
        picks: Picks = {}
        for run in runs:
            picks.setdefault(run.method, {})[str(run)] = study.picks(run)["id"].tolist()
    write_whole(out, json.dumps(picks).encode())


def run(name: str, folder: Path, base: Path) -> dict[str, Any]:
    """Try a setting in a new home, or in what was left of it; returns picks, and how often it was killed."""
    setting, home = SETTINGS[name], folder / "home"
    for part in ("downloads", "artifacts/model", "artifacts/pool", "artifacts/task"):
        if (base / part).is_dir() and not (home / part).exists():
            shutil.copytree(base / part, home / part, copy_function=os.link)
    command = [sys.executable, "-m", "tests.faults.determinism", "--select", name, "--folder", str(folder)]
    environment = {"RDSLIB_HOME": str(home), "OMP_NUM_THREADS": str(setting.threads)}
    with mock.patch.dict(os.environ, environment):
        if setting.killed:
            code, kills = run_with_kills(command, 0, 10, 90)
            codes = [code]
        else:
            running = [subprocess.Popen(command) for _ in range(setting.processes)]
            codes, kills = [each.wait() for each in running], 0
    if any(codes):
        raise SystemExit(f"{name}: ended with {codes}")
    return {"picks": json.loads((folder / "picks.json").read_text()), "kills": kills}


def changed(picks: Picks, first: Picks, method: str) -> tuple[float, bool]:
    """The share of a method's picks that are others than at first, and whether those, or their order, are."""
    pairs = [(picks[method][each], ids) for each, ids in first[method].items()]
    others = sum(len(set(ids) - set(found)) for found, ids in pairs)
    return others / sum(len(ids) for _, ids in pairs), any(found != ids for found, ids in pairs)


def table(results: Mapping[str, list[dict[str, Any]]]) -> str:
    """The share of picks that changed, by setting and method."""
    first = results[FIRST][0]["picks"]
    methods = in_order(list(first))
    lines = [["", "runs", *map(method_title, methods)], ["---", "---:", *["---:"] * len(methods)]]
    for name, found in results.items():
        if name == FIRST or not found:
            continue
        most = [max(changed(each["picks"], first, method) for each in found) for method in methods]
        kills = sum(each["kills"] for each in found)
        title = f"{name} ({kills})" if kills else name
        lines.append([title, str(len(found)), *(f"{share:.1%}" if other else "0" for share, other in most)])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main() -> None:
    """Try what was not tried yet, and write the table of what was."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.determinism")
    parser.add_argument("--folder", type=Path, default=Path("build", "determinism"), help="where it computes")
    parser.add_argument("--home", type=Path, help="whose model, pool and tasks are taken; by default yours")
    parser.add_argument("--only", action="append", choices=list(SETTINGS), help="may be repeated")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the table")
    parser.add_argument("--select", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.select:
        select(SETTINGS[given.select], given.folder / "picks.json")
        return
    # Each once, before any is tried again.
    trials = [(number, name) for name, each in SETTINGS.items() for number in range(each.times)]
    kept = {each: given.folder / "{1}-{0}.json".format(*each).replace(" ", "-") for each in trials}
    for number, name in sorted(trials, key=lambda trial: trial[0]):
        path = kept[number, name]
        if path.is_file() or (given.only and name not in given.only):
            continue
        found = run(name, path.with_suffix(""), given.home or download.home())
        write_whole(path, json.dumps(found).encode())
        shutil.rmtree(path.with_suffix(""))
        print(f"{name}: done", flush=True)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in SETTINGS}
    for (_, name), path in kept.items():
        results[name] += [json.loads(path.read_text())] if path.is_file() else []
    write_whole(given.out, f"{ABOUT}{date.today()}: {machine()}.\n\n{table(results)}".encode())


if __name__ == "__main__":
    main()
