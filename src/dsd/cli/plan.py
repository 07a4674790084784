"""`dsd plan RECIPE`: what a training run needs in memory, time and disk, before any of it is spent.

`dsd plan curate RECIPE` plans the curation before it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from dsd.cli import plan_curate
from dsd.curate.cost import PAIRS_OF_A_CAPTION
from dsd.curate.estimate import bytes_in_words
from dsd.recipes.recipe import Recipe
from dsd.recipes.registry import all_recipes
from dsd.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Counts the real model's layers and estimates a training run."""

    train: TrainConfig
    """Settings of the training."""
    devices: int = 1
    """How many accelerators share the batch."""
    tflops: float
    """Peak of one device in 10^12 operations a second (an H100 in bfloat16: 989)."""
    utilization: float = 0.4
    """The share of the peak that training reaches."""
    frame: tuple[int, int] | None = None
    """(height, width) of a frame in pixels; the recipe's when left out."""
    pairs: int
    """How many pairs the cache of latents and texts holds."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""


def variants() -> dict[str, tuple[str, Any]]:
    recipes = all_recipes().items()
    return {
        **{name: (recipe.summary, _of(recipe)) for name, recipe in recipes},
        **{
            f"curate {name}": (f"its curation: {recipe.summary}", plan_curate.of(name, recipe))
            for name, recipe in recipes
        },
    }


def _of(recipe: Recipe) -> Plan:
    pairs = PAIRS_OF_A_CAPTION * recipe.curate.units * recipe.curate.unit_size
    return Plan(train=recipe.train, frame=_frame(recipe.train), tflops=recipe.tflops, pairs=pairs)


def plan(command: Any) -> list[str]:
    if not isinstance(command, Plan):
        return plan_curate.plan(command)
    return [
        f"build {command.train.base} on the meta device from its configs (no weights are read)",
        f"count memory, time and disk of {command.train.steps:,} steps on {command.devices} device(s) of "
        f"{command.tflops:g} TFLOP/s",
    ]


def run(command: Any) -> None:
    if not isinstance(command, Plan):
        plan_curate.run(command)
        return
    from dsd.backbones.cost import shape_of
    from dsd.log import duration
    from dsd.train.cost import training_cost

    config = command.train
    shape = shape_of(config.base)
    model = [
        ("transformer", f"{shape.parameters / 1e6:,.1f} M parameters"),
        ("text encoders", f"{shape.text_parameters / 1e6:,.1f} M parameters (needed once, for the cache)"),
        ("autoencoder", f"{shape.vae_parameters / 1e6:,.1f} M parameters (needed once, for the cache)"),
    ]
    cost = training_cost(config, shape, frame=command.frame or _frame(config), devices=command.devices)
    seconds = cost.operations / (command.devices * command.tflops * 1e12 * command.utilization)
    rows = [
        *model,
        ("trained", f"{cost.trained_parameters / 1e6:,.1f} M parameters"),
        *((f"memory: {name}", bytes_in_words(value)) for name, value in cost.memory.items()),
        ("memory of a device", bytes_in_words(sum(cost.memory.values()))),
        ("cache", f"{bytes_in_words(cost.cache * command.pairs / 1000)} at most for {command.pairs:,} pairs"),
        ("arithmetic", f"{cost.operations:.3g} operations"),
        ("time", f"{duration(seconds)} on {command.devices} device(s)"),
    ]
    for name, value in rows:
        print(f"{name:<46} {value}")
    print("estimates; activations are a rule of thumb", file=sys.stderr)


def _frame(config: TrainConfig) -> tuple[int, int]:
    return config.frame_size or (64, 64)
