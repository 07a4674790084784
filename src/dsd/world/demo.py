"""`dsd demo`: the whole loop on the embedded models, from captions to a report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dsd.config import from_json, to_json
from dsd.errors import UserError
from dsd.files import make_folder, write_atomic
from dsd.log import console, duration
from dsd.train.loop import flushed_denormals
from dsd.world import demo_stages
from dsd.world.demo_config import DemoConfig


class Stages:
    """Which stages of a demo are finished and how long each took, kept in ``stages.json``.

    A stage that was interrupted keeps the seconds spent so far, unless it was killed outright.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        found = json.loads(path.read_text()) if path.exists() else {}
        self.seconds: dict[str, float] = found.get("seconds", {})
        self.finished: list[str] = found.get("finished", [])

    def run(self, name: str, work: Callable[[], object]) -> None:
        """Does a stage unless an earlier start finished it."""
        if name in self.finished:
            console.print(f"{name}: finished earlier in {duration(self.seconds[name])}")
            return
        with self._timed(name):
            work()
        self.finished.append(name)
        self._keep()
        console.print(f"{name}: finished in {duration(self.seconds[name])}")

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        before, started = self.seconds.get(name, 0.0), time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(before + time.monotonic() - started, 2)
            self._keep()

    def _keep(self) -> None:
        write_atomic(self.path, json.dumps({"seconds": self.seconds, "finished": self.finished}, indent=2) + "\n")


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
    _claim(config, out)
    stages = Stages(out / "stages.json")
    with flushed_denormals():
        stages.run("captions", lambda: demo_stages.write_captions(config, out))
        stages.run("curate", lambda: demo_stages.curate_pairs(config, out))
        stages.run("train", lambda: demo_stages.train_student(config, out))
        stages.run("generate", lambda: demo_stages.draw_pictures(config, out))
        stages.run("evaluate", lambda: demo_stages.measure(config, out))
        stages.run("report", lambda: demo_stages.write_report(config, out, dict(stages.seconds)))
    demo_stages.write_summary(out, stages.seconds)
    return out / "report" / "index.html"


def _claim(config: DemoConfig, out: Path) -> None:
    """Takes a folder for a demo, or finds that it holds this one."""
    path = make_folder(out) / "config.json"
    if not path.exists():
        write_atomic(path, to_json(config))
    elif from_json(DemoConfig, path.read_text()) != config:
        raise UserError(f'"{out}" holds a demo with other settings; give the same ones to go on, or another --out')
