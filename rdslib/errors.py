"""The one exception that is meant to be read by a person, and what other exceptions say."""

from __future__ import annotations

import difflib
import errno
import os
import unicodedata
from collections.abc import Iterable
from importlib.util import find_spec

# What libraries say where memory ends, the last two of them Arrow and oneDNN.
MEMORY = (
    os.strerror(errno.ENOMEM),
    "out of memory",
    "bad_alloc",
    "can't start new thread",
    "Failed to launch worker thread",
    "could not create a primitive",
)


class UserError(Exception):
    """Something the user can put right: one line that says where, what is wrong and what to do.

    The command line prints the message alone, without a traceback, and exits with code 2.
    """


def plain(text: object) -> str:
    """Return a text as one line without control characters, so that data cannot control a terminal."""
    kept = (" " if unicodedata.category(each) in ("Cc", "Cs") else each for each in str(text))
    return " ".join("".join(kept).split())


def reason_of(error: Exception) -> str:
    """Return what an error says, on one line of at most 200 characters."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]


def unknown(what: str, given: str, known: Iterable[str]) -> UserError:
    """Make the error of a name that is not among those known, which it lists."""
    known = list(known)
    hint = did_you_mean(given, known) or ";"
    return UserError(f"unknown {what} {given!r}{hint} {what}s: {', '.join(known)}")


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return a hint at the name nearest to one that is unknown, or of which one begins with the other."""
    known = list(known)
    near = difflib.get_close_matches(given, known, n=1)
    near += [each for each in known if given and (each.startswith(given) or given.startswith(each))]
    return f"; did you mean {near[0]}?" if near else ""


def needs(extra: str, *packages: str) -> None:
    """Raise UserError, with the command that installs the extra, if one of its packages is not there.

    To be called before any work is done, so that nothing has to be done again.
    """
    for package in packages:
        if find_spec(package) is None:
            raise UserError(f"the package {package} is not installed; run `pip install 'rdslib[{extra}]'`")
