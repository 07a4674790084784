"""tiny-dino: who is in the picture, whatever the scene. A stock `ResNetModel` with pooled features of individuals.

Contrastive on drawn panels (InfoNCE, van den Oord et al. 2018): two panels of an individual in two scenes attract, all
others repel, and every batch holds strangers of the same caption and drifted copies, so no caption word can tell them
apart. For evaluation only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetModel
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from dsd.devices import batch_factor, default_device
from dsd.train import checkpoint
from dsd.train.loop import learning_rate_factor, step_generator
from dsd.train.optim import MuonAndAdamW
from dsd_world.draw import PANEL_SIZE, draw_panels
from dsd_world.individuals import (
    Individuals,
    Split,
    drifted,
    sample_individuals,
    sample_scenes,
    strangers,
)
from dsd_world.models.soften import blurred, softened
from dsd_world.models.stored import rounded

_FAR = 1 << 20  # keeps the scenes of strangers and drifted copies apart from everyone's own
VALIDATION_GROUPS = 128
BATCH = 16 * batch_factor()
"""Individuals a batch; each brings a stranger of the same caption and a drifted copy, two panels each."""
_WIDTHS, _DEPTHS = [32, 64, 128], [1, 2, 2]
_TEMPERATURE = 0.15


def families(split: Split, first: int, count: int, device: torch.device | str = "cpu") -> tuple[Individuals, Tensor]:
    """Individuals number ``first`` to ``first + count``, then a stranger to each, then a drifted copy of each.

    Returns:
        ``3 count`` individuals and the numbers that their scenes are drawn by.
    """
    index = torch.arange(first, first + count, device=device)
    own = sample_individuals(split, index)
    parts = (own, strangers(own, split, index), drifted(own, split, index))
    fields = {name: torch.cat([getattr(p, name) for p in parts]) for name in vars(own)}
    return Individuals(**fields), torch.cat([index + part * _FAR for part in range(3)])


def two_views(who: Individuals, numbers: Tensor, split: Split) -> tuple[Tensor, Tensor]:
    """Two panels of each individual, in scenes that share nothing: two of ``(n, 3, 64, 64)`` in [-1, 1]."""
    views = [draw_panels(who, sample_scenes(split, numbers * 2 + view)) for view in range(2)]
    return views[0], views[1]


def new_encoder() -> ResNetModel:
    """The untrained network."""
    return ResNetModel(
        ResNetConfig(embedding_size=_WIDTHS[0], hidden_sizes=_WIDTHS, depths=_DEPTHS, layer_type="basic")
    )


def pooled(model: nn.Module, images: Tensor) -> Float[Tensor, "n d"]:
    """Normalised pooled features of pictures in [-1, 1]."""
    return F.normalize(model(images).pooler_output.flatten(1), dim=1)


class DinoTask:
    """Trains tiny-dino; see `dsd_world.training.Recipe`."""

    def __init__(self, steps: int, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.steps, self.seed = steps, seed
        self.device = torch.device(default_device())
        self.model: Any = new_encoder()
        self.model.to(self.device)
        self.optimizer = MuonAndAdamW(
            {"model": self.model},
            adamw_names=("normalization", "embedder.embedder"),
            adamw_lr=3e-3,
            weight_decay=0.01,
        )

    def train_step(self, step: int) -> dict[str, float | Tensor]:
        """One step on fresh individuals."""
        self.model.train()
        who, numbers = families("training", step * BATCH, BATCH, self.device)
        images = softened(torch.cat(two_views(who, numbers, "training")), step_generator(self.seed, step))
        first, second = pooled(self.model, images).chunk(2)
        logits = first @ second.T / _TEMPERATURE
        labels = torch.arange(len(logits), device=self.device)
        loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        self.optimizer.step(loss, learning_rate_factor(step, self.steps))
        return {"loss": loss.detach()}

    def tensors(self) -> dict[str, Tensor]:
        """Weights and optimizer state."""
        return checkpoint.module_tensors(self.model, "model") | self.optimizer.tensors()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back a checkpoint."""
        checkpoint.restore_module(self.model, tensors, "model")
        self.optimizer.restore(tensors)

    def evaluate(self, step: int) -> dict[str, float]:
        """Separation on validation individuals, see `separation`."""
        self.model.eval()
        return separation(self.model, VALIDATION_GROUPS, self.device)

    def score(self, figures: dict[str, float]) -> float:
        """Areas under both curves."""
        return figures["auc_stranger"] + figures["auc_drifted"]

    def export(self, folder: Path, card: str) -> None:
        """Writes network (float16) and image processor, as `AutoModel` and `AutoImageProcessor` read them."""
        rounded(self.model).save_pretrained(folder)
        image_processor().save_pretrained(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")


def build(run: Path, *, steps: int) -> DinoTask:
    """The task for a run of ``steps`` steps."""
    return DinoTask(steps)


def image_processor() -> ViTImageProcessorPil:
    """Resizes to a panel and scales to [-1, 1]."""
    size = {"height": PANEL_SIZE, "width": PANEL_SIZE}
    return ViTImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def auc(positive: Tensor, negative: Tensor) -> float:
    """Area under the ROC curve: how often a positive score is above a negative one; ties count half."""
    difference = positive[:, None] - negative[None, :]
    return ((difference > 0).float() + 0.5 * (difference == 0).float()).mean().item()


@torch.no_grad()
def separation(model: nn.Module, groups: int, device: torch.device | str = "cpu") -> dict[str, float]:
    """How well cosines of pooled features tell the same individual from a stranger of the same caption.

    Args:
        model: in evaluation mode.
        groups: how many validation individuals.
        device: where the model is.

    Returns:
        Areas under the ROC curve against strangers and against drifted copies, mean cosines (the anchors of the
        identity scale), and where drifted copies and blurred pictures of the true individual lie on that scale.
    """
    who, numbers = families("validation", 0, groups, device)
    first, second = two_views(who, numbers, "validation")
    reference, own = pooled(model, first[:groups]), pooled(model, second[:groups])
    stranger, drift = pooled(model, second[groups : 2 * groups]), pooled(model, second[2 * groups :])
    soft = pooled(model, blurred(second[:groups], torch.ones(groups, device=device)))
    true, other = (reference * own).sum(1), (reference * stranger).sum(1)
    low, high = other.mean(), true.mean()
    scale = lambda features: (((reference * features).sum(1).mean() - low) / (high - low)).item()  # noqa: E731
    return {
        "auc_stranger": auc(true, other),
        "auc_drifted": auc(true, (reference * drift).sum(1)),
        "paired_stranger": (true > other).float().mean().item(),
        "cosine_true": high.item(),
        "cosine_stranger": low.item(),
        "scale_drifted": scale(drift),
        "scale_blurred": scale(soft),
    }
