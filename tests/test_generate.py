"""What the two-frame pipeline promises."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import AutoencoderKL, FluxControlPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from PIL import Image

from dsd.backbones.adapter import is_of_another_base, save_adapter, save_full
from dsd.backbones.flux.backbone import FluxBackbone, unpack
from dsd.backbones.stock import side_by_side
from dsd.errors import UserError
from dsd.generate import two_frame as generate
from dsd.generate.two_frame import TwoFramePipeline
from dsd.models import revision_of

PROMPTS = ["a red cat at the beach", "a blue dog in the snow", "a green fox at night"]
SIZE = (32, 32)


@cache
def adapter_folder(base: str) -> Path:
    folder = tiny.scratch() / f"adapter-{Path(base).name}"
    transformer = FluxBackbone.from_pretrained(base, text=False, vae=False).transformer
    save_adapter(folder, tiny.random_updates(transformer, bias=True), tiny.metadata(base, frame_size=SIZE))
    return folder


@cache
def pipeline(base: str) -> TwoFramePipeline:
    """A two-frame pipeline with a random adapter, shared by tests that leave it as it is."""
    pipe = TwoFramePipeline.from_pretrained(base, adapter_folder(base))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


def draw(base: str | None = None, prompt: Any = PROMPTS[0], image: Any = None, seed: int = 0, **settings: Any) -> Any:
    """Latents of one call with both guidances off unless told otherwise."""
    settings = {"text_scale": 1.0, "image_scale": 1.0, "num_inference_steps": 3, "output_type": "latent"} | settings
    settings.setdefault("generator", seeds(seed)[0])
    image = tiny.picture() if image is None else image
    return pipeline(base or tiny.schnell())(prompt, image, **settings).images


def differ(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() > 1e-2)


@pytest.mark.parametrize("base", [tiny.schnell, tiny.dev])
def test_stock_control_pipeline_draws_the_same_with_both_guidances_off(base) -> None:
    ours = draw(base(), PROMPTS[:2], tiny.picture(), generator=seeds(1, 2), guidance_scale=None)
    mine = pipeline(base())
    control = mine.backbone.control_tokens(mine.condition([tiny.picture()] * 2))
    stock: Any = FluxControlPipeline.from_pretrained(base())
    stock.load_lora_weights(adapter_folder(base()), weight_name="adapter.safetensors")
    stock.set_progress_bar_config(disable=True)
    theirs = stock(
        PROMPTS[:2], control_image=control, height=32, width=64,
        num_inference_steps=3, guidance_scale=3.5, generator=seeds(1, 2), max_sequence_length=tiny.TEXT_TOKENS,
        output_type="latent",
    ).images  # fmt: skip
    assert (unpack(theirs, ours.shape[-2]) - side_by_side(ours)).abs().max() < 1e-5


def test_stock_control_pipeline_takes_the_canvas_as_a_picture() -> None:
    """It samples the posterior and encodes the canvas as one picture; both vanish for a local, certain autoencoder."""
    stock: Any = FluxControlPipeline.from_pretrained(tiny.schnell(), vae=_local_and_certain_autoencoder())
    stock.load_lora_weights(adapter_folder(tiny.schnell()), weight_name="adapter.safetensors")
    stock.set_progress_bar_config(disable=True)
    ours: Any = TwoFramePipeline.from_pretrained(
        tiny.schnell(), adapter_folder(tiny.schnell()), vae=_local_and_certain_autoencoder()
    )
    ours.set_progress_bar_config(disable=True)
    settings: dict[str, Any] = {"num_inference_steps": 3, "max_sequence_length": tiny.TEXT_TOKENS}
    canvas = Image.new("RGB", (64, 32))
    canvas.paste(tiny.picture(), (0, 0))

    generator = torch.Generator().manual_seed(5)
    theirs = stock(
        PROMPTS[0], control_image=canvas, height=32, width=64, generator=generator, output_type="pt", **settings
    ).images
    generator = torch.Generator().manual_seed(5)
    torch.randn(1, tiny.LATENT_CHANNELS, 8, 16, generator=generator)  # what the stock pipeline spends on the control
    mine = ours(
        PROMPTS[0], tiny.picture(), text_scale=1, image_scale=1, generator=generator, output_type="pt", **settings
    ).images
    assert (theirs[..., 32:] - mine).abs().max() < 1e-4


def test_text_scale_alone_changes_the_picture() -> None:
    assert differ(draw(text_scale=1.0), draw(text_scale=2.0))


def test_image_scale_alone_changes_the_picture() -> None:
    assert differ(draw(image_scale=1.0), draw(image_scale=2.0))


def test_prompt_and_reference_both_change_the_picture() -> None:
    assert differ(draw(), draw(prompt=PROMPTS[1]))
    assert differ(draw(), draw(image=tiny.picture(seed=9)))


def test_guidance_off_is_guidance_on_of_strength_one() -> None:
    almost = draw(text_scale=1 + 1e-6, image_scale=1 + 1e-6)
    assert torch.allclose(draw(), almost, atol=1e-3)


def test_without_text_scale_the_prompt_says_nothing() -> None:
    one, other = draw(text_scale=0.0), draw(text_scale=0.0, prompt=PROMPTS[1])
    assert torch.allclose(one, other, atol=1e-4)


def test_without_any_scale_the_reference_says_nothing() -> None:
    one, other = (draw(text_scale=0.0, image_scale=0.0, image=tiny.picture(seed=seed)) for seed in (1, 2))
    assert torch.allclose(one, other, atol=1e-4)


def test_a_picture_does_not_depend_on_its_batch() -> None:
    images = [tiny.picture(seed=seed) for seed in range(3)]
    settings: dict[str, Any] = {"text_scale": 1.5, "image_scale": 1.2}
    together = draw(prompt=PROMPTS, image=images, generator=seeds(1, 2, 3), **settings)
    alone = draw(prompt=PROMPTS[1], image=images[1], generator=seeds(2), **settings)
    reversed_order = draw(prompt=PROMPTS[::-1], image=images[::-1], generator=seeds(3, 2, 1), **settings)
    assert torch.allclose(together[1:2], alone, atol=1e-4)
    assert torch.allclose(together, reversed_order.flip(0), atol=1e-4)


def test_the_same_seed_draws_the_same() -> None:
    assert torch.equal(draw(seed=3), draw(seed=3))
    assert differ(draw(seed=3), draw(seed=4))


def test_one_reference_serves_many_prompts_and_the_other_way_round() -> None:
    assert len(draw(prompt=PROMPTS)) == 3
    assert len(draw(image=[tiny.picture(seed=seed) for seed in range(2)])) == 2
    with pytest.raises(UserError, match="3 prompts and 2 reference"):
        draw(prompt=PROMPTS, image=[tiny.picture()] * 2)
    with pytest.raises(UserError, match="2 generators were given for 1"):
        draw(generator=seeds(1, 2))


def test_any_size_of_whole_tokens_works_and_others_are_refused() -> None:
    assert draw(height=16, width=40).shape == (1, 2, tiny.LATENT_CHANNELS, 4, 10)
    with pytest.raises(UserError, match="multiples of 8, the closest size is 32x40"):
        draw(height=32, width=43)
    with pytest.raises(UserError, match="multiples of 8"):
        draw(height=0)


def test_the_default_size_is_the_adapter_s_then_the_reference_s(tmp_path) -> None:
    assert draw(image=tiny.picture((64, 48))).shape[-2:] == (8, 8)
    base = tiny.schnell()
    transformer = FluxBackbone.from_pretrained(base, text=False, vae=False).transformer
    save_adapter(tmp_path, tiny.random_updates(transformer), tiny.metadata(base))
    pipe = TwoFramePipeline.from_pretrained(base, tmp_path)
    pipe.set_progress_bar_config(disable=True)
    (image,) = pipe(PROMPTS[0], tiny.picture((47, 26)), num_inference_steps=1).images
    assert image.size == (24, 40)


@pytest.mark.parametrize("output_type", ["pil", "pt", "np"])
def test_output_types_show_the_target_frame(output_type: str) -> None:
    latents = draw()
    expected = (pipeline(tiny.schnell()).backbone.decode(latents[:, 1])[0].permute(1, 2, 0).numpy() + 1) / 2
    (shown,) = draw(output_type=output_type)
    shown = np.asarray(shown, dtype=np.float32)
    if output_type == "pil":
        shown = shown / 255
    if output_type == "pt":
        shown = shown.transpose(1, 2, 0)
    assert np.abs(shown - expected).max() < 3e-3
    with pytest.raises(UserError, match="output_type"):
        draw(output_type="jpeg")


def test_references_may_be_files_of_any_kind(tmp_path) -> None:
    tiny.picture().convert("RGBA").save(tmp_path / "reference.png")
    assert torch.allclose(draw(image=tmp_path / "reference.png"), draw(), atol=1e-5)


def test_an_unfused_adapter_draws_the_same() -> None:
    base = tiny.schnell()
    unfused = TwoFramePipeline.from_pretrained(base, adapter_folder(base), fuse=False)
    unfused.set_progress_bar_config(disable=True)
    drawn: Any = unfused(
        PROMPTS[0], tiny.picture(), num_inference_steps=3, generator=seeds(0), output_type="latent"
    ).images
    assert torch.allclose(drawn, draw(text_scale=1.5, image_scale=1.5), atol=1e-4)


def test_a_full_fine_tune_draws_like_its_adapter(tmp_path) -> None:
    base = tiny.schnell()
    save_full(tmp_path / "full", pipeline(base).transformer, tiny.metadata(base, rank=0, frame_size=SIZE))
    full = TwoFramePipeline.from_pretrained(base, tmp_path / "full")
    full.set_progress_bar_config(disable=True)
    drawn: Any = full(
        PROMPTS[0], tiny.picture(), num_inference_steps=3, generator=seeds(0), output_type="latent"
    ).images
    assert torch.equal(drawn, draw(text_scale=1.5, image_scale=1.5))


def test_a_saved_two_frame_pipeline_needs_no_adapter(tmp_path) -> None:
    base = tiny.schnell()
    pipeline(base).save_pretrained(tmp_path)
    again = TwoFramePipeline.from_pretrained(str(tmp_path))
    again.set_progress_bar_config(disable=True)
    drawn: Any = again(
        PROMPTS[0], tiny.picture(), num_inference_steps=3, generator=seeds(0), output_type="latent"
    ).images
    assert torch.equal(drawn, draw(text_scale=1.5, image_scale=1.5))


def test_half_precision_draws_nearly_the_same() -> None:
    """Rounding moves the picture of such a random network by a fifth of what another seed does, as in stock FLUX."""
    base = tiny.schnell()
    half = TwoFramePipeline.from_pretrained(base, adapter_folder(base), dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    settings: dict[str, Any] = {"text_scale": 1.0, "num_inference_steps": 3, "output_type": "pt"}
    drawn: Any = half(PROMPTS[0], tiny.picture(), generator=seeds(0), **settings).images
    full, other = (draw(seed=seed, **settings) for seed in (0, 1))
    assert (drawn - full).abs().mean() < 0.4 * (other - full).abs().mean()


def test_embedded_guidance_is_for_distilled_models(monkeypatch) -> None:
    assert differ(draw(tiny.dev(), guidance_scale=1.0), draw(tiny.dev(), guidance_scale=6.0))
    assert torch.equal(draw(tiny.dev()), draw(tiny.dev(), guidance_scale=3.5))
    warnings: list[str] = []
    monkeypatch.setattr(generate.logger, "warning", warnings.append)
    assert torch.equal(draw(guidance_scale=6.0), draw())
    assert len(warnings) == 1
    assert "no effect" in warnings[0]


def test_a_plain_model_is_refused() -> None:
    plain = TwoFramePipeline.from_pretrained(tiny.schnell())
    with pytest.raises(UserError, match="takes no reference picture"):
        plain(PROMPTS[0], tiny.picture())


@pytest.mark.parametrize("fuse", [True, False])
def test_an_adapter_of_other_weights_draws_but_not_without_a_word(
    fuse: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformer = FluxBackbone.from_pretrained(tiny.schnell(), text=False, vae=False).transformer
    for revision, said in ((revision_of(tiny.schnell()), False), ("0123456789ab", True), ("owner/name", False)):
        folder = tmp_path / revision.replace("/", "-")
        metadata = tiny.metadata(tiny.schnell(), base_revision=revision)
        save_adapter(folder, tiny.random_updates(transformer), metadata)
        TwoFramePipeline.from_pretrained(tiny.schnell(), folder, fuse=fuse)
        assert ("was trained on other weights" in capsys.readouterr().err) == said
        assert is_of_another_base(metadata, tiny.schnell()) == said


def test_an_adapter_of_another_family_is_refused_before_loading(tmp_path) -> None:
    save_adapter(tmp_path, {}, tiny.metadata(family="sd3"))
    with pytest.raises(UserError, match='family "sd3"'):
        TwoFramePipeline.from_pretrained(tiny.schnell(), tmp_path)
    with pytest.raises(UserError, match="no adapter folder"):
        TwoFramePipeline.from_pretrained(tiny.schnell(), tmp_path / "nowhere")


def _local_and_certain_autoencoder() -> AutoencoderKL:
    """One whose latents are means of their own pixels, with a posterior of no variance."""
    vae: Any = AutoencoderKL.from_pretrained(tiny.schnell(), subfolder="vae")

    def encode(images: torch.Tensor) -> AutoencoderKLOutput:
        means = torch.nn.functional.avg_pool2d(images, 4)[:, [0, 1, 2, 0]]
        moments = torch.cat([means, torch.full_like(means, -30.0)], dim=1)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments))

    def decode(latents: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        return (torch.nn.functional.interpolate(latents[:, :3], scale_factor=4.0),)

    vae.encode, vae.decode = encode, decode
    return vae
