"""Every family does what the method asks of it: draws as its stock pipeline, widens, trains, saves, loads, exports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from diffusers import Flux2KleinPipeline
from torch import nn
from training_parts import simple_pairs, small_config, task_in

from dsd import flow
from dsd.backbones.adapter import load_adapter, load_metadata
from dsd.backbones.cost import shape_of
from dsd.backbones.registry import FAMILIES, backbone_class, family_of, load_backbone
from dsd.backbones.stock import StockBackbone
from dsd.errors import UserError
from dsd.frames import Film
from dsd.generate.text_to_image import TextToImage
from dsd.generate.two_frame import TwoFramePipeline
from dsd.sampling import Sampling
from dsd.train.cost import counted
from dsd.train.trainer import train

PROMPTS = ["a red cat at the beach", "a blue dog in the snow"]
SIZE = (32, 48)
GUIDANCE = 2.5


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def base(family: str) -> str:
    return tiny.FAMILIES[family]()


def frames(backbone: StockBackbone, count: int, seed: int = 0) -> torch.Tensor:
    rows, columns = (side // backbone.pixels_per_latent for side in SIZE)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, backbone.latent_channels, rows, columns, generator=generator)


def velocity(backbone: StockBackbone, latents: torch.Tensor, **more: Any) -> torch.Tensor:
    text = backbone.encode_text(PROMPTS, tiny.TEXT_TOKENS)
    with torch.no_grad():
        return backbone.velocity(latents, torch.tensor([0.2, 0.9]), text, guidance=GUIDANCE, **more)


def test_there_is_a_tiny_member_of_each_family(family: str, base: str) -> None:
    assert family_of(base) == family
    assert set(tiny.FAMILIES) == set(FAMILIES)


@pytest.mark.parametrize("true_guidance", [1.0, 2.0])
def test_our_parts_draw_what_the_stock_pipeline_draws(base: str, true_guidance: float) -> None:
    """So ids, shift, schedule, text, guidance and the normalisation of latents are the stock pipeline's."""
    model, steps = TextToImage.load(base), 3
    backbone = model.backbone
    stock = model.draw(
        PROMPTS, size=SIZE, steps=steps, true_guidance=true_guidance, guidance=GUIDANCE,
        max_sequence_length=tiny.TEXT_TOKENS, generators=[torch.Generator().manual_seed(s) for s in (1, 2)],
        output_type="pt",
    )  # fmt: skip
    noise = Film.of(0, 1).noise(frames(backbone, 1)[:, 0], [torch.Generator().manual_seed(seed) for seed in (1, 2)], 2)
    text, empty = (backbone.encode_text(prompts, tiny.TEXT_TOKENS) for prompts in (PROMPTS, ["", ""]))

    def guided(latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        with_text = backbone.velocity(latents, sigma, text, guidance=GUIDANCE)
        without = backbone.velocity(latents, sigma, empty, guidance=GUIDANCE)
        return without + true_guidance * (with_text - without)

    with torch.no_grad():
        shift = backbone.shift(backbone.tokens_per(*SIZE), steps)
        latents = flow.euler(guided, noise, flow.schedule(steps, shift))
    drawn = (backbone.decode(latents[:, 0]) + 1) / 2
    assert (drawn - torch.as_tensor(stock)).abs().max() < 1e-4
    assert (drawn[0] - drawn[1]).abs().max() > 0.01


def test_latents_come_back_as_pictures_and_have_the_normalised_scale(base: str) -> None:
    backbone = load_backbone(base)
    images = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = backbone.encode(images)
    assert latents.shape == frames(backbone, 1)[:, 0].shape and latents.dtype == torch.float32
    assert backbone.decode(latents).shape == images.shape
    assert torch.allclose(backbone.normalised(backbone.restored(latents)), latents, atol=1e-5)
    sampled = backbone.encode(images, torch.Generator().manual_seed(1))
    assert not torch.allclose(sampled, latents)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_frame_is_seen_by_every_other_one(base: str, count: int) -> None:
    backbone = load_backbone(base)
    latents = frames(backbone, count)
    before = velocity(backbone, latents)
    assert before.shape == latents.shape
    for changed in range(count):
        other = latents.clone()
        other[:, changed] += 1.0
        moved = (velocity(backbone, other) - before).flatten(2).abs().amax(2)
        assert (moved > 1e-4).all(), f"frame {changed} reaches {moved}"


def test_frames_are_told_apart_by_their_place(base: str) -> None:
    backbone = load_backbone(base)
    latents = frames(backbone, 2)
    swapped = velocity(backbone, latents.flip(1)).flip(1)
    assert (swapped - velocity(backbone, latents)).abs().max() > 1e-3


def test_widening_changes_nothing_until_the_condition_has_weights(family: str, base: str, tmp_path: Path) -> None:
    backbone = load_backbone(base)
    latents, condition = frames(backbone, 2), frames(backbone, 2, seed=1)
    before = velocity(backbone, latents)
    with pytest.raises(ValueError, match="not widened"):
        velocity(backbone, latents, condition=condition)
    backbone.widen()
    backbone.widen()
    assert backbone.is_widened
    assert torch.allclose(velocity(backbone, latents, condition=condition), before, atol=1e-5)
    patch = backbone.transformer.get_submodule(backbone.layers.patch_embedding)
    nn.init.normal_(patch.weight, std=0.2)
    without = velocity(backbone, latents)
    assert torch.equal(velocity(backbone, latents, condition=torch.zeros_like(condition)), without)
    given = velocity(backbone, latents, condition=condition)
    assert not torch.allclose(given, without, atol=1e-3)
    backbone.pipeline.save_pretrained(tmp_path)
    again = backbone_class(family).from_pretrained(str(tmp_path))
    assert again.is_widened
    assert torch.allclose(velocity(again, latents, condition=condition), given, atol=1e-5)


@pytest.mark.parametrize(
    "changes", [{"rank": 4, "lora_targets": "attention"}, {"rank": 64}, {"full": True}], ids=["lora", "whole", "full"]
)
def test_a_trained_student_draws_what_the_trained_weights_draw(
    family: str, base: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    config = small_config(base=base, learning_rate=3e-2, muon_learning_rate=0.1, ema_decay=0.0, **changes)
    adapter = train(config, simple_pairs(), tmp_path / "run")
    metadata = load_metadata(adapter)
    assert (metadata.family, metadata.film, metadata.sampling) == (family, Film.two_frame(), config.sampling)
    pictures = {}
    for name, weights in (("trained", adapter), ("saved", None)):
        folder = base if weights is not None else str(tmp_path / "whole")
        pipeline: Any = TwoFramePipeline.from_pretrained(folder, adapter=weights)
        pipeline.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        pictures[name] = pipeline(PROMPTS, tiny.picture(), generator=generators, output_type="pt").images
        if weights is not None:
            pipeline.save_pretrained(tmp_path / "whole")
    assert (pictures["trained"] - pictures["saved"]).abs().max() < 1e-4
    assert (pictures["trained"][0] - pictures["trained"][1]).abs().max() > 1e-3
    if not changes.get("full"):
        patch = load_backbone(base, text=False, vae=False).layers.patch_embedding
        assert load_adapter(adapter)[0][patch].up.any()


def test_eight_pairs_are_learnt_by_heart_on_both_frames(base: str, tmp_path: Path) -> None:
    config = small_config(
        base=base, rank=64, lora_targets="all-linear", steps=150, batch_size=8, sample_every=150, checkpoint_every=150,
        text_dropout=0.0, image_dropout=0.0, ema_decay=0.0, sigma_density="uniform",
    )  # fmt: skip
    train(config, simple_pairs(10), tmp_path)
    losses = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first, last = losses[0], losses[-1]
    for name in ("loss", "loss_target"):
        assert last[name] < 0.6 * first[name], (name, first[name], last[name])


def test_training_and_drawing_agree_on_the_shift(base: str, tmp_path: Path) -> None:
    for steps in (4, 28):
        config = small_config(base=base, sampling=Sampling(steps=steps))
        task = task_in(tmp_path / str(steps), config)
        tokens = 2 * task.backbone.tokens_per(32, 32)
        assert task.objective.shift == task.backbone.shift(tokens, steps)


def test_costs_are_counted_on_the_meta_device(base: str) -> None:
    shape, real = shape_of(base), load_backbone(base, text=False, vae=False)
    assert shape.parameters == sum(parameter.numel() for parameter in real.transformer.parameters())
    assert shape.backbone.pixels_per_token == real.pixels_per_token
    one, two = (shape.forward_operations((32, 32), count, 8) for count in (1, 2))
    assert 1.3 * one < two < 3 * one
    config = small_config(base=base)
    costs = [
        counted(replace(config, **changes), shape_of(base), (32, 32)).trained
        for changes in ({"rank": 2}, {"rank": 4}, {"full": True})
    ]
    assert costs[0] < costs[1] < costs[2]


def test_muon_gets_matrices_alone(base: str) -> None:
    backbone = load_backbone(base, text=False, vae=False)
    names = dict(backbone.transformer.named_parameters())
    assert backbone.layers.patch_embedding + ".weight" in names
    kept = [name for name in names if any(part in f"transformer.{name}" for part in backbone.layers.not_matrices)]
    assert backbone.layers.patch_embedding + ".weight" in kept
    blocks = [name for name in names if name.startswith(backbone.layers.blocks) and names[name].ndim == 2]
    assert blocks and not [n for n in blocks if n in kept and "norm" not in n and "modulation" not in n]


def test_an_adapter_of_another_family_is_refused(family: str, base: str, tmp_path: Path) -> None:
    other = next(name for name in FAMILIES if name != family)
    adapter = train(small_config(base=tiny.FAMILIES[other](), steps=1), simple_pairs(), tmp_path)
    with pytest.raises(UserError, match=f'for models of the family "{other}"'):
        TwoFramePipeline.from_pretrained(base, adapter=adapter)


def test_references_of_flux2_stand_where_its_stock_pipeline_looks_for_them() -> None:
    backbone = load_backbone(tiny.flux2())
    latents, text = frames(backbone, 3), backbone.encode_text(PROMPTS, tiny.TEXT_TOKENS)
    ids = backbone.arguments(latents, torch.zeros(2), text)["img_ids"]
    stock = Flux2KleinPipeline._prepare_image_ids(list(latents[:1, :2].unbind(1)))[0]
    target = Flux2KleinPipeline._prepare_latent_ids(latents[:1, 2])[0]
    assert torch.equal(ids, torch.cat([stock, target]).to(ids))
