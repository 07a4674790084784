"""`dsd train RECIPE`: a dataset of pairs becomes a two-frame adapter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dsd.data.own import Columns
from dsd.data.sources import open_source
from dsd.files import require_apart
from dsd.models import resolve
from dsd.places import Place
from dsd.recipes.registry import all_recipes
from dsd.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Train:
    """Fine-tunes a text-to-image model into a two-frame model, and prints the adapter's folder.

    Run the same command again to resume.
    """

    data: str
    """What to train on: a dataset folder, as `dsd curate` writes it, or its address (s3://...); a folder of pictures
    with metadata.jsonl or metadata.csv; a dataset of the `datasets` library (folder, .parquet or hub id); or a
    webdataset (.tar or a folder of them)."""
    columns: Columns = Columns()
    """Names of the columns of such own data."""
    skip_bad_rows: bool = False
    """Leave out rows of own data that cannot be used, and say how many."""
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
            Train(data=str(Path("runs") / name / "dataset"), out=Path("runs") / name / "train", train=recipe.train),
        )
        for name, recipe in all_recipes().items()
    }


def plan(command: Train) -> list[str]:
    config = command.train
    targets = config.lora_targets if isinstance(config.lora_targets, str) else ", ".join(config.lora_targets)
    what = "all weights" if config.full else f"a LoRA of rank {config.rank} ({targets})"
    loss = f"the reference frame weighing {config.reference_weight:g} in the loss"
    if config.flavour == "cached":
        loss = "the reference being seen by its cached keys and values and having no loss"
    if config.base_precision != "full":
        what += f" on a base in {config.base_precision}"
    if config.offload != "none":
        what += ", blocks streamed from the CPU's memory,"
    sentences = [
        f"read the examples of {command.data}" + ("" if Path(command.data).exists() else " (not there yet)"),
        f"encode pictures and captions once with {config.base} and keep the latents",
        f"train {what} for {config.steps:,} steps of {config.batch_size} pairs with {config.optimizer} at "
        f"{config.learning_rate:g}, {loss}",
        f"write a checkpoint each {config.checkpoint_every:,} and a sample sheet each {config.sample_every:,} steps",
        f"write the adapter to {command.out / 'adapter'}",
    ]
    if config.full:
        sentences[-1] = f"write the whole transformer to {command.out / 'adapter' / 'transformer'}"
    return sentences


def run(command: Train) -> None:
    with _as_one():
        Place.of(command.out).require_apart(Place.of(command.data), "the data")
        require_apart(command.out, Path(resolve(command.train.base)), "the base's folder")
        source = open_source(command.data, command.columns, skip_bad_rows=command.skip_bad_rows)
    from accelerate import PartialState

    from dsd.log import quiet_libraries
    from dsd.train.trainer import train

    quiet_libraries()
    adapter = train(command.train, source, command.out)
    if PartialState().is_main_process:
        print(adapter)


@contextmanager
def _as_one() -> Iterator[None]:
    """Of several processes that a launcher started, one says what is wrong, and all end; one alone needs no torch."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    from dsd.train.parallel import one_voice
    from dsd.train.stopping import together
    from dsd.train.trainer import joined

    joined()
    with one_voice(), together():
        yield
