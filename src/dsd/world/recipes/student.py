"""tiny-student: the pipeline's own product: captions curated and trained on as any user would, only longer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from dsd.backbones.adapter import LowRank, load_adapter, save_adapter
from dsd.curate.config import CurateConfig
from dsd.curate.pipeline import curate
from dsd.train import environment
from dsd.train.config import TrainConfig
from dsd.train.trainer import train
from dsd.world.captions import write_captions

_SPARE_CAPTIONS = 1.25  # near-duplicates are dropped
_FIRST_CAPTION = 1 << 20  # far from the demo's captions


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """How much of everything.

    Attributes:
        curate: phases 1 and 2; its captions are written by the recipe.
        train: phase 3.
    """

    curate: CurateConfig = field(default_factory=lambda: CurateConfig(units=40))
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=1600, ema_decay=0.995, held_out=8, sample_every=400)
    )


def write_world_captions(path: Path, config: CurateConfig, first: int = 0) -> None:
    """Captions enough for a curation, near-duplicates allowed for."""
    write_captions(path, "training", int(config.units * config.unit_size * _SPARE_CAPTIONS), first)


def train_student(run: Path, out: Path, *, steps: int | None = None, config: StudentConfig | None = None) -> None:
    """Curates a dataset with the embedded models and trains the shipped student on it; re-running resumes.

    Args:
        run: gets ``captions.parquet``, ``dataset/`` and ``train/``.
        out: the adapter's folder, in float16, with a card.
        steps: of training; the config's when absent.
        config: everything else.
    """
    config = config or StudentConfig()
    settings = config.train if steps is None else dataclasses.replace(config.train, steps=steps)
    captions = run / "captions.parquet"
    if not captions.exists():
        write_world_captions(captions, config.curate, _FIRST_CAPTION)
    funnel = curate(dataclasses.replace(config.curate, captions=str(captions)), run / "dataset")
    adapter = train(settings, run / "dataset", run / "train")
    updates, metadata = load_adapter(adapter)
    save_adapter(out, {name: _half(update) for name, update in updates.items()}, metadata)
    (out / "README.md").write_text(
        "# tiny student\n\nA two-frame adapter of `embedded:tiny-flux`, made by `dsd world train student`: "
        f"{funnel.pairs} pairs that the teacher drew and tiny-vlm judged, {settings.steps} steps of "
        f"{settings.batch_size}, at commit {environment.commit()}. Its measured quality stands in the demo's table as "
        "`shipped-student`.\n"
    )


def _half(update: LowRank) -> LowRank:
    bias = None if update.bias is None else update.bias.half()
    return LowRank(update.down.half(), update.up.half(), bias)
