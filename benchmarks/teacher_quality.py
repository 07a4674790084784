"""What the teacher draws, against what was asked and against the world's own drawings of the same captions.

    python benchmarks/teacher_quality.py --panels 512 --sheets 128

Panels: the share of caption words that tiny-clip finds in the picture, by kind of word. Sheets: identity agreement of
panels by tiny-dino, and the share of sheets in which all six pairs agree. The drawn sheets drift as the world says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from PIL import Image
from torch import Tensor

from dsd.baselines.protocol import Request
from dsd.baselines.text_only import TextOnly
from dsd.curate.panels import cut
from dsd.curate.tasks.identity import LAYOUT
from dsd.data.records import Grid, Model
from dsd.evaluate.bootstrap import bootstrap
from dsd.images import contact_sheet, to_pil
from dsd_world.benchmark import agreement_encoder, identity_encoder
from dsd_world.captions import panel_captions
from dsd_world.draw import PANEL_SIZE, draw_panels
from dsd_world.individuals import sample_individuals, sample_scenes
from dsd_world.recipe import DRAWING, tiny
from dsd_world.sheets import draw_sheets
from dsd_world.teacher_quality import CONSISTENT, pair_scale, panel_agreement, teacher_sheets
from dsd_world.words import confirmed_words


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured.

    Attributes:
        teacher: a `FluxPipeline` folder of the drawn world.
        panels: single pictures of the evaluation split's captions, drawn as the demo's teacher draws.
        sheets: 2x2 sheets of them, drawn as curation draws.
        seed: of the noise.
        pictures: where the first pictures are written, if anywhere.
    """

    teacher: str = "embedded:tiny-flux"
    panels: int = 512
    sheets: int = 128
    seed: int = 0
    pictures: Path | None = None


def main(settings: Settings) -> None:
    """Prints a line of JSON for the panels and one for the sheets."""
    _panels(settings)
    _sheets(settings)


def _panels(settings: Settings) -> None:
    index = torch.arange(settings.panels)
    who, scenes = sample_individuals("evaluation", index), sample_scenes("evaluation", index)
    truth = to_pil(draw_panels(who, scenes))
    requests = [
        Request(
            subject_id=str(i), subject="", reference=truth[i], prompt=caption, prompt_index=0,
            seed=settings.seed * 1_000_003 + i,
        )
        for i, caption in enumerate(panel_captions(who, scenes))
    ]  # fmt: skip
    drawn = TextOnly.load(settings.teacher, DRAWING).generate(requests)
    encoder = agreement_encoder()
    teacher, world = (
        confirmed_words(encoder.pictures(pictures), who, scenes, encoder.sentences) for pictures in (drawn, truth)
    )
    figures = {
        "panels": settings.panels,
        "seed": settings.seed,
        "teacher": {kind: bootstrap(values).as_dict() for kind, values in teacher.items()},
        "drawn": {kind: bootstrap(values).as_dict() for kind, values in world.items()},
        "mean_share_of_drawn": round(_mean(teacher) / _mean(world), 4),
    }
    print(json.dumps(figures), flush=True)
    _save(settings, "panels", [truth[:10], drawn[:10]], row_labels=["world", "teacher"])


def _sheets(settings: Settings) -> None:
    sheets = draw_sheets("evaluation", torch.arange(settings.sheets))
    grids = teacher_sheets(replace(tiny().curate, teacher=settings.teacher), sheets.captions, settings.seed)
    nobody = Model(name="", revision="")
    truth = [Grid(prompt="", image=image, seed=0, teacher=nobody) for image in to_pil(sheets.images)]
    encoder = identity_encoder()
    scale = pair_scale(encoder)
    figures: dict[str, Any] = {"sheets": settings.sheets, "seed": settings.seed}
    for name, some in (("teacher", grids), ("drawn", truth)):
        panels = [found for grid in some if isinstance(found := cut(grid, PANEL_SIZE, LAYOUT), list)]
        figures[name] = {"refused": len(some) - len(panels), **_consistency(panel_agreement(panels, encoder, scale))}
    print(json.dumps(figures), flush=True)
    _save(settings, "sheets", [[grid.image for grid in grids[:5]]])


def _consistency(agreement: Tensor) -> dict[str, dict[str, float]]:
    return {
        "agreement": bootstrap(agreement.mean(1).tolist()).as_dict(),
        "pairs_consistent": bootstrap((agreement >= CONSISTENT).float().mean(1).tolist()).as_dict(),
        "sheets_consistent": bootstrap((agreement >= CONSISTENT).all(1).float().tolist()).as_dict(),
    }


def _mean(values: dict[str, list[float]]) -> float:
    return sum(sum(v) / len(v) for v in values.values()) / len(values)


def _save(settings: Settings, name: str, rows: list[list[Image.Image]], row_labels: list[str] | None = None) -> None:
    if settings.pictures is None:
        return
    settings.pictures.mkdir(parents=True, exist_ok=True)
    contact_sheet(rows, row_labels=row_labels).save(settings.pictures / f"{name}.png")


if __name__ == "__main__":
    main(tyro.cli(Settings))
