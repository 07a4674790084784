"""What the teacher draws, against what was asked and against the world's own drawings of the same captions.

    python benchmarks/teacher_quality.py --panels 512 --sheets 128

Panels: the share of caption words that tiny-clip finds in the picture, by kind of word. Sheets: identity agreement of
panels by tiny-dino, and the share of sheets in which all six pairs agree. The drawn sheets drift as the world says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from diffusers import FluxPipeline
from PIL import Image
from torch import Tensor

from dsd.curate.config import CurateConfig
from dsd.curate.grids import LAYOUT
from dsd.evaluate.bootstrap import bootstrap
from dsd.evaluate.encoders import ImageEncoder, PictureTextEncoder
from dsd.frames import MalformedSheet
from dsd.images import contact_sheet, to_pil
from dsd.models import resolve
from dsd.world.captions import PANEL_TEXT_TOKENS, SHEET_TEXT_TOKENS, panel_captions
from dsd.world.draw import PANEL_SIZE, draw_panels
from dsd.world.individuals import sample_individuals, sample_scenes
from dsd.world.sheets import draw_sheets
from dsd.world.teacher_quality import CONSISTENT, SameOrOther, confirmed_words, panel_agreement


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured.

    Attributes:
        teacher: a `FluxPipeline` folder of the drawn world.
        panels: single pictures of the evaluation split's captions.
        sheets: 2x2 sheets of them.
        guidance: true guidance of single pictures; sheets are drawn as curation draws them.
        seed: of the noise.
        batch: pictures at once.
        pictures: where the first pictures are written, if anywhere.
    """

    teacher: str = "embedded:tiny-flux"
    panels: int = 512
    sheets: int = 128
    guidance: float = CurateConfig.true_guidance
    seed: int = 0
    batch: int = 32
    pictures: Path | None = None


def main(settings: Settings) -> None:
    """Prints a line of JSON for the panels and one for the sheets."""
    pipeline = FluxPipeline.from_pretrained(resolve(settings.teacher), torch_dtype=torch.float32, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    _panels(settings, pipeline)
    _sheets(settings, pipeline)


def _panels(settings: Settings, pipeline: FluxPipeline) -> None:
    index = torch.arange(settings.panels)
    who, scenes = sample_individuals("evaluation", index), sample_scenes("evaluation", index)
    captions = panel_captions(who, scenes)
    drawn = _pictures(settings, pipeline, captions, PANEL_SIZE, PANEL_TEXT_TOKENS, settings.guidance)
    encoder, truth = PictureTextEncoder(), to_pil(draw_panels(who, scenes))
    teacher, world = (confirmed_words(pictures, who, scenes, encoder) for pictures in (drawn, truth))
    print(
        json.dumps(
            {
                "panels": settings.panels,
                "seed": settings.seed,
                "teacher": {kind: bootstrap(values).as_dict() for kind, values in teacher.items()},
                "drawn": {kind: bootstrap(values).as_dict() for kind, values in world.items()},
                "mean_share_of_drawn": round(_mean(teacher) / _mean(world), 4),
            }
        ),
        flush=True,
    )
    _save(settings, "panels", [truth[:10], drawn[:10]])


def _sheets(settings: Settings, pipeline: FluxPipeline) -> None:
    sheets = draw_sheets("evaluation", torch.arange(settings.sheets))
    guidance = CurateConfig.true_guidance
    drawn = _pictures(settings, pipeline, sheets.captions, 2 * PANEL_SIZE, SHEET_TEXT_TOKENS, guidance)
    encoder = ImageEncoder()
    scale = SameOrOther.measured(encoder)
    figures: dict[str, Any] = {"sheets": settings.sheets, "seed": settings.seed}
    for name, pictures in (("teacher", drawn), ("drawn", to_pil(sheets.images))):
        cut = [panels for picture in pictures if (panels := _cut(picture)) is not None]
        figures[name] = {"refused": len(pictures) - len(cut), **_consistency(panel_agreement(cut, encoder, scale))}
    print(json.dumps(figures), flush=True)
    _save(settings, "sheets", [drawn[:6]])


def _consistency(agreement: Tensor) -> dict[str, dict[str, float]]:
    return {
        "agreement": bootstrap(agreement.mean(1).tolist()).as_dict(),
        "pairs_consistent": bootstrap((agreement >= CONSISTENT).float().mean(1).tolist()).as_dict(),
        "sheets_consistent": bootstrap((agreement >= CONSISTENT).all(1).float().tolist()).as_dict(),
    }


def _cut(sheet: Image.Image) -> list[Image.Image] | None:
    try:
        return LAYOUT.split(sheet, (PANEL_SIZE, PANEL_SIZE))
    except MalformedSheet:
        return None


def _pictures(
    settings: Settings, pipeline: FluxPipeline, prompts: list[str], size: int, text_tokens: int, guidance: float
) -> list[Image.Image]:
    draw: Any = pipeline
    generators = [torch.Generator().manual_seed(settings.seed * 1_000_003 + i) for i in range(len(prompts))]
    found = []
    for at in range(0, len(prompts), settings.batch):
        some = prompts[at : at + settings.batch]
        found += draw(
            some,
            negative_prompt=[""] * len(some),
            true_cfg_scale=guidance,
            height=size,
            width=size,
            num_inference_steps=CurateConfig.steps,
            max_sequence_length=text_tokens,
            generator=generators[at : at + settings.batch],
        ).images
    return found


def _mean(values: dict[str, list[float]]) -> float:
    return sum(sum(v) / len(v) for v in values.values()) / len(values)


def _save(settings: Settings, name: str, rows: list[list[Image.Image]]) -> None:
    if settings.pictures is None:
        return
    settings.pictures.mkdir(parents=True, exist_ok=True)
    sheet = contact_sheet(rows)
    sheet.resize((3 * sheet.width, 3 * sheet.height), Image.Resampling.NEAREST).save(settings.pictures / f"{name}.png")


if __name__ == "__main__":
    main(tyro.cli(Settings))
