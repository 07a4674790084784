"""Measures what a curation does beside its models: pairs a second, memory, and how workers add up.

    python benchmarks/curate.py                      # 64 units of instant models
    python benchmarks/curate.py --pairs 100000       # memory over a long run
    python benchmarks/curate.py --seconds 0.5 --workers 1 2 4    # models that only wait
    python benchmarks/curate.py --embedded           # the share of time outside the embedded models

Pictures, replies and files are real; only the models are not.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import instant
import psutil

from dsd.chat.local import LocalChat
from dsd.curate.config import CurateConfig
from dsd.curate.executors.local import Local
from dsd.curate.executors.protocol import Executor
from dsd.curate.funnel import Funnel
from dsd.curate.grids import Teacher
from dsd.curate.models import Models
from dsd.curate.pipeline import curate
from dsd_world.captions import write_captions
from dsd_world.recipe import tiny

PAIRS_A_CAPTION = 6
"""Half of six candidates, in both orders."""


def main() -> None:
    """Runs what was asked for."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--pairs", type=int, default=6000, help="about how many pairs to make")
    asked.add_argument("--unit-size", type=int, default=16)
    asked.add_argument("--panel-size", type=int, default=64)
    asked.add_argument("--seconds", type=float, default=0.0, help="that each model waits for a unit's questions")
    asked.add_argument("--workers", type=int, nargs="+", default=[1])
    asked.add_argument("--embedded", action="store_true", help="the embedded models in place of instant ones")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if given.embedded:
            embedded(Path(scratch), given.unit_size)
            return
        units = max(1, given.pairs // (PAIRS_A_CAPTION * given.unit_size))
        config = instant.config(
            _captions(Path(scratch), units * given.unit_size),
            units=units, unit_size=given.unit_size, panel_size=given.panel_size,
        )  # fmt: skip
        first = None
        for workers in given.workers:
            rate = measure(config, Path(scratch) / str(workers), workers, given.seconds)
            first = first or rate
            print(f"workers {workers}: {rate:.0f} pairs/s, {rate / first:.2f} x the first", flush=True)


def measure(config: CurateConfig, out: Path, workers: int, seconds: float) -> float:
    """Curates with instant models; returns pairs a second, once every worker has a unit behind it."""
    models = instant.InstantModels(config, seconds=seconds)
    _ = models.teacher, models.chat, models.judge
    timed = _Timed(Local(workers))
    with Watch() as watch:
        began = time.perf_counter()
        funnel = curate(config, out, timed, models)
        whole = time.perf_counter() - began
    print(
        f"{funnel.pairs:,} pairs in {timed.seconds:.1f} s, {timed.cpu:.1f} s of CPU ({whole - timed.seconds:.1f} s "
        f"before and after), {watch.peak / 2**20:.0f} MiB at most, {watch.grown / 2**20:+.0f} MiB in the second half, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    first, last = timed.records[0], timed.records[-1]
    return funnel.pairs * (1 - workers / len(timed.records)) / (last - first)


class _Timed:
    """An executor whose run is timed.

    Attributes:
        records: when each came, in seconds.
        seconds: that all of it took.
        cpu: seconds of this process in that time.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.sources = executor.sources
        self.records: list[float] = []
        self.seconds = self.cpu = 0.0

    def run(self, work: Any) -> Any:
        began, used = time.perf_counter(), time.process_time()
        for record in self._executor.run(work):
            self.records.append(time.perf_counter())
            yield record
        self.seconds, self.cpu = time.perf_counter() - began, time.process_time() - used


class Watch:
    """The resident memory of this process over time, in bytes."""

    def __enter__(self) -> Watch:
        self._seen: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        half = len(self._seen) // 2
        self.peak = max(self._seen)
        self.grown = max(self._seen[half:]) - max(self._seen[:half] or self._seen)

    def _look(self) -> None:
        process = psutil.Process()
        while True:
            self._seen.append(process.memory_info().rss)
            if self._over.wait(0.2):
                return


def embedded(scratch: Path, unit_size: int) -> Funnel:
    """Curates a few units with the embedded models, and says how long nobody of them computed."""
    config = replace(tiny().curate, captions=_captions(scratch, 6 * unit_size), units=6, unit_size=unit_size)
    spent: dict[str, float] = defaultdict(float)
    for owner, name in ((LocalChat, "reply"), (Teacher, "draw")):
        setattr(owner, name, _counted(getattr(owner, name), spent))
    executor = _Timed(Local())
    models = Models(config)
    _ = models.teacher, models.chat, models.judge
    funnel = curate(config, scratch / "embedded", executor, models)
    inside = sum(spent.values())
    print(", ".join(f"{name} {seconds:.2f} s" for name, seconds in spent.items()))
    print(f"units: {executor.seconds:.2f} s, of which outside of models: {1 - inside / executor.seconds:.1%}")
    return funnel


def _counted(call: Callable[..., Any], spent: dict[str, float]) -> Callable[..., Any]:
    def counted(*arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            spent[call.__qualname__] += time.perf_counter() - began

    return counted


def _captions(folder: Path, count: int) -> str:
    path = folder / "captions.parquet"
    write_captions(path, "training", 2 * count)
    return str(path)


if __name__ == "__main__":
    main()
