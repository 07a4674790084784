"""How many workers of a cluster each stage has, and of what size."""

from __future__ import annotations

from dataclasses import dataclass, field

from dsd.errors import UserError
from dsd.limits import require_within


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The workers of a stage, each a process somewhere in the cluster.

    Attributes:
        min_actors: workers that are there as long as the stage has work.
        max_actors: as many at most while units wait for the stage.
        num_cpus: cores that a worker takes up.
        threads: that it computes with; 0 for as many as the process that started the run would compute with, so that
            pictures drawn on CPUs are those of a run without a cluster, whose last bits depend on it.
        num_gpus: GPUs that it takes up; parts of one are possible.
        at_once: units in work at once in a worker. Models that compute in it take turns, so two keep it busy while
            files are written; a worker that waits for a server may have many.
    """

    min_actors: int = 1
    max_actors: int = 8
    num_cpus: float = 1.0
    threads: int = 0
    num_gpus: float = 0.0
    at_once: int = 2

    def __post_init__(self) -> None:
        for name in ("min_actors", "at_once"):
            require_within(name, getattr(self, name), 1)
        if self.max_actors < self.min_actors:
            raise UserError(f"max_actors is {self.max_actors}, but must be at least min_actors, {self.min_actors}")
        if self.threads < 0:
            raise UserError(f"threads is {self.threads}, but must be 0 (as many as where the run was started) or more")
        for name in ("num_cpus", "num_gpus"):
            require_within(name, getattr(self, name), 0)

    def __str__(self) -> str:
        gpus = f" and {self.num_gpus:g} GPU" if self.num_gpus else ""
        return f"{self.num_cpus:g} CPU{gpus}"


@dataclass(frozen=True, kw_only=True)
class Pools:
    """The workers of a curation on a cluster.

    Attributes:
        write: of the prompt writer.
        draw: of the teacher.
        judge: of the judge.
        idle_seconds: after which a worker that has nothing to do is given back, down to min_actors.
        start_seconds: after which a stage without any worker ends the run.
        losses: workers that one unit may lose before it is held to be the cause. Nodes that are taken away by notice
            do not count.
    """

    write: Pool = field(default_factory=lambda: Pool(num_cpus=0.5, at_once=4))
    draw: Pool = field(default_factory=Pool)
    judge: Pool = field(default_factory=lambda: Pool(num_cpus=0.5, at_once=4))
    idle_seconds: float = 60.0
    start_seconds: float = 900.0
    losses: int = 5

    def __post_init__(self) -> None:
        require_within("idle_seconds", self.idle_seconds, 0)
        require_within("start_seconds", self.start_seconds, 0, above=True)
        require_within("losses", self.losses, 1)

    def of(self, stage: str) -> Pool:
        """The workers of a stage; stages of other names have the default ones."""
        return getattr(self, stage, None) or Pool()
