"""What is trained, and that what is exported is what was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from diffusers import FluxControlPipeline
from torch import Tensor
from training_parts import shake, small_config, task_in

from dsd.backbones.adapter import apply_adapter, load_adapter, load_metadata
from dsd.backbones.flux.backbone import FluxBackbone, pack
from dsd.backbones.protocol import Text
from dsd.backbones.stock import StockBackbone
from dsd.errors import UserError
from dsd.train import trainer
from dsd.train.adapter import target_names

FORMS = [
    {"rank": 4, "lora_targets": "attention"},
    {"rank": 4, "lora_targets": "all-linear"},
    {"rank": 16, "lora_targets": "all-linear"},
    {"rank": 64, "lora_targets": "all-linear"},
    {"rank": 2, "lora_targets": ("to_q", "to_out.0")},
    {"full": True},
]


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor, Text, Tensor]:
    torch.manual_seed(0)
    latents, condition = torch.randn(2, 2, 1, tiny.LATENT_CHANNELS, 8, 16)
    return latents, torch.rand(2), Text(torch.randn(2, tiny.TEXT_TOKENS, 16), torch.randn(2, 16)), condition


@torch.no_grad()
def velocity(backbone: StockBackbone, inputs: tuple[Tensor, Tensor, Text, Tensor]) -> Tensor:
    latents, sigma, text, condition = inputs
    return backbone.velocity(latents, sigma, text, condition=condition)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_new_adapter_changes_nothing(form: dict, inputs: tuple[Tensor, Tensor, Text, Tensor]) -> None:
    base, adapted = (FluxBackbone.from_pretrained(tiny.schnell(), text=False, vae=False) for _ in range(2))
    base.widen()
    trainer.attach(small_config(**form), adapted)
    torch.testing.assert_close(velocity(adapted, inputs), velocity(base, inputs), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_exported_adapter_is_the_trained_model(
    form: dict, inputs: tuple[Tensor, Tensor, Text, Tensor], tmp_path: Path
) -> None:
    task = task_in(tmp_path, small_config(**form, ema_decay=0.0))
    untrained = velocity(task.backbone, inputs)
    shake(task)
    task.ema.update(0)
    trainer.export(task, tmp_path / "adapter")
    trained = velocity(task.backbone, inputs)
    loaded = FluxBackbone.from_pretrained(tiny.schnell(), text=False, vae=False)
    apply_adapter(loaded, tmp_path / "adapter")
    torch.testing.assert_close(velocity(loaded, inputs), trained, atol=2e-5, rtol=1e-4)
    assert (trained - untrained).abs().max() > 0.1


@pytest.mark.parametrize("form", FORMS[:-1], ids=str)
def test_stock_diffusers_loads_the_exported_adapter(
    form: dict, inputs: tuple[Tensor, Tensor, Text, Tensor], tmp_path: Path
) -> None:
    task = task_in(tmp_path, small_config(**form, ema_decay=0.0))
    shake(task)
    task.ema.update(0)
    trainer.export(task, tmp_path / "adapter")
    pipeline = FluxControlPipeline.from_pretrained(tiny.schnell())
    pipeline.load_lora_weights(str(tmp_path / "adapter"), weight_name="adapter.safetensors")
    latents, sigma, text, condition = inputs
    with torch.no_grad():
        stock = pipeline.transformer(
            hidden_states=torch.cat([pack(latents[:, 0]), pack(condition[:, 0])], dim=-1),
            encoder_hidden_states=text.tokens,
            pooled_projections=text.pooled,
            timestep=sigma,
            img_ids=pipeline._prepare_latent_image_ids(1, 4, 8, "cpu", torch.float32),
            txt_ids=torch.zeros(tiny.TEXT_TOKENS, 3),
            return_dict=False,
        )[0]
    torch.testing.assert_close(stock, pack(velocity(task.backbone, inputs)[:, 0]), atol=2e-5, rtol=1e-4)


def test_the_export_holds_the_averaged_weights(tmp_path: Path) -> None:
    task = task_in(tmp_path, small_config(lora_targets="attention", ema_decay=0.5))
    shake(task)  # the average still stands at the start
    trainer.export(task, tmp_path / "adapter")
    assert not any(update.up.any() for update in load_adapter(tmp_path / "adapter")[0].values())


def test_metadata_says_what_generation_needs(tmp_path: Path) -> None:
    task = task_in(tmp_path, small_config(reference_weight=0.7))
    trainer.export(task, tmp_path / "adapter")
    metadata = load_metadata(tmp_path / "adapter")
    assert (metadata.family, metadata.base, metadata.rank) == ("flux", tiny.schnell(), 4)
    assert metadata.frame_size == (32, 32)
    assert metadata.film.weights == (0.7, 1.0)
    assert metadata.max_sequence_length == tiny.TEXT_TOKENS


def test_attention_targets_are_those_of_the_published_model() -> None:
    transformer = FluxBackbone.from_pretrained(tiny.schnell(), text=False, vae=False).transformer
    double = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    single = ("to_q", "to_k", "to_v")
    wanted = {f"transformer_blocks.0.attn.{name}" for name in double}
    wanted |= {f"single_transformer_blocks.{block}.attn.{name}" for block in (0, 1) for name in single}
    assert set(target_names(transformer, FluxBackbone.layers, "attention")) == wanted


def test_an_unknown_target_is_named_with_a_hint() -> None:
    transformer = FluxBackbone.from_pretrained(tiny.schnell(), text=False, vae=False).transformer
    with pytest.raises(UserError, match='"to_kk"; did you mean "to_k"'):
        target_names(transformer, FluxBackbone.layers, ("to_q", "to_kk"))
