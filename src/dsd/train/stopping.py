"""How processes that train together end together: by SIGTERM, and where one of them fails.

By SIGTERM spot instances and job queues say that they will take the machine; what is done is kept first. A mistake that
one process finds (a full disk, a damaged file, losses that are no numbers) ends the others too: work that may find one
stands in `together`. What escapes elsewhere ends its process, and the launcher ends the rest.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import TypeVar

import torch
from torch import distributed

from dsd.errors import UserError
from dsd.log import console

Value = TypeVar("Value")
_OF_USER_ERRORS = 2
"""The exit status of the command line after one."""


class Terminated(SystemExit):
    """SIGTERM came. Nothing is lost and the same command goes on, so the process ends with status 0."""

    def __init__(self) -> None:
        super().__init__(0)


class FailedElsewhere(SystemExit):
    """Another of the processes that train together ends with a `UserError`, and says it; this one ends in silence."""

    def __init__(self) -> None:
        super().__init__(_OF_USER_ERRORS)


class Termination:
    """Hears SIGTERM while it is entered, in the main thread and where nobody else does.

    Args:
        at_once: whether it raises `Terminated` wherever it comes; else only within `at_once`. Processes that train
            together do so only where nobody waits for them, within `together`.

    Attributes:
        asked: whether it has come.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.asked = False
        self._at_once = at_once and not is_group()
        self._before: object = None

    def __enter__(self) -> Termination:
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGTERM)
            outer = getattr(before, "__self__", None)
            if before is signal.SIG_DFL or isinstance(outer, Termination):
                self._before = before
                self.asked = isinstance(outer, Termination) and outer.asked
                signal.signal(signal.SIGTERM, self._heard)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._before is None:
            return
        signal.signal(signal.SIGTERM, self._before)  # pyright: ignore[reportArgumentType]
        is_outermost, self._before = self._before is signal.SIG_DFL, None
        if kind is Terminated and is_outermost and is_first():
            console.print("stopped by SIGTERM; what is done is kept, and the same command goes on")

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """For long work of which nothing is lost. Processes that train together end together, between steps."""
        with nullcontext() if is_group() else self._raising():
            yield

    def asked_of_any(self) -> bool:
        """Whether it has come to any of the processes that train together; all of them have to ask."""
        return bool(_largest(int(self.asked)))

    @contextmanager
    def _raising(self) -> Iterator[None]:
        before, self._at_once = self._at_once, True
        try:
            if self.asked:
                raise Terminated
            yield
        finally:
            self._at_once = before

    def _heard(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        if self._at_once:
            raise Terminated


@contextmanager
def together(*, at_once: bool = False) -> Iterator[None]:
    """Work after which all processes go on, or all end: none waits for one that has failed. Also a barrier.

    All processes enter it. Where it holds steps that all take (gradients, gathered weights), a mistake must not come
    between those, or must come to all alike.

    Args:
        at_once: whether SIGTERM ends this work wherever it comes to any of the processes, which all end then; only for
            work in which nobody waits for another.

    Raises:
        UserError: as the work raised it, in the first process where it did.
        FailedElsewhere: in the other ones.
        Terminated: SIGTERM came to one of them.
    """
    heard = getattr(signal.getsignal(signal.SIGTERM), "__self__", None) if at_once else None
    ends: UserError | SystemExit | None = None
    if not is_group():
        yield
        return
    try:
        with heard._raising() if isinstance(heard, Termination) else nullcontext():
            yield
    except (UserError, Terminated, FailedElsewhere) as raised:
        ends = raised
    failed = 2 + distributed.get_world_size()  # less a process's number: of several, the first one says what is wrong
    own = {UserError: failed - distributed.get_rank(), Terminated: 1}
    worst = _largest(next((number for kind, number in own.items() if isinstance(ends, kind)), 0))
    if isinstance(ends, UserError) and worst == own[UserError]:
        raise ends
    if worst > 1 or isinstance(ends, FailedElsewhere):
        raise FailedElsewhere from ends
    if worst == 1:
        raise Terminated


def is_group() -> bool:
    """Whether several processes train together."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def place() -> tuple[int, int]:
    """This process's number among those that train together, and how many they are."""
    return (distributed.get_rank(), distributed.get_world_size()) if is_group() else (0, 1)


def is_first() -> bool:
    """Whether this is the first of the processes that train together, which writes and speaks, or the only one."""
    return place()[0] == 0


def of_first(value: Value) -> Value:
    """What the first process gives; all of them have to ask."""
    if not is_group():
        return value
    found = [value]
    distributed.broadcast_object_list(found)
    return found[0]


def of_all(value: Value) -> list[Value]:
    """What each process gives, in their order; all of them have to ask."""
    if not is_group():
        return [value]
    found: list[Value] = [value] * distributed.get_world_size()
    distributed.all_gather_object(found, value)
    return found


def _largest(number: int) -> int:
    """The largest of all processes' numbers."""
    if not is_group():
        return number
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    found = torch.tensor(number, device=device)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return int(found)
