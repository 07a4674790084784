"""All units in this process: a few threads a stage, so that a unit is judged while the next one is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from dsd.curate.executors.protocol import Record, Work
from dsd.curate.executors.schedule import Task, run_stages
from dsd.limits import require_within


class Local:
    """An `Executor` that needs nothing.

    Args:
        workers: units in work at once in each stage that only waits for servers. Other stages have two, of which one
            has its models compute while the other one's outcome is written.

    Raises:
        UserError: fewer than one.
    """

    def __init__(self, workers: int = 1) -> None:
        require_within("workers", workers, 1)
        self._workers = workers

    def sources(self, work: Work[Any], *, trying: bool) -> dict[str, str]:
        """See `dsd.curate.executors.protocol.Executor`."""
        return {name: of for stage in work.stages for name, of in work.sources(stage, trying=trying).items()}

    def run(self, work: Work[Record]) -> Iterator[Record]:
        """See `dsd.curate.executors.protocol.Executor`.

        When it is left, what is in work is finished first, but for an interrupt.
        """
        crew = _Threads(work, self._workers)
        patient = True
        try:
            yield from run_stages(work, crew)
        except KeyboardInterrupt:
            patient = False
            raise
        finally:
            crew.close(wait=patient)


class _Threads:
    """A `dsd.curate.executors.schedule.Crew` of this process."""

    def __init__(self, work: Work[Any], workers: int) -> None:
        self._work = work
        self._size = {stage: workers if work.waits(stage) else 2 for stage in work.stages}
        self._pools = {stage: ThreadPoolExecutor(size, f"dsd-{stage}") for stage, size in self._size.items()}
        self._running: dict[Future[Any], Task] = {}

    def room(self, stage: str) -> int:
        return self._size[stage] - sum(task.stage == stage for task in self._running.values())

    def ahead(self, stage: str) -> int:
        return self._size[stage] + 1

    def start(self, task: Task) -> None:
        self._running[self._pools[task.stage].submit(self._work.do, task.stage, task.number, task.given)] = task

    def finished(self, waiting: dict[str, int]) -> list[tuple[Task, Any]]:
        done, _ = wait(self._running, return_when=FIRST_COMPLETED)
        return [(self._running.pop(future), future.result()) for future in done]

    def close(self, *, wait: bool) -> None:
        for pool in self._pools.values():
            pool.shutdown(wait=wait, cancel_futures=True)
