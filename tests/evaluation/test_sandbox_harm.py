"""More programs that mean harm, and by what each is stopped: `docs/sandbox.md` has the table of them."""

from __future__ import annotations

import errno
import os
import platform
import socket
from pathlib import Path
from textwrap import indent

import pytest

from rdslib.evaluation.sandbox import Trial, passes
from rdslib.params import ROOT

pytestmark = pytest.mark.slow

TEST = "def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(-1, 1) == 0\n"
PRELUDE = """
import ctypes, fcntl, gc, mmap, os, re, signal, socket, stat, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    if libc.syscall(*wide) < 0:
        raise OSError(ctypes.get_errno(), "")
"""
# The filter of system calls, the rules of files, and the limits.
SECCOMP, LANDLOCK, LIMIT = errno.EPERM, errno.EACCES, "limit"
# Machine code: fork by the interrupt of 32-bit programs, whose calls have other numbers.
INTERRUPT = (
    "page = mmap.mmap(-1, 4096, prot=7)\npage.write(bytes.fromhex('b802000000cd80c3'))\n"
    "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()"
)

# What each does, and what it meets: an errno of the filter or of the rules, or an end of another kind.
STOPPED = {
    "io_uring by its other calls": ("call(426, 3, 1, 0, 0, 0, 0)", SECCOMP),
    "a secret file in memory": ("call(447, 0)", SECCOMP),
    "page faults of one's own": ("call(323, 0)", SECCOMP),
    "a key ring": ("call(250, 0, -3, 0, 0, 0)", SECCOMP),
    "a key": ("call(248, b'user', b'x', b'y', 1, -3)", SECCOMP),
    "being traced": ("call(101, 0, 0, 0, 0)", SECCOMP),
    "the parent's memory": ("call(310, os.getppid(), 0, 0, 0, 0, 0)", SECCOMP),
    "the parent's descriptors": ("call(434, os.getppid(), 0)", SECCOMP),
    "an abstract socket": ("socket.socket(1, socket.SOCK_DGRAM).sendto(b'x', '{abstract}')", SECCOMP),
    "a socket of the kernel": ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)", SECCOMP),
    "a pair of sockets": ("socket.socketpair()", SECCOMP),
    "shared memory of System V": ("call(29, 0, 4096, 0o1600)", SECCOMP),
    "a queue of messages": ("call(240, b'x', 0o102, 0o600, 0)", SECCOMP),
    "a probe of the kernel": ("call(298, bytes(128), 0, -1, -1, 0)", SECCOMP),
    "a program in the kernel": ("call(321, 0, bytes(128), 128)", SECCOMP),
    "fork by its number": ("call(57)", SECCOMP),
    "fork by vfork": ("call(58)", SECCOMP),
    "fork by clone": ("call(56, 17, 0, 0, 0, 0)", SECCOMP),
    "fork by clone3": ("call(435, struct.pack('=8Q', 0, 0, 0, 0, 17, 0, 0, 0), 64)", errno.ENOSYS),
    "fork by the numbers of x32": ("call(0x40000000 + 57)", SECCOMP),
    "fork by 32-bit calls": (INTERRUPT, "killed"),
    "watching files": ("call(253)", SECCOMP),
    "a lease of a file": ("fcntl.fcntl(open(os.__file__), 1024, 0)", SECCOMP),
    "a lock of a library's file": ("fcntl.flock(open(os.__file__), fcntl.LOCK_EX)", SECCOMP),
    "flags of a library's file": ("fcntl.ioctl(open(os.__file__), 0x40086602, struct.pack('l', 0))", SECCOMP),
    "attributes of a file": ("os.listxattr('{letter}')", SECCOMP),
    "writing all disks": ("call(162)", SECCOMP),
    "its own memory as a file": ("open('/proc/self/mem', 'r+b')", SECCOMP),
    "its own environment": ("open('/proc/self/environ').read()", LANDLOCK),
    "the parent's descriptors as files": ("os.listdir(f'/proc/{{os.getppid()}}/fd')", LANDLOCK),
    "shared memory": ("open('/dev/shm/rds-witness', 'w')", SECCOMP),
    "a device": ("os.mknod('device', 0o600 | stat.S_IFCHR, os.makedev(1, 3))", LANDLOCK),
    "a folder": ("os.mkdir('folder')", LANDLOCK),
    "a symbolic link": ("os.symlink('{letter}', 'link')", LANDLOCK),
    "a file of the memory's size": ("mmap.mmap(-1, 2**31)", errno.ENOMEM),
    "memory that stays in place": ("mmap.mmap(-1, 4096); assert libc.mlockall(1) == 0", "killed"),
    "threads without end": (
        "for _ in range(9999): threading.Thread(target=time.sleep, args=(99,)).start()", LIMIT
    ),
    "a flood of output": ("while True: print('x' * 2**20); sys.stderr.write('x' * 2**20)", LIMIT),
    "alarms that are ignored": (
        "for n in (14, 15, 24, 26): signal.signal(n, signal.SIG_IGN)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)\nwhile True: pass",
        LIMIT,
    ),
    "a pattern that takes for ever": ("re.match('(a+)+$', 'a' * 60 + 'b')", LIMIT),
    "an inherited file or socket": (
        "kinds = []\nfor n in range(3, 64):\n    try: kinds.append(stat.S_IFMT(os.fstat(n).st_mode))\n"
        "    except OSError: pass\nassert {{stat.S_IFREG, stat.S_IFSOCK, stat.S_IFDIR}} & {{*kinds}}",
        "killed",
    ),
}  # fmt: skip

# Wrong functions that want to be taken for right ones, from when they are called.
CALLS = "calls = [each for each in gc.get_objects() if type(each).__name__ == 'Calls']\n"
FAKES = {
    "frames by gc": "for each in gc.get_objects():\n"
    "    if type(each).__name__ == 'frame': each.f_globals['check'] = print",
    "the conversation by gc": CALLS + "for each in calls: each.send({'value': True})",
    "an answer without end": CALLS + "for each in calls: each.write.write(b'[' * 2**23)",
    "an answer that is deep": CALLS + "for each in calls: each.write.write(b'[' * 2**20 + b'\\n')",
    "numbers that are changed in memory": "ctypes.memmove(id(0) + 24, (5).to_bytes(4, 'little'), 4)",
    "an answer that is no number": "sys.modules['__main__'].encode = lambda value: {'float': 'nan'}",
    "code in an answer": "sys.modules['__main__'].encode = lambda value: {'eval': 'print()'}",
}


@pytest.fixture
def world(tmp_path):
    (tmp_path / "letter").write_text("dear")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        abstract = f"\0rds-{os.getpid()}"
        server.bind(abstract)
        server.setblocking(False)
        yield {"letter": tmp_path / "letter", "abstract": abstract.replace("\0", "\\0")}
        with pytest.raises(BlockingIOError):
            server.recv(1)


def passed(body, then="a + b"):
    program = f"{PRELUDE}\ndef add(a, b):\n{indent(body, '    ')}\n    return {then}\n"
    return passes(Trial(program, "add", TEST), cpu=1, wall=3.0)


numbered = pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of calls are of x86_64")


@numbered
@pytest.mark.parametrize("name", STOPPED)
def test_more_harm_is_stopped_and_by_what_is_known(name, world):
    body, by = STOPPED[name]
    body = body.format(**world)
    assert not passed(body)
    if isinstance(by, int):
        # Whoever expects to be refused goes on, and is right.
        caught = (
            f"try:\n{indent(body, '    ')}\nexcept OSError as error: assert error.errno == {by}\nelse: 1 / 0"
        )
        assert passed(caught)
    assert world["letter"].read_text() == "dear"
    assert not Path("/dev/shm/rds-witness").exists()


@pytest.mark.parametrize("name", FAKES)
def test_no_pass_is_faked_by_what_python_lets_one_reach(name):
    assert not passed(FAKES[name], "0")


def test_what_python_itself_asks_of_its_files_is_allowed():
    assert passed(
        "import glob, random\nassert not open(os.__file__).isatty()\nos.get_inheritable(0)\nos.dup(0)"
    )


# What the guide says of each end.
WORDS = {
    SECCOMP: "the filter of system calls", LANDLOCK: "the rules of files", LIMIT: "the limits",
    errno.ENOSYS: "the filter: there is no such call", errno.ENOMEM: "the limit of memory",
}  # fmt: skip
KILLED = {
    "fork by 32-bit calls": "the filter, which ends the process", "memory that stays in place": "the limits",
    "an inherited file or socket": "there is none",
}  # fmt: skip


def test_the_guide_says_by_what_each_is_stopped():
    text = (ROOT / "docs" / "sandbox.md").read_text()
    rows = [f"| {name} | {KILLED.get(name) or WORDS[by]} |" for name, (_, by) in STOPPED.items()]
    rows += [f"| {name} | the test is another process's |" for name in FAKES]
    assert "\n".join(rows) in text
