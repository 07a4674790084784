"""SIGTERM, by which spot instances and job queues say that they will take the machine: what is done is kept first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from torch import distributed

from dsd.log import console


class Terminated(SystemExit):
    """SIGTERM came. Nothing is lost and the same command goes on, so the process ends with status 0."""

    def __init__(self) -> None:
        super().__init__(0)


class Termination:
    """Hears SIGTERM while it is entered, in the main thread and where nobody else does.

    Args:
        at_once: whether it raises `Terminated` wherever it comes; else only within `at_once`.

    Attributes:
        asked: whether it has come.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.asked = False
        self._at_once = at_once
        self._before: object = None

    def __enter__(self) -> Termination:
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGTERM)
            if before is signal.SIG_DFL or isinstance(getattr(before, "__self__", None), Termination):
                self._before = before
                signal.signal(signal.SIGTERM, self._heard)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._before is None:
            return
        signal.signal(signal.SIGTERM, self._before)  # pyright: ignore[reportArgumentType]
        is_outermost, self._before = self._before is signal.SIG_DFL, None
        if kind is Terminated and is_outermost and not (_is_group() and distributed.get_rank()):
            console.print("stopped by SIGTERM; what is done is kept, and the same command goes on")

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """For long work of which nothing is lost. Processes that train together end together, between steps."""
        self._at_once = not _is_group()
        if self.asked and self._at_once:
            raise Terminated
        try:
            yield
        finally:
            self._at_once = False

    def asked_of_any(self) -> bool:
        """Whether it has come to any of the processes that train together; all of them have to ask."""
        if not _is_group():
            return self.asked
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        asked = torch.tensor(int(self.asked), device=device)
        distributed.all_reduce(asked, distributed.ReduceOp.MAX)
        return bool(asked)

    def _heard(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        if self._at_once:
            raise Terminated


def _is_group() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
