"""Sped-up pipelines draw what they drew before, of every family, whatever is asked of them afterwards."""

from __future__ import annotations

import copy
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from diffusers import FluxPipeline
from pipeline_parts import PROMPTS, differ, draw, load, seeds, shared
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from dsd import attention
from dsd.backbones.registry import load_backbone
from dsd.errors import UserError
from dsd.generate import autoencoder, compiled
from dsd.generate.around import around
from dsd.generate.speed import speed_up
from dsd.generate.two_frame import TwoFramePipeline


@pytest.fixture(params=list(tiny.FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def drawn(pipe: Any, prompt: Any = PROMPTS[0], **settings: Any) -> Tensor:
    return pipe(prompt, tiny.picture(), **({"output_type": "latent", "generator": seeds(0)[0]} | settings)).images


def fast(family: str) -> Any:
    pipe = load(family)
    speed_up(pipe)
    return pipe


def test_a_lossless_pipeline_draws_what_it_drew(family: str) -> None:
    pipe = fast(family)
    assert torch.allclose(drawn(pipe), draw(family), atol=1e-4)
    both, generator = drawn(pipe, PROMPTS, generator=seeds(1, 2)), seeds(1, 2)
    assert torch.allclose(both, draw(family, PROMPTS, generator=generator), atol=1e-4)


def test_sizes_and_batches_that_take_turns_are_not_mixed_up(family: str) -> None:
    pipe = fast(family)
    for settings in ({}, {"height": 48, "width": 16}, {"height": 16, "width": 48}, {"max_sequence_length": 5}, {}):
        assert torch.allclose(drawn(pipe, **settings), draw(family, **settings), atol=1e-4)
        twice = {"prompt": PROMPTS * 2, **settings}
        one, other = (seeds(1, 2, 3, 4) for _ in range(2))
        assert torch.allclose(drawn(pipe, **twice, generator=one), draw(family, **twice, generator=other), atol=1e-4)


def test_a_sped_up_pipeline_is_saved_as_any_other(family: str, tmp_path: Path) -> None:
    pipe = fast(family)
    drawn(pipe)
    assert set(pipe.transformer.state_dict()) == set(shared(family).transformer.state_dict())
    pipe.save_pretrained(tmp_path)
    again = TwoFramePipeline.from_pretrained(str(tmp_path))
    again.set_progress_bar_config(disable=True)
    assert torch.equal(drawn(again), draw(family))
    speed_up(again)
    assert torch.allclose(drawn(again), draw(family), atol=1e-4)


def test_speeding_up_again_changes_nothing(family: str) -> None:
    pipe = load(family)
    once = speed_up(pipe)
    names = [name for name, _ in pipe.transformer.named_modules()]
    hooks = len(pipe.transformer._forward_pre_hooks)
    assert speed_up(pipe) == once
    assert names == [name for name, _ in pipe.transformer.named_modules()]
    assert hooks == len(pipe.transformer._forward_pre_hooks)
    assert torch.allclose(drawn(pipe), draw(family), atol=1e-4)


def test_a_lora_that_is_loaded_afterwards_works_and_goes_again(tmp_path: Path) -> None:
    transformer = load_backbone(tiny.dev(), text=False, vae=False).transformer
    generator = torch.Generator().manual_seed(5)
    lora = {}
    for name in (
        "transformer_blocks.0.attn.to_q",
        "transformer_blocks.0.ff.net.0.proj",
        "transformer_blocks.0.norm1.linear",
    ):
        layer = transformer.get_submodule(name)
        lora[f"{name}.lora_A.weight"] = torch.randn(2, layer.in_features, generator=generator)
        lora[f"{name}.lora_B.weight"] = torch.randn(layer.out_features, 2, generator=generator)
    FluxPipeline.save_lora_weights(tmp_path, transformer_lora_layers=lora)
    plain, pipe = load("flux"), fast("flux")
    for one in (plain, pipe):
        one.load_lora_weights(tmp_path, adapter_name="style")
    assert differ(drawn(pipe), draw("flux")) and torch.allclose(drawn(pipe), drawn(plain), atol=1e-4)
    pipe.unload_lora_weights()
    assert torch.allclose(drawn(pipe), draw("flux"), atol=1e-4)


def test_positions_are_computed_once_a_size_and_anew_when_they_were_written_to() -> None:
    pipe, computed = load("flux"), []
    embed = pipe.transformer.pos_embed
    embed.register_forward_hook(lambda *_: computed.append(1))
    speed_up(pipe)
    drawn(pipe)
    drawn(pipe)
    assert len(computed) == 1
    kept = pipe.transformer.pos_embed
    ids, text = torch.zeros(4, 3), torch.zeros(2, 3)
    kept.begin(ids, text)
    before = kept(torch.cat([text, ids]))
    ids += 1
    kept.begin(ids, text)
    assert not torch.equal(before[0], kept(torch.cat([text, ids]))[0])
    assert torch.allclose(drawn(copy.deepcopy(pipe)), draw("flux"), atol=1e-4)


def test_unknown_levels_are_refused() -> None:
    for settings in ({"level": "fastest"}, {"compile": "yes"}):
        with pytest.raises(UserError, match="must be one of"):
            speed_up(shared("flux"), **settings)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("facts", "asked", "words"),
    [
        ({"device": "cuda"}, "auto", None),
        ({"device": "cuda"}, "off", "as was asked"),
        ({"device": "cpu"}, "auto", "on a CPU"),
        ({"device": "cpu"}, "on", None),
        ({"device": "cuda", "has_lora": True}, "on", "LoRA"),
        ({"device": "cuda", "is_quantised": True}, "on", "quantised"),
        ({"device": "cuda", "is_offloaded": True}, "auto", "offloaded"),
    ],
)
def test_blocks_are_compiled_where_that_pays_and_else_it_says_why_not(
    facts: Any, asked: str, words: str | None
) -> None:
    said = compiled.why_not(compiled.Facts(**facts), asked)
    assert said is None if words is None else said is not None and words in said


def test_loras_and_offload_are_seen() -> None:
    cpu = torch.device("cpu")
    assert compiled.facts_of(load("flux"), cpu) == compiled.Facts(device="cpu")
    assert compiled.facts_of(load("flux", fuse=False), cpu).has_lora
    for offload in ("enable_model_cpu_offload", "enable_sequential_cpu_offload", "enable_group_offload"):
        pipe: Any = load("flux")
        if offload == "enable_group_offload":
            pipe.enable_group_offload(onload_device=cpu, offload_type="leaf_level")
        else:
            getattr(pipe, offload)(device="cpu")
        assert compiled.facts_of(pipe, cpu).is_offloaded, offload


def test_an_autoencoder_of_a_gpu_decodes_large_pictures_in_tiles_and_others_whole() -> None:
    assert autoencoder.choose("cpu", 0, 128, 4) == autoencoder.Choice(channels_last=False, tile=None)
    large, small = (autoencoder.choose("cuda", size * 2**30, 128, 2) for size in (80, 8))
    assert large.channels_last and large.tile is not None and large.tile >= 2048
    assert small.tile is not None and 512 <= small.tile < large.tile
    pipe = load("flux")
    said = autoencoder.run_as(pipe.vae, autoencoder.Choice(channels_last=True, tile=64))
    assert len(said) == 2 and torch.allclose(drawn(pipe, output_type="pt"), draw("flux", output_type="pt"), atol=1e-4)
    assert drawn(pipe, output_type="pt", height=80, width=80).shape[-2:] == (80, 80)


def test_a_kernel_whose_backward_pass_alone_is_wrong_may_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.nn.functional.scaled_dot_product_attention

    def wrong_backward(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = plain(query, key, value)
        if out.requires_grad and not torch._C._get_math_sdp_enabled():
            out.register_hook(lambda gradient: gradient * float("nan"))
        return out

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", wrong_backward)
    assert not attention.is_right("FLASH_ATTENTION", "cpu", torch.float32)
    assert attention.is_right("FLASH_ATTENTION", "cpu", torch.float32, backward=False)


def test_what_is_done_around_a_step_is_done_once_however_often_it_is_asked_for() -> None:
    pipe, entered = load("flux"), []

    @contextmanager
    def counted() -> Any:
        entered.append(1)
        yield

    around(pipe, "advance", "test", counted)
    around(pipe, "advance", "test", counted)
    assert torch.equal(drawn(pipe), draw("flux"))
    assert len(entered) == 3


def test_batches_of_any_number_need_a_handful_of_compilations() -> None:
    torch._dynamo.reset()
    pipe, counter = load("flux"), CompileCounter()
    for block in pipe.backbone.blocks:
        block.compile(backend=counter, **compiled.OPTIONS)
    counts = []
    for number in (1, 2, 3, 4):
        drawn(pipe, generator=seeds(*range(number)), num_images_per_prompt=number, num_inference_steps=1)
        counts.append(counter.frame_count)
    assert torch.allclose(drawn(pipe), draw("flux"), atol=1e-4)
    assert counts[1] == counts[-1] <= 8, counts


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compilation for a CPU needs a C++ compiler")
def test_what_was_compiled_is_kept_and_found_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    path = tmp_path / "a" / "x.compiled"
    (tmp_path / "file").touch()
    kept, unwritable = compiled.Kept(path), compiled.Kept(tmp_path / "file" / "x.compiled")
    with kept.saving():
        pass
    assert not path.exists(), "nothing was compiled"
    with kept.saving(), unwritable.saving():
        torch.compile(lambda x: x.sin() * 2 + 1)(torch.randn(8))
    assert "is not kept" in capsys.readouterr().err and not unwritable.is_writable
    assert "is taken from" in compiled.load_cache(path)
    written = path.stat().st_mtime_ns
    with kept.saving():
        pass
    assert path.stat().st_mtime_ns == written, "nothing new was compiled"
    path.write_bytes(path.read_bytes()[:-1])
    assert "is damaged" in compiled.load_cache(path)


def test_a_damaged_cache_is_told_and_a_missing_one_too(tmp_path: Path) -> None:
    path = tmp_path / "x.compiled"
    assert "Nothing compiled" in compiled.load_cache(path)
    for damaged in (b"", b"short", b"0" * 64 + b"not what was written"):
        path.write_bytes(damaged)
        assert "is damaged" in compiled.load_cache(path)


def test_caches_are_where_the_machine_keeps_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(compiled.FOLDER, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiled.cache_folder() == tmp_path / "dsd"
    monkeypatch.setenv(compiled.FOLDER, str(tmp_path / "other"))
    assert compiled.cache_folder() == tmp_path / "other"
    one, other = (
        compiled.key(load("flux", dtype=dtype), torch.device("cpu")) for dtype in (torch.float32, torch.bfloat16)
    )
    assert one != other
