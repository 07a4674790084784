"""One step of many drawings, against the formula by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dsd import flow
from dsd.backbones.protocol import Text
from dsd.errors import UserError
from dsd.generate.draw import Drawing, Rows, advance, drawings_of
from dsd.sampling import Sampling

SCALES = [(1.0, 1.0), (1.5, 1.0), (1.0, 1.5), (2.0, 2.0), (0.0, 1.3), (0.0, 0.0), (2.0, 1.3)]
NOTHING, IMAGE, BOTH = 0.3, -0.7, 1.1  # what the model says without anything, with the image, with image and text


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def text(value: float, count: int = 1) -> Text:
    return Text(torch.full((count, 2, 3), value))


def model(rows: Rows) -> Tensor:
    """Tells its branches apart by what it is shown."""
    said = rows.text.tokens[:, 0, 0] > 0
    value = torch.where(said, BOTH, torch.where(rows.keep, IMAGE, NOTHING))
    return value.view(-1, 1, 1, 1, 1) + rows.latents * rows.sigma.view(-1, 1, 1, 1, 1)


def started(sampling: Sampling, count: int = 2, seed: int = 9, size: int = 2) -> list[Drawing]:
    return drawings_of(random(count, 2, 1, size, size, seed=seed), text(1.0, count), text(0.0), sampling, shift=1.3)


@pytest.mark.parametrize(("text_scale", "image_scale"), SCALES)
def test_guidance_is_the_formula_and_evaluates_what_it_needs(text_scale: float, image_scale: float) -> None:
    drawings = started(Sampling(steps=3, text_scale=text_scale, image_scale=image_scale))
    asked: list[int] = []

    def counted(rows: Rows) -> Tensor:
        asked.append(len(rows.names))
        return model(rows)

    before = [drawing.latents for drawing in drawings]
    advance(counted, drawings)
    assert asked == [2 * sum(weight != 0 for weight in flow.branch_weights(text_scale, image_scale))]
    now, after = flow.schedule(3, 1.3)[:2]
    for old, drawing in zip(before, drawings, strict=True):
        velocity = NOTHING + image_scale * (IMAGE - NOTHING) + text_scale * (BOTH - IMAGE) + old * now
        assert torch.allclose(drawing.latents, old + (after - now) * velocity, atol=1e-6)


def test_drawings_of_all_sizes_steps_and_scales_go_on_as_if_alone() -> None:
    settings = [
        (Sampling(steps=4, text_scale=2.0, image_scale=1.3), 2),
        (Sampling(steps=2, text_scale=1.0, image_scale=1.0), 2),
        (Sampling(steps=3, text_scale=1.5, image_scale=1.5), 4),
    ]
    alone = [started(sampling, 1, seed, size)[0] for seed, (sampling, size) in enumerate(settings)]
    for drawing in alone:
        while not drawing.is_finished:
            advance(model, [drawing])
    together = [started(sampling, 1, seed, size)[0] for seed, (sampling, size) in enumerate(settings)]
    advance(model, together[:1])  # the others join later
    while going := [drawing for drawing in together if not drawing.is_finished]:
        advance(model, going)
    for one, other in zip(alone, together, strict=True):
        assert torch.allclose(one.latents, other.latents, atol=1e-6)


def test_outside_its_interval_guidance_is_off_and_costs_nothing() -> None:
    asked: list[tuple[float, int]] = []

    def counted(rows: Rows) -> Tensor:
        asked.append((float(rows.sigma[0]), len(rows.names)))
        return model(rows)

    (drawing,) = started(Sampling(steps=8, text_scale=2.0, image_scale=1.3, guidance_interval=(0.3, 0.8)), 1)
    while not drawing.is_finished:
        advance(counted, [drawing])
    assert {rows for sigma, rows in asked if 0.3 <= sigma <= 0.8} == {3}
    assert {rows for sigma, rows in asked if not 0.3 <= sigma <= 0.8} == {1}
    with pytest.raises(UserError, match="guidance_interval"):
        Sampling(guidance_interval=(0.8, 0.3))


def test_without_references_the_words_alone_are_guided() -> None:
    drawings = drawings_of(random(1, 2, 1, 2, 2), text(1.0), text(0.0), Sampling(steps=1), 1.0, sees=False)
    seen: list[Rows] = []

    def kept(rows: Rows) -> Tensor:
        seen.append(rows)
        return model(rows)

    advance(kept, drawings)
    assert not seen[0].keep.any() and len(seen[0].names) == 2


def test_the_estimate_is_where_the_path_would_end() -> None:
    (drawing,) = started(Sampling(steps=1, text_scale=1.0, image_scale=1.0), 1)
    advance(model, [drawing])
    assert drawing.estimate is not None and torch.equal(drawing.estimate, drawing.latents)


def test_rows_see_the_condition_of_their_drawing_or_zeros() -> None:
    kept: list[Rows] = []

    def seeing(rows: Rows) -> Tensor:
        kept.append(rows)
        return model(rows)

    advance(seeing, started(Sampling(steps=1, text_scale=2.0, image_scale=1.3)))
    conditions = random(2, 2, 1, 2, 2, seed=3)
    assert torch.equal(kept[0].seen(conditions), torch.cat([0 * conditions, conditions, conditions]))
