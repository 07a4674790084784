"""Where a run's figures and sample sheets are shown while it goes on: TensorBoard, Weights & Biases.

Both are accelerate's; here is only what a run tells them, and that a run which is started again tells nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Callable, Mapping, Sequence
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
        for name in names:
            if find_spec(name) is None:
                raise UserError(
                    f"train.trackers names {name}, which is not installed; `pip install {name}`, or leave it out"
                )
        for name in names:
            self._trackers.append(_STARTS[name](folder, config, done))

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Tells the figures of a step."""
        for tracker in self._trackers:
            tracker.log({_grouped(name): value for name, value in figures.items()}, step=step)

    def show(self, step: int, name: str, picture: Image.Image) -> None:
        """Shows a picture, such as a sample sheet."""
        for tracker in self._trackers:
            if isinstance(tracker, WandBTracker):
                tracker.log_images({name: [picture]}, step=step)
            else:
                tracker.log_images({name: np.asarray(picture.convert("RGB"))[None]}, step=step, dataformats="NHWC")

    def close(self) -> None:
        """Writes what is left."""
        for tracker in self._trackers:
            tracker.finish()
        self._trackers = []


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
