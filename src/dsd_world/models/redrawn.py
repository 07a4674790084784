"""Panels as a teacher's hand draws them again: with known individuals, but with the teacher's blur, drift and patches.

A panel's latents are noised part of the way and denoised by the teacher (SDEdit, Meng et al. 2022, arXiv 2108.01073, by
`FluxImg2ImgPipeline`). The farther the way, the less remains of the individual: at 0.6 of it tiny-dino finds
half of them again, so it ends before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxImg2ImgPipeline, FluxPipeline
from jaxtyping import Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsd.devices import by_device, default_device
from dsd.files import atomic_folder
from dsd.log import progress
from dsd.train.loop import step_generator
from dsd_world.captions import PANEL_TEXT_TOKENS, panel_captions
from dsd_world.draw import PANEL_SIZE, draw_panels
from dsd_world.examined_pairs import Pairs
from dsd_world.individuals import Individuals, Scenes, Split
from dsd_world.models.vlm_data import FAMILY, OTHER_PAIRS, SAME_PAIRS, families
from dsd_world.recipe import tiny

_STRENGTHS = (0.05, 0.45)
"""Shares of the way to pure noise, from slightly different to as different as a hard look still tells apart."""
AS_FAR_AS_SHEETS = (0.3, 0.3)
"""The share at which pairs agree as far as panels of the teacher's own sheets do."""
_DRAWN_AS = tiny().curate  # as curation draws
_FAMILIES_AT_ONCE = by_device(16, 128)
_FILE = "images.safetensors"
_ONE_OF_EACH = (SAME_PAIRS[0], OTHER_PAIRS[0])


class RedrawnFamilies:
    """Families (see `dsd_world.models.vlm_data.families`) drawn again, made once and kept in the run's folder.

    Args:
        path: of the folder that keeps them.
        teacher: folder of the trained teacher.
        split: whose individuals.
        index: numbers of the families.
        device: where they are drawn; by default a GPU when there is one.
        strengths: least and greatest share of the way to pure noise.

    Attributes:
        individuals: of ``4 n`` panels.
        scenes: of theirs.
        images: ``(4 n, 3, 64, 64)``, bytes.
    """

    def __init__(
        self,
        path: Path,
        teacher: Path,
        split: Split,
        index: Int[Tensor, " n"],
        device: torch.device | str | None = None,
        strengths: tuple[float, float] = _STRENGTHS,
    ) -> None:
        self.individuals, self.scenes = families(split, index)
        if not path.exists():
            images = _drawn_again(teacher, self.individuals, self.scenes, device or default_device(), strengths)
            with atomic_folder(path) as temporary:
                save_file({"images": images}, str(temporary / _FILE))
        self.images: Tensor = load_file(str(path / _FILE))["images"]

    def __len__(self) -> int:
        return len(self.images) // FAMILY

    def take(self, rows: Int[Tensor, " k"]) -> tuple[Individuals, Scenes, Tensor]:
        """Individuals, scenes and pictures in [-1, 1] of panels, numbered from 0 on; beyond the last from the first."""
        rows = rows % len(self.images)
        images = self.images[rows.cpu()].to(rows.device).float() / 127.5 - 1
        return self.individuals.take(rows), self.scenes.take(rows), images

    def pairs(self, count: int) -> Pairs:
        """One pair of the same individual and one of two from each of the first ``count`` families."""
        return self._pairs([(family, pair, i == 0) for family in range(count) for i, pair in enumerate(_ONE_OF_EACH)])

    def pairs_as_on_sheets(self) -> Pairs:
        """Both pairs of the same individual of each family, and one of two of every second family.

        So 0.8 of the pairs are the same, as of the pairs of panels on the world's own sheets, some of which drift.
        """
        same = [(family, pair, True) for family in range(len(self)) for pair in SAME_PAIRS]
        return self._pairs([*same, *((family, OTHER_PAIRS[0], False) for family in range(0, len(self), 2))])

    def _pairs(self, chosen: Sequence[tuple[int, tuple[int, int], bool]]) -> Pairs:
        first, second = ([family * FAMILY + pair[k] for family, pair, _ in chosen] for k in (0, 1))
        images = (self.take(torch.tensor(rows))[2] for rows in (first, second))
        return Pairs(first=next(images), second=next(images), same=[same for *_, same in chosen])


def _drawn_again(
    teacher: Path,
    individuals: Individuals,
    scenes: Scenes,
    device: torch.device | str,
    strengths: tuple[float, float],
) -> Tensor:
    loaded = FluxPipeline.from_pretrained(teacher, dtype=torch.float32, use_safetensors=True)
    pipeline: Any = FluxImg2ImgPipeline.from_pipe(loaded).to(device)
    pipeline.set_progress_bar_config(disable=True)
    images, (low, high) = [], strengths
    blocks = torch.arange(len(individuals)).split(_FAMILIES_AT_ONCE * FAMILY)
    for number, rows in enumerate(progress(blocks, description="drawing families again", total=len(blocks))):
        who, at = individuals.take(rows), scenes.take(rows)
        generator = step_generator(0, number)
        strength = low + (high - low) * float(torch.rand((), generator=generator))
        drawn = pipeline(
            panel_captions(who, at), negative_prompt=[""] * len(rows), true_cfg_scale=_DRAWN_AS.true_guidance,
            image=draw_panels(who, at).to(device), strength=strength,
            num_inference_steps=_DRAWN_AS.steps, height=PANEL_SIZE, width=PANEL_SIZE,
            max_sequence_length=PANEL_TEXT_TOKENS, generator=generator, output_type="pt",
        ).images  # fmt: skip
        images.append((drawn * 255).round().clamp(0, 255).byte().cpu())
    return torch.cat(images)
