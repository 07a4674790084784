"""What two-frame pipelines of every family take of what their stock ones take: each argument works or is refused."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, FluxPipeline
from pipeline_parts import PROMPTS, adapter, differ, draw, load, seeds, shared

from dsd.backbones.adapter import AdapterMetadata, load_metadata, save_adapter
from dsd.backbones.registry import backbone_class, drawing_of, family_of, load_backbone
from dsd.errors import UserError
from dsd.generate.two_frame import TwoFramePipeline


@pytest.fixture(params=list(tiny.FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def test_several_pictures_of_a_prompt_follow_one_another(family: str) -> None:
    drawn = draw(family, PROMPTS, num_images_per_prompt=2, generator=seeds(1, 2, 3, 4))
    assert len(drawn) == 4
    for place, (prompt, seed) in enumerate([(PROMPTS[0], 1), (PROMPTS[0], 2), (PROMPTS[1], 3), (PROMPTS[1], 4)]):
        assert torch.allclose(drawn[place], draw(family, prompt, generator=seeds(seed))[0], atol=1e-4)
    with pytest.raises(UserError, match="2 generators were given for 4"):
        draw(family, PROMPTS, num_images_per_prompt=2, generator=seeds(1, 2))


def test_text_scale_image_scale_and_both_change_the_picture_and_one_is_off(family: str) -> None:
    off = draw(family, text_scale=1.0, image_scale=1.0)
    for scales in ({"text_scale": 2.0, "image_scale": 1.0}, {"text_scale": 1.0, "image_scale": 2.0}):
        assert differ(off, draw(family, **scales))
    assert torch.allclose(off, draw(family, text_scale=1 + 1e-6, image_scale=1 + 1e-6), atol=1e-3)


def test_a_negative_prompt_leads_away_from_it_only_where_there_is_guidance(family: str) -> None:
    assert differ(draw(family), draw(family, negative_prompt="a green fox"))
    assert torch.equal(draw(family), draw(family, negative_prompt=""))
    off = {"text_scale": 1.0, "image_scale": 1.0}
    assert torch.equal(draw(family, **off), draw(family, **off, negative_prompt="a green fox"))
    each = draw(family, PROMPTS, negative_prompt=["a green fox", ""], generator=seeds(0, 0))
    assert torch.allclose(each[:1], draw(family, negative_prompt="a green fox"), atol=1e-4)
    with pytest.raises(UserError, match="3 of negative_prompt were given for 2"):
        draw(family, PROMPTS, negative_prompt=["", "", ""])


def test_encoded_prompts_draw_what_their_words_draw(family: str) -> None:
    text = shared(family).backbone.encode_text(PROMPTS, tiny.TEXT_TOKENS)
    pooled = {} if text.pooled is None else {"pooled_prompt_embeds": text.pooled}
    given = draw(family, None, prompt_embeds=text.tokens, generator=seeds(1, 2), **pooled)
    assert torch.allclose(given, draw(family, PROMPTS, generator=seeds(1, 2)), atol=1e-5)
    fox = shared(family).backbone.encode_text(["a green fox"], tiny.TEXT_TOKENS)
    negative = {"negative_prompt_embeds": fox.tokens}
    if fox.pooled is not None:
        negative["negative_pooled_prompt_embeds"] = fox.pooled
    assert torch.allclose(draw(family, **negative), draw(family, negative_prompt="a green fox"), atol=1e-5)
    with pytest.raises(UserError, match="both given"):
        draw(family, prompt_embeds=text.tokens, **pooled)
    with pytest.raises(UserError, match="no prompt was given"):
        draw(family, None)
    with pytest.raises(UserError, match="pooled"):
        draw(family, None, prompt_embeds=text.tokens, **({} if pooled else {"pooled_prompt_embeds": text.tokens[:, 0]}))


def test_noise_and_noise_levels_may_be_given(family: str) -> None:
    pipe = shared(family)
    shape = draw(family).shape
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(draw(family, latents=noise), draw(family, latents=noise, generator=seeds(9)[0]))
    assert differ(draw(family, latents=noise), draw(family, latents=-noise))
    assert torch.allclose(draw(family), draw(family, sigmas=[1.0, 2 / 3, 1 / 3]), atol=1e-4)
    assert differ(draw(family), draw(family, sigmas=[1.0, 0.9, 0.1]))
    with pytest.raises(UserError, match="2 sigmas were given for 3 steps"):
        draw(family, sigmas=[1.0, 0.5], num_inference_steps=3)
    with pytest.raises(UserError, match="latents have the shape"):
        draw(family, latents=noise[:, :1])
    for sigmas in ([0.5, 1.0], [1.0, 0.0], [1.0, "x"], [2.0]):
        with pytest.raises(UserError, match="sigmas"):
            pipe(PROMPTS[0], tiny.picture(), sigmas=sigmas)


def test_a_callback_sees_changes_and_stops_the_drawing(family: str) -> None:
    pipe, seen = load(family), []

    def zero_at_the_end(pipeline: Any, step: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        seen.append((step, float(timestep), tensors["latents"].shape))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 2 else {}

    result: Any = pipe(PROMPTS[0], tiny.picture(), callback_on_step_end=zero_at_the_end, output_type="latent")
    assert not result.images.any()
    assert [step for step, _, _ in seen] == [0, 1, 2] and seen[0][1] == 1000.0
    assert seen[0][2] == result.images.shape

    def stop(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> None:
        seen.append(step)
        pipeline._interrupt = True

    seen.clear()
    pipe(PROMPTS[0], tiny.picture(), callback_on_step_end=stop)
    assert seen == [0]
    with pytest.raises(UserError, match="callback_on_step_end_tensor_inputs"):
        pipe(PROMPTS[0], tiny.picture(), callback_on_step_end_tensor_inputs=["noise_pred"])


def test_each_argument_of_the_stock_pipeline_works_or_is_refused_by_name(family: str) -> None:
    ours = set(inspect.signature(TwoFramePipeline.__call__).parameters)
    names, stock = drawing_of(family), backbone_class(family).pipeline_class
    taken = {names.TRUE_GUIDANCE, names.ATTENTION, *names.FURTHER_PROMPTS}
    taken |= {f"negative_{name}" for name in names.FURTHER_PROMPTS}
    for name in inspect.signature(stock.__call__).parameters:
        if name in ours | taken:
            continue
        with pytest.raises(UserError, match=f"{name} is an argument of {stock.__name__}"):
            draw(family, **{name: 1})
    with pytest.raises(UserError, match='did you mean "guidance_scale"'):
        draw(family, guidance_scal=2.0)


def test_true_guidance_has_the_stock_pipeline_s_name_too(family: str) -> None:
    name = drawing_of(family).TRUE_GUIDANCE
    assert torch.equal(draw(family, **{name: 2.5}), draw(family, text_scale=2.5))
    with pytest.raises(UserError, match="two names of one thing"):
        draw(family, **{name: 2.5}, text_scale=1.5)


def test_further_encoders_may_have_prompts_of_their_own(family: str) -> None:
    for name in drawing_of(family).FURTHER_PROMPTS:
        assert torch.allclose(draw(family, **{name: PROMPTS[0]}), draw(family), atol=1e-5)
        assert differ(draw(family, **{name: "a green fox at night"}), draw(family))
        assert differ(draw(family, **{f"negative_{name}": "a green fox at night"}), draw(family))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"height": 32.0}, "height is 32.0, but must be a whole number"),
        ({"num_inference_steps": 2.5}, "num_inference_steps is 2.5"),
        ({"num_inference_steps": 0}, "at least 1"),
        ({"num_images_per_prompt": 0}, "at least 1"),
        ({"max_sequence_length": "8"}, "max_sequence_length"),
        ({"text_scale": "high"}, "text_scale is 'high'"),
        ({"image_scale": float("inf")}, "scale is (inf|nan), but must be"),
        ({"guidance_interval": (0.9, 0.1)}, "guidance_interval"),
        ({"prompt": 3}, "prompt holds 3"),
        ({"prompt": ["a", None]}, "prompt holds None"),
        ({"num_frames": 0}, "num_frames"),
        ({"output_type": "jpeg"}, "output_type"),
    ],
)
def test_values_of_the_wrong_kind_are_told_in_a_sentence(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        draw("flux", **settings)


def test_without_a_reference_the_words_alone_are_drawn(family: str) -> None:
    alone: Any = shared(family)(PROMPTS[0], generator=seeds(0)[0], output_type="latent").images
    assert differ(alone, draw(family))
    scaled: Any = shared(family)(PROMPTS[0], image_scale=3.0, generator=seeds(0)[0], output_type="latent").images
    assert torch.allclose(alone, scaled, atol=1e-5)


def test_mixed_shapes_are_drawn_and_a_reference_of_another_shape_is_told(family: str) -> None:
    wide = tiny.picture((16, 64))
    result: Any = shared(family)(PROMPTS[0], wide, height=40, width=24, generator=seeds(0)[0])
    assert result.images[0].size == (24, 40)
    assert draw(family, image=[wide, tiny.picture((48, 16))], generator=seeds(0, 1)).shape[0] == 2


def test_a_reference_is_encoded_once_for_all_its_prompts(family: str) -> None:
    pipe, encoded = load(family), []
    encode = pipe.vae.encode
    pipe.vae.encode = lambda images, *args, **more: encoded.append(len(images)) or encode(images, *args, **more)
    pipe(PROMPTS, tiny.picture(), num_images_per_prompt=2, generator=seeds(1, 2, 3, 4))
    assert sum(encoded) == 2  # the reference and the black frame


@pytest.mark.parametrize("scheduler", [FlowMatchHeunDiscreteScheduler(), None])
def test_another_scheduler_is_refused_and_not_ignored(scheduler: Any) -> None:
    pipe = load("flux")
    changed = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config, stochastic_sampling=True)
    pipe.scheduler = scheduler or changed
    with pytest.raises(UserError, match="Euler steps"):
        pipe(PROMPTS[0], tiny.picture())


def test_a_saved_model_opens_in_stock_diffusers_as_what_it_is_and_its_card_says_so(family: str, tmp_path: Path) -> None:
    shared(family).save_pretrained(tmp_path)
    stock = DiffusionPipeline.from_pretrained(str(tmp_path))
    backbone = backbone_class(family)
    assert type(stock) is (backbone.control_pipeline or backbone.pipeline_class)
    assert type(stock).__name__ in (tmp_path / "README.md").read_text()
    again = TwoFramePipeline.from_pretrained(str(tmp_path))
    again.set_progress_bar_config(disable=True)
    drawn: Any = again(PROMPTS[0], tiny.picture(), generator=seeds(0)[0], output_type="latent").images
    assert torch.equal(drawn, draw(family)) and family_of(str(tmp_path)) == family
    assert load_metadata(tmp_path) == shared(family).adapter


def test_an_unfused_adapter_is_saved_with_its_weights(tmp_path: Path) -> None:
    pipe = load("flux", fuse=False)
    drawn: Any = pipe(PROMPTS[0], tiny.picture(), generator=seeds(0)[0], output_type="latent").images
    pipe.save_pretrained(tmp_path)
    again = TwoFramePipeline.from_pretrained(str(tmp_path))
    again.set_progress_bar_config(disable=True)
    same: Any = again(PROMPTS[0], tiny.picture(), generator=seeds(0)[0], output_type="latent").images
    assert torch.allclose(drawn, same, atol=1e-4) and torch.allclose(drawn, draw("flux"), atol=1e-4)
    after: Any = pipe(PROMPTS[0], tiny.picture(), generator=seeds(0)[0], output_type="latent").images
    assert torch.equal(drawn, after)


def test_further_loras_of_the_plain_model_go_on_top(tmp_path: Path) -> None:
    transformer = load_backbone(tiny.dev(), text=False, vae=False).transformer
    generator = torch.Generator().manual_seed(5)
    layer = transformer.transformer_blocks[0].attn.to_q
    lora = {
        "transformer_blocks.0.attn.to_q.lora_A.weight": torch.randn(2, layer.in_features, generator=generator),
        "transformer_blocks.0.attn.to_q.lora_B.weight": torch.randn(layer.out_features, 2, generator=generator),
    }
    FluxPipeline.save_lora_weights(tmp_path, transformer_lora_layers=lora)
    pipe: Any = load("flux")
    pipe.load_lora_weights(tmp_path, adapter_name="style")
    styled = pipe(PROMPTS[0], tiny.picture(), generator=seeds(0)[0], output_type="latent").images
    assert differ(styled, draw("flux"))
    off = pipe(
        PROMPTS[0], tiny.picture(), generator=seeds(0)[0], output_type="latent", joint_attention_kwargs={"scale": 0.0}
    )
    assert torch.allclose(off.images, draw("flux"), atol=1e-4)
    pipe.unload_lora_weights()
    plain = pipe(PROMPTS[0], tiny.picture(), generator=seeds(0)[0], output_type="latent").images
    assert torch.allclose(plain, draw("flux"), atol=1e-5)


def test_the_canvas_is_encoded_as_one_picture_where_the_adapter_was_trained_so(tmp_path: Path) -> None:
    from dataclasses import replace

    from dsd.backbones.adapter import load_adapter

    updates, metadata = load_adapter(adapter("flux"))
    changed: AdapterMetadata = replace(metadata, encodes="canvas")
    save_adapter(tmp_path, updates, changed)
    pipe = TwoFramePipeline.from_pretrained(tiny.dev(), tmp_path)
    together = pipe.condition(tiny.picture())
    apart = shared("flux").condition(tiny.picture())
    assert together.shape == apart.shape and differ(together, apart)


@pytest.mark.parametrize(
    "offload",
    [
        lambda pipe: pipe.enable_model_cpu_offload(device="cpu"),
        lambda pipe: pipe.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level"),
        lambda pipe: (pipe.vae.enable_tiling(), pipe.vae.enable_slicing()),
    ],
)
def test_offloaded_and_tiled_models_draw_the_same(family: str, offload: Any) -> None:
    pipe = load(family)
    offload(pipe)
    for _ in range(2):
        drawn: Any = pipe(PROMPTS, tiny.picture(), generator=seeds(0, 1), output_type="pt").images
    assert torch.allclose(drawn[:1], draw(family, output_type="pt"), atol=1e-4)


def test_a_precision_may_be_one_a_component_and_a_name(family: str) -> None:
    pipe = load(family, dtype={"vae": torch.float64, "default": "bfloat16"})
    assert pipe.vae.dtype == torch.float64 and pipe.transformer.dtype == torch.bfloat16
    with pytest.raises(UserError, match="dtype is 'half-ish'"):
        load(family, dtype="half-ish")


def test_variants_of_weights_are_read_and_missing_ones_are_told(tmp_path: Path) -> None:
    shared("flux").save_pretrained(tmp_path, variant="small")
    again = TwoFramePipeline.from_pretrained(str(tmp_path), variant="small")
    again.set_progress_bar_config(disable=True)
    drawn: Any = again(PROMPTS[0], tiny.picture(), generator=seeds(0)[0], output_type="latent").images
    assert torch.equal(drawn, draw("flux"))
    with pytest.raises(UserError, match="cannot be loaded"):
        TwoFramePipeline.from_pretrained(str(tmp_path), variant="other")
    with pytest.raises(UserError, match='fit is "squash"'):
        draw("flux", fit="squash")
