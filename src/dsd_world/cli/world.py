"""draw the embedded world, or train its models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from dsd.limits import require_within


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Draws individuals of the world as PNG files, with all that is known of them in metadata.jsonl."""

    count: int = 16
    """How many individuals (with --sheets: how many sheets; with --pairs: how many pairs)."""
    split: Literal["training", "validation", "evaluation"] = "training"
    """The splits share no individual."""
    sheets: bool = False
    """Draw 2x2 sheets, about a third of them with drifting panels, in place of single panels."""
    pairs: bool = False
    """Draw pairs whose captions say the same, half of them of one individual and half of two, with the truth: what
    `dsd curate calibrate` reads."""
    maps: bool = False
    """Write depth and light maps beside the panels."""
    out: Path = Path("runs/world")
    """Folder to write."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""


@dataclass(frozen=True, kw_only=True)
class TrainModel:
    """Trains one of the embedded models. Run the same command again to resume."""

    name: tyro.conf.Positional[str]
    """autoencoder, vlm, teacher, judge (vlm once more, on what the teacher draws), dino, clip, student (made by
    curation and training from the others), all of these in this order, or ceiling (a student of perfect drawn pairs, to
    compare with)."""
    steps: int | None = None
    """Optimizer steps in all."""
    hours: float | None = None
    """Instead of steps: how long it may take."""
    start: str | None = None
    """A finished model to go on from: embedded:tiny-flux or a folder for autoencoder (its decoder only) and teacher."""
    out: Path | None = None
    """Run folder; runs/world/NAME when left out. The finished model goes to its folder `model`; with `all` each model
    has a folder of its own in it."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""

    def __post_init__(self) -> None:
        if self.steps is not None:
            require_within("steps", self.steps, 1)
        if self.hours is not None:
            require_within("hours", self.hours, 0, above=True)


def variants() -> dict[str, tuple[str, Draw | TrainModel]]:
    return {
        "draw": ("draw individuals of a split as PNG files with metadata", Draw()),
        "train": ("train one of the embedded models", TrainModel(name=tyro.MISSING)),
    }


def plan(command: Draw | TrainModel) -> list[str]:
    if isinstance(command, Draw):
        what = "sheets of 2x2 panels" if command.sheets else "labelled pairs" if command.pairs else "individuals"
        return [f"draw {command.count} {what} of the {command.split} split into {command.out}"]
    length = f"{command.steps} steps" if command.steps else f"{command.hours} hours" if command.hours else "a budget"
    budget = "" if command.steps or command.hours else " (give --steps or --hours)"
    start = f", going on from {command.start}," if command.start else ""
    what = "all embedded models, in order," if command.name == "all" else f"the embedded {command.name}"
    return [f"train {what}{start} for {length}{budget} in {_run_folder(command)}"]


def run(command: Draw | TrainModel) -> None:
    if isinstance(command, Draw):
        from dsd_world.export import draw_to_folder

        draw_to_folder(
            command.out,
            count=command.count,
            split=command.split,
            sheets=command.sheets,
            pairs=command.pairs,
            maps=command.maps,
        )
        return
    from dsd_world.training import train_model

    train_model(command.name, steps=command.steps, hours=command.hours, run=_run_folder(command), start=command.start)


def _run_folder(command: TrainModel) -> Path:
    if command.out is not None:
        return command.out
    return Path("runs/world") / ("" if command.name == "all" else command.name)
