"""Units on the machines of a Ray cluster: a pool of workers a stage, which grows with the units that wait for it."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import grpc
import ray
import torch
from ray.exceptions import (
    ActorUnschedulableError,
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    RayError,
    RaySystemError,
    RuntimeEnvSetupError,
    WorkerCrashedError,
)

from dsd.curate.executors.pools import Pool, Pools
from dsd.curate.executors.protocol import Record, Work
from dsd.curate.executors.schedule import Task, run_stages
from dsd.curate.executors.worker import Worker
from dsd.errors import UserError, cut, reason_of
from dsd.log import console

_LOST = (RayActorError, NodeDiedError, ObjectLostError, WorkerCrashedError, ActorUnschedulableError)
_CONNECT_SECONDS = 5.0
_LOOK_SECONDS = 0.5
"""How often pools are grown and shrunk at least."""
_TELL_SECONDS = 30.0
_LEAVE_SECONDS = 60.0


class Ray:
    """An `Executor` on a cluster. Workers write what they made themselves, so all machines see the output's place.

    Use it in a ``with`` block, at whose end the workers are given back.

    Args:
        address: ``ray://HOST:PORT``; ``HOST:PORT`` or ``auto`` on a machine of the cluster; ``local`` for one of this
            machine alone, as long as the block lasts. A process that is connected already stays so.
        pools: how many workers there are, and of what size.
        environment: of the workers, beside that of their machines.

    Raises:
        UserError: there is no such cluster.
    """

    def __init__(self, address: str, pools: Pools | None = None, environment: Mapping[str, str] | None = None) -> None:
        self._connected = not ray.is_initialized()
        if self._connected:
            _connect(address)
        self._crew = _Crew(pools or Pools(), dict(environment or {}))

    def __enter__(self) -> Ray:
        return self

    def __exit__(self, *_: object) -> None:
        self._crew.close()
        if self._connected:
            ray.shutdown()

    def sources(self, work: Work[Any], *, trying: bool) -> dict[str, str]:
        """See `dsd.curate.executors.protocol.Executor`; of a worker of each stage."""
        self._crew.take(work, trying=trying)
        while lacking := [stage for stage in work.stages if stage not in self._crew.found]:
            self._crew.finished(dict.fromkeys(lacking, 0))
        return {name: of for stage in work.stages for name, of in self._crew.found[stage].items()}

    def run(self, work: Work[Record]) -> Iterator[Record]:
        """See `dsd.curate.executors.protocol.Executor`.

        When it is left, what is in work is finished first, for a minute at most, but for an interrupt.
        """
        self._crew.take(work, trying=False)
        patient = True
        try:
            yield from run_stages(work, self._crew)
        except KeyboardInterrupt:
            patient = False
            raise
        finally:
            if patient:
                self._crew.leave()
            self._crew.close()


@dataclass(eq=False)
class _Member:
    """A worker as it is seen from here."""

    stage: str
    actor: Any
    starting: Any
    since: float = field(default_factory=time.monotonic)
    ready: bool = False
    running: dict[Any, Task] = field(default_factory=dict)


class _Crew:
    """A `dsd.curate.executors.schedule.Crew` of workers."""

    def __init__(self, pools: Pools, environment: dict[str, str]) -> None:
        self._pools, self._environment = pools, environment
        self._members: list[_Member] = []
        self._again: dict[str, deque[Task]] = {}
        self._stages: tuple[str, ...] = ()
        self._losses: Counter[tuple[str, int]] = Counter()
        self._failed: Counter[str] = Counter()  # starts of workers in a row
        self._without: dict[str, float] = {}  # since when a stage has no worker
        self._told: set[str] = set()
        self.found: dict[str, dict[str, str]] = {}

    def take(self, work: Work[Any], *, trying: bool) -> None:
        """Gets work, which workers that are there already go on with."""
        self._stages, self._trying = work.stages, trying
        self._again = {stage: deque() for stage in work.stages}
        self._work = ray.put(pickle.dumps(work.for_others()))
        self._without = dict.fromkeys(work.stages, time.monotonic())
        for member in self._members:
            member.ready, member.starting = False, member.actor.take.remote(self._work, trying=trying)
        self._fill()

    def room(self, stage: str) -> int:
        size = self._pools.of(stage).at_once
        return sum(size - len(member.running) for member in self._ready(stage)) - len(self._again[stage])

    def ahead(self, stage: str) -> int:
        """As many as the stage and the one before work on at once, so that neither has to wait for the other."""
        place = self._stages.index(stage)
        return max(1, sum(self._size(of) for of in self._stages[max(0, place - 1) : place + 1]))

    def start(self, task: Task) -> None:
        member = min(self._ready(task.stage), key=lambda member: len(member.running))
        member.running[member.actor.do.remote(task.number, task.given)] = task
        member.since = time.monotonic()

    def finished(self, waiting: dict[str, int]) -> list[tuple[Task, Any]]:
        done: list[tuple[Task, Any]] = []
        with _cluster():
            self._fit(waiting)
            refs = [ref for member in self._members for ref in (*member.running, member.starting) if ref is not None]
            ready, _ = ray.wait(refs, num_returns=1, timeout=_LOOK_SECONDS) if refs else ([], [])
            if ready:
                ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            for ref in ready:
                done += self._ended(ref)
            self._fill()
            for stage in self._stages:
                self._start_again(stage)
        return done

    def leave(self) -> None:
        """Waits for what is in work."""
        if refs := [ref for member in self._members for ref in member.running]:
            with _cluster():
                ray.wait(refs, num_returns=len(refs), timeout=_LEAVE_SECONDS)

    def close(self) -> None:
        """Gives the workers back."""
        while self._members:
            self._dismiss(self._members[-1])

    def _ended(self, ref: Any) -> list[tuple[Task, Any]]:
        """What became of a call; nothing of one that has to be made again."""
        member = next((one for one in self._members if ref == one.starting or ref in one.running), None)
        if member is None:  # it was lost with another call
            return []
        task = member.running.get(ref)
        try:
            gave: Any = ray.get(ref)
        except RuntimeEnvSetupError as error:
            raise UserError(f"workers cannot be started ({cut(reason_of(error))}); see the cluster's logs") from error
        except _LOST as error:
            self._lost(member, task, error)
            return []
        if isinstance(gave, UserError):
            raise gave
        if task is None:
            self._greet(member, gave)
            return []
        del member.running[ref]
        member.since = time.monotonic()
        return [(task, gave)]

    def _greet(self, member: _Member, sources: dict[str, str]) -> None:
        """Lets a worker take part, if it works with what the others of its stage work with."""
        others = self.found.setdefault(member.stage, sources)
        for name, of in sources.items():
            if others.get(name) != of:
                raise UserError(
                    f'workers of the stage "{member.stage}" have revisions {others.get(name)} and {of} of {name}; give '
                    "all machines of the cluster the same one"
                )
        member.ready, member.starting, member.since = True, None, time.monotonic()
        self._failed[member.stage] = 0

    def _lost(self, member: _Member, task: Task | None, error: RayError) -> None:
        """Has others do what a worker did that is gone; an outcome alone may be gone too."""
        told = not getattr(error, "preempted", False)
        if task is None and told:
            self._failed[member.stage] += 1
            if self._failed[member.stage] >= self._pools.losses:
                raise UserError(
                    f'workers of the stage "{member.stage}" do not start ({_last_line(error)}); all machines of the '
                    f"cluster need dsd {version('dsd')}, and room for its models"
                ) from error
        for left in member.running.values():
            self._losses[left.stage, left.number] += told
            if self._losses[left.stage, left.number] >= self._pools.losses:
                raise UserError(
                    f'unit {left.number} ended its worker {self._pools.losses} times at the stage "{left.stage}" '
                    f"({_last_line(error)}); give workers more memory, or a smaller unit_size"
                ) from error
            self._again[left.stage].append(left)
        self._dismiss(member)

    def _start_again(self, stage: str) -> None:
        while self._again[stage] and self.room(stage) + len(self._again[stage]) > 0:
            self.start(self._again[stage].popleft())

    def _fit(self, waiting: Mapping[str, int]) -> None:
        """Grows pools that units wait for, and shrinks those that have nothing to do."""
        self._fill()
        short = [stage for stage in self._stages if len(self._ready(stage)) < self._pools.of(stage).min_actors]
        for stage in self._stages:
            pool, there = self._pools.of(stage), self._of(stage)
            starting = sum(not member.ready for member in there)
            needed = waiting.get(stage, 0) + len(self._again[stage])
            if needed > 0 and not short and not starting and len(there) < pool.max_actors:
                self._hire(stage)
            elif len(there) > pool.min_actors and (spare := self._spare(there, needed, bool(short))):
                self._dismiss(spare)
            self._tell(stage)

    def _spare(self, there: list[_Member], needed: int, short: bool) -> _Member | None:
        """A worker that is not needed: idle for long, or, where other stages lack theirs, idle or not there yet."""
        for member in there:
            idle = not member.running and time.monotonic() - member.since >= (0 if short else self._pools.idle_seconds)
            if idle and (short or (member.ready and not needed)):
                return member
        return None

    def _tell(self, stage: str) -> None:
        """Says that a stage waits for a worker, and after long ends the run."""
        if self._ready(stage):
            self._without[stage] = time.monotonic()
            return
        waited, pool = time.monotonic() - self._without[stage], self._pools.of(stage)
        if waited < min(_TELL_SECONDS, self._pools.start_seconds):
            return
        has = ", ".join(f"{size:g} {name}" for name, size in ray.cluster_resources().items() if name in ("CPU", "GPU"))
        text = (
            f'no worker of the stage "{stage}" has started for {waited:.0f} s: it takes {pool}, the cluster has {has}'
        )
        if waited >= self._pools.start_seconds:
            raise UserError(f"{text}; add machines, or give less to a worker (--pools.{stage}.num-cpus)")
        if stage not in self._told:
            self._told.add(stage)
            console.print(f"{text}; waiting")

    def _fill(self) -> None:
        """Makes sure of the workers that are there in any case."""
        for stage in self._stages:
            while len(self._of(stage)) < self._pools.of(stage).min_actors:
                self._hire(stage)

    def _hire(self, stage: str) -> None:
        pool = self._pools.of(stage)
        threads = pool.threads or torch.get_num_threads()
        worker = _remote(pool, {"OMP_NUM_THREADS": str(threads), **self._environment})
        actor = worker.remote(stage, os.getcwd(), version("dsd"), threads)
        self._members.append(_Member(stage, actor, actor.take.remote(self._work, trying=self._trying)))

    def _dismiss(self, member: _Member) -> None:
        self._members.remove(member)
        with contextlib.suppress(RayError, ConnectionError):  # with the cluster it is gone anyway
            ray.kill(member.actor)

    def _of(self, stage: str) -> list[_Member]:
        return [member for member in self._members if member.stage == stage]

    def _ready(self, stage: str) -> list[_Member]:
        return [member for member in self._of(stage) if member.ready]

    def _size(self, stage: str) -> int:
        return len(self._ready(stage)) * self._pools.of(stage).at_once


def _remote(pool: Pool, environment: dict[str, str]) -> Any:
    return ray.remote(Worker).options(
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus,
        max_concurrency=pool.at_once,
        scheduling_strategy="SPREAD",
        runtime_env={"env_vars": environment},
    )


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return cut(lines[-1] if lines else type(error).__name__, 200)


@contextlib.contextmanager
def _cluster() -> Iterator[None]:
    """A block that says in a sentence that the cluster is gone."""
    try:
        yield
    except (ConnectionError, RaySystemError) as error:
        raise UserError(
            f"the cluster is gone ({cut(reason_of(error))}); start it, and run the same command again to go on"
        ) from error


def _speaks_grpc(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_CONNECT_SECONDS)
        except grpc.FutureTimeoutError:
            return False
    return True


def _connect(address: str) -> None:
    """Connects this process.

    Raises:
        UserError: nobody answers there, or not as a cluster that fits.
    """
    wrong = f'there is no cluster at "{address}"'
    fix = "start it with `ray start --head`, and give ray://HOST:10001, auto on a machine of it, or local"
    where = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    where = where.removeprefix("ray://")
    host, _, port = where.rpartition(":")
    if where not in ("", "auto", "local"):
        if not host or not port.isdecimal():
            raise UserError(f'"{address}" is no address of a cluster; give ray://HOST:PORT, auto or local')
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
        except OSError as error:
            raise UserError(f"{wrong} ({error.strerror or reason_of(error)}); {fix}") from error
        if not _speaks_grpc(where):  # Ray would wait for minutes
            raise UserError(f"{wrong} (something else answers there); {fix}")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_CLIENT_MAX_CONNECTION_TIMEOUT_S", "5")
    dashboard = False if address == "local" else None
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=dashboard)
    except (ConnectionError, RayError, RuntimeError, ValueError, OSError) as error:
        raise UserError(f"{wrong} ({_last_line(error)}); {fix}") from error
