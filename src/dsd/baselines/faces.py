"""Finds and recognises faces, as InsightFace's model packs do: five landmarks, an aligned crop, an identity vector.

A pack is a folder of two stock transformers models: ``landmarks/``, an image classifier whose outputs are the log-odds
of a face and then x and y of both eyes, the nose and both corners of the mouth in [-1, 1]; ``identity/``, a vision
model whose pooled feature of an aligned crop says who it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw
from torch import Tensor
from transformers import AutoModel, AutoModelForImageClassification

from dsd.images import to_pil, to_tensor
from dsd.models import resolve
from dsd.weights import load

POINTS = 5
CROP = 32
"""Pixels of an aligned crop's sides."""
_CROP_PER_EYES = 3.2  # side of the crop in distances between the eyes: the head without ears
_COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))


@dataclass(frozen=True)
class Found:
    """What was found in a batch of pictures.

    Attributes:
        present: whether there is a face.
        landmarks: x and y in [-1, 1]; meaningless without a face.
        identity: normalised vectors; zeros without a face.
    """

    present: Bool[Tensor, " n"]
    landmarks: Float[Tensor, "n 5 2"]
    identity: Float[Tensor, "n d"]


class Faces:
    """A face model pack.

    Args:
        folder: of the pack.
        size: (height, width) that the landmark model sees pictures at.
        device: where it computes.
    """

    def __init__(self, folder: str, size: tuple[int, int] = (64, 64), device: torch.device | str = "cpu") -> None:
        place = Path(resolve(folder))
        self.size, self.device = size, device
        self.finder: Any = load(AutoModelForImageClassification, str(place / "landmarks"), dtype=torch.float32)
        self.recogniser: Any = load(AutoModel, str(place / "identity"), strict=False, dtype=torch.float32)
        for model in (self.finder, self.recogniser):
            model.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def find(self, pictures: Sequence[Image.Image]) -> Found:
        """The one face in each picture, if it has one."""
        images = to_tensor(pictures, self.size).to(self.device)
        out = self.finder(images).logits
        present, points = out[:, 0] > 0, out[:, 1:].view(-1, POINTS, 2)
        features = self.recogniser(aligned(images, points)).pooler_output.flatten(1)
        return Found(present, points, F.normalize(features, dim=1) * present[:, None])

    @torch.no_grad()
    def crops(self, pictures: Sequence[Image.Image]) -> tuple[Bool[Tensor, " n"], list[Image.Image]]:
        """Whether each picture has a face, and its aligned crop at the pictures' own size."""
        images = to_tensor(pictures, self.size).to(self.device)
        out = self.finder(images).logits
        cut = aligned(images, out[:, 1:].view(-1, POINTS, 2))
        return out[:, 0] > 0, to_pil(F.interpolate(cut, self.size, mode="bilinear", align_corners=False))


def aligned(images: Float[Tensor, "n 3 h w"], points: Float[Tensor, "n 5 2"]) -> Float[Tensor, "n 3 crop crop"]:
    """Crops with the eyes level and at one distance, as ArcFace takes them (Deng et al., arXiv 1801.07698)."""
    eyes = points[:, 1] - points[:, 0]
    middle = (points[:, 0] + points[:, 1] + 2 * points[:, 2]) / 4
    half = eyes * _CROP_PER_EYES / 2
    cos, sin = half[:, 0], half[:, 1]
    turn = torch.stack([torch.stack([cos, -sin, middle[:, 0]], 1), torch.stack([sin, cos, middle[:, 1]], 1)], 1)
    grid = F.affine_grid(turn, [len(images), 3, CROP, CROP], align_corners=False)
    return F.grid_sample(images, grid, align_corners=False, padding_mode="border")


def draw_landmarks(found: Found, size: tuple[int, int]) -> list[Image.Image]:
    """The control picture of InstantID: coloured points and lines to the nose on black; all black without a face."""
    height, width = size
    pictures = []
    for present, points in zip(found.present.tolist(), found.landmarks.tolist(), strict=True):
        picture = Image.new("RGB", (width, height))
        if present:
            pen, radius = ImageDraw.Draw(picture), max(1.0, height / 40)
            places = [((x + 1) / 2 * width, (y + 1) / 2 * height) for x, y in points]
            for place, color in zip(places, _COLORS, strict=True):
                dark = tuple(int(0.6 * part) for part in color)
                pen.line([places[2], place], fill=dark, width=max(1, round(radius)))
            for (x, y), color in zip(places, _COLORS, strict=True):
                pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=color)
        pictures.append(picture)
    return pictures
