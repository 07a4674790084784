"""Verbs that load models, run on tiny random FLUX folders."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from diffusers import FluxTransformer2DModel
from PIL import Image
from safetensors.torch import load_file, save
from training_parts import small_config

from dsd.backbones.adapter import LowRank, save_adapter
from dsd.backbones.cost import shape_of
from dsd.backbones.registry import load_backbone
from dsd.backbones.stock import widened
from dsd.cli.main import main
from dsd.errors import UserError
from dsd.generate.jobs import Job
from dsd.generate.orders import draw
from dsd.train.cost import counted


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    transformer = load_backbone(tiny.schnell(), text=False, vae=False).transformer
    save_adapter(folder, tiny.random_updates(transformer), tiny.metadata(base=tiny.schnell()))
    return folder


def test_generate_draws_one_picture_for_each_prompt_and_seed(adapter, tmp_path, capsys):
    Image.effect_noise((32, 32), 90).convert("RGB").save(tmp_path / "x.png")
    words = ["generate", "--image", str(tmp_path / "x.png"), "--model.adapter", str(adapter), "--model.steps", "2"]
    assert main([*words, "--prompt", "a cat", "a dog", "--n", "2", "--seed", "0", "--out", str(tmp_path / "all")]) == 0
    paths = capsys.readouterr().out.split()
    assert [path.rsplit("/", 1)[1] for path in paths] == ["000-0.png", "000-1.png", "001-0.png", "001-1.png"]
    assert main([*words, "--prompt", "a dog", "--seed", "1", "--out", str(tmp_path / "one.png")]) == 0
    alone, among = Image.open(tmp_path / "one.png"), Image.open(paths[3])
    assert (torch.tensor(list(alone.tobytes())) - torch.tensor(list(among.tobytes()))).abs().max() <= 1


def test_a_second_prompt_loses_no_picture_of_the_first(adapter, tmp_path, capsys):
    Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
    words = ["generate", "--image", str(tmp_path / "x.png"), "--model.adapter", str(adapter), "--model.steps", "1"]
    words += ["--out", str(tmp_path / "out")]
    assert main([*words, "--seed", "0", "--prompt", "a cat", "a dog"]) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("0*.png")}
    assert main([*words, "--seed", "0", "--prompt", "a mug"]) == 0
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("0*.png")}
    assert sorted(after) == ["000-0.png", "001-0.png", "002-0.png"] and before.items() <= after.items()


@pytest.mark.parametrize(("data", "words"), [(b"", "empty"), (b"no picture", "not a picture"), (None, "cannot open")])
def test_a_bad_reference_is_told_before_the_model_is_loaded(data, words, tmp_path, capsys):
    if data is not None:
        (tmp_path / "x.png").write_bytes(data)
    arguments = ["--image", str(tmp_path / "x.png"), "--prompt", "a cat", "--model.adapter", "no/such/adapter"]
    assert main(["generate", *arguments, "--out", str(tmp_path / "o")]) == 2
    assert words in capsys.readouterr().err


def test_a_size_that_does_not_fit_is_told(adapter, tmp_path, capsys):
    Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
    words = ["--image", str(tmp_path / "x.png"), "--prompt", "a cat", "--height", "33", "--out", str(tmp_path / "o")]
    assert main(["generate", *words, "--model.adapter", str(adapter)]) == 2
    assert "dsd: error:" in capsys.readouterr().err


def test_export_writes_a_plain_widened_transformer(adapter, tmp_path, capsys):
    assert main(["export", "--adapter", str(adapter), "--out", str(tmp_path / "t")]) == 0
    transformer = FluxTransformer2DModel.from_pretrained(tmp_path / "t")
    plain = FluxTransformer2DModel.from_pretrained(tiny.schnell(), subfolder="transformer")
    assert transformer.config.in_channels == 2 * plain.config.in_channels
    assert transformer.out_channels == plain.out_channels


def test_export_copies_the_control_lora(adapter, tmp_path, capsys):
    assert main(["export", "--adapter", str(adapter), "--form", "control-lora", "--out", str(tmp_path / "l")]) == 0
    written = (tmp_path / "l" / "pytorch_lora_weights.safetensors").read_bytes()
    assert written == (adapter / "adapter.safetensors").read_bytes()


@pytest.mark.parametrize("form", ["transformer", "control-lora"])
def test_export_replaces_an_earlier_export_and_nothing_else(form, adapter, tmp_path, capsys):
    words = ["export", "--adapter", str(adapter), "--form", form, "--out"]
    assert main([*words, str(tmp_path / "e")]) == 0
    (tmp_path / "e" / "old").touch()
    assert main([*words, str(tmp_path / "e")]) == 0
    assert not (tmp_path / "e" / "old").exists()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").touch()
    assert main([*words, str(tmp_path / "precious")]) == 2
    assert (tmp_path / "precious" / "thesis.txt").exists()
    assert "would be lost" in capsys.readouterr().err
    for out in (adapter, adapter.parent, adapter / "inside"):
        assert main([*words, str(out)]) == 2
        assert "give a folder apart" in capsys.readouterr().err
    assert sorted(path.name for path in adapter.iterdir()) == ["adapter.json", "adapter.safetensors"]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_export_gives_a_control_lora_only_where_diffusers_reads_it(family, tmp_path, capsys):
    base = tiny.FAMILIES[family]()
    backbone = load_backbone(base, text=False, vae=False)
    plain = backbone.transformer.get_submodule(backbone.layers.patch_embedding)
    change = LowRank.exact(torch.zeros_like(widened(plain).weight))
    metadata = tiny.metadata(base, family=family)
    save_adapter(tmp_path / "adapter", {backbone.layers.patch_embedding: change}, metadata)
    words = ["export", "--adapter", str(tmp_path / "adapter"), "--out", str(tmp_path / "out"), "--form"]
    if family == "flux":
        assert main([*words, "control-lora"]) == 0
        return
    assert main([*words, "control-lora"]) == 2
    assert f'family "{family}"' in (said := capsys.readouterr().err) and "give --form transformer" in said
    assert main([*words, "transformer"]) == 0


@pytest.mark.parametrize("form", ["transformer", "control-lora"])
def test_export_hands_on_no_damaged_adapter(form, adapter, tmp_path, capsys):
    path = shutil.copytree(adapter, tmp_path / "adapter") / "adapter.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    nan = save({**tensors, name: torch.full_like(tensors[name], torch.nan)})
    words = ["export", "--adapter", str(tmp_path / "adapter"), "--form", form, "--out", str(tmp_path / "out")]
    for content, said in (
        (nan, "no finite numbers"),
        (path.read_bytes()[:-9], "cannot be read"),
        (None, "has no adapter.s"),
    ):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        assert main(words) == 2
        assert said in capsys.readouterr().err
        path.touch()
    assert not (tmp_path / "out").exists()


def test_export_of_no_adapter_is_told(tmp_path, capsys):
    assert main(["export", "--adapter", str(tmp_path), "--out", str(tmp_path / "t")]) == 2
    assert "no adapter folder" in capsys.readouterr().err


def test_costs_are_counted_from_the_real_layers():
    shape = shape_of(tiny.schnell())
    real = FluxTransformer2DModel.from_pretrained(tiny.schnell(), subfolder="transformer")
    assert shape.parameters == sum(parameter.numel() for parameter in real.parameters())
    assert shape.backbone.pixels_per_token == tiny.PIXELS_PER_TOKEN
    assert shape.forward_operations((32, 32), 2, 8) > 1.5 * shape.forward_operations((32, 32), 1, 8)


def test_a_larger_rank_costs_more_and_a_full_fine_tune_most():
    def trained(**settings) -> int:
        config = small_config(max_sequence_length=8, **settings)
        return counted(config, shape_of(tiny.schnell()), (32, 32)).trained

    assert trained(rank=2) < trained(rank=4) < trained(full=True)


@pytest.mark.parametrize(
    ("base", "parameters", "teraflops"),
    [
        ("black-forest-labs/FLUX.1-dev", 11_901_408_320, 37.7),
        ("stabilityai/stable-diffusion-3.5-medium", 2_243_171_520, None),
        ("stabilityai/stable-diffusion-3.5-large", 8_056_627_520, None),
        ("black-forest-labs/FLUX.2-klein-base-4B", 3_875_544_576, None),
    ],
)
def test_published_models_have_their_known_sizes(base: str, parameters: int, teraflops: float | None):
    shape = shape_of(base)
    assert shape.parameters == parameters
    assert shape.backbone.pixels_per_token == 16 and shape.latent_values in (0.25, 0.5)
    counted = shape.forward_operations((512, 512), 2, 512) / 1e12
    assert teraflops is None or counted == pytest.approx(teraflops, rel=0.01)


def test_plan_prints_memory_and_time(capsys):
    assert main(["plan", "tiny", "--train.base", tiny.schnell(), "--frame", "32", "32"]) == 0
    out = capsys.readouterr().out
    assert "memory of a device" in out and "time" in out
    assert "* no checkpointing, 32 samples at once, not compiled" in out
    assert main(["plan", "tiny", "--train.base", "someone/unknown"]) == 2


@pytest.mark.parametrize("seed", ["99999999999999999999", "-1", str((1 << 63) - 1)])
def test_a_seed_that_no_generator_takes_is_refused(seed: str, tmp_path: Path, capsys: Any) -> None:
    words = ["--image", "any.png", "--prompt", "a cat", "--out", str(tmp_path / "o"), "--n", "2"]
    assert main(["generate", *words, "--seed", seed]) == 2
    assert f"--seed is {seed}, but must be from 0 to {(1 << 63) - 2}" in capsys.readouterr().err
    asked: Any = None
    with pytest.raises(UserError, match="seed is 9223372036854775808, but must be from 0"):
        draw(asked, [Job().order(1 << 63)])
