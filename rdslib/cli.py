"""The `rds` command: how it starts, and how it ends."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import NoReturn

from rdslib.errors import MEMORY, UserError, plain, reason_of

# A full disk or a folder without rights, wherever it was met; other errors of the system are faults of ours.
OF_THE_USER = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)
# What libraries say, in errors of their own, of a full disk (the last two numpy and torch, of a file that was
# not written to its end).
FULL = (*(os.strerror(number) for number in OF_THE_USER), "requested and", "unexpected pos")
PLACES = "RDSLIB_HOME or the output's folder"
# Exit codes of what is stopped by Ctrl-C, and by `kill` or a batch system.
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
STOPPED = "stopped; run the same command again to go on"


def main() -> None:
    """Run the command; print what a user can correct as one line, with exit code 2."""
    # Python processes that are started from here run no file of the working folder for a module's name.
    os.environ["PYTHONSAFEPATH"] = "1"
    _open_streams()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        # Within, since it takes a second, in which it may be stopped.
        from rdslib.commands.app import app

        app()
    except UserError as error:
        _end(error, 2)
    except KeyboardInterrupt:
        _end(STOPPED, INTERRUPTED)
    except SystemExit as ended:
        if ended.code in (INTERRUPTED, TERMINATED):  # typer makes an exit of a KeyboardInterrupt
            _end(STOPPED, int(ended.code))
        raise
    except Exception as error:
        if (stopped := _stopped(error)) is not None:
            _end(STOPPED, stopped)
        if (refusal := _refusal(error)) is not None:
            _end(f"{refusal}, and run the same again to go on", 2)
        from rdslib.methods import plugin_line

        if (where := plugin_line(error)) is None:
            raise
        _end(f"{where}: {type(error).__name__}: {error}; correct this line of your method", 2)


def _stopped(error: Exception) -> int | None:
    """The exit code, where a library made an error of its own of a stop, as pydantic does in a serializer."""
    if isinstance(error.__cause__, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error.__cause__, SystemExit) and error.__cause__.code == TERMINATED:
        return TERMINATED
    return None


def _refusal(error: Exception) -> str | None:
    """What the system has refused, by whatever library's error, and what to do; None if that is not it."""
    text = reason_of(error)
    if isinstance(error, OSError) and error.errno in OF_THE_USER:
        return f"{error.filename or PLACES}: {error.strerror}; correct that"
    if isinstance(error, MemoryError) or any(each in text for each in MEMORY):
        return f"memory has run out ({text}); free some, or lower token_budget and micro_batch_size"
    if any(each in text for each in FULL):
        return f"{PLACES}: {text}; correct that"
    return None


def _open_streams() -> None:
    """Open nothing in place of standard streams that are closed: a file would get their numbers, and text."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(opened)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _terminate(*_: object) -> NoReturn:
    """End as by Ctrl-C, so that temporary files and helping processes go; a second signal is too late."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(TERMINATED)


def _end(text: object, code: int) -> NoReturn:
    print(f"rds: {plain(text)}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
