"""Where the work runs is asked here alone: a unit never knows who does it."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

Record = TypeVar("Record")
Found = TypeVar("Found", covariant=True)


class Work(Protocol[Found]):
    """Units by number, from 0, each of which goes through the same stages. What a stage gives depends on the number and
    on what the stage before gave alone, so it can be done anywhere, in any order, and again. Work can be pickled;
    models are loaded where it is done."""

    def __len__(self) -> int:
        """How many units there are."""
        ...

    @property
    def stages(self) -> tuple[str, ...]:
        """Of every unit, in order; what the last one gives is the unit's record."""
        ...

    def waits(self, stage: str) -> bool:
        """Whether a stage only waits for others, such as a server, so that many of its units can be in work at once in
        one process; the models of any other stage take turns."""
        ...

    def sources(self, stage: str, *, trying: bool) -> Mapping[str, str]:
        """The revisions of what the stage is done with, found where it is done.

        Args:
            stage: one of `stages`.
            trying: whether servers are tried too, before anything is made that counts on them.

        Raises:
            UserError: something cannot be found.
        """
        ...

    def for_others(self) -> Work[Found]:
        """The work for other processes, which do it as long as they see that this process is at it."""
        ...

    def like(self, before: Work[Any]) -> Work[Found]:
        """This work with what has been loaded for another of the same settings."""
        ...

    def find(self, stage: str, number: int) -> Any | None:
        """What a stage gave for a unit if that has been kept, else None."""
        ...

    def do(self, stage: str, number: int, given: Any) -> Any:
        """Does a stage of a unit, and keeps what outlasts this start.

        Args:
            stage: one of `stages`.
            number: of the unit.
            given: by the stage before; None for the first.

        Returns:
            What the next stage is given, or the unit's record.
        """
        ...


class Executor(Protocol):
    """Does work somewhere."""

    def sources(self, work: Work[Any], *, trying: bool) -> dict[str, str]:
        """Those of all stages of the work, found where it will be done; see `Work.sources`."""
        ...

    def run(self, work: Work[Record]) -> Iterator[Record]:
        """Does what is not finished, and yields the records of all units in the order of their numbers."""
        ...


@contextmanager
def told_of_interrupts(records: Iterator[Record]) -> Iterator[Iterator[Record]]:
    """Records of a run, which hears of an interrupt also while who asked for them works on one.

    A generator that is merely left cannot know why, and would first finish what is in work.

    Args:
        records: of `Executor.run`.
    """
    try:
        yield records
    except KeyboardInterrupt as interrupt:
        if isinstance(records, Generator):
            records.throw(interrupt)
        raise
