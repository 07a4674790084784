"""What every method of a table is given alike: the backbone, how to draw, the pairs to train on and the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dsd.backbones.registry import load_backbone
from dsd.backbones.stock import StockBackbone
from dsd.baselines.protocol import Drawing
from dsd.data.latents import fingerprint
from dsd.data.pairs import ids_of
from dsd.data.records import Example
from dsd.devices import default_device, inference_dtype
from dsd.errors import UserError
from dsd.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a row's method is trained.

    Attributes:
        budget: steps, batch, learning rates, dropout and seed.
        pairs: to train on.
        run: folder of the training.
        latents: folder of the latents that trainings on the same pairs share.
    """

    budget: TrainConfig
    pairs: Sequence[Example]
    run: Path
    latents: Path


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of a table, before its method is built.

    Attributes:
        name: the row's name.
        base: text-to-image model: ``embedded:NAME``, a folder or a hub id.
        drawing: how all methods draw.
        data: pairs that methods which are trained are trained on.
        budget: steps, batch, learning rates, dropout and seed of these trainings, whatever the method.
        runs: folder that the trainings keep their runs in, and what they share.
        weights: of a method that is trained already: a folder, a hub id or ``embedded:NAME``; nothing is trained then.
        vision: model whose pictures' features some methods are conditioned on; it has no part in measuring.
        faces: model that finds faces, for methods that need them.
        captioner: vision-language model that captions references, for methods that are fitted to a subject; None to
            have them learn it under the subject's words alone.
        fits: by method, how those that are fitted to a subject are fitted, such as a
            `dsd.baselines.dreambooth.Tuning`; those without one go by their own defaults.
        prior_prompts: what the base model draws for prior preservation; see `dsd.baselines.dreambooth.Tuning`.
        seed: of what is fitted to each subject.
        device: where methods compute; by default a GPU when there is one.
    """

    name: str
    base: str
    drawing: Drawing
    data: Sequence[Example] = ()
    budget: TrainConfig | None = None
    runs: Path = Path("runs/methods")
    weights: str | None = None
    vision: str | None = None
    faces: str | None = None
    captioner: str | None = None
    fits: Mapping[str, Any] = field(default_factory=dict)
    prior_prompts: tuple[str, ...] = ()
    seed: int = 0
    device: str = field(default_factory=default_device)

    @property
    def dtype(self) -> torch.dtype:
        """Of frozen weights, in training and in drawing."""
        if self.budget is None:
            return inference_dtype(self.device)
        return torch.bfloat16 if self.budget.mixed_precision == "bf16" else torch.float32

    def backbone(self) -> StockBackbone:
        """The base model, loaded anew."""
        return load_backbone(self.base, device=self.device, dtype=self.dtype)

    def training(self) -> Training:
        """How this row's method is trained.

        Raises:
            UserError: there are no pairs to train it on, or no budget.
        """
        if not self.data or self.budget is None:
            raise UserError(f'the method "{self.name}" has to be trained first; give pairs to train it on')
        return Training(
            budget=self.budget,
            pairs=self.data,
            run=self.runs / f"{self.name}-seed{self.budget.seed}",
            latents=self.runs / f"latents-{fingerprint(ids_of(self.data))}",
        )
