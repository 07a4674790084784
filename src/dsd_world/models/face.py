"""The face pack of the drawn world, for methods that are conditioned on faces; it is not shipped and measures nothing.

Landmarks are regressed on drawn panels; identity is contrastive on aligned crops of the same individual in two scenes,
as in tiny-dino's recipe, with strangers of the same caption in every batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

from dsd.baselines.faces import POINTS, aligned
from dsd.devices import default_device
from dsd.train import checkpoint
from dsd.train.loop import learning_rate_factor, step_generator
from dsd.train.optim import MuonAndAdamW
from dsd_world.draw import draw_panels, landmarks
from dsd_world.individuals import Individuals, Split, sample_individuals, sample_scenes, strangers
from dsd_world.models.dino import auc, image_processor
from dsd_world.models.soften import softened
from dsd_world.models.stored import rounded

_BATCH = 32
_HELD = 256
_FAR = 1 << 20  # keeps the scenes of strangers apart from everyone's own
_TEMPERATURE = 0.15
_JITTER = 0.03  # of landmarks, in half panels, about as far as found ones are off
_WIDTHS, _DEPTHS = [24, 48, 96], [1, 1, 1]


class FaceTask:
    """Trains both networks; see `dsd_world.training.Recipe`."""

    def __init__(self, steps: int, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.steps, self.seed = steps, seed
        self.finder: Any = ResNetForImageClassification(_network(labels=1 + 2 * POINTS))
        self.recogniser: Any = ResNetModel(_network())
        self.models = {"finder": self.finder, "recogniser": self.recogniser}
        self.device = torch.device(default_device())
        for model in self.models.values():
            model.to(self.device)
        self.optimizer = MuonAndAdamW(
            self.models, adamw_names=("normalization", "embedder.embedder", "classifier"), adamw_lr=3e-3,
            weight_decay=0.01,
        )  # fmt: skip

    def train_step(self, step: int) -> dict[str, float | Tensor]:
        """One step on fresh individuals, each and a stranger of the same caption in two scenes."""
        for model in self.models.values():
            model.train()
        generator = step_generator(self.seed, step)
        images, points, present = _views("training", step * _BATCH, _BATCH, self.device)
        images = softened(images, generator)
        out = self.finder(images).logits
        seen = F.binary_cross_entropy_with_logits(out[:, 0], present.float())
        misses = (out[:, 1:].view(-1, POINTS, 2) - points)[present].square().mean()
        near = points + _JITTER * torch.randn(points.shape, generator=generator).to(points)
        first, second = _identity(self.recogniser, aligned(images, near)).chunk(2)
        faces = present.chunk(2)[0].nonzero()[:, 0]
        logits = first[faces] @ second[faces].T / _TEMPERATURE
        labels = torch.arange(len(faces), device=self.device)
        who = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        self.optimizer.step(seen + 10 * misses + who, learning_rate_factor(step, self.steps))
        return {"seen": seen.detach(), "misses": misses.detach(), "who": who.detach()}

    def tensors(self) -> dict[str, Tensor]:
        """Weights and optimizer state."""
        weights = {
            k: v for name, model in self.models.items() for k, v in checkpoint.module_tensors(model, name).items()
        }
        return weights | self.optimizer.tensors()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back a checkpoint."""
        for name, model in self.models.items():
            checkpoint.restore_module(model, tensors, name)
        self.optimizer.restore(tensors)

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """On validation individuals: faces seen, landmarks' error in panels, ROC area of identity where found."""
        for model in self.models.values():
            model.eval()
        images, points, present = _views("validation", 0, _HELD, self.device)
        out = self.finder(images).logits
        found = out[:, 1:].view(-1, POINTS, 2)
        first, second = _identity(self.recogniser, aligned(images, found)).chunk(2)
        faces, count = present[:_HELD], _HELD
        own, other = (first[:count] * second[:count]).sum(1), (first[:count] * second[count:]).sum(1)
        return {
            "faces": ((out[:, 0] > 0) == present).float().mean().item(),
            "miss": (found - points)[present].norm(dim=-1).mean().item() / 2,
            "auc_stranger": auc(own[faces], other[faces]),
        }

    def score(self, figures: dict[str, float]) -> float:
        """Recognition, and landmarks found."""
        return figures["auc_stranger"] - figures["miss"]

    def export(self, folder: Path, card: str) -> None:
        """Writes the pack (float16)."""
        for name, model in {"landmarks": self.finder, "identity": self.recogniser}.items():
            rounded(model).save_pretrained(folder / name)
            image_processor().save_pretrained(folder / name)
        (folder / "README.md").write_text(card, encoding="utf-8")


def build(run: Path, *, steps: int) -> FaceTask:
    """The task for a run of ``steps`` steps."""
    return FaceTask(steps)


def _network(labels: int = 2) -> ResNetConfig:
    config = ResNetConfig(embedding_size=_WIDTHS[0], hidden_sizes=_WIDTHS, depths=_DEPTHS, layer_type="basic")
    config.num_labels = labels
    return config


def _identity(model: Any, crops: Tensor) -> Tensor:
    return F.normalize(model(crops).pooler_output.flatten(1), dim=1)


def _views(split: Split, first: int, count: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Panels of individuals and of a stranger to each, all in a first scene and then all in a second one.

    Returns:
        Images, landmarks, and whether each has a face.
    """
    index = torch.arange(first, first + count, device=device)
    own = sample_individuals(split, index)
    other = strangers(own, split, index)
    who = Individuals(**{name: torch.cat([value, getattr(other, name)]) for name, value in vars(own).items()})
    numbers = torch.cat([index, index + _FAR])
    scenes = [sample_scenes(split, numbers * 2 + view) for view in (0, 1)]
    images = torch.cat([draw_panels(who, at) for at in scenes])
    points = torch.cat([landmarks(who, at) for at in scenes])
    return images, points, torch.cat([~who.is_object] * 2)
