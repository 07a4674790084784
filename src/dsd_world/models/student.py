"""tiny-student: the pipeline's own product: captions curated and trained on as any user would, only longer.

Beside it the ceiling, which no pipeline can have: the same training on pairs that the world draws.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dsd.backbones.adapter import LowRank, load_adapter, save_adapter
from dsd.curate.config import CurateConfig
from dsd.curate.pipeline import curate
from dsd.train import environment
from dsd.train.config import TrainConfig
from dsd.train.trainer import train
from dsd_world.budget import Budget, kept_budget
from dsd_world.captions import write_captions
from dsd_world.drawn_pairs import DrawnPair, drawn_pairs
from dsd_world.models.siblings import beside
from dsd_world.student_config import StudentConfig

BASE = "embedded:tiny-flux"
_SPARE_CAPTIONS = 1.25  # near-duplicates are dropped
FIRST_CAPTION = 1 << 20
"""Number of the first individual whose caption is taken; far from the demo's."""
_MEASURED_STEPS = 10


def write_world_captions(path: Path, config: CurateConfig, first: int = 0) -> None:
    """Captions enough for a curation, near-duplicates allowed for."""
    write_captions(path, "training", int(config.units * config.unit_size * _SPARE_CAPTIONS), first)


def train_student(
    run: Path, out: Path, *, steps: int | None = None, hours: float | None = None, config: StudentConfig | None = None
) -> None:
    """Curates a dataset and trains the shipped student on it; re-running resumes.

    Teacher and judge come from the runs beside this one, else from the package.

    Args:
        run: gets ``captions.parquet``, ``dataset/`` and ``train/``.
        out: the adapter's folder, in float16, with a card. It names ``embedded:tiny-flux`` as its base, and by a hash
            the very weights.
        steps: of training; or
        hours: that curation and training may take; the config's steps when both are absent.
        config: everything else.
    """
    started = time.perf_counter()
    config = _with_trained_models(config or StudentConfig(), run)
    captions = run / "captions.parquet"
    if not captions.exists():
        write_world_captions(captions, config.curate, FIRST_CAPTION)
    funnel = curate(dataclasses.replace(config.curate, captions=str(captions)), run / "dataset")
    left = None if hours is None else hours * 3600 - (time.perf_counter() - started)
    settings = _train(config.train, run / "dataset", run, out, steps, left)
    pairs = f"{funnel.pairs} pairs that the teacher drew and tiny-vlm judged"
    quality = "Its measured quality stands in the demo's table as `shipped-student`."
    (out / "README.md").write_text(_card("student", pairs, settings, quality), encoding="utf-8")


def train_ceiling(
    run: Path, out: Path, *, steps: int | None = None, hours: float | None = None, config: StudentConfig | None = None
) -> None:
    """Trains the ceiling of all students of a teacher: the same training on perfect pairs; see `train_student`."""
    config = _with_trained_models(config or StudentConfig(), run)
    run.mkdir(parents=True, exist_ok=True)
    left = None if hours is None else hours * 3600
    settings = _train(config.train, drawn_pairs(config.drawn_pairs, FIRST_CAPTION), run, out, steps, left)
    pairs = f"{config.drawn_pairs} pairs that the world itself drew"
    card = _card("ceiling", pairs, settings, "No student of its teacher can be expected to be better.")
    (out / "README.md").write_text(card, encoding="utf-8")


def _train(
    settings: TrainConfig,
    data: Path | Sequence[DrawnPair],
    run: Path,
    out: Path,
    steps: int | None,
    seconds: float | None,
) -> TrainConfig:
    """Trains for ``steps``, or for as many as ``seconds`` allow, exports the adapter, and says what it trained with."""
    if steps is None and seconds is not None:
        steps = kept_budget(run, lambda: _budget_within(settings, data, run, seconds)).steps
    settings = settings if steps is None else dataclasses.replace(settings, steps=steps)
    updates, metadata = load_adapter(train(settings, data, run / "train"))
    compact = {name: _compact(update) for name, update in updates.items()}
    save_adapter(out, compact, dataclasses.replace(metadata, base=BASE))
    return settings


def _card(name: str, pairs: str, settings: TrainConfig, quality: str) -> str:
    return (
        f"# tiny {name}\n\nA two-frame adapter of `embedded:tiny-flux`, made by `dsd world train {name}`: {pairs}, "
        f"{settings.steps} steps of {settings.batch_size}, at commit {environment.commit()}. {quality}\n"
    )


def _with_trained_models(config: StudentConfig, run: Path) -> StudentConfig:
    """The embedded teacher and judge replaced by those of the runs beside, where there are such."""
    found = beside(run, "teacher"), beside(run, "judge") or beside(run, "vlm")
    teacher, judge = (str(folder) if folder else None for folder in found)
    curation = dataclasses.replace(
        config.curate,
        teacher=teacher or config.curate.teacher,
        chat=judge or config.curate.chat,
        judge=judge or config.curate.judge,
    )
    return dataclasses.replace(
        config, curate=curation, train=dataclasses.replace(config.train, base=teacher or config.train.base)
    )


def _budget_within(settings: TrainConfig, data: Path | Sequence[DrawnPair], run: Path, seconds: float) -> Budget:
    """A budget of time in steps, as fast as a short training turns out to be."""
    took = []
    for steps in (1, 1 + _MEASURED_STEPS):
        shutil.rmtree(run / f"measuring-{steps}", ignore_errors=True)
        started = time.perf_counter()
        short = dataclasses.replace(settings, steps=steps, sample_every=1 << 30, checkpoint_every=1 << 30)
        train(short, data, run / f"measuring-{steps}")
        took.append(time.perf_counter() - started)
        shutil.rmtree(run / f"measuring-{steps}")
    steps = max(1, int(0.9 * seconds / ((took[1] - took[0]) / _MEASURED_STEPS)))
    return Budget(steps=steps, checkpoint_every=settings.checkpoint_every, evaluate_every=settings.sample_every)


def _compact(update: LowRank) -> LowRank:
    """In float16, the change's values on a grid, so that it packs to a third; the identity of a full rank as it is."""
    bias = None if update.bias is None else update.bias.half()
    return LowRank(_on_grid(update.down).half(), _on_grid(update.up).half(), bias)


def _on_grid(values: Tensor) -> Tensor:
    """Values rounded to multiples of a power of two that is an eighth to a quarter of their root mean square."""
    size = values.square().mean().sqrt()
    if size == 0:
        return values
    step = 2.0 ** torch.floor(torch.log2(size / 4))
    return torch.round(values / step) * step
