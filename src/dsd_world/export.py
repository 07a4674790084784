"""Writes drawn panels or sheets as PNG files with all that is known of them: ``dsd world draw``."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image

from dsd.errors import UserError
from dsd.files import write_atomic
from dsd.images import encode_png, to_pil
from dsd.log import progress
from dsd_world.captions import panel_captions
from dsd_world.draw import PANEL_SIZE, draw, panel_numbers
from dsd_world.examined_pairs import equal_word_pairs
from dsd_world.individuals import Individuals, Scenes, Split, sample_individuals, sample_scenes
from dsd_world.sheets import draw_sheets

_LIGHT_FIELDS = ("light_azimuth", "light_strength", "light_tint")
_BLOCK = 64


def draw_to_folder(
    out: Path, *, count: int, split: Split, sheets: bool = False, pairs: bool = False, panels_each: int = 4,
    size: int = PANEL_SIZE, maps: bool = False,
) -> None:  # fmt: skip
    """Draws individuals 0 to ``count - 1`` of a split.

    Args:
        out: folder to write; gets ``000000-0.png`` files and ``metadata.jsonl`` (file name, caption, individual,
            identity parameters, scene, light).
        count: number of individuals; with ``sheets``, one 2x2 sheet each; with ``pairs``, of pairs.
        split: training, validation or evaluation.
        sheets: 2x2 sheets, drifting as real teachers do, instead of single panels.
        pairs: pairs with equal caption words instead, even ones of the same individual and odd ones of two;
            ``metadata.jsonl`` then says of each the files ``first`` and ``second`` and whether they are the ``same``.
        panels_each: panels of each individual, without ``sheets`` and ``pairs``.
        size: a panel's height and width in pixels; of pairs it is the world's own.
        maps: also write the depth (8-bit, 0 nearest) and light (8-bit, 255 is a factor of 2) of each panel.

    Raises:
        UserError: when the count is not positive, the folder cannot be written, or pairs are wanted with sheets or
            maps.
    """
    if count < 1:
        raise UserError(f"--count {count}: want at least 1")
    if pairs and (sheets or maps):
        raise UserError(f"--pairs goes with neither --sheets nor --maps; leave out --{'sheets' if sheets else 'maps'}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}): choose another --out") from error
    lines: list[dict] = []
    blocks = torch.arange(count).split(_BLOCK)
    for index in progress(blocks, description=f"drawing {split}", total=len(blocks)):
        if pairs:
            lines += _draw_pairs(out, index, split)
        elif sheets:
            lines += _draw_sheets(out, index, split, size)
        else:
            lines += _draw_panels(out, index, split, panels_each, size, maps)
    write_atomic(out / "metadata.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def _describe(individuals: Individuals, scenes: Scenes, i: int) -> dict:
    scene = {k: _rounded(v) for k, v in scenes.row(i).items()}
    return {
        "identity": {k: _rounded(v) for k, v in individuals.row(i).items()},
        "scene": {k: v for k, v in scene.items() if k not in _LIGHT_FIELDS},
        "light": {k: scene[k] for k in _LIGHT_FIELDS},
    }


def _rounded(value: float) -> float | int:
    return value if isinstance(value, int) else round(value, 6)


def _draw_panels(out: Path, index: torch.Tensor, split: Split, each: int, size: int, maps: bool) -> list[dict]:
    individuals = sample_individuals(split, index).repeat_interleave(each)
    scenes = sample_scenes(split, panel_numbers(index, each).flatten())
    drawing = draw(individuals, scenes, size)
    lines = []
    for i, (image, caption) in enumerate(zip(to_pil(drawing.image), panel_captions(individuals, scenes), strict=True)):
        owner, panel = int(index[i // each]), i % each
        name = f"{owner:06d}-{panel}.png"
        (out / name).write_bytes(encode_png(image))
        if maps:
            _write_map(out / f"{owner:06d}-{panel}.depth.png", drawing.depth[i, 0])
            _write_map(out / f"{owner:06d}-{panel}.light.png", drawing.light[i, 0] / 2)
        lines.append({"file_name": name, "caption": caption, "individual": owner, **_describe(individuals, scenes, i)})
    return lines


def _write_map(path: Path, values: torch.Tensor) -> None:
    Image.fromarray((values.clamp(0, 1) * 255).round().byte().numpy()).save(path)


def _draw_pairs(out: Path, index: torch.Tensor, split: Split) -> list[dict]:
    drawn = equal_word_pairs(split, index)
    lines = []
    for number, first, second, same in zip(
        index.tolist(), to_pil(drawn.first), to_pil(drawn.second), drawn.same, strict=True
    ):
        names = f"{number:06d}-first.png", f"{number:06d}-second.png"
        for name, image in zip(names, (first, second), strict=True):
            (out / name).write_bytes(encode_png(image))
        lines.append({"first": names[0], "second": names[1], "same": same})
    return lines


def _draw_sheets(out: Path, index: torch.Tensor, split: Split, size: int) -> list[dict]:
    sheets = draw_sheets(split, index, (2, 2), size=size)
    lines = []
    for i, image in enumerate(to_pil(sheets.images)):
        name = f"{int(index[i]):06d}.png"
        (out / name).write_bytes(encode_png(image))
        panels = [
            {"drifted": bool(sheets.drifted[i, k]), **_describe(sheets.individuals, sheets.scenes, 4 * i + k)}
            for k in range(4)
        ]
        lines.append({"file_name": name, "caption": sheets.captions[i], "individual": int(index[i]), "panels": panels})
    return lines
