"""Claims about drawing with a cached reference: kept once, used in every step, by pipeline, engine and files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import FluxPipeline
from pipeline_parts import PROMPTS, SIZE, differ, seeds
from torch import Tensor, nn
from training_parts import small_config

from dsd.backbones.adapter import LowRank, load_metadata, save_adapter
from dsd.backbones.cost import shape_of
from dsd.backbones.registry import load_backbone
from dsd.cli.main import main
from dsd.frames import Film
from dsd.generate import compiled, step_cache
from dsd.generate.asked import Asked
from dsd.generate.engine import Engine
from dsd.generate.orders import Order
from dsd.generate.two_frame import FilmDrawing, TwoFramePipeline
from dsd.sampling import Sampling
from dsd.train.cost import counted

FAMILIES = ("flux", "flux2")


def adapter(family: str, references: int = 1) -> Path:
    """A random LoRA of queries and keys, for cached references."""
    folder, generator = tiny.scratch() / f"cached-{family}-{references}", torch.Generator().manual_seed(1)
    if folder.exists():
        return folder
    updates = {}
    for path, layer in load_backbone(tiny.FAMILIES[family](), text=False, vae=False).transformer.named_modules():
        if isinstance(layer, nn.Linear) and path.endswith(("attn.to_q", "attn.to_k", "to_qkv_mlp_proj")):
            down, up = (
                torch.randn(side, generator=generator) * 0.3
                for side in ((2, layer.in_features), (layer.out_features, 2))
            )
            updates[path] = LowRank(down, up)
    said = tiny.metadata(
        tiny.FAMILIES[family](), family=family, rank=2, frame_size=SIZE, film=Film.of(references, 1, flavour="cached"),
        sampling=Sampling(steps=3, text_scale=1.6, image_scale=1.3),
    )  # fmt: skip
    save_adapter(folder, updates, said)
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def pipe(request: pytest.FixtureRequest) -> TwoFramePipeline:
    return loaded(request.param)


def loaded(family: str, references: int = 1, **settings: Any) -> TwoFramePipeline:
    base = tiny.FAMILIES[family]()
    pipe = TwoFramePipeline.from_pretrained(base, adapter(family, references), **settings)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any, prompt: Any = PROMPTS[0], image: Any = None, **settings: Any) -> Tensor:
    settings = {"output_type": "latent", "generator": seeds(0)[0]} | settings
    return pipe(prompt, tiny.picture() if image is None else image, **settings).images


def begun(pipe: TwoFramePipeline, **settings: Any) -> FilmDrawing:
    asked = {"prompt": PROMPTS[0], "image": tiny.picture(), "generator": seeds(0)[0]} | settings
    return pipe.begin(Asked(**asked))[0]


class Passes:
    """Image tokens and rows of each pass of the transformer."""

    def __init__(self, pipe: TwoFramePipeline) -> None:
        self.found: list[tuple[int, int]] = []
        self._handle = pipe.backbone.transformer.register_forward_pre_hook(self._seen, with_kwargs=True)

    def _seen(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.found.append(tuple(kwargs["hidden_states"].shape[:2]))

    def __enter__(self) -> list[tuple[int, int]]:
        return self.found

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def test_the_reference_is_read_once_and_a_step_takes_the_target_s_tokens_alone(pipe: TwoFramePipeline) -> None:
    tokens = pipe.backbone.tokens_per(*SIZE)
    with Passes(pipe) as passes:
        draw(pipe, text_scale=1.0, image_scale=1.0, num_inference_steps=4)
    assert passes == [(1, tokens)] * 5, "the reference's pass and four steps, where a canvas has twice the tokens"
    with Passes(pipe) as passes:
        draw(pipe, PROMPTS, num_images_per_prompt=2, generator=seeds(0, 1, 2, 3), num_inference_steps=2)
    assert passes == [(1, tokens), *[(4, tokens), (8, tokens)] * 2], "one reference; rows without it by themselves"


@torch.no_grad()
def test_what_is_kept_draws_as_what_is_computed_anew_in_each_step(pipe: TwoFramePipeline) -> None:
    once, anew = begun(pipe), begun(pipe)
    while not once.is_finished:
        pipe.advance([once])
        anew.shown = replace(anew.shown, reference=pipe.backbone.reference(anew.shown.condition[None]))
        pipe.advance([anew])
    assert torch.allclose(once.latents, anew.latents, atol=1e-5)
    assert torch.allclose(once.latents, draw(pipe)[0], atol=1e-5)


def test_reference_prompt_and_both_scales_change_the_picture(pipe: TwoFramePipeline) -> None:
    plain = draw(pipe)
    assert plain.shape[1] == 1
    assert differ(plain, draw(pipe, image=tiny.picture(seed=5)))
    assert differ(plain, draw(pipe, "zebra"))
    assert differ(plain, draw(pipe, text_scale=3.0)) and differ(plain, draw(pipe, image_scale=3.0))


def test_with_the_picture_s_scale_at_0_no_reference_is_seen(pipe: TwoFramePipeline) -> None:
    """Without guidance by the text the branches are nothing and the image; of weight 0 the image is not asked."""
    nothing = [draw(pipe, image=tiny.picture(seed=seed), text_scale=1.0, image_scale=0.0) for seed in (1, 2)]
    off = draw(pipe, image=tiny.picture(seed=1), text_scale=1.0, image_scale=1.0)
    assert differ(nothing[0], off)


def test_words_alone_draw_without_a_reference(pipe: TwoFramePipeline) -> None:
    with Passes(pipe) as passes:
        drawn: Any = pipe(PROMPTS[0], generator=seeds(0)[0], output_type="latent", text_scale=1.0)
    assert len(passes) == 3 and drawn.images.shape[1] == 1


def test_a_picture_does_not_depend_on_what_is_drawn_beside_it(pipe: TwoFramePipeline) -> None:
    pictures = [tiny.picture(seed=1), tiny.picture(seed=2)]
    together = draw(pipe, PROMPTS, pictures, generator=seeds(3, 4))
    for place in (0, 1):
        alone = draw(pipe, PROMPTS[place], pictures[place], generator=seeds(3 + place))
        assert torch.allclose(together[place], alone[0], atol=1e-5)


def test_several_references_and_several_targets(tmp_path: Path) -> None:
    pipe = loaded("flux", 2)
    pictures = [tiny.picture(seed=1), tiny.picture(seed=2)]
    one, swapped = draw(pipe, image=[pictures], num_frames=2), draw(pipe, image=[pictures[::-1]], num_frames=2)
    assert one.shape[1] == 2 and differ(one, swapped)


def test_the_engine_draws_what_the_pipeline_draws(pipe: TwoFramePipeline) -> None:
    engine = Engine(pipe, most_at_once=3, most_waiting=8)
    try:
        orders = [
            Order(prompt=PROMPTS[seed % 2], references=(tiny.picture(seed=seed),), seed=seed, steps=2 + seed)
            for seed in range(4)
        ]
        futures = [engine.submit(order) for order in orders]
        for order, future in zip(orders, futures, strict=True):
            drawn = future.result(timeout=60).pictures[0]
            wanted: Any = pipe(
                order.prompt, order.references[0], num_inference_steps=order.steps, generator=seeds(order.seed)
            )
            assert np.abs(np.asarray(drawn, dtype=float) - np.asarray(wanted.images[0], dtype=float)).max() <= 1
    finally:
        engine.stop()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_beside_the_weights_draws_as_one_in_them(family: str) -> None:
    fused, beside = loaded(family), loaded(family, fuse=False)
    assert torch.allclose(draw(fused), draw(beside), atol=1e-3)
    name = "joint_attention_kwargs" if family == "flux" else "attention_kwargs"
    assert differ(draw(beside), draw(beside, **{name: {"scale": 0.0}})), "of both passes"


def test_a_saved_model_is_read_again_as_what_it_is(pipe: TwoFramePipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    again = TwoFramePipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(draw(pipe), draw(again)) and load_metadata(tmp_path).film.is_cached
    assert "of the flavour cached" in (tmp_path / "README.md").read_text()
    if pipe.family == "flux":
        FluxPipeline.from_pretrained(tmp_path)
    shared = TwoFramePipeline.from_pipe(again)
    shared.set_progress_bar_config(disable=True)
    assert torch.equal(draw(pipe), draw(shared))


def test_a_step_cache_sees_rows_of_both_kinds(pipe: TwoFramePipeline) -> None:
    before = draw(pipe)
    try:
        cache = step_cache.apply(pipe, 0.0)
        assert torch.allclose(draw(pipe), before, atol=1e-6) and cache.reused == 0
        cache = step_cache.apply(pipe, 1e9)
        draw(pipe, PROMPTS, generator=seeds(1, 2), num_inference_steps=4)
        assert 2 * 3 * 2 <= cache.reused <= 2 * 3 * 3 and len(cache) == 0, "all but the first step, or also the last"
        cache = step_cache.apply(pipe, 0.4)
        some = draw(pipe, PROMPTS, [tiny.picture(seed=1), tiny.picture(seed=2)], generator=seeds(1, 2))
        alone = draw(pipe, PROMPTS[1], tiny.picture(seed=2), generator=seeds(2))
        assert torch.allclose(some[1], alone[0], atol=1e-4)
    finally:
        step_cache.remove(pipe)


def test_blocks_are_not_compiled_and_it_is_said(pipe: TwoFramePipeline) -> None:
    (said,) = compiled.compile_blocks(pipe, torch.device("cpu"), "on")
    assert "cached" in said and "not compiled" in said


@pytest.mark.parametrize("form", ["transformer", "control-lora", "comfyui", "comfyui-lora"])
def test_no_other_program_is_handed_a_cached_adapter(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--adapter", str(adapter("flux")), "--form", form, "--out", str(tmp_path / "x")]) != 0
    said = capsys.readouterr()
    assert "of the flavour cached" in said.out + said.err and not (tmp_path / "x").exists()


def test_the_command_line_says_how_the_reference_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tiny", "--train.flavour", "cached", "--dry-run"]) == 0
    assert "seen by its cached keys and values" in capsys.readouterr().err
    with pytest.raises(ValueError, match="encoded one by one"):
        tiny.metadata(film=Film.of(1, 1, flavour="cached"), encodes="canvas")


def test_the_plan_counts_the_pass_of_the_reference() -> None:
    """More than of a target alone, less than of a canvas, whose tokens all see each other."""
    operations = {}
    for flavour in ("canvas", "cached"):
        config = small_config(flavour=flavour)
        operations[flavour] = counted(config, shape_of(tiny.schnell()), (64, 64)).operations["off"]
    assert 0.5 * operations["canvas"] < operations["cached"] < operations["canvas"]
