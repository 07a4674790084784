"""`dsd demo`: the whole loop on the embedded models, from captions to a report."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from dsd import runs
from dsd.locks import held
from dsd.log import console, duration
from dsd.runs import Ledger
from dsd.train.loop import flushed_denormals
from dsd_world import demo_stages
from dsd_world.demo_config import DemoConfig


class Stages:
    """Which stages of a demo are finished and how long each took.

    A stage that was interrupted keeps the seconds spent so far, unless it was killed outright.

    Args:
        folder: of their records.
    """

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder)
        self.seconds: dict[str, float] = {}

    def run(self, name: str, work: Callable[[], object]) -> None:
        """Does a stage unless an earlier start finished it."""
        before, finished = self.ledger.find(name, lambda content: (content["seconds"], content["finished"])) or (
            0.0,
            False,
        )
        self.seconds[name] = before
        if finished:
            console.print(f"{name}: finished earlier in {duration(before)}")
            return
        started = time.monotonic()
        try:
            work()
            finished = True
        finally:
            self.seconds[name] = round(before + time.monotonic() - started, 2)
            self.ledger.commit(name, {"seconds": self.seconds[name], "finished": finished})
        console.print(f"{name}: finished in {duration(self.seconds[name])}")


def demo(config: DemoConfig, out: Path) -> Path:
    """Runs the whole loop, or what of it an earlier start left undone.

    Args:
        config: settings; the same for every start.
        out: gets ``captions.parquet``, ``dataset/``, ``train/``, ``evaluation/``, ``summary.json`` and
            ``report/index.html``.

    Returns:
        The report's path.

    Raises:
        UserError: the folder holds a demo with other settings, or the weights of the embedded models are missing.
    """
    runs.claim(out, config, what="a demo", exactly=True)
    stages = Stages(out / "stages")
    with held(out, "a demo"), flushed_denormals():
        stages.run("captions", lambda: demo_stages.write_captions(config, out))
        stages.run("curate", lambda: demo_stages.curate_pairs(config, out))
        stages.run("train", lambda: demo_stages.train_student(config, out))
        stages.run("generate", lambda: demo_stages.draw_pictures(config, out))
        stages.run("evaluate", lambda: demo_stages.measure(config, out))
        stages.run("report", lambda: demo_stages.write_report(config, out, dict(stages.seconds)))
    demo_stages.write_summary(out, stages.seconds)
    return out / "report" / "index.html"
