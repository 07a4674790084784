"""Where a run's figures and sample sheets are shown while it goes on: TensorBoard, Weights & Biases.

Both are accelerate's; here is only what a run tells them, that a run which is started again tells nothing twice, and
that a tracker which cannot write, on a full disk say, is given up and the run goes on.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import TensorBoardTracker, WandBTracker
from PIL import Image

from dsd.config import to_json
from dsd.errors import UserError, cut, reason_of
from dsd.files import make_folder
from dsd.log import console
from dsd.train.config import TrackerName
from dsd.train.meter import SPEED


class Trackers:
    """Those of one run.

    Args:
        names: of the trackers.
        folder: of the run; TensorBoard's files go to ``tensorboard/`` in it, those of Weights & Biases to ``wandb/``.
        config: settings of the run, which are shown too.
        done: finished steps; what was told of later ones, before the run was killed, is taken back where the tracker
            can.

    Raises:
        UserError: one of them is not installed, or cannot start.
    """

    def __init__(self, names: Sequence[TrackerName], folder: Path, config: Any, done: int) -> None:
        self._trackers: list[TensorBoardTracker | WandBTracker] = []
        self._before = threading.excepthook
        for name in names:
            if find_spec(name) is None:
                raise UserError(
                    f"train.trackers names {name}, which is not installed; `pip install {name}`, or leave it out"
                )
        threading.excepthook = self._heard
        try:
            for name in names:
                with _given_up(name):
                    self._trackers.append(_STARTS[name](folder, config, done))
        except BaseException:
            threading.excepthook = self._before
            raise

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Tells the figures of a step."""
        named = {_grouped(name): value for name, value in figures.items()}
        self._each(lambda tracker: tracker.log(named, step=step))

    def show(self, step: int, name: str, picture: Image.Image) -> None:
        """Shows a picture, such as a sample sheet."""

        def show(tracker: TensorBoardTracker | WandBTracker) -> None:
            if isinstance(tracker, WandBTracker):
                tracker.log_images({name: [picture]}, step=step)
            else:
                tracker.log_images({name: np.asarray(picture.convert("RGB"))[None]}, step=step, dataformats="NHWC")
                tracker.writer.flush()

        self._each(show)

    def close(self) -> None:
        """Writes what is left."""
        self._each(lambda tracker: tracker.finish())
        self._trackers = []
        threading.excepthook = self._before

    def _each(self, work: Callable[[TensorBoardTracker | WandBTracker], None]) -> None:
        kept = []
        for tracker in self._trackers:
            with _given_up(tracker.name):
                work(tracker)
                kept.append(tracker)
        self._trackers = kept

    def _heard(self, what: threading.ExceptHookArgs) -> None:
        """TensorBoard's thread raises what it cannot write; that is told by `_each`, to which it hands it."""
        if not (isinstance(what.exc_value, OSError) and type(what.thread).__module__.startswith("tensorboard.")):
            self._before(what)


@contextmanager
def _given_up(name: str) -> Iterator[None]:
    """Says that a tracker cannot write, where that is so."""
    try:
        yield
    except OSError as error:
        console.print(f"warning: {name} shows no more of this run ({reason_of(error)}); the run goes on")


def _tensorboard(folder: Path, config: Any, done: int) -> TensorBoardTracker:
    place = make_folder(folder / "tensorboard")
    tracker = TensorBoardTracker("", place, purge_step=done + 1)
    tracker.start()
    tracker.writer.add_text("config", f"```\n{to_json(config)}```", done)
    return tracker


def _wandb(folder: Path, config: Any, done: int) -> WandBTracker:
    wandb: Any = import_module("wandb")
    whole = folder.resolve()
    same = hashlib.sha256(f"{socket.gethostname()} {whole}".encode()).hexdigest()[:16]
    tracker = WandBTracker("dsd", dir=make_folder(folder), id=same, name=whole.name, resume="allow")
    try:
        tracker.start()
        tracker.store_init_configuration(json.loads(to_json(config)))
    except (wandb.Error, OSError) as error:
        raise UserError(
            f"wandb does not start ({cut(reason_of(error))}); mend that, set WANDB_MODE=offline, or leave it out of "
            "train.trackers"
        ) from error
    return tracker


_STARTS: dict[TrackerName, Callable[[Path, Any, int], TensorBoardTracker | WandBTracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}


def _grouped(name: str) -> str:
    """Held-out figures, speed and losses each in a group of their own."""
    for group, prefix in (("held out", "held_out_"), ("speed", SPEED)):
        if name.startswith(prefix):
            return f"{group}/{name.removeprefix(prefix)}"
    return f"training/{name}"
