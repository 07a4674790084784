"""All units in this process, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

from dsd.curate.executors.protocol import Record, Work


class Local:
    """An `Executor` that needs nothing."""

    def run(self, work: Work[Record]) -> Iterator[Record]:
        """Does each unit when its turn comes."""
        for number in range(len(work)):
            found = work.find(number)
            yield work.do(number) if found is None else found
