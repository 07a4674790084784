"""The one error a person is meant to read."""

from __future__ import annotations

import importlib
from types import ModuleType


class UserError(Exception):
    """A mistake in what was given to us, told in one sentence.

    The sentence names what was given, what is wanted and how to fix it. The command line prints it without a
    traceback and exits with status 2; Python callers catch it like any exception.
    """


def reason_of(error: Exception) -> str:
    """The first line of what a library says, or the error's kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def cut(text: str, most: int = 120) -> str:
    """What was given, short enough to stand in a sentence.

    Args:
        text: of any length.
        most: characters that are kept.
    """
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def import_extra(module: str, extra: str) -> ModuleType:
    """Imports a library that only an extra installs.

    Args:
        module: What to import, such as `fastapi`.
        extra: The name of the extra, such as `serve`.

    Raises:
        UserError: The library is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; it comes with `pip install 'dsd[{extra}]'`") from error
