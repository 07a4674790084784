"""What a curation needs in a test: a tiny random teacher whose sheets have edges between their panels, and captions."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import tiny
import torch
from diffusers import AutoencoderKL
from torch import nn

from dsd.curate.config import CurateConfig
from dsd.recipes.registry import recipe

CAPTIONS = (
    "Custom Portfolios & Writing Pads",
    "a red striped cat at the beach",
    "",
    "Tavern Brawl by velinov",
    "A RED striped cat, at the beach!",
    "Étoile N°5 “quoted” 北京 \U0001f600",
    "used Peugeot 108 in wirral-cheshire",
    None,
    "Hogsmeade Station at night, oil on canvas",
    "three blue mugs",
)
"""Two are empty and one says again what another does, as `TAKEN` of ten."""
TAKEN = 7
PANEL = 32


@cache
def teacher() -> str:
    """A random FLUX folder whose decoder draws every latent as a square of one colour, so that panels have edges."""
    folder = tiny.scratch() / "squares"
    shutil.copytree(tiny.schnell(), folder)
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    with torch.no_grad():
        for module in vae.decoder.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                module.weight *= torch.tensor([[0.0, 0, 0], [0, 3, 0], [0, 0, 0]])
    vae.save_pretrained(folder / "vae")
    return str(folder)


def write_captions(path: Path) -> str:
    """`CAPTIONS` in LAION's layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    urls = [f"https://example.org/{number}.jpg" for number in range(len(CAPTIONS))]
    pq.write_table(pa.table({"URL": urls, "TEXT": list(CAPTIONS)}), path)
    return str(path)


def config(captions: str, chat: str, **changes: object) -> CurateConfig:
    """A curation of two full units and a short one."""
    settings: dict[str, object] = {
        "captions": captions, "chat": chat, "judge": chat, "teacher": teacher(), "units": 3, "unit_size": 3,
        "panel_size": PANEL, "steps": 2, "true_guidance": 1.5, "teacher_batch": 2,
    }  # fmt: skip
    return replace(recipe("tiny").curate, **(settings | changes))  # pyright: ignore[reportArgumentType]
