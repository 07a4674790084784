"""Claims about the flavour "cached": what is kept of a reference, who sees it, and that students learn from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from training_parts import shake, simple_pairs, small_config, task_in

from dsd.backbones.adapter import AdapterMetadata, load_adapter, load_metadata
from dsd.backbones.cached import Recording, Reference
from dsd.backbones.protocol import Text
from dsd.backbones.registry import load_backbone
from dsd.backbones.stock import StockBackbone
from dsd.config import from_json, to_json
from dsd.errors import UserError
from dsd.frames import Film
from dsd.runs import deciding
from dsd.train import trainer
from dsd.train.checkpointing import checkpoint_gradients
from dsd.train.loop import step_generator
from dsd.train.step import draw, losses
from dsd.train.task import TwoFrameTask

FAMILIES = {"dev": tiny.dev, "flux2": tiny.flux2}
"""Of those that can be cached, one each."""
SIDE = 4  # latents


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request: pytest.FixtureRequest) -> StockBackbone:
    loaded = load_backbone(FAMILIES[request.param](), text=False)
    loaded.prepare("cached")
    return loaded


def given(backbone: StockBackbone, count: int = 1, seed: int = 0, frames: int = 1) -> dict[str, Any]:
    """Latents, noise levels, text and guidance of some rows."""
    generator, config = torch.Generator().manual_seed(seed), backbone.transformer.config
    pooled = config.get("pooled_projection_dim")

    def random(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator)

    text = Text(random(8, config.joint_attention_dim), None if pooled is None else random(pooled))
    sigma = torch.rand(count, generator=generator)
    latents = random(frames, backbone.latent_channels, SIDE, SIDE)
    return {"latents": latents, "sigma": sigma, "text": text, "guidance": 3.5 if backbone.takes_guidance else None}


def references(backbone: StockBackbone, count: int = 1, seed: int = 100, frames: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, frames, backbone.latent_channels, SIDE, SIDE, generator=generator)


def kept(reference: Reference) -> list[Tensor]:
    (recording,) = {id(one): one for one, _ in reference.rows}.values()
    return [tensor for pair in recording.layers.values() for tensor in pair]


@torch.no_grad()
def test_without_a_reference_it_is_the_text_to_image_model_bit_by_bit(backbone: StockBackbone) -> None:
    plain = load_backbone(backbone.pipeline.config._name_or_path, text=False)
    asked = given(backbone, 2)
    assert torch.equal(backbone.velocity(**asked), plain.velocity(**asked))


@torch.no_grad()
def test_the_reference_changes_what_is_drawn_and_every_layer_keeps_it(backbone: StockBackbone) -> None:
    asked = given(backbone)
    one, other = (backbone.reference(references(backbone, seed=seed)) for seed in (1, 2))
    drawn = [backbone.velocity(**asked, reference=reference) for reference in (one, other, None)]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (drawn[a] - drawn[b]).abs().max() > 1e-3
    assert len(kept(one)) == 2 * len(backbone.transformer.attn_processors) == 2 * 3
    assert not any(torch.equal(a, b) for a, b in zip(kept(one), kept(other), strict=True))


@torch.no_grad()
def test_what_is_kept_does_not_change_with_text_noise_level_or_target(backbone: StockBackbone) -> None:
    reference = backbone.reference(references(backbone))
    before = [one.clone() for one in kept(reference)]
    for seed in (1, 2):
        backbone.velocity(**given(backbone, seed=seed), reference=reference)
        again = kept(backbone.reference(references(backbone)))
        assert all(torch.equal(a, b) for a, b in zip(before, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, kept(reference), strict=True))


@torch.no_grad()
def test_rows_see_their_own_references_whatever_stands_beside_them(backbone: StockBackbone) -> None:
    asked, shown = given(backbone, 4), references(backbone, 2)
    together = backbone.reference(shown)
    alone = [backbone.reference(shown[n : n + 1]) for n in (0, 1)]
    mixed = Reference.concat([alone[1], alone[0], together.take([1]), alone[1]])
    drawn = backbone.velocity(**asked, reference=mixed)
    for place, number in enumerate((1, 0, 1, 1)):
        own = {**asked, "latents": asked["latents"][[place]], "sigma": asked["sigma"][[place]],
               "text": asked["text"].take([place])}  # fmt: skip
        one = backbone.velocity(**own, reference=alone[number])
        assert torch.allclose(drawn[place], one[0], atol=1e-5)


@torch.no_grad()
def test_a_reference_stands_elsewhere_than_the_frames_to_draw(backbone: StockBackbone) -> None:
    """Told apart by position: two references swapped draw something else, and so do two targets."""
    asked, shown = given(backbone, frames=2), references(backbone, frames=2)
    drawn = backbone.velocity(**asked, reference=backbone.reference(shown))
    swapped = backbone.velocity(**asked, reference=backbone.reference(shown.flip(1)))
    assert (drawn - swapped).abs().max() > 1e-3
    turned = backbone.velocity(**{**asked, "latents": asked["latents"].flip(1)}, reference=backbone.reference(shown))
    assert (drawn - turned.flip(1)).abs().max() > 1e-3
    places = [backbone.given_arguments(shown)["img_ids"], backbone.arguments(**asked)["img_ids"]]
    rows = [tuple(row) for ids in places for row in ids.tolist()]
    assert len(set(rows)) == len(rows)


def test_a_layer_that_is_computed_again_keeps_what_it_kept_first() -> None:
    recording, first = Recording(), torch.zeros(1, 1, 1, 1)
    recording.keep(0, first, first)
    recording.keep(0, first + 1, first + 1)
    assert Reference.of(recording, 1).at(0)[0] is first


def cached_task(folder: Path, **changes: Any) -> TwoFrameTask:
    return task_in(folder, small_config(**{"flavour": "cached", "rank": 8, "lora_targets": "attention", **changes}))


@pytest.fixture(scope="module", params=FAMILIES)
def task(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TwoFrameTask:
    made = cached_task(tmp_path_factory.mktemp("task"), base=FAMILIES[request.param]())
    shake(made)
    return made


def gradients(task: TwoFrameTask, **changes: Any) -> dict[str, Tensor]:
    samples, drawn = task.cache.samples([0, 1, 2]), draw(task.objective, 3, step_generator(0, 0))
    drawn = replace(drawn, **changes)
    for parameter in task.adapter.parameters.values():
        parameter.grad = None
    losses(task.backbone, task.objective, samples, drawn)["loss"].backward()
    return {name: p.grad.clone() for name, p in task.adapter.parameters.items() if p.grad is not None}


def test_gradients_are_the_same_whatever_is_computed_again(task: TwoFrameTask) -> None:
    found = []
    for level in ("off", "selective", "full"):
        checkpoint_gradients(task.backbone, level)
        found.append(gradients(task, keep_image=torch.tensor([True, False, True])))
    checkpoint_gradients(task.backbone, "off")
    assert len(found[0]) > 10
    for other in found[1:]:
        assert found[0].keys() == other.keys()
        assert all(torch.equal(found[0][name], other[name]) for name in other)


def test_the_loss_reaches_the_pass_of_the_reference(task: TwoFrameTask) -> None:
    """Gradients are those of both passes: through a reference that is held still they are others."""
    whole = gradients(task, keep_image=torch.ones(3, dtype=torch.bool))
    reference = task.backbone.reference

    def still(given: Tensor, **more: Any) -> Reference:
        with torch.no_grad():
            return reference(given, **more)

    task.backbone.reference = still  # pyright: ignore[reportAttributeAccessIssue]
    try:
        part = gradients(task, keep_image=torch.ones(3, dtype=torch.bool))
    finally:
        del task.backbone.reference
    keys = [name for name in whole if "to_k" in name or "to_v" in name or "to_qkv" in name]
    assert keys and any((whole[name] - part[name]).abs().max() > 1e-6 for name in keys)


@torch.no_grad()
def test_the_target_alone_has_a_loss_and_a_dropped_picture_is_none(task: TwoFrameTask) -> None:
    samples, film = task.cache.samples([0, 1, 2]), task.objective.film
    drawn = draw(task.objective, 3, step_generator(0, 0))
    assert drawn.noise.shape[1] == 1 and film.loss_weights().flatten().tolist() == [1.0]
    dropped = replace(drawn, keep_image=torch.zeros(3, dtype=torch.bool))
    found = losses(task.backbone, task.objective, samples, dropped)
    assert found["loss"] == found["loss_target"]
    others = replace(samples, frames=torch.cat([-samples.frames[:, :1], samples.frames[:, 1:]], dim=1))
    assert torch.equal(losses(task.backbone, task.objective, others, dropped)["loss"], found["loss"])
    seen = replace(drawn, keep_image=torch.ones(3, dtype=torch.bool))
    one, other = (losses(task.backbone, task.objective, some, seen)["loss"] for some in (samples, others))
    assert (one - other).abs() > 1e-5


def test_the_schedule_is_that_of_the_frames_to_draw(task: TwoFrameTask) -> None:
    height, width = task.cache.sizes[0]
    tokens = task.backbone.tokens_per(height, width)
    assert task.objective.shift == task.backbone.shift(tokens, task.config.sampling.steps)


def test_only_who_sees_the_reference_learns_which_target_it_is(tmp_path: Path) -> None:
    """Two pairs with one caption, one noise and opposite targets: without the reference the least loss is 1."""
    task = cached_task(tmp_path, base=tiny.dev(), rank=64, lora_targets="all-linear")
    samples, drawn = task.cache.samples([0, 1]), draw(task.objective, 2, step_generator(0, 0))
    sign = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1, 1)
    samples = replace(samples, frames=sign.expand(samples.frames.shape))
    always = torch.ones(2, dtype=torch.bool)
    drawn = replace(drawn, sigma=torch.ones(2), keep_text=always, keep_image=always, noise=drawn.noise[[0, 0]])
    optimizer = torch.optim.AdamW(task.adapter.parameters.values(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        losses(task.backbone, task.objective, samples, drawn)["loss"].backward()
        optimizer.step()
    loss = losses(task.backbone, task.objective, samples, drawn)["loss"]
    blind = losses(task.backbone, task.objective, samples, replace(drawn, keep_image=~always))["loss"]
    assert float(loss) < 0.9 and float(blind) >= 0.999, (float(loss), float(blind))


def test_an_adapter_says_its_flavour_and_those_before_are_of_the_canvas(tmp_path: Path) -> None:
    adapter = trainer.train(small_config(flavour="cached"), simple_pairs(), tmp_path / "run")
    updates, metadata = load_adapter(adapter)
    assert metadata.film == Film.of(1, 1, flavour="cached") and "x_embedder" not in updates and len(updates) > 5
    with pytest.raises(UserError, match="flavour"):
        trainer.train(small_config(), simple_pairs(), tmp_path / "run")
    said = to_json(tiny.metadata()).replace(',\n    "flavour": "canvas"', "")
    assert "flavour" not in said and from_json(AdapterMetadata, said).film.flavour == "canvas"
    assert load_metadata(adapter).film.is_cached


def test_a_run_of_before_goes_on_as_a_canvas() -> None:
    assert deciding(small_config(), "train")["train.flavour"] == "'canvas'"
    assert deciding(small_config(), "train") != deciding(small_config(flavour="cached"), "train")


def test_what_cannot_be_is_said_in_a_sentence_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="flavour cached is not available"):
        trainer.train(small_config(base=tiny.sd3(), flavour="cached"), simple_pairs(), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists() and not (tmp_path / "run" / "latents").exists()
    with pytest.raises(UserError, match=r"reference_weight is 0\.5"):
        small_config(flavour="cached", reference_weight=0.5)
    with pytest.raises(ValueError, match="cached film"):
        Film.of(0, 1, flavour="cached")
