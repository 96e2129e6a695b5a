"""The one exception that is meant to be read by a person, and what other exceptions say."""

from __future__ import annotations

import unicodedata
from importlib.util import find_spec


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


def needs(extra: str, *packages: str) -> None:
    """Raise UserError, with the command that installs the extra, if one of its packages is not there.

    To be called before any work is done, so that nothing has to be done again.
    """
    for package in packages:
        if find_spec(package) is None:
            raise UserError(f"the package {package} is not installed; run `pip install 'rdslib[{extra}]'`")
