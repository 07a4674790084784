"""Work in the background, so that whoever needs its results does not wait."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Ahead(Generic[Made]):
    """Makes numbered things in one background thread, a few ahead of the one that was asked for last.

    What is made of a number depends on the number alone, so it does not matter what was asked for before.

    Args:
        make: makes one; in the background.
        count: how many there are; none beyond is made.
        ahead: how many are kept ready.
    """

    def __init__(self, make: Callable[[int], Made], count: int, ahead: int = 2) -> None:
        self._make, self._count, self._ahead = make, count, ahead
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ready: dict[int, Future[Made]] = {}

    def take(self, number: int) -> Made:
        """One of them, at once if it was made already; what `make` raised is raised here."""
        wanted = range(number, max(number + 1, min(number + 1 + self._ahead, self._count)))
        for other in [other for other in self._ready if other not in wanted]:
            self._ready.pop(other).cancel()
        for one in wanted:
            if one not in self._ready:
                self._ready[one] = self._pool.submit(self._make, one)
        return self._ready.pop(number).result()
