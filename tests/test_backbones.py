"""The FLUX backbone says and draws exactly what the stock pipelines do."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import tiny
import torch
from diffusers import FluxControlPipeline, FluxPipeline

from dsd import flow
from dsd.backbones.adapter import (
    LowRank,
    apply_adapter,
    load_adapter,
    load_metadata,
    save_adapter,
    save_full,
)
from dsd.backbones.flux.backbone import FluxBackbone, pack, unpack
from dsd.backbones.protocol import Text
from dsd.backbones.registry import family_of, load_backbone
from dsd.errors import UserError
from dsd.frames import Film
from dsd.sampling import Sampling

PROMPTS = ["a red cat at the beach", "a blue dog in the snow"]


def backbone(folder: str) -> FluxBackbone:
    return FluxBackbone.from_pretrained(folder)


@cache
def plain() -> FluxBackbone:
    """Shared by tests that leave it as it is."""
    return backbone(tiny.schnell())


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("folder", [tiny.schnell, tiny.dev])
def test_sampling_by_our_parts_draws_what_stock_flux_draws(folder) -> None:
    pipeline: Any = FluxPipeline.from_pretrained(folder())
    pipeline.set_progress_bar_config(disable=True)
    ours = FluxBackbone.from_pipeline(pipeline)
    noise = torch.randn(2, 1, tiny.LATENT_CHANNELS, 8, 16)

    text = ours.encode_text(PROMPTS, tiny.TEXT_TOKENS)
    shift = ours.shift(ours.tokens_per(32, 64), 3)
    guidance = 2.5 if ours.takes_guidance else None
    with torch.no_grad():
        latents = flow.euler(
            lambda latents, sigma: ours.velocity(latents, sigma, text, guidance=guidance),
            noise,
            flow.schedule(3, shift),
        )
    drawn = (ours.decode(latents[:, 0]) + 1) / 2

    stock = pipeline(
        PROMPTS, height=32, width=64, num_inference_steps=3, guidance_scale=2.5, latents=pack(noise[:, 0]),
        max_sequence_length=tiny.TEXT_TOKENS, output_type="pt",
    ).images  # fmt: skip
    assert (latents - noise).abs().max() > 0.1
    assert (drawn - stock).abs().max() < 1e-5


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_schedule_is_the_scheduler_s(dynamic: bool) -> None:
    pipeline = FluxPipeline.from_pretrained(
        tiny.dev() if dynamic else tiny.schnell(), transformer=None, text_encoder_2=None, vae=None
    )
    ours = flow.schedule(5, flow.ResolutionShift.from_scheduler(pipeline.scheduler.config).shift(40))
    mu = 0.5 + (1.15 - 0.5) * (40 - 16) / (64 - 16)
    pipeline.scheduler.set_timesteps(sigmas=[1.0, 0.8, 0.6, 0.4, 0.2], mu=mu)
    assert torch.allclose(ours, pipeline.scheduler.sigmas, atol=1e-6)


def test_packing_is_the_stock_pipeline_s_and_comes_back() -> None:
    latents = torch.randn(2, 4, 6, 10)
    stock = FluxPipeline._pack_latents(latents, 2, 4, 6, 10)
    assert torch.equal(pack(latents), stock)
    assert torch.equal(unpack(stock, 6), latents)


def test_latents_are_normalised_as_the_autoencoder_s_config_says() -> None:
    ours = plain()
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    mode = ours.pipeline.vae.encode(images).latent_dist.mode()
    assert torch.allclose(ours.encode(images), (mode - 0.1) * 0.7)
    sampled = ours.encode(images, torch.Generator().manual_seed(1))
    assert not torch.allclose(sampled, ours.encode(images))
    assert torch.equal(sampled, ours.encode(images, torch.Generator().manual_seed(1)))
    assert ours.decode(ours.encode(images)).shape == images.shape


def test_geometry_follows_the_autoencoder() -> None:
    ours = plain()
    assert (ours.latent_channels, ours.pixels_per_latent, ours.pixels_per_token) == (4, 4, 8)
    assert ours.tokens_per(32, 64) == 32
    assert ours.encode(torch.zeros(1, 3, 32, 64)).shape == (1, 4, 8, 16)


def test_widening_changes_nothing_until_the_condition_has_weights() -> None:
    ours = backbone(tiny.schnell())
    latents, sigma, condition = torch.randn(2, 1, 4, 8, 8), torch.tensor([0.2, 0.9]), torch.randn(2, 1, 4, 8, 8)
    text = ours.encode_text(PROMPTS, tiny.TEXT_TOKENS)
    with torch.no_grad():
        before = ours.velocity(latents, sigma, text)
        ours.widen()
        ours.widen()
        assert ours.is_widened
        assert ours.transformer.x_embedder.in_features == 32
        assert torch.allclose(ours.velocity(latents, sigma, text, condition), before, atol=1e-6)
        torch.nn.init.normal_(ours.transformer.x_embedder.weight)
        without = ours.velocity(latents, sigma, text)
        assert torch.allclose(ours.velocity(latents, sigma, text, torch.zeros_like(condition)), without)
        assert not torch.allclose(ours.velocity(latents, sigma, text, condition), without)


def test_the_folded_condition_embedder_is_the_published_model_s() -> None:
    """x_embedder(noisy) + c_embedder(condition), the two linear layers of the released code, is one wider layer."""
    ours = backbone(tiny.schnell())
    base = ours.transformer.x_embedder
    extra = torch.nn.Linear(16, base.out_features)
    noisy, condition = torch.randn(1, 5, 16), torch.randn(1, 5, 16)
    published = base(noisy) + extra(condition)
    ours.widen()
    with torch.no_grad():
        ours.transformer.x_embedder.weight[:, 16:] = extra.weight
        ours.transformer.x_embedder.bias.add_(extra.bias)
    folded = ours.transformer.x_embedder(torch.cat([noisy, condition], dim=-1))
    assert torch.allclose(folded, published, atol=1e-6)


def test_a_widened_transformer_survives_saving(tmp_path) -> None:
    ours = backbone(tiny.schnell())
    ours.widen()
    ours.pipeline.transformer.save_pretrained(tmp_path)
    again = type(ours.pipeline.transformer).from_pretrained(tmp_path)
    assert (again.config.in_channels, again.out_channels, again.x_embedder.in_features) == (32, 16, 32)


def test_misuse_of_velocity_is_an_error() -> None:
    latents, sigma = torch.randn(1, 1, 4, 8, 8), torch.tensor([0.5])
    text = plain().encode_text(PROMPTS[:1], tiny.TEXT_TOKENS)
    with pytest.raises(ValueError, match="not widened"):
        plain().velocity(latents, sigma, text, latents)
    distilled = backbone(tiny.dev())
    with pytest.raises(ValueError, match="guidance"):
        distilled.velocity(latents, sigma, text)


def test_embedded_guidance_reaches_the_distilled_model() -> None:
    distilled = backbone(tiny.dev())
    latents, sigma = torch.randn(1, 1, 4, 8, 8), torch.tensor([0.5])
    text = distilled.encode_text(PROMPTS[:1], tiny.TEXT_TOKENS)
    with torch.no_grad():
        low, high = (distilled.velocity(latents, sigma, text, guidance=value) for value in (1.0, 5.0))
    assert not torch.allclose(low, high)


def test_text_batches_take_concat_and_order() -> None:
    text = plain().encode_text([*PROMPTS, ""], tiny.TEXT_TOKENS)
    assert text.tokens.shape == (3, tiny.TEXT_TOKENS, 16)
    again = Text.concat([text.take([2]), text.take(slice(0, 2))])
    assert torch.equal(again.take([1, 2, 0]).tokens, text.tokens)
    alone = plain().encode_text(["a blue dog in the snow"], tiny.TEXT_TOKENS)
    assert torch.allclose(alone.tokens[0], text.tokens[1], atol=1e-5)
    with pytest.raises(UserError, match="1 to 512"):
        plain().encode_text(PROMPTS, 513)


def test_parts_can_be_left_out() -> None:
    text_only = load_backbone(tiny.schnell(), transformer=False, vae=False)
    assert isinstance(text_only, FluxBackbone)
    assert text_only.pipeline.transformer is None
    assert (text_only.latent_channels, text_only.pixels_per_token) == (4, 8)
    assert len(text_only.encode_text(PROMPTS, tiny.TEXT_TOKENS)) == 2
    with pytest.raises(ValueError, match="vae=True"):
        text_only.encode(torch.zeros(1, 3, 32, 32))


def test_sizes_that_do_not_fit_name_the_closest_that_does() -> None:
    plain().check_size(32, 64)
    with pytest.raises(UserError, match="closest size is 32x64"):
        plain().check_size(33, 61)


def test_unknown_models_are_refused_in_one_sentence(tmp_path) -> None:
    assert family_of(tiny.dev()) == "flux"
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(UserError, match="StableDiffusionPipeline"):
        load_backbone(str(tmp_path))
    with pytest.raises(UserError, match="no model folder"):
        load_backbone(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no model_index\.json"):
        load_backbone(str(tmp_path / "empty"))


@pytest.mark.parametrize("bias", [False, True])
def test_adapters_come_back_as_they_were_saved(tmp_path, bias: bool) -> None:
    updates = tiny.random_updates(plain().transformer, bias=bias)
    save_adapter(tmp_path / "a", updates, tiny.metadata(frame_size=(32, 32)))
    loaded, metadata = load_adapter(tmp_path / "a")
    assert replace(metadata, sha256="") == tiny.metadata(frame_size=(32, 32)) and metadata.sha256
    assert loaded.keys() == updates.keys()
    for name, update in updates.items():
        assert torch.equal(loaded[name].down, update.down)
        assert torch.equal(loaded[name].up, update.up)
    assert (loaded["x_embedder"].bias is not None) == bias


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_any_change_of_a_weight_is_exact_at_full_rank(shape: tuple[int, int]) -> None:
    change = torch.randn(shape)
    update = LowRank.exact(change)
    assert torch.equal(update.up @ update.down, change)
    assert update.down.shape[0] == 4


@pytest.mark.parametrize("bias", [False, True])
def test_stock_diffusers_reads_an_adapter_as_the_same_weights(tmp_path, bias: bool) -> None:
    ours = backbone(tiny.schnell())
    save_adapter(tmp_path, tiny.random_updates(ours.transformer, bias=bias), tiny.metadata())
    apply_adapter(ours, tmp_path)

    stock: Any = FluxControlPipeline.from_pretrained(tiny.schnell())
    stock.load_lora_weights(tmp_path, weight_name="adapter.safetensors")
    assert stock.transformer.config.in_channels == 32
    stock.fuse_lora()
    stock.unload_lora_weights()
    theirs, mine = stock.transformer.state_dict(), ours.transformer.state_dict()
    assert theirs.keys() == mine.keys()
    assert max((theirs[name] - mine[name]).abs().max().item() for name in mine) < 1e-6


def test_a_full_fine_tune_loads_like_an_adapter(tmp_path) -> None:
    trained = backbone(tiny.dev())
    trained.widen()
    torch.nn.init.normal_(trained.transformer.x_embedder.weight)
    save_full(tmp_path, trained.transformer, tiny.metadata(rank=0))
    fresh = backbone(tiny.dev())
    assert apply_adapter(fresh, tmp_path).rank == 0
    assert fresh.is_widened
    assert torch.equal(fresh.transformer.x_embedder.weight, trained.transformer.x_embedder.weight)


def test_adapters_of_another_family_shape_or_schema_are_refused(tmp_path) -> None:
    updates = tiny.random_updates(plain().transformer)
    save_adapter(tmp_path / "family", updates, tiny.metadata(family="sd3"))
    with pytest.raises(UserError, match='family "sd3"'):
        apply_adapter(backbone(tiny.schnell()), tmp_path / "family")

    save_adapter(tmp_path / "schema", updates, tiny.metadata(schema=2))
    with pytest.raises(UserError, match="schema 2"):
        load_metadata(tmp_path / "schema")

    wrong = updates | {"x_embedder": LowRank.exact(torch.zeros(32, 64))}
    save_adapter(tmp_path / "shape", wrong, tiny.metadata())
    with pytest.raises(UserError, match=r"x_embedder should be \(32, 64\), but the base has \(32, 32\)"):
        apply_adapter(backbone(tiny.schnell()), tmp_path / "shape")

    save_adapter(tmp_path / "layer", updates | {"nothing.here": updates["x_embedder"]}, tiny.metadata())
    with pytest.raises(UserError, match=r"nothing\.here.*no such layer"):
        apply_adapter(backbone(tiny.schnell()), tmp_path / "layer")

    save_full(tmp_path / "full", plain().transformer, tiny.metadata())
    with pytest.raises(UserError, match="does not fit this base"):
        apply_adapter(backbone(tiny.schnell()), tmp_path / "full")

    with pytest.raises(UserError, match="no adapter folder"):
        load_metadata(tmp_path)


def test_a_damaged_adapter_is_one_sentence(tmp_path) -> None:
    save_adapter(tmp_path, tiny.random_updates(plain().transformer), tiny.metadata())
    (tmp_path / "adapter.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="damaged"):
        load_adapter(tmp_path)


def test_an_adapter_from_before_films_is_read(tmp_path) -> None:
    save_adapter(tmp_path, tiny.random_updates(plain().transformer), tiny.metadata())
    path = tmp_path / "adapter.json"
    old = json.loads(path.read_text())
    old["canvas"] = {**old.pop("film"), "weights": [0.3, 1.0]}
    for name in ("steps", "sampling"):
        del old[name]
    path.write_text(json.dumps(old))
    assert load_metadata(tmp_path).film == Film.two_frame(0.3)
    assert load_metadata(tmp_path).sampling == Sampling()
