"""What a person watching sees: one console and one kind of progress bar."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from rich.console import Console
from rich.progress import TaskID

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")

console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
"""Messages go to stderr, a line each however long, as they are; stdout is for results."""

LINE_EVERY_SECONDS = 30.0
_only_lines = False


def only_lines() -> None:
    """Shows progress as plain lines even on a terminal, in this process: for several that share one."""
    global _only_lines
    _only_lines = True


def quiet_imports() -> None:
    """Before libraries are imported: advice to programmers is not for people at a terminal, nor bars for log files."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in ("torchao", "torch.utils._pytree"):  # of kernels for other machines, each time that it is imported
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def quiet_libraries() -> None:
    """Silences what diffusers and transformers say while they load models; there are messages of our own."""
    quiet_imports()
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()


def progress(
    iterable: Iterable[Item] | None = None, *, description: str, total: int | None = None, completed: int = 0
) -> Bar[Item]:
    """Shows how far long work is, at what rate, and how long it will take.

    On a terminal this is a bar; elsewhere a plain line at most every 30 seconds.

    Example:
        >>> for unit in progress(units, description="curate"):
        ...     work(unit)
        >>> with progress(description="train", total=1000) as bar:
        ...     bar.advance(10, note="loss 0.31")

    Args:
        iterable: What to walk through; None when the caller advances the bar itself.
        description: A word or two.
        total: How many steps there are; taken from `len(iterable)` when left out.
        completed: How many of them an earlier run did; they do not count in the rate.

    Returns:
        A bar to iterate over or to use as a context manager.
    """
    if total is None and iterable is not None and hasattr(iterable, "__len__"):
        total = completed + len(iterable)  # pyright: ignore[reportArgumentType]
    return Bar(iterable, description=description, total=total, completed=completed)


class Bar(Generic[Item]):
    """See `progress`."""

    def __init__(
        self, iterable: Iterable[Item] | None, *, description: str, total: int | None, completed: int = 0
    ) -> None:
        self._iterable = iterable
        self._description = description
        self._total = total
        self._done = self._completed = completed
        self._note = ""
        self._began = self._last_line = time.monotonic()
        self._live: Progress | None = None
        self._task = TaskID(0)

    def __iter__(self) -> Iterator[Item]:
        with self:
            for item in self._iterable or ():
                yield item
                self.advance()

    def __enter__(self) -> Bar[Item]:
        self._began = self._last_line = time.monotonic()
        if console.is_terminal and not _only_lines:
            self._live = _rich_progress()
            self._live.start()
            self._task = self._live.add_task(
                self._description, total=self._total, completed=self._completed, note="", rate=""
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """Moves on by `count` steps, with an optional short note (such as the loss)."""
        self._done += count
        self._note = note or self._note
        if self._live is not None:
            rate = f"{self._rate():.3g}/s" if self._rate() else ""
            self._live.update(self._task, completed=self._done, note=self._note, rate=rate)
        elif time.monotonic() - self._last_line >= LINE_EVERY_SECONDS:
            self._last_line = time.monotonic()
            console.print(self._line())

    def note(self, text: str) -> None:
        """Says something short beside the count, such as the loss, from now on."""
        self._note = text

    def _rate(self) -> float:
        elapsed = time.monotonic() - self._began
        return (self._done - self._completed) / elapsed if elapsed > 0 else 0.0

    def _line(self) -> str:
        rate = self._rate()
        parts = [f"{self._description}: {self._done}" + (f" of {self._total}" if self._total else "")]
        parts += [f"{rate:.3g}/s"] if rate else []
        if self._total and rate:
            parts.append(f"{duration((self._total - self._done) / rate)} left")
        return ", ".join([*parts, self._note] if self._note else parts)


def duration(seconds: float) -> str:
    """Returns a length of time in words that suit its size, such as `42 s`, `3 min 5 s` or `2 h 10 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _rich_progress() -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )
