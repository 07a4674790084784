"""The one error a person is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what was given to us, told in one sentence.

    The sentence names what was given, what is wanted and how to fix it. The command line prints it without a
    traceback and exits with status 2; Python callers catch it like any exception.
    """
