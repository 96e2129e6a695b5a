"""A small study that is whole, and copies of it in which one stage is still to be computed."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from rdslib.data.chat import user_assistant
from rdslib.files import MANIFEST, read_manifest
from rdslib.params import ROOT
from rdslib.pipeline.artifacts import damage
from tests.faults.process import UNDRAWN, Process

FIGURE = "tab1_single_task"
# Of every stage, which artifacts are gone where it is still to be computed; of figures none.
STAGES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "download": lambda made: made["step"] == "pool",
    "pool": lambda made: made["step"] in ("pool", "task"),
    "encode": lambda made: made["step"] == "features" and made["arguments"]["extractor"] == "lm",
    "gradients": lambda made: made["step"] == "prepare" or made["arguments"].get("extractor") == "less",
    "scores and select": lambda made: made["step"] in ("select", "quantile"),
    "train": lambda made: made["step"] == "train",
    "evaluate": lambda made: made["step"] == "evaluate",
    "figures": lambda made: False,
    "rds select": lambda made: True,
}  # fmt: skip
ROWS = "".join(
    json.dumps(
        {"messages": user_assistant(f"Add {i} and {i % 7}.", f"It is {i + i % 7}. " + "So it is. " * (i % 5))}
    )
    + "\n"
    for i in range(400)
).encode()


def preload() -> None:
    """Import what any stage does, so that a fork starts at once."""
    import rdslib.commands.app
    import rdslib.commands.run
    import rdslib.commands.select
    import rdslib.figures.notebook
    import rdslib.methods.less
    import rdslib.models.encode
    import rdslib.models.gradients
    import rdslib.models.train
    import rdslib.pipeline.records
    import rdslib.pipeline.study
    import rdslib.pipeline.train_steps  # noqa: F401


@dataclass
class Ground:
    """The whole study, and places for trials below one folder."""

    folder: Path
    wanted: dict[Path, dict[str, str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.profile, self.other = self.folder / "small.yaml", self.folder / "other.yaml"
        profile = small()
        self.profile.write_text(yaml.safe_dump(profile, sort_keys=False))
        profile["experiment"]["grid"]["single_task_budget"] = 9
        self.other.write_text(yaml.safe_dump(profile, sort_keys=False))
        (self.folder / "rows.jsonl").write_bytes(ROWS)
        (self.folder / "queries.jsonl").write_bytes(b"".join(ROWS.splitlines(keepends=True)[:5]))

    def base(self, stage: str, other: bool = False) -> Path:
        """The home of the whole that a stage is a part of; with what the `other` profile has besides."""
        name = "selected" if stage == "rds select" else "both" if other else "studied"
        return self.folder / name / "home"

    def prepare(self) -> None:
        """Compute and draw all of it once, undisturbed."""
        for stage, other in (("figures", False), ("rds select", False), ("train", True)):
            home = self.base(stage, other)
            if not home.exists():
                home.mkdir(parents=True)
                (home.parent / "out").mkdir()
                if other:
                    studied = self.base("figures").parent
                    shutil.copytree(studied, home.parent, copy_function=os.link, dirs_exist_ok=True)
                done = Process(self.command(stage, home, other), home).end(3000)
                assert done.code == 0, done.text
            self.wanted[home] = contents(home)

    def command(self, stage: str, home: Path, other: bool = False) -> list[object]:
        """The command line that computes a stage; of the `other` profile."""
        if stage == "rds select":
            (model,) = (self.base("figures") / "artifacts" / "model").glob("*[0-9a-f]")
            given = ["--pool", self.folder / "rows.jsonl", "--queries", self.folder / "queries.jsonl"]
            given += ["--model", model, "--method", "rds", "-k", 20, "--dedup", "exact"]
            return ["select", *given, "--profile", self.profile, "--out", home.parent / "out" / "best.jsonl"]
        profile = self.other if other else self.profile
        given = ["--profile", profile, "--only", FIGURE, "--workers", 1, "--out", home.parent / "out"]
        return ["run", *given, *([] if stage == "figures" else [UNDRAWN])]

    @contextmanager
    def home(
        self, stage: str, place: Path | None = None, other: bool = False, whole: bool = False
    ) -> Iterator[Path]:
        """A copy of the whole, in which a stage is still to be computed unless it is to be `whole`.

        It is of hard links, or, in a `place` that is given, of files.
        """
        link, place = place is None, place or self.folder / "trial"
        shutil.rmtree(place, ignore_errors=True)
        home = place / "home"
        copy = os.link if link else shutil.copy2
        shutil.copytree(self.base(stage, other).parent, place, copy_function=copy, dirs_exist_ok=True)
        for each in [] if whole else self.of_stage(stage, home):
            shutil.rmtree(each)
        if whole:
            pass
        elif stage == "download":
            shutil.rmtree(home / "downloads")
        elif stage in ("figures", "rds select"):
            shutil.rmtree(place / "out")
            (place / "out").mkdir()
        yield home
        shutil.rmtree(place, ignore_errors=True)

    def of_stage(self, stage: str, home: Path) -> list[Path]:
        """The artifacts of a stage."""
        found = []
        for path in sorted((home / "artifacts").glob("*/*")):
            made = read_manifest(path) if path.is_dir() else None
            if made is not None and STAGES[stage](made):
                found.append(path)
        return found

    def size(self, stage: str, output: bool = False) -> int:
        """The bytes of what a stage leaves, in the home or in the output."""
        base = self.base(stage)
        folders = [base.parent / "out"] if output else self.of_stage(stage, base)
        return sum(path.stat().st_size for each in folders for path in each.rglob("*") if path.is_file())

    def calls(self, stage: str) -> int:
        """How many shards and artifacts a stage keeps."""
        made = [read_manifest(path) for path in self.of_stage(stage, self.base(stage))]
        return sum(1 + len(each["shards"]) for each in made if each is not None)

    def start(self, stage: str, home: Path, change: Callable[[], object] = lambda: None) -> Process:
        """A process that computes a stage."""
        return Process(self.command(stage, home), home, change)

    def lasts(self, stage: str) -> float:
        """How many seconds pass from the first step of a stage to the end of its process, undisturbed."""
        if stage not in self.seconds:
            place = self.folder / "undisturbed"
            with self.home(stage, place) as home:
                process = self.start(stage, home)
                process.until_it_begins()
                begun = time.monotonic()
                done = process.end()
                assert done.code == 0, (stage, done.text)
                self.seconds[stage] = time.monotonic() - begun
                assert not (wrong := self.wrong(stage, home)), (stage, wrong)
        return self.seconds[stage]

    def recover(self, stage: str, home: Path) -> list[str]:
        """Run a stage undisturbed to its end; what is wrong then, one phrase each."""
        done = self.start(stage, home).end()
        if done.code != 0:
            return [f"the rerun ended with {done.code}: {done.text[-300:]}"]
        return self.wrong(stage, home)

    def wrong(self, stage: str, home: Path, other: bool = False) -> list[str]:
        """What differs from the whole that was made undisturbed, and what is left lying about."""
        found, wanted = contents(home), self.wanted[self.base(stage, other)]
        problems = [f"{name} is left" for name in sorted(found.keys() - wanted)]
        for name, value in wanted.items():
            if found.get(name) != value:
                problems.append(f"{name} {'differs' if name in found else 'is missing'}")
        for path in (home / "artifacts").glob("*/*"):
            if path.is_dir() and not path.name.endswith(".part"):
                problems += damage(path)
        return problems


def contents(home: Path) -> dict[str, str]:
    """Every file of a home and of what it draws, with a hash of what must be the same at each run.

    Of an artifact that is what its manifest says of files and counts; of files whatever names no time.
    """
    found = {}
    for path in sorted(home.parent.rglob("*")):
        name = str(path.relative_to(home.parent))
        if not path.is_file() or name.endswith(".lock") or name.startswith(("tmp/", "home/checksums/")):
            continue
        data = path.read_bytes()
        if path.name == MANIFEST:
            made = json.loads(data)
            data = json.dumps([made["files"], made["counts"], made.get("dropped")], sort_keys=True).encode()
        elif path.suffix in (".ipynb", ".parquet") and name.startswith("out/"):
            data = b""
        elif name.endswith(".json") and name.startswith("out/"):
            data = re.sub(rb'("seconds"|"date"|"made"|"tool"): [^\n]*', b"", data)
        found[name] = sha256(data).hexdigest()[:16]
    for path in (home.parent / "tmp").glob("*"):
        found[f"tmp/{path.name}"] = ""
    return found


def small() -> dict[str, Any]:
    """The profile of the study: `tiny` with fewer runs, shards and tasks, and a source that is downloaded."""
    profile: dict[str, Any] = yaml.safe_load((ROOT / "params" / "tiny.yaml").read_text())
    e = profile["experiment"]
    e["downloads"] = {"rows": {"uri": "hf-dataset:o/rows@abc/rows.jsonl", "sha256": sha256(ROWS).hexdigest()}}
    e["pool"]["sources"][0] |= {"reader": "tulu_jsonl", "download": "rows", "samples": 60}
    e["encode"]["shard_size"] = 8
    e["tasks"] = e["tasks"][:1]
    del e["ifd"], e["loss_drop"]
    e["grid"] = {
        "single_task": {"small": ["random", "mid_ppl", "less", "rds"]},
        "single_task_budget": 12,
        "multi_task_methods": ["random", "rds"],
        "multi_task_budgets": [12],
        "seeds": [7],
    }
    return {**profile, "name": "small"}


def serve(pause: float = 0.004, piece: int = 1024) -> tuple[multiprocessing.Process, str]:
    """A hub with one file, which it gives out slowly, in a process of its own."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            start = int(asked[6:-1]) if asked else 0
            if start >= len(ROWS):
                self.send_response(416)
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(ROWS) - start))
            self.end_headers()
            with suppress(OSError):
                for at in range(start, len(ROWS), piece):
                    self.wfile.write(ROWS[at : at + piece])
                    time.sleep(pause)

    listening = socket.create_server(("127.0.0.1", 0))
    server = ThreadingHTTPServer(listening.getsockname(), Handler, bind_and_activate=False)
    server.socket = listening
    process = multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True)
    process.start()
    return process, f"http://127.0.0.1:{listening.getsockname()[1]}"
