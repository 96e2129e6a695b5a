"""What runs inside the sandbox (see `rdslib.evaluation.sandbox`), with the standard library alone.

Started as `python -I -S -B sandbox_worker.py ROLE READ WRITE LIMITS` with its source on standard input, it
gives up everything but arithmetic before it looks at the source: Landlock leaves it the interpreter's files
to read and nothing to write, a seccomp filter leaves it no other process, no socket, no signal to others and
no way out of its limits. What it may not do fails with an OSError, and it cannot take any of this back.

A `candidate` defines a function and answers calls to it. A `judge` runs a test against that function, which
it only reaches by messages, and writes to standard output whether the test came to its end.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys
import sysconfig
from typing import Any, NoReturn

# A judge's verdict. Nothing that a candidate writes is taken for it.
PASSED = b"passed"
# Longer messages than this, in bytes, end the conversation.
LONGEST = 2**22

EPERM, ENOSYS = 1, 38
# Syscall numbers: on x86_64, and on arm64, where there are no calls that others have replaced (-1).
REFUSED = {
    "socket": (41, 198), "socketpair": (53, 199), "execve": (59, 221), "execveat": (322, 281),
    "fork": (57, -1), "vfork": (58, -1),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "process_madvise": (440, 440), "kcmp": (312, 272),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "fsopen": (430, 430), "fsmount": (432, 432), "move_mount": (429, 429), "open_tree": (428, 428),
    "mount_setattr": (442, 442), "setns": (308, 268), "unshare": (272, 97),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60),
    "sethostname": (170, 161), "setdomainname": (171, 162), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "setrlimit": (160, 164), "sched_setaffinity": (203, 122), "setpriority": (141, 140),
    "chmod": (90, -1), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, -1), "fchown": (93, 55), "lchown": (94, -1), "fchownat": (260, 54),
    "utime": (132, -1), "utimes": (235, -1), "futimesat": (261, -1), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "getxattr": (191, 8), "lgetxattr": (192, 9), "fgetxattr": (193, 10), "getxattrat": (464, 464),
    "listxattr": (194, 11), "llistxattr": (195, 12), "flistxattr": (196, 13), "listxattrat": (465, 465),
    "file_getattr": (468, 468), "file_setattr": (469, 469), "open_tree_attr": (467, 467),
    "sync": (162, 81), "syncfs": (306, 267), "quotactl_fd": (443, 443), "flock": (73, 32),
    "inotify_init": (253, -1), "removexattrat": (466, 466),
    "truncate": (76, 45), "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "semop": (65, 193),
    "semctl": (66, 191), "msgget": (68, 186), "msgsnd": (69, 189), "msgctl": (71, 187),
    "semtimedop": (220, 192), "msgrcv": (70, 188), "mq_unlink": (241, 181), "creat": (85, -1),
    "openat2": (437, 437), "ioprio_set": (251, 30), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119), "sched_setattr": (314, 274), "migrate_pages": (256, 238),
    "move_pages": (279, 239), "mq_open": (240, 180), "inotify_init1": (294, 26), "fanotify_init": (300, 262),
    "syslog": (103, 116),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "iopl": (172, -1), "ioperm": (173, -1),
}  # fmt: skip
# Refused where an argument, by its place, is one of the values.
REFUSED_WITH = {
    # To outlive the parent.
    "prctl": ((157, 167), 0, (1,)),
}
# Refused but where it is one of these: others change a file that may be read, watch or lease it, or have
# signals sent when it is ready.
ALLOWED_WITH = {
    # Copies of a descriptor, and its flags: DUPFD, GETFD, SETFD, GETFL, SETFL, DUPFD_CLOEXEC.
    "fcntl": ((72, 25), 1, (0, 1, 2, 3, 4, 1030)),
    # Whether it is a terminal, and its flags: TCGETS, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX.
    "ioctl": ((16, 29), 1, (0x5401, 0x541B, 0x5421, 0x5450, 0x5451)),
}
# To open for more than reading: Landlock before version 3 lets a file that may be read be cut.
OPENS = {"open": ((2, -1), 1), "openat": ((257, 56), 2)}
MORE_THAN_READING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CLONE, CLONE3, PRLIMIT = (56, 220), (435, 435), (302, 261)
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
CLONE_THREAD = 0x10000


def lock(limits: dict[str, int]) -> None:
    """Give up everything but arithmetic; raise OSError where this system cannot hold a program in."""
    if sys.platform != "linux" or platform.machine() not in ARCHITECTURES:
        raise OSError("programs can be held in on Linux alone, on x86_64 and arm64")
    libc = ctypes.CDLL(None, use_errno=True)
    for limit, value in (
        (resource.RLIMIT_CPU, limits["seconds"]), (resource.RLIMIT_AS, limits["bytes"]),
        (resource.RLIMIT_NPROC, limits["threads"]), (resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0), (resource.RLIMIT_MEMLOCK, 0), (resource.RLIMIT_MSGQUEUE, 0),
    ):  # fmt: skip
        highest = resource.getrlimit(limit)[1]
        allowed = value if highest == resource.RLIM_INFINITY else min(value, highest)
        resource.setrlimit(limit, (allowed, allowed))
    _prctl(libc, 1, signal.SIGKILL)  # end with the parent, if it has not ended before
    if os.getppid() != limits["parent"]:
        raise OSError("the parent has ended")
    for capability in range(64):
        libc.prctl(24, capability, 0, 0, 0)  # drop from the bounding set, where there is such a capability
    header, none = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    _call(libc, 126 if platform.machine() == "x86_64" else 91, header, none)  # capset: keep none
    _prctl(libc, 38, 1)  # gain no privileges by any means
    _landlock(libc)
    _seccomp(libc)


def _landlock(libc: ctypes.CDLL) -> None:
    """Leave the interpreter's files, and shared libraries, to be read; and nothing to be written."""
    version = _call(libc, 444, None, 0, 1)
    handled = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    attributes = struct.pack("=QQQ", handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = _call(libc, 444, attributes[:size], size, 0)
    paths = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), f"{sys.base_prefix}/lib"}
    for path in sorted(
        {*paths, "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/dev/urandom"}
    ):
        with contextlib.suppress(FileNotFoundError):
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
            allowed = 4 | (8 if os.path.isdir(path) else 0)  # read files, and list folders
            _call(libc, 445, rules, 1, struct.pack("=Qi", allowed, opened), 0)
            os.close(opened)
    _call(libc, 446, rules, 0)
    os.close(rules)


def _seccomp(libc: ctypes.CDLL) -> None:
    """Refuse the calls that reach beyond this process."""
    column, architecture = ARCHITECTURES[platform.machine()]
    load, equal, above, some, end = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, refuse = 0x7FFF0000, 0x80000000, 0x00050000 | EPERM
    filters = [(load, 0, 0, 4), (equal, 1, 0, architecture), (end, 0, 0, kill), (load, 0, 0, 0)]
    filters += [(above, 0, 1, 0x40000000), (end, 0, 0, refuse)]  # the numbers of x32
    for numbers in REFUSED.values():
        if numbers[column] >= 0:
            filters += [(equal, 0, 1, numbers[column]), (end, 0, 0, refuse)]
    rules = [(*rule, equal) for rule in REFUSED_WITH.values()]
    rules += [(numbers, at, (MORE_THAN_READING,), some) for numbers, at in OPENS.values()]
    for numbers, at, values, test in rules:
        if numbers[column] >= 0:
            filters += [(equal, 0, 2 * len(values) + 2, numbers[column]), (load, 0, 0, 16 + 8 * at)]
            for value in values:
                filters += [(test, 0, 1, value), (end, 0, 0, refuse)]
            filters += [(load, 0, 0, 0)]
    for numbers, at, allowed in ALLOWED_WITH.values():
        filters += [(equal, 0, len(allowed) + 3, numbers[column]), (load, 0, 0, 16 + 8 * at)]
        filters += [(equal, len(allowed) - place, 0, value) for place, value in enumerate(allowed)]
        filters += [(end, 0, 0, refuse), (end, 0, 0, allow)]
    filters += [(equal, 0, 1, CLONE3[column]), (end, 0, 0, 0x00050000 | ENOSYS)]  # libc then takes clone
    # Threads may be started, processes not; limits may be read, not set.
    filters += [(equal, 0, 4, CLONE[column]), (load, 0, 0, 16), (some, 0, 1, CLONE_THREAD)]
    filters += [(end, 0, 0, allow), (end, 0, 0, refuse)]
    filters += [(equal, 0, 6, PRLIMIT[column]), (load, 0, 0, 32), (equal, 0, 3, 0), (load, 0, 0, 36)]
    filters += [(equal, 0, 1, 0), (end, 0, 0, allow), (end, 0, 0, refuse), (end, 0, 0, allow)]
    code = b"".join(struct.pack("=HBBI", *each) for each in filters)
    buffer = ctypes.create_string_buffer(code)

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filters", ctypes.c_void_p))

    program = Program(len(filters), ctypes.addressof(buffer))
    _prctl(libc, 22, 2, ctypes.addressof(program))


def _prctl(libc: ctypes.CDLL, *arguments: int) -> None:
    if libc.prctl(*(ctypes.c_ulong(each) for each in (*arguments, 0, 0, 0, 0)[:5])) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {arguments[0]}")


def _call(libc: ctypes.CDLL, number: int, *arguments: Any) -> int:
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    found = libc.syscall(ctypes.c_long(number), *wide)
    if found < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}: {os.strerror(ctypes.get_errno())}")
    return int(found)


def encode(value: Any) -> Any:
    """Return a plain value as JSON that keeps its type; raise TypeError for anything else."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return {"int": str(int(value))}
    if isinstance(value, float):
        return {"float": repr(float(value))}
    if isinstance(value, complex):
        return {"complex": [encode(value.real), encode(value.imag)]}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(each)] for key, each in value.items()]}
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [encode(each) for each in value]}
    raise TypeError(f"{type(value).__name__} is not a plain value")


def decode(value: Any) -> Any:
    """Return what `encode` was given; raise ValueError, TypeError or KeyError for anything else."""
    if value is None or isinstance(value, bool | str):
        return value
    ((kind, inner),) = value.items()
    if kind == "int":
        return int(inner)
    if kind == "float":
        return float(inner)
    if kind == "complex":
        return complex(*map(decode, inner))
    if kind == "bytes":
        return bytes.fromhex(inner)
    if kind == "dict":
        return {decode(key): decode(each) for key, each in inner}
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](map(decode, inner))


class Calls:
    """Messages of one line to and from another process."""

    def __init__(self, read: int, write: int) -> None:
        self.read, self.write = os.fdopen(read, "rb"), os.fdopen(write, "wb")

    def send(self, message: Any) -> None:
        """Send a message."""
        self.write.write(json.dumps(message).encode() + b"\n")
        self.write.flush()

    def receive(self) -> Any:
        """Return the next message; raise EOFError if there is none, ValueError if it is too long."""
        line = self.read.readline(LONGEST)
        if not line:
            raise EOFError("the other side has ended")
        if not line.endswith(b"\n"):
            raise ValueError("a message without an end")
        return json.loads(line)


def candidate(calls: Calls, source: dict[str, str]) -> None:
    """Define a function, and answer calls to it until there are no more."""
    space: dict[str, Any] = {"__name__": "candidate"}
    trouble = ""
    try:
        exec(compile(source["program"], "program", "exec"), space)
        function = space[source["entry_point"]]
    except BaseException as error:  # whatever the program does counts as its failure
        trouble = type(error).__name__
    while True:
        arguments, named = map(decode, calls.receive())
        try:
            if trouble:
                raise RuntimeError(trouble)
            answer = {"value": encode(function(*arguments, **named))}
        except BaseException as error:
            answer = {"error": type(error).__name__}
        calls.send(answer)


def judge(calls: Calls, source: dict[str, str], verdict: int) -> None:
    """Run a test against a function that is called by messages; if it ends well, write so to `verdict`."""

    def function(*arguments: Any, **named: Any) -> Any:
        calls.send([encode(arguments), encode(named)])
        answer = calls.receive()
        if "error" in answer:
            raise RuntimeError(f"the function failed with {answer['error']}")
        return decode(answer["value"])

    space: dict[str, Any] = {"__name__": "judge"}
    exec(compile(source["program"], "test", "exec"), space)
    # A test may call the function by its name as well; what the prompt left there is only its head.
    space[source["entry_point"]] = function
    space["check"](function)
    os.write(verdict, PASSED)


def main() -> NoReturn:
    """Lock this process in, and take its role."""
    role, read, write, limits = sys.argv[1:]
    source = json.loads(sys.stdin.buffer.read())
    calls = Calls(int(read), int(write))
    # What a program prints goes nowhere.
    verdict, null = os.dup(1), os.open(os.devnull, os.O_RDWR)
    for place in (0, 1, 2):
        os.dup2(null, place)
    try:
        lock(json.loads(limits))
    except (OSError, ValueError) as error:
        os.write(verdict, f"open: {error}".encode())
        os._exit(0)
    try:
        if role == "judge":
            judge(calls, source, verdict)
        else:
            os.close(verdict)
            candidate(calls, source)
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
