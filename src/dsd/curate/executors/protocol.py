"""Where the work runs is asked here alone: a unit never knows who does it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeVar

Record = TypeVar("Record")
Found = TypeVar("Found", covariant=True)


class Work(Protocol[Found]):
    """Units by number, from 0. What one gives depends on its number alone, so it can be done anywhere, in any order,
    and again. It can be pickled; models are loaded where it is done."""

    def __len__(self) -> int:
        """How many units there are."""
        ...

    def find(self, number: int) -> Found | None:
        """The record of a unit that is finished, else None."""
        ...

    def do(self, number: int) -> Found:
        """Does a unit, and commits it."""
        ...


class Executor(Protocol):
    """Does work somewhere."""

    def run(self, work: Work[Record]) -> Iterator[Record]:
        """Does the units that are not finished, and yields the records of all in the order of their numbers."""
        ...
