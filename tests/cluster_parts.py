"""A Ray cluster of two nodes on this machine, and small workers for it; to be imported before ray is."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from dsd.curate.executors.pools import Pool, Pools

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20}
_SMALL = Pool(num_cpus=0.3, max_actors=1)
POOLS = Pools(write=_SMALL, draw=_SMALL, judge=_SMALL)
"""One worker a stage, all of which a node has room for."""


class CountsThreads:
    """A `Work` of one unit, whose record is how many threads pictures are computed with where it is done."""

    stages = ("draw",)

    def __len__(self) -> int:
        return 1

    def waits(self, stage: str) -> bool:
        return False

    def sources(self, stage: str, *, trying: bool) -> dict[str, str]:
        return {}

    def for_others(self) -> CountsThreads:
        return self

    def like(self, before: object) -> CountsThreads:
        return self

    def find(self, stage: str, number: int) -> None:
        return None

    def do(self, stage: str, number: int, given: object) -> int:
        return torch.get_num_threads()


def environment() -> dict[str, str]:
    """That of workers which import what the tests do."""
    return {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"}


@contextmanager
def two_nodes(*, connected: bool = True) -> Iterator[Cluster]:
    """Runs the cluster until the block ends.

    Args:
        connected: whether this process is a driver of it.
    """
    import ray
    from ray.cluster_utils import Cluster

    running = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    running.add_node(**NODE)
    if connected:
        running.connect()
    try:
        yield running
    finally:
        ray.shutdown()
        running.shutdown()
