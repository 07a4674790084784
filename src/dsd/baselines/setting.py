"""What every method of a table is given alike: the backbone, how to draw, the pairs to train on and the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from dsd.backbones.flux import FluxBackbone
from dsd.baselines.protocol import Drawing
from dsd.data.latents import TrainingPair, fingerprint
from dsd.data.pairs import ids_of
from dsd.devices import default_device
from dsd.errors import UserError
from dsd.models import resolve
from dsd.train.config import TrainConfig


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
        tuned_for: whose settings methods that are fitted to a subject use: those tuned here on the embedded models, or
            those usual with FLUX.1.
        prior_prompts: what the base model draws for prior preservation; see `dsd.baselines.dreambooth.Tuning`.
        seed: of what is fitted to each subject.
        device: where methods compute; by default a GPU when there is one.
    """

    name: str
    base: str = "embedded:tiny-flux"
    drawing: Drawing = field(default_factory=Drawing)
    data: Sequence[TrainingPair] = ()
    budget: TrainConfig = field(default_factory=TrainConfig)
    runs: Path = Path("runs/methods")
    weights: str | None = None
    vision: str = "embedded:tiny-vlm"
    faces: str | None = None
    captioner: str | None = "embedded:tiny-vlm"
    tuned_for: Literal["tiny", "flux"] = "tiny"
    prior_prompts: tuple[str, ...] = ()
    seed: int = 0
    device: str = field(default_factory=default_device)

    @property
    def dtype(self) -> torch.dtype:
        """Of frozen weights, in training and in drawing."""
        return torch.bfloat16 if self.budget.mixed_precision == "bf16" else torch.float32

    @property
    def run(self) -> Path:
        """The folder of this row's training."""
        return self.runs / f"{self.name}-seed{self.budget.seed}"

    @property
    def latents(self) -> Path:
        """The folder of the latents that trainings on the same pairs share."""
        return self.runs / f"latents-{fingerprint(ids_of(self.data))}"

    def backbone(self) -> FluxBackbone:
        """The base model, loaded anew."""
        return FluxBackbone.from_pretrained(resolve(self.base), device=self.device, dtype=self.dtype)

    def pairs(self) -> Sequence[TrainingPair]:
        """The pairs to train on.

        Raises:
            UserError: there are none.
        """
        if not self.data:
            raise UserError(f'the method "{self.name}" has to be trained first; give pairs to train it on')
        return self.data
