"""Sheets come apart where panels meet, and frames stand side by side."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dsd.config import from_json, to_json
from dsd.frames import Canvas, Grid, MalformedSheet
from dsd.generate.draw import shown
from dsd.images import to_pil
from dsd_world.sheets import draw_sheets

LAYOUTS = [Grid(2, 2), Grid(1, 2), Grid(2, 1), Grid(2, 3)]


def panels(count: int, size: tuple[int, int] = (48, 40)) -> list[Image.Image]:
    return [tiny.picture(size, seed=number) for number in range(count)]


def with_gutters(grid: Grid, gutter: int, margin: int, colour: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    pictures = panels(grid.panels)
    width, height = pictures[0].size
    sheet = Image.new(
        "RGB",
        (
            grid.columns * width + (grid.columns - 1) * gutter + 2 * margin,
            grid.rows * height + (grid.rows - 1) * gutter + 2 * margin,
        ),
        colour,
    )
    for number, picture in enumerate(pictures):
        row, column = divmod(number, grid.columns)
        sheet.paste(picture, (margin + column * (width + gutter), margin + row * (height + gutter)))
    return sheet


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and bool(np.array_equal(np.asarray(one), np.asarray(other)))


@pytest.mark.parametrize("grid", LAYOUTS, ids=str)
def test_a_sheet_without_gutters_comes_apart_pixel_for_pixel(grid: Grid) -> None:
    pictures = panels(grid.panels)
    assert all(map(same, grid.split(grid.join(pictures)), pictures))


@pytest.mark.parametrize("grid", LAYOUTS, ids=str)
@pytest.mark.parametrize("margin", [0, 3])
def test_gutters_and_margins_are_cut_away(grid: Grid, margin: int) -> None:
    for colour in ((255, 255, 255), (0, 0, 0)):
        cut = grid.split(with_gutters(grid, 4, margin, colour))
        assert all(map(same, cut, panels(grid.panels)))


def test_a_noisy_gutter_is_a_gutter() -> None:
    sheet = np.asarray(with_gutters(Grid(2, 2), 4, 2), dtype=np.float32)
    noisy = sheet + np.random.default_rng(0).normal(0, 3, sheet.shape)
    cut = Grid(2, 2).split(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)))
    assert {panel.size for panel in cut} == {(40, 48)}


def test_panels_are_resized_on_demand() -> None:
    cut = Grid(2, 2).split(with_gutters(Grid(2, 2), 4, 0), panel_size=(64, 64))
    assert {panel.size for panel in cut} == {(64, 64)}


def test_drawn_sheets_come_apart_where_they_were_joined() -> None:
    sheets = draw_sheets("validation", torch.arange(40))
    cut = [Grid(2, 2).split(sheet) for sheet in to_pil(sheets.images)]
    assert {panel.size for sheet in cut for panel in sheet} == {(64, 64)}


def test_malformed_sheets_are_refused_with_a_reason() -> None:
    gradient = np.linspace(0, 255, 96, dtype=np.uint8)
    one_picture = np.broadcast_to(gradient[:, None, None] // 2 + gradient[None, :, None] // 2, (96, 96, 3))
    with pytest.raises(MalformedSheet, match="no edge between panels") as caught:
        Grid(2, 2).split(Image.fromarray(np.ascontiguousarray(one_picture)))
    assert caught.value.reason == str(caught.value)
    blank = Grid(2, 2).join([*panels(3), Image.new("RGB", (40, 48), "navy")])
    with pytest.raises(MalformedSheet, match="panel 4 of 4 is blank"):
        Grid(2, 2).split(blank)
    with pytest.raises(MalformedSheet, match="too small"):
        Grid(2, 2).split(Image.new("RGB", (10, 10)))


def test_grids_check_what_they_are_given() -> None:
    with pytest.raises(ValueError, match="at least two panels"):
        Grid(1, 1)
    with pytest.raises(ValueError, match="4 panels"):
        Grid(2, 2).join(panels(3))


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 4), st.integers(1, 3), st.integers(1, 3))
def test_joining_and_splitting_frames_are_inverse(frames: int, height: int, width: int) -> None:
    canvas = Canvas(given=(True,) * (frames - 1) + (False,), weights=(1.0,) * frames)
    parts = [torch.full((2, 3, height, width), float(number)) for number in range(frames)]
    joined = canvas.join(parts)
    assert joined.shape == (2, 3, height, frames * width)
    assert all(map(torch.equal, canvas.split(joined), parts))
    assert torch.equal(canvas.targets(joined)[0], parts[-1])


def test_the_reference_is_at_the_left_and_the_condition_hides_the_target() -> None:
    canvas = Canvas.two_frame()
    reference, target, empty = (torch.full((2, 1, 2, 2), value) for value in (1.0, 2.0, -5.0))
    condition = canvas.condition([reference, target], empty[:1])
    assert torch.equal(condition, torch.cat([reference, empty], dim=-1))
    assert torch.equal(canvas.condition([reference], empty[:1]), condition)
    keep = torch.tensor([True, False, False, True])
    assert torch.equal(shown(condition, keep), torch.cat([condition[:1], 0 * condition, condition[1:]]))


def test_several_references_keep_their_places() -> None:
    canvas = Canvas(given=(True, False, True), weights=(0.5, 1.0, 0.5))
    one, two, three, empty = (torch.full((1, 1, 1, 1), value) for value in (1.0, 2.0, 3.0, 0.0))
    assert canvas.condition([one, two, three], empty).flatten().tolist() == [1, 0, 3]
    assert canvas.condition([one, three], empty).flatten().tolist() == [1, 0, 3]


def test_loss_weights_have_mean_one_and_their_ratio() -> None:
    weights = Canvas.two_frame(0.3).loss_weights(4, 6)
    assert weights.shape == (1, 1, 4, 12)
    assert weights.mean().item() == pytest.approx(1)
    assert (weights[..., 0] / weights[..., -1]).mean().item() == pytest.approx(0.3)
    assert torch.equal(Canvas.two_frame(1.0).loss_weights(2, 2), torch.ones(1, 1, 2, 4))


def test_canvases_check_what_they_are_given_and_survive_json() -> None:
    for bad in (((True,), (1.0,)), ((True, False), (1.0,)), ((True, False), (0.0, 0.0)), ((True, False), (-1.0, 2.0))):
        with pytest.raises(ValueError, match="weight"):
            Canvas(*bad)
    with pytest.raises(ValueError, match="2 frames was given 3"):
        Canvas.two_frame().join([torch.zeros(1, 1, 1, 1)] * 3)
    assert from_json(Canvas, to_json(Canvas.two_frame())) == Canvas.two_frame()
