"""Odd surroundings: homes that are none, or can only be read; closed streams; processes that stand still."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import BaseModel, model_serializer
from safetensors.numpy import save_file

from rdslib import cli, processes
from rdslib.commands import compute
from rdslib.data.chat import user_assistant
from rdslib.errors import UserError
from rdslib.pipeline import store
from rdslib.pipeline.step import step
from rdslib.pipeline.store import Store
from rdslib.pipeline.study import Study
from tests.command import COMMAND, rds, refused
from tests.faults.ground import preload
from tests.faults.process import UNDRAWN, Process


@pytest.mark.parametrize("where", ["a file", "in a file", "a link to nothing"])
def test_a_home_that_is_no_folder_is_named(where, tmp_path, capsys):
    (tmp_path / "pool.jsonl").write_text(json.dumps({"messages": user_assistant("Why?", "So.")}))
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    home = {"a file": "file", "in a file": "file/home", "a link to nothing": "link"}[where]
    given = [
        "--pool",
        tmp_path / "pool.jsonl",
        "--method",
        "random",
        "-k",
        1,
        "--out",
        tmp_path / "out.jsonl",
    ]
    line = refused(capsys, "select", *given, home=tmp_path / home)
    named = tmp_path / home.partition("/")[0]
    assert line.startswith(
        f"rds: RDSLIB_HOME={tmp_path / home}: {named} is {where.removeprefix('in ')}; set it"
    )


@step(version=1)
def text(work, letter):
    (work.path / "text.txt").write_text(letter)
    return {}


@pytest.mark.parametrize("number", store.READ_ONLY)
def test_what_is_whole_in_a_home_that_can_only_be_read_is_read(number, tmp_path, monkeypatch):
    steps = {letter: text.step("", letter=letter) for letter in "abcd"}
    for letter in "abc":
        Store(tmp_path).make(steps[letter])
    Store(tmp_path).drop(steps["c"])
    (Store(tmp_path).path(steps["b"]) / "text.txt").write_text("x")

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store, "acquire", refuse)
    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    there = Store(tmp_path)
    assert (there.make(steps["a"]) / "text.txt").read_text() == "a"
    assert there.try_make([steps["c"]])
    there.drop(steps["a"])
    assert there.has_files(steps["a"])
    for letter in "bcd":
        there = Store(tmp_path)
        with pytest.raises(
            UserError, match=r"text: cannot be written to .*; make it writable, or set RDSLIB_HOME"
        ):
            there.make(steps[letter])
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match="cannot be written to"):  # records of what is not there
        there.take("text", "0" * 16, {}, {})


def without_rights():
    """Let modes of files hold for this process, though it be root's; nothing is started from it."""
    version, none = (ctypes.c_uint32 * 2)(0x20080522), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(version, none) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs capset")
@pytest.mark.slow
def test_all_that_a_home_has_is_shown_where_it_can_only_be_read(tiny_home, tmp_path):
    preload()
    home = shutil.copytree(tiny_home, tmp_path / "home")
    (tmp_path / "figures").mkdir()
    (tmp_path / "pool.jsonl").write_text(
        "".join(f"{json.dumps({'prompt': str(i), 'answer': 'x'})}\n" for i in range(9))
    )
    best = tmp_path / "best.jsonl"
    select = ["select", "--pool", tmp_path / "pool.jsonl", "--method", "random", "-k", 3, "--out"]
    tiny = ["--profile", "tiny"]
    assert Process([*select, best], home).end().code == 0
    there = sorted([home, *home.rglob("*")])
    for each in there:
        each.chmod(each.stat().st_mode & 0o555)
    given = [
        ["explain", best, "--sample=#0"],
        ["verify", home / "figures"],
        ["status", *tiny],
        ["plan", *tiny],
        ["run", *tiny, "--workers", 1, "--out", tmp_path / "figures", UNDRAWN],
        [*select, tmp_path / "again.jsonl"],
    ]
    ended = [Process(each, home, without_rights).end() for each in given]
    refused = Process([*select, best, "--seed", 5], home, without_rights).end()
    for each in there:
        each.chmod(each.stat().st_mode | 0o200)
    assert [each.code for each in ended] == [0] * len(given), [each.text for each in ended]
    assert sorted([home, *home.rglob("*")]) == there
    assert best.read_bytes() == (tmp_path / "again.jsonl").read_bytes()
    assert refused.code == 2
    assert "select: cannot be written to (Permission denied); make it writable" in refused.lines[0]


STOPPED = r"waiting since \d\d:\d\d for process {0}, which is at text/ab and is stopped; `kill -CONT {0}`"


def test_who_waits_says_for_whom_and_that_it_stands_still(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE", 0.2)
    lock, notes = filelock.FileLock(tmp_path / "text" / "ab.lock"), []
    (tmp_path / "text").mkdir()
    program = (
        "import filelock, sys; a = filelock.FileLock(sys.argv[1]); a.acquire(); print(1, flush=True); input()"
    )
    command = [sys.executable, "-c", program, lock.lock_file]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        holder.send_signal(signal.SIGSTOP)

        def note(line):
            notes.append(line)
            holder.send_signal(signal.SIGCONT)
            if len(notes) == 2:
                holder.communicate(b"\n")

        try:
            processes.acquire(lock, note)
        finally:
            holder.kill()
    assert len(notes) == 2
    for each, what in zip(notes, ("text/ab and is stopped; `kill -CONT {0}` lets", "text/ab"), strict=True):
        assert f"for process {holder.pid}, which is at {what.format(holder.pid)}" in each
    assert notes[1].endswith("text/ab")


def test_steps_that_others_are_at_are_waited_for_aloud(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "PATIENCE", 0.1)
    study, asked, real = Study.load("tiny", tmp_path), [], Store.try_make

    def busy(store, steps):
        asked.append(steps)
        return len(asked) > 3 and real(store, steps)

    monkeypatch.setattr(Store, "try_make", busy)
    task = study.tasks["Sums"]
    study.compute([task])
    assert capsys.readouterr().err.count(f"for another process, which is at task/{task.hash}\n") == 1


WRITERS = {
    "Python": lambda path: path.write_text("x" * 2**16),
    "numpy": lambda path: np.save(path, np.zeros(2**16)),
    "safetensors": lambda path: save_file({"x": np.zeros(2**16)}, path),
    "torch": lambda path: torch.save(torch.zeros(2**16), path),
    "pyarrow": lambda path: pq.write_table(pa.table({"x": np.random.rand(2**16)}), path),
    "memory": lambda path: torch.zeros(2**60, dtype=torch.uint8),
    "numpy's memory": lambda path: np.zeros(2**60, dtype=np.uint8),
}


@pytest.mark.parametrize("library", WRITERS)
def test_what_runs_out_is_one_line_whatever_library_met_it(library, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rdslib.commands.app.app", lambda: WRITERS[library](tmp_path / "x.npy"))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    _, most = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As a full disk is, for this process alone.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**12, most))
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    what = "memory has run out" if "memory" in library else "File too large|requested and|unexpected pos"
    assert re.search(what, line)
    assert line.endswith(", and run the same again to go on")


def test_faults_of_ours_are_not_hidden(monkeypatch):
    for error in (ValueError("x"), OSError(errno.EBADF, "Bad file descriptor"), RuntimeError("made up")):

        def fail(error=error):
            raise error

        monkeypatch.setattr("rdslib.commands.app.app", fail)
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        with pytest.raises(type(error)):
            cli.main()


CLOSED = "exec 0<&- 1>&- 2>&-"


def test_no_file_gets_the_number_of_a_stream_that_is_closed(tmp_path):
    program = (
        "import os, sys; from rdslib import cli; cli._open_streams(); file = open(sys.argv[1], 'w');"
        "os.write(1, b'x'); print('y'); print('z', file=sys.stderr); file.write(str(file.fileno() > 2))"
    )
    command = ["bash", "-c", f'{CLOSED}; "$@"', "bash", sys.executable, "-c", program, tmp_path / "out"]
    assert subprocess.run(command).returncode == 0
    assert (tmp_path / "out").read_text() == "True"


@pytest.mark.slow
def test_a_selection_without_standard_streams_is_the_same(tmp_path):
    rows = [{"messages": user_assistant(f"Say {i}", "yes")} for i in range(30)]
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = ["select", "--pool", tmp_path / "pool.jsonl", "--method", "random", "-k", "3"]
    assert rds(*given, "--out", tmp_path / "a.jsonl", home=tmp_path / "a").returncode == 0
    command = ["bash", "-c", f'{CLOSED}; exec "$@"', "bash", *COMMAND, *given, "--out", tmp_path / "b.jsonl"]
    assert subprocess.run(command, env={**os.environ, "RDSLIB_HOME": str(tmp_path / "b")}).returncode == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_a_study_that_is_stopped_before_its_first_step_says_so(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setenv("RDSLIB_HOME", str(tmp_path))
    monkeypatch.setattr(compute, "_compute", stop)
    with pytest.raises(KeyboardInterrupt):
        compute.compute_command(profile="tiny", minutes=None, out=tmp_path / "out", workers=1, record=None)


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_a_stop_within_a_library_is_a_stop(capsys, monkeypatch, raised, code):
    """pydantic makes an error of its own of what ends a serializer."""

    class Stopped(BaseModel):
        @model_serializer
        def stop(self) -> dict:
            raise raised

    monkeypatch.setattr("rdslib.commands.app.app", lambda: Stopped().model_dump())
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    assert capsys.readouterr().err == "rds: stopped; run the same command again to go on\n"


def test_a_second_signal_does_not_cut_a_stop_short():
    program = (
        "import os, signal; import rdslib.commands.app as commands; from rdslib import cli\n"
        "def stop():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGTERM); print('tidied')\n"
        "commands.app = stop; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (143, "tidied\n")
    assert done.stderr == "rds: stopped; run the same command again to go on\n"


def test_a_clock_that_jumps_ends_no_study(tmp_path, monkeypatch):
    made, later = Study.load("tiny", tmp_path), time.time() + 1e6
    monkeypatch.setattr(time, "time", lambda: later)
    made.compute([made.tasks["Sums"]], until=time.monotonic() + 100)
    assert made.store.has(made.tasks["Sums"])
