"""The one exception that is meant to be read by a person."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right: one line that says where, what is wrong and what to do.

    The command line prints the message alone, without a traceback, and exits with code 2.
    """
