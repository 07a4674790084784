"""Measures how workers of a Ray cluster add up where models only wait: drawn sheets are judged by a slow server.

    python benchmarks/cluster_workers.py --workers 1 2

The cluster has two nodes on this machine. Figures are units a second between the first few units and the last one, so
that how long processes start does not count.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
sys.path.append(str(Path(__file__).parents[1] / "tests"))

import curation_parts as parts
from chat_server import ChatServer, chat_server
from cluster_parts import two_nodes

from dsd.curate.config import CurateConfig
from dsd.curate.executors.pools import Pool, Pools
from dsd.curate.executors.ray import Ray
from dsd.curate.pipeline import curate
from dsd_world.captions import write_captions

FIRST = 8
"""Units that do not count."""


def main() -> None:
    """Runs what was asked for."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    asked.add_argument("--seconds", type=float, default=1.0, help="that the server takes for an answer")
    asked.add_argument("--units", type=int, default=32)
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder, chat_server() as server:
        scratch = Path(folder)
        write_captions(scratch / "captions.parquet", "training", 2 * given.units)
        config = parts.config(
            str(scratch / "captions.parquet"), f"openai:test@{server.url}", units=given.units, unit_size=1
        )
        curate(config, scratch / "drawn")
        _slow(server, given.seconds)
        again, first = replace(config, sheets_from=str(scratch / "drawn")), 0.0
        with two_nodes():
            for workers in given.workers:
                rate = measure(again, scratch / str(workers), workers)
                first = first or rate
                print(f"workers {workers}: {rate:.2f} units/s, {rate / first:.2f} x the first", flush=True)


def measure(config: CurateConfig, out: Path, workers: int) -> float:
    """Judges; returns units a second."""
    pools = Pools(judge=Pool(num_cpus=0.5, min_actors=workers, max_actors=workers, at_once=1))
    with Ray("auto", pools, {"PYTHONPATH": os.pathsep.join(sys.path)}) as executor:
        curate(config, out, executor)
    ended = sorted(path.stat().st_mtime for path in out.glob("units/0*.json"))[FIRST - 1 :]
    return (len(ended) - 1) / (ended[-1] - ended[0])


def _slow(server: ChatServer, seconds: float) -> None:
    """Has a server wait before it answers."""
    handler: Any = server.RequestHandlerClass
    quick = handler._answer

    def late(self: Any, body: dict[str, Any]) -> dict[str, Any]:
        time.sleep(seconds)
        return quick(self, body)

    handler._answer = late


if __name__ == "__main__":
    main()
