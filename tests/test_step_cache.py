"""What the step cache may reuse, and what it must not."""

from __future__ import annotations

import gc
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from dsd.errors import UserError
from dsd.generate import step_cache
from dsd.generate.asked import Asked
from dsd.generate.draw import current_rows
from dsd.generate.speed import speed_up
from dsd.generate.two_frame import FilmDrawing, TwoFramePipeline, pipeline_class

STEPS = 6
SOME = {"flux": 1.0, "sd3": 0.7, "flux2": 1.4}
"""Thresholds at which random models of each family compute some rows and not others."""
PROMPTS = ("a red cat", "a dog in the snow", "a blue house")


@cache
def loaded(family: str) -> TwoFramePipeline:
    pipe: Any = pipeline_class(family).from_pretrained(tiny.FAMILIES[family]())
    pipe.backbone.widen()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(params=sorted(tiny.FAMILIES))
def pipe(request: pytest.FixtureRequest) -> Any:
    yield loaded(request.param)
    step_cache.remove(loaded(request.param))


def begun(pipe: TwoFramePipeline, which: int) -> FilmDrawing:
    asked = Asked(
        prompt=PROMPTS[which], image=tiny.picture(seed=which), height=32, width=32, num_inference_steps=STEPS,
        text_scale=2.0, image_scale=1.3, max_sequence_length=tiny.TEXT_TOKENS,
        generator=torch.Generator().manual_seed(which), sigmas=[1.0, 0.99, 0.9, 0.88, 0.4, 0.1],
    )  # fmt: skip
    return pipe.begin(asked)[0]


def drawn(pipe: TwoFramePipeline, which: int) -> Tensor:
    drawing = begun(pipe, which)
    while not drawing.is_finished:
        pipe.advance([drawing])
    return drawing.latents


def test_threshold_0_computes_everything_and_draws_the_same(pipe: TwoFramePipeline) -> None:
    plain = drawn(pipe, 0)
    cache = step_cache.apply(pipe, 0.0)
    assert torch.equal(drawn(pipe, 0), plain)
    assert (cache.evaluated, cache.reused, cache.skipped) == (3 * STEPS, 0, 0.0)


def test_a_high_threshold_computes_the_first_step_alone(pipe: TwoFramePipeline) -> None:
    plain = drawn(pipe, 0)
    cache = step_cache.apply(pipe, 1e9)
    assert not torch.allclose(drawn(pipe, 0), plain, atol=1e-2)
    assert cache.reused == 3 * (STEPS - 1)
    assert cache.skipped == pytest.approx((cache.blocks - 1) / cache.blocks * (STEPS - 1) / STEPS)


def test_reusing_a_step_that_is_asked_again_changes_nothing(pipe: TwoFramePipeline) -> None:
    cache = step_cache.apply(pipe, 1e-6)
    one, other = begun(pipe, 0), begun(pipe, 0)
    pipe.advance([one])
    at = other.latents
    pipe.advance([other])
    other.latents, other.step = at, 0
    before = cache.reused
    pipe.advance([other])
    assert cache.reused == before + 3
    assert torch.allclose(one.latents, other.latents, atol=1e-5)


def test_a_drawing_that_joins_is_drawn_as_alone(pipe: TwoFramePipeline) -> None:
    cache = step_cache.apply(pipe, SOME[pipe.family])
    alone = [drawn(pipe, which) for which in range(3)]
    assert 0 < cache.reused < 3 * 3 * STEPS - 9
    together = [begun(pipe, 0)]
    pipe.advance(together)
    together += [begun(pipe, 1), begun(pipe, 2)]
    while unfinished := [one for one in together if not one.is_finished]:
        pipe.advance(unfinished)
    for one, wanted in zip(together, alone, strict=True):
        assert torch.allclose(one.latents, wanted, atol=1e-4)


def test_rows_of_one_step_are_computed_and_reused_side_by_side(pipe: TwoFramePipeline) -> None:
    cache = step_cache.apply(pipe, 1e9)
    first, late = begun(pipe, 0), begun(pipe, 1)
    pipe.advance([first])
    pipe.advance([first, late])
    assert (cache.evaluated, cache.reused) == (9, 3)


def test_nothing_is_kept_of_drawings_that_are_finished_or_gone(pipe: TwoFramePipeline) -> None:
    cache = step_cache.apply(pipe, 0.1)
    for _ in range(2):
        drawn(pipe, 0)
    assert len(cache) == 0
    left = begun(pipe, 1)
    pipe.advance([left])
    assert len(cache) == 1
    del left
    gc.collect()
    assert len(cache) == 0


def test_calls_one_after_the_other_draw_the_same(pipe: TwoFramePipeline) -> None:
    step_cache.apply(pipe, SOME[pipe.family])
    first = drawn(pipe, 0)
    drawn(pipe, 1)
    assert torch.equal(drawn(pipe, 0), first)


def test_another_prompt_in_the_middle_is_computed(pipe: TwoFramePipeline) -> None:
    cache = step_cache.apply(pipe, 1e9)
    drawing = begun(pipe, 0)
    pipe.advance([drawing])
    drawing.text = begun(pipe, 1).text
    pipe.advance([drawing])
    assert cache.reused == 2  # of the branches without text


def test_only_tokens_of_the_frame_to_draw_are_measured(pipe: TwoFramePipeline) -> None:
    backbone = pipe.backbone
    frames = torch.zeros(1, 2, backbone.latent_channels, 4, 8)
    frames[:, 1] = 1
    packed = backbone.unpacked
    index = backbone.target_tokens((True, False), 4 // backbone.patch, 8 // backbone.patch)
    width = backbone.transformer.config["out_channels"] or backbone.latent_channels
    tokens = torch.zeros(1, 2 * 4 * 8 // backbone.patch**2, width)
    tokens[:, index] = 1
    if backbone.family == "sd3":  # its blocks see the tokens row by row, its result is the canvas
        canvas = tokens[..., 0].view(1, 1, 2, 8).repeat_interleave(2, 2).repeat_interleave(2, 3)
        tokens = canvas.expand(-1, backbone.latent_channels, -1, -1)
    assert torch.equal(packed(tokens, frames), frames)


def test_it_comes_off_again_and_compiled_blocks_keep_their_compiled_call(pipe: TwoFramePipeline) -> None:
    blocks = [block for name in pipe.backbone.layers.blocks for block in pipe.backbone.transformer.get_submodule(name)]
    called: list[object] = []

    def compiled(block: Any) -> Any:
        return lambda **given: (called.append(block), block._call_impl(**given))[1]

    for block in blocks:
        block._compiled_call_impl = compiled(block)
    before = [block._compiled_call_impl for block in blocks]
    step_cache.apply(pipe, 0.0)
    step_cache.apply(pipe, 0.0)
    pipe.advance([begun(pipe, 0)])
    assert called == blocks
    step_cache.remove(pipe)
    assert [block._compiled_call_impl for block in blocks] == before
    for block in blocks:
        block._compiled_call_impl = None


def test_compiled_blocks_draw_the_same_with_smaller_batches() -> None:
    pipe = loaded("flux")
    step_cache.apply(pipe, SOME["flux"])
    plain = drawn(pipe, 0)
    step_cache.remove(pipe)
    blocks = [block for name in pipe.backbone.layers.blocks for block in pipe.backbone.transformer.get_submodule(name)]
    for block in blocks:
        block.compile(fullgraph=True, backend="eager")  # as `speed_up` does, but for the slow part
    cache = step_cache.apply(pipe, SOME["flux"])
    assert torch.allclose(drawn(pipe, 0), plain, atol=1e-5)
    assert 0 < cache.reused < 3 * (STEPS - 1)
    step_cache.remove(pipe)
    for block in blocks:
        block._compiled_call_impl = None


def test_a_threshold_below_0_is_a_sentence(pipe: TwoFramePipeline) -> None:
    for threshold in (-0.1, float("nan")):
        with pytest.raises(UserError, match=r"threshold is .* but must be 0"):
            step_cache.apply(pipe, threshold)


def test_fewer_steps_are_taken_where_a_call_does_not_say_how_many(pipe: TwoFramePipeline) -> None:
    assert [step_cache.fewer(steps) for steps in (4, 8, 10, 16, 28, 50)] == [4, 8, 10, 10, 18, 31]
    asked = Asked(prompt="a cat", image=tiny.picture(), height=32, width=32, max_sequence_length=tiny.TEXT_TOKENS)
    step_cache.apply(pipe)
    step_cache.apply(pipe)
    assert pipe.begin(asked)[0].steps == 18
    assert pipe.begin(replace(asked, num_inference_steps=28))[0].steps == 28
    step_cache.remove(pipe)
    assert pipe.begin(asked)[0].steps == 28


def test_turbo_draws_where_float8_cannot_be_and_says_so() -> None:
    pipe: Any = pipeline_class("flux").from_pretrained(tiny.dev())  # its own, for what is lossless stays
    pipe.backbone.widen()
    said = speed_up(pipe, "turbo")
    assert any("float8" in sentence and "this device" in sentence for sentence in said)
    assert any("fewer steps" in sentence for sentence in said)
    assert bool(drawn(pipe, 0).isfinite().all()) and pipe.most_steps == 18


def test_rows_are_known_during_a_step_alone(pipe: TwoFramePipeline) -> None:
    assert current_rows.get() is None
    pipe.advance([begun(pipe, 0)])
    assert current_rows.get() is None
