"""What a caller of a two-frame pipeline may give by mistake: refused in a sentence, and never ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import DiffusionPipeline
from pipeline_parts import adapter, draw, load, shared

from dsd.errors import UserError
from dsd.generate.two_frame import TwoFramePipeline

PICTURE = tiny.picture()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prompt": "a \ud800 cat"}, "no text of Unicode"),
        ({"prompt": ["a", "b"], "image": [PICTURE, [PICTURE]]}, "mixes pictures and lists"),
        ({"prompt": ["a", "b"], "image": [[PICTURE], PICTURE]}, "mixes pictures and lists"),
        ({"image": torch.zeros(3, 32, 32, device="meta")}, "meta"),
        ({"image": torch.zeros(3, 32, 32).to_sparse()}, "sparse"),
        ({"height": 10**9, "width": 10**9}, "at most 40 million"),
        ({"num_images_per_prompt": 10**9}, "at most 10,000"),
        ({"num_frames": 10**12}, "at most 1,000"),
        ({"text_scale": 10**400}, "must be a number"),
        ({"guidance_interval": (0.9,)}, "two noise levels"),
        ({"guidance_interval": 0.5}, "two noise levels"),
        ({"guidance_interval": (None, 1)}, "two noise levels"),
        ({"guidance_interval": "ab"}, "must be a number"),
        ({"sigmas": 1.0}, "must be a list"),
        ({"sigmas": [1.0, None]}, "must fall"),
        ({"sigmas": [1.0, float("nan")]}, "must fall"),
        ({"generator": 3}, "torch generator"),
        ({"generator": [None]}, "torch generator"),
        ({"generator": np.random.default_rng()}, "torch generator"),
        ({"latents": np.zeros((1, 2, 4, 8, 8))}, "must be a tensor"),
        ({"pooled_prompt_embeds": torch.zeros(1, 16)}, "without prompt_embeds"),
        ({"negative_pooled_prompt_embeds": torch.zeros(1, 16)}, "without negative_prompt_embeds"),
        ({"prompt": None, "prompt_embeds": [1]}, "tensor of floats"),
        ({"joint_attention_kwargs": "x"}, "values by name"),
        ({"callback_on_step_end": "x"}, "must be a function"),
        ({"callback_on_step_end_tensor_inputs": None}, "must be a list"),
        ({"callback_on_step_end_tensor_inputs": "latents"}, "must be a list"),
    ],
)
def test_what_has_no_meaning_is_told_in_a_sentence(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        draw("flux", **settings)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ([1], "returned a list"),
        (True, "returned a bool"),
        ({"foo": 1}, 'returned "foo"'),
        ({"latents": None}, "as NoneType"),
        ({"latents": torch.zeros(1, 3)}, "shape"),
        ({"latents": torch.zeros(3, 2, 4, 8, 8)}, "shape"),
    ],
)
def test_what_a_callback_gives_back_is_checked(returned: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        draw("flux", callback_on_step_end=lambda *_: returned)


def test_a_callback_s_precision_does_not_change_the_drawing_s() -> None:
    def halve(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": tensors["latents"].half()}

    assert draw("flux", callback_on_step_end=halve).dtype == torch.float32


@pytest.mark.parametrize("scale", ["x", None])
def test_a_scale_that_a_callback_sets_is_checked(scale: Any) -> None:
    pipe = load("flux")

    def spoil(pipe: Any, *_: Any) -> None:
        pipe._guidance_scale = scale

    with pytest.raises(UserError, match="guidance_scale"):
        pipe("a cat", PICTURE, callback_on_step_end=spoil)


def test_an_unknown_argument_is_told_with_those_that_are_taken() -> None:
    with pytest.raises(UserError) as caught:
        draw("flux", strength=0.5)
    assert str(caught.value).count('"generator"') == 1
    assert "ip_adapter_image" not in str(caught.value)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_pipeline_of_another_s_components_draws_the_same(family: str) -> None:
    settings: dict[str, Any] = {"output_type": "latent", "num_inference_steps": 2}
    first: Any = shared(family)("a cat", PICTURE, generator=torch.Generator().manual_seed(1), **settings)
    for maker in (TwoFramePipeline, type(shared(family))):
        pipe = maker.from_pipe(shared(family))
        second: Any = pipe("a cat", PICTURE, generator=torch.Generator().manual_seed(1), **settings)
        assert torch.equal(first.images, second.images)


def test_a_pipeline_of_no_known_family_gives_no_two_frame_pipeline() -> None:
    class Other(DiffusionPipeline):
        pass

    with pytest.raises(UserError, match="is a Other"):
        TwoFramePipeline.from_pipe(Other())


@pytest.mark.parametrize("fuse", [True, False])
def test_an_adapter_is_not_added_a_second_time(fuse: bool, tmp_path: Path) -> None:
    shared("flux").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="already"):
        TwoFramePipeline.from_pretrained(tmp_path, adapter("flux"), fuse=fuse)


def test_a_switched_off_adapter_is_not_saved(tmp_path: Path) -> None:
    pipe = load("flux", fuse=False)
    settings: dict[str, Any] = {"output_type": "latent", "num_inference_steps": 2}
    pipe.disable_lora()
    pipe.save_pretrained(tmp_path)
    drawn: list[Any] = [
        one("a cat", PICTURE, generator=torch.Generator().manual_seed(1), **settings)
        for one in (pipe, TwoFramePipeline.from_pretrained(tmp_path))
    ]
    assert torch.equal(drawn[0].images, drawn[1].images)


@pytest.mark.parametrize("part", ["transformer", "vae", "scheduler"])
def test_a_model_without_a_part_that_draws_is_refused(part: str) -> None:
    with pytest.raises(UserError, match=f"without its {part}"):
        load("flux", **{part: None})


def test_a_base_may_be_a_path_and_nothing_else_than_a_name() -> None:
    assert isinstance(TwoFramePipeline.from_pretrained(Path(tiny.dev())), TwoFramePipeline)
    base: Any = None
    with pytest.raises(UserError, match="base is None"):
        TwoFramePipeline.from_pretrained(base)


def test_without_text_encoders_encoded_prompts_are_drawn() -> None:
    pipe, backbone = load("flux", text_encoder=None, text_encoder_2=None), shared("flux").backbone
    text = backbone.encode_text(["a cat", ""], 8)
    assert text.pooled is not None
    encoded: dict[str, Any] = {"prompt_embeds": text.tokens[:1], "pooled_prompt_embeds": text.pooled[:1]}
    negative: dict[str, Any] = {
        "negative_prompt_embeds": text.tokens[1:],
        "negative_pooled_prompt_embeds": text.pooled[1:],
    }
    settings: dict[str, Any] = {"output_type": "latent", "num_inference_steps": 2}
    first: Any = pipe(None, PICTURE, generator=torch.Generator().manual_seed(1), **encoded, **negative, **settings)
    second: Any = shared("flux")("a cat", PICTURE, generator=torch.Generator().manual_seed(1), max_sequence_length=8,
                                 **settings)  # fmt: skip
    assert torch.allclose(first.images, second.images, atol=1e-4)
    with pytest.raises(UserError, match="text_encoder"):
        pipe("a cat", PICTURE)
    with pytest.raises(UserError, match="negative_prompt_embeds"):
        pipe(None, PICTURE, **encoded)
