"""tiny-dino: who is in the picture, whatever the scene. A stock `ResNetModel` whose pooled features tell individuals apart.

Contrastive on drawn panels (InfoNCE, van den Oord et al. 2018): two panels of an individual in two scenes attract, all
others repel, and every batch holds strangers of the same caption and drifted copies, so no caption word can tell them
apart. A linear read-out of the drawn attributes helps it on and is thrown away. For evaluation only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetModel
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from dsd.train import checkpoint
from dsd.train.loop import learning_rate_factor, step_generator
from dsd.train.optim import MuonAndAdamW
from dsd.world.draw import PANEL_SIZE, draw_panels
from dsd.world.individuals import (
    ACCESSORIES,
    KINDS,
    PATTERNS,
    Individuals,
    Split,
    drifted,
    sample_individuals,
    sample_scenes,
    strangers,
)
from dsd.world.recipes.soften import blurred, softened

_FAR = 1 << 20  # keeps the scenes of strangers and drifted copies apart from everyone's own
_VALIDATION_GROUPS = 128


@dataclass(frozen=True, kw_only=True)
class DinoConfig:
    """How tiny-dino is made.

    Attributes:
        steps: optimizer steps.
        groups: individuals a batch; each brings a stranger of the same caption and a drifted copy, two panels each.
        widths: channels of the three stages.
        depths: residual blocks of the three stages.
        temperature: of InfoNCE.
        attributes: weight of the read-out of drawn attributes.
        muon_learning_rate, adamw_learning_rate: peak learning rates.
        seed: of everything random.
    """

    steps: int = 1000
    groups: int = 16
    widths: tuple[int, ...] = (32, 64, 128)
    depths: tuple[int, ...] = (1, 2, 2)
    temperature: float = 0.15
    attributes: float = 1.0
    muon_learning_rate: float = 0.02
    adamw_learning_rate: float = 3e-3
    seed: int = 0


def families(split: Split, first: int, count: int) -> tuple[Individuals, Tensor]:
    """Individuals number ``first`` to ``first + count``, then a stranger to each, then a drifted copy of each.

    Returns:
        ``3 count`` individuals and the numbers that their scenes are drawn by.
    """
    index = torch.arange(first, first + count)
    own = sample_individuals(split, index)
    parts = (own, strangers(own, split, index), drifted(own, split, index))
    fields = {name: torch.cat([getattr(p, name) for p in parts]) for name in vars(own)}
    return Individuals(**fields), torch.cat([index + part * _FAR for part in range(3)])


def two_views(who: Individuals, numbers: Tensor, split: Split) -> tuple[Tensor, Tensor]:
    """Two panels of each individual, in scenes that share nothing: two of ``(n, 3, 64, 64)`` in [-1, 1]."""
    views = [draw_panels(who, sample_scenes(split, numbers * 2 + view)) for view in range(2)]
    return views[0], views[1]


def attribute_targets(who: Individuals) -> tuple[Float[Tensor, "n 12"], list[Tensor]]:
    """What the read-out learns: visible colours as points on the hue circle and sizes; kind, pattern, accessory."""
    patterned, dressed = (who.pattern > 0).float(), (who.accessory > 0).float()
    columns = []
    for hue, visible in ((who.hue, 1.0), (who.second_hue, patterned), (who.accessory_hue, dressed), (who.eye_hue, 1.0)):
        columns += [torch.cos(2 * torch.pi * hue) * visible, torch.sin(2 * torch.pi * hue) * visible]
    columns += [(who.ears - 1) * 3, (who.width - 1) * 6, (who.eye_size - 1.07) * 4, (who.value - 0.85) * 6]
    return torch.stack(columns, 1), [who.kind, who.pattern, who.accessory]


def build(config: DinoConfig) -> ResNetModel:
    """The untrained network."""
    return ResNetModel(
        ResNetConfig(
            embedding_size=config.widths[0],
            hidden_sizes=list(config.widths),
            depths=list(config.depths),
            layer_type="basic",
        )
    )


def pooled(model: nn.Module, images: Tensor) -> Float[Tensor, "n d"]:
    """Normalised pooled features of pictures in [-1, 1]."""
    return F.normalize(model(images).pooler_output.flatten(1), dim=1)


class DinoTask:
    """Trains tiny-dino; see `dsd.train.loop.Task`."""

    def __init__(self, config: DinoConfig) -> None:
        self.config = config
        torch.manual_seed(config.seed)
        self.model = build(config)
        self.readout = nn.Linear(config.widths[-1], 12 + len(KINDS) + len(PATTERNS) + len(ACCESSORIES))
        self.optimizer = MuonAndAdamW(
            {"model": self.model, "readout": self.readout},
            adamw_names=("normalization", "embedder.embedder", "readout"),
            muon_lr=config.muon_learning_rate,
            adamw_lr=config.adamw_learning_rate,
            weight_decay=0.01,
        )

    def train_step(self, step: int) -> dict[str, float | Tensor]:
        """One step on fresh individuals."""
        self.model.train()
        generator = step_generator(self.config.seed, step)
        who, numbers = families("training", step * self.config.groups, self.config.groups)
        first, second = two_views(who, numbers, "training")
        images = softened(torch.cat([first, second]), generator)
        features = self.model(images).pooler_output.flatten(1)
        a, b = F.normalize(features, dim=1).chunk(2)
        logits = a @ b.T / self.config.temperature
        labels = torch.arange(len(logits))
        contrast = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        read = self._read_loss(features, who)
        self.optimizer.step(
            contrast + self.config.attributes * read, learning_rate_factor(step, self.config.steps)
        )
        return {"contrast": contrast.detach(), "attributes": read.detach()}

    def _read_loss(self, features: Tensor, who: Individuals) -> Tensor:
        numbers, words = attribute_targets(who)
        read = self.readout(features).split([12, len(KINDS), len(PATTERNS), len(ACCESSORIES)], 1)
        loss = 2 * F.mse_loss(read[0], numbers.repeat(2, 1))
        for logits, word in zip(read[1:], words, strict=True):
            loss = loss + 0.3 * F.cross_entropy(logits, word.repeat(2))
        return loss

    def tensors(self) -> dict[str, Tensor]:
        """Weights and optimizer state."""
        modules = checkpoint.module_tensors(self.model, "model") | checkpoint.module_tensors(self.readout, "readout")
        return modules | self.optimizer.tensors()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts them back."""
        checkpoint.restore_module(self.model, tensors, "model")
        checkpoint.restore_module(self.readout, tensors, "readout")
        self.optimizer.restore(tensors)

    def evaluate(self, step: int) -> dict[str, float]:
        """Separation on validation individuals, see `separation`."""
        self.model.eval()
        return separation(self.model)


def auc(positive: Tensor, negative: Tensor) -> float:
    """Area under the ROC curve: how often a positive score is above a negative one; ties count half."""
    difference = positive[:, None] - negative[None, :]
    return ((difference > 0).float() + 0.5 * (difference == 0).float()).mean().item()


@torch.no_grad()
def separation(model: nn.Module, groups: int = _VALIDATION_GROUPS) -> dict[str, float]:
    """How well cosines of pooled features tell the same individual from a stranger of the same caption.

    Args:
        model: in evaluation mode.
        groups: validation individuals.

    Returns:
        Areas under the ROC curve against strangers and against drifted copies, mean cosines (the anchors of the
        identity scale), and where drifted copies and blurred pictures of the true individual lie on that scale.
    """
    who, numbers = families("validation", 0, groups)
    first, second = two_views(who, numbers, "validation")
    reference, own = pooled(model, first[:groups]), pooled(model, second[:groups])
    stranger, drift = pooled(model, second[groups : 2 * groups]), pooled(model, second[2 * groups :])
    soft = pooled(model, blurred(second[:groups], torch.full((groups,), 1.0)))
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


def save(model: nn.Module, folder: Path) -> None:
    """Writes the network in float16 with its image processor, as `AutoModel` and `AutoImageProcessor` read them."""
    half = cast("ResNetModel", model).half()
    half.save_pretrained(folder)
    half.float()
    size = {"height": PANEL_SIZE, "width": PANEL_SIZE}
    ViTImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
