"""Sheets come apart where panels meet, and frames stand side by side."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dsd.backbones.stock import apart, side_by_side
from dsd.config import from_json, to_json
from dsd.frames import Film, Grid, MalformedSheet
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


def test_the_condition_shows_references_and_hides_what_is_drawn() -> None:
    film = Film.two_frame()
    reference, target, empty = (torch.full((2, 1, 2, 2), value) for value in (1.0, 2.0, -5.0))
    condition = film.condition(reference[:, None], empty[:1])
    assert torch.equal(condition, torch.stack([reference, empty], dim=1))
    frames = torch.stack([reference, target], dim=1)
    assert torch.equal(film.references(frames), reference[:, None]) and torch.equal(
        film.targets(frames), target[:, None]
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_frames_come_back_from_the_side_by_side_canvas(references: int, targets: int, height: int, width: int) -> None:
    film = Film.of(references, targets)
    frames = torch.randn(2, film.frames, 3, height, width)
    canvas = side_by_side(frames)
    assert canvas.shape == (2, 3, height, film.frames * width)
    assert torch.equal(canvas[..., :width], frames[:, 0]) and torch.equal(apart(canvas, film.frames), frames)


def test_several_references_keep_their_places() -> None:
    film = Film(given=(True, False, True, False), weights=(0.5, 1.0, 0.5, 1.0))
    references, empty = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    assert film.condition(references, empty).flatten().tolist() == [1, 0, 3, 0]
    assert film.targets(torch.arange(4.0).view(1, 4, 1, 1, 1)).flatten().tolist() == [1, 3]


def test_noise_is_that_of_one_wide_picture_whoever_shares_the_batch() -> None:
    film, like = Film.of(2, 1), torch.zeros(1, 4, 2, 5)
    canvas = torch.randn(3, 4, 2, 15, generator=torch.Generator().manual_seed(0))
    assert torch.equal(side_by_side(film.noise(like, torch.Generator().manual_seed(0), 3)), canvas)
    alone = film.noise(like, [torch.Generator().manual_seed(7)], 1)
    several = film.noise(like, [torch.Generator().manual_seed(seed) for seed in (6, 7)], 2)
    assert torch.equal(several[1:], alone)


def test_loss_weights_have_mean_one_and_their_ratio() -> None:
    weights = Film.two_frame(0.3).loss_weights()
    assert weights.shape == (1, 2, 1, 1, 1)
    assert weights.mean().item() == pytest.approx(1)
    assert (weights[0, 0] / weights[0, 1]).item() == pytest.approx(0.3)
    assert torch.equal(Film.of(3, 2).loss_weights(), torch.ones(1, 5, 1, 1, 1))


def test_films_check_what_they_are_given_and_survive_json() -> None:
    for bad in (((True,), (1.0,)), ((True, False), (1.0,)), ((True, False), (0.0, 0.0)), ((True, False), (-1.0, 2.0))):
        with pytest.raises(ValueError, match="weight"):
            Film(*bad)
    with pytest.raises(ValueError, match="give the 1 given frames, got 3"):
        Film.two_frame().condition(torch.zeros(1, 3, 1, 1, 1), torch.zeros(1, 1, 1, 1))
    assert from_json(Film, to_json(Film.two_frame())) == Film.two_frame()
