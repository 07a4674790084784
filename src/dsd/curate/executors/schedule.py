"""Which stage of which unit is started next, wherever it runs: stages overlap, and none runs far ahead of the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from dsd.curate.executors.protocol import Record, Work


@dataclass(frozen=True)
class Task:
    """A stage of a unit, and what the stage before gave."""

    stage: str
    number: int
    given: Any


class Crew(Protocol):
    """Who does tasks."""

    def room(self, stage: str) -> int:
        """How many more tasks of a stage it takes now."""
        ...

    def ahead(self, stage: str) -> int:
        """How many units may wait before a stage, at least 1; when there are as many, the stage before pauses."""
        ...

    def start(self, task: Task) -> None:
        """Starts a task; there must be room."""
        ...

    def finished(self, waiting: dict[str, int]) -> list[tuple[Task, Any]]:
        """Waits until tasks are finished, or there may be room for others.

        Args:
            waiting: how many tasks of each stage can be started and have no room.

        Returns:
            The tasks with what they gave.

        Raises:
            UserError: one of them cannot be done.
        """
        ...


def run_stages(work: Work[Record], crew: Crew) -> Iterator[Record]:
    """Has a crew do what is not finished, the last stages first.

    Args:
        work: units and their stages.
        crew: who does them.

    Yields:
        The records of all units, in order.
    """
    line = _Line(work, crew)
    number = 0
    while number < len(work):
        line.start()
        while number in line.records:
            yield line.records.pop(number)
            number += 1
            line.start()
        if number < len(work):
            line.take_finished()


class _Line:
    """Where every unit is."""

    def __init__(self, work: Work[Record], crew: Crew) -> None:
        self._crew, self._stages = crew, work.stages
        self._given: dict[str, deque[Task]] = {stage: deque() for stage in self._stages}
        self._left: dict[str, deque[Task]] = {stage: deque() for stage in self._stages}
        self._running = dict.fromkeys(self._stages, 0)
        self.records: dict[int, Any] = {}
        for number in range(len(work)):
            self._enter(work, number)

    def _enter(self, work: Work[Record], number: int) -> None:
        """Puts a unit after the last stage whose outcome has been kept."""
        for stage in reversed(self._stages):
            found = work.find(stage, number)
            if found is not None:
                return self._hand_on(self._left, stage, number, found)
        self._left[self._stages[0]].append(Task(self._stages[0], number, None))

    def start(self) -> None:
        """Starts what can be: of each stage first what this run made, so that little is held."""
        for stage in reversed(self._stages):
            while (queue := self._queue(stage)) and self._crew.room(stage) > 0 and not self._too_far(stage):
                self._running[stage] += 1
                self._crew.start(queue.popleft())

    def take_finished(self) -> None:
        """Waits for tasks, and hands what they gave to the next stage."""
        waiting = {
            stage: 0 if self._too_far(stage) else len(self._given[stage]) + len(self._left[stage])
            for stage in self._stages
        }
        for task, gave in self._crew.finished(waiting):
            self._running[task.stage] -= 1
            self._hand_on(self._given, task.stage, task.number, gave)

    def _hand_on(self, queues: dict[str, deque[Task]], stage: str, number: int, gave: Any) -> None:
        following = self._after(stage)
        if following is None:
            self.records[number] = gave
        else:
            queues[following].append(Task(following, number, gave))

    def _queue(self, stage: str) -> deque[Task]:
        return self._given[stage] or self._left[stage]

    def _after(self, stage: str) -> str | None:
        place = self._stages.index(stage) + 1
        return self._stages[place] if place < len(self._stages) else None

    def _too_far(self, stage: str) -> bool:
        following = self._after(stage)
        return following is not None and (
            len(self._given[following]) + self._running[stage] >= self._crew.ahead(following)
        )
