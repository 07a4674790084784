"""The page's own words as HTML; whatever comes from a visitor or a file is escaped."""

from __future__ import annotations

from html import escape

from dsd.errors import UserError
from dsd.serve.page_run import Run


def error(said: UserError | str) -> str:
    """What went wrong, which stays until something else is done."""
    words = str(said)
    return f'<div class="dsd-words dsd-wrong" role="alert">{escape(words[:1].upper() + words[1:])}</div>'


def note(words: str) -> str:
    """Something to know."""
    return f'<div class="dsd-words" role="status">{escape(words)}</div>'


def caption(words: str) -> str:
    """What stands below a picture."""
    return f'<div class="dsd-caption">{escape(words)}</div>'


def progress(run: Run) -> str:
    """How far a run is, in words and as a bar."""
    return (
        f'<div class="dsd-progress" role="status"><span>{escape(run.words())}</span>'
        f'<progress max="1" value="{run.share:.3f}"></progress></div>'
    )
