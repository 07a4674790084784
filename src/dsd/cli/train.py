"""`dsd train RECIPE`: a dataset of pairs becomes a two-frame adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dsd.errors import UserError
from dsd.recipes.registry import all_recipes
from dsd.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Train:
    """Fine-tunes a text-to-image model into a two-frame model. Run the same command again to resume."""

    data: Path
    """Dataset folder, as `dsd curate` writes it."""
    out: Path
    """Run folder: config, metrics, checkpoints, samples, and the finished adapter."""
    train: TrainConfig
    """Settings of the training."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""


def variants() -> dict[str, tuple[str, Train]]:
    return {
        name: (
            recipe.summary,
            Train(data=Path("runs") / name / "dataset", out=Path("runs") / name / "train", train=recipe.train),
        )
        for name, recipe in all_recipes().items()
    }


def plan(command: Train) -> list[str]:
    config = command.train
    targets = config.lora_targets if isinstance(config.lora_targets, str) else ", ".join(config.lora_targets)
    what = "all weights" if config.full else f"a LoRA of rank {config.rank} ({targets})"
    sentences = [
        f"read the pairs of {command.data}" + ("" if command.data.is_dir() else " (not there yet)"),
        f"encode pictures and captions once with {config.base} and keep the latents",
        f"train {what} for {config.steps:,} steps of {config.batch_size} pairs with {config.optimizer} at "
        f"{config.learning_rate:g}, the reference frame weighing {config.reference_weight:g} in the loss",
        f"write a checkpoint each {config.checkpoint_every:,} and a sample sheet each {config.sample_every:,} steps",
        f"write the adapter to {command.out / 'adapter'}",
    ]
    if config.full:
        sentences[-1] = f"write the whole transformer to {command.out / 'adapter' / 'transformer'}"
    return sentences


def run(command: Train) -> None:
    if not command.data.is_dir():
        raise UserError(f'no dataset at "{command.data}"; give --data a folder that `dsd curate` wrote')
    from dsd.train.trainer import train

    train(command.train, command.data, command.out)
