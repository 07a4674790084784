"""Weights of elsewhere become adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from diffusers import FluxControlPipeline, FluxPipeline
from released import LORA_FILE, Released, released
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsd.backbones.adapter import AdapterMetadata, apply_adapter, is_full, load_adapter, load_metadata, save_adapter
from dsd.backbones.flux.backbone import pack
from dsd.backbones.protocol import Text
from dsd.backbones.registry import load_backbone
from dsd.backbones.stock import side_by_side
from dsd.cli.main import main
from dsd.config import to_json
from dsd.generate.two_frame import TwoFramePipeline

TOKENS = 8


@pytest.fixture
def checkpoint(tmp_path: Path) -> Released:
    return released(tmp_path / "released")


def convert(source: Path | str, out: Path, *more: str, base: str | None = None) -> int:
    return main(["convert", str(source), "--base", base or tiny.dev(), "--out", str(out), *more])


def inputs() -> tuple[Tensor, Tensor, Text, Tensor]:
    """Noisy latents of two frames, a condition, a text, and a noise level."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    shape = (1, 2, tiny.LATENT_CHANNELS, 8, 8)
    return random(*shape), random(*shape), Text(random(1, TOKENS, 16), random(1, 16)), torch.tensor([0.6])


def by_hand(checkpoint: Released, lora: bool = True) -> Tensor:
    """x_embedder(noisy) + c_embedder(condition) on stock blocks, with the LoRA as stock diffusers loads it."""
    latents, condition, text, sigma = inputs()
    pipeline: Any = FluxPipeline.from_pretrained(tiny.dev())
    tensors = checkpoint.transformer
    embedder = torch.nn.Linear(*reversed(tensors["c_embedder.weight"].shape))
    embedder.load_state_dict({part: tensors.pop(f"c_embedder.{part}").float() for part in ("weight", "bias")})
    pipeline.transformer.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    if lora:
        pipeline.load_lora_weights(str(checkpoint.folder / LORA_FILE))
    told = embedder(pack(side_by_side(condition)))
    pipeline.transformer.x_embedder.register_forward_hook(lambda _, __, out: out + told)
    backbone: Any = load_backbone(tiny.dev(), text=False, vae=False)
    with torch.no_grad():
        arguments = backbone.arguments(latents, sigma, text, guidance=3.5)
        return backbone.unpacked(pipeline.transformer(**arguments, return_dict=False)[0], latents)


def by_adapter(folder: Path, base: str | None = None) -> Tensor:
    latents, condition, text, sigma = inputs()
    backbone: Any = load_backbone(base or tiny.dev(), text=False, vae=False)
    apply_adapter(backbone, folder)
    with torch.no_grad():
        return backbone.velocity(latents, sigma, text, condition, guidance=3.5)


def test_the_converted_model_predicts_what_the_published_one_does(checkpoint: Released, tmp_path: Path) -> None:
    assert convert(checkpoint.folder, tmp_path / "a") == 0
    assert not is_full(tmp_path / "a")
    predicted = by_adapter(tmp_path / "a")
    torch.testing.assert_close(predicted, by_hand(checkpoint), atol=1e-5, rtol=1e-5)
    assert (predicted - by_hand(checkpoint, lora=False)).abs().max() > 1e-2


def test_a_picture_of_the_converted_model_is_that_of_its_seed(checkpoint: Released, tmp_path: Path) -> None:
    assert convert(checkpoint.folder, tmp_path / "a", "--frame", "32", "32", "--max-sequence-length", "8") == 0
    pipeline: Any = TwoFramePipeline.from_pretrained(tiny.dev(), adapter=str(tmp_path / "a"))
    pipeline.set_progress_bar_config(disable=True)

    def drawn(seed: int) -> bytes:
        generator = torch.Generator().manual_seed(seed)
        return pipeline("a cat", tiny.picture(), num_inference_steps=2, generator=generator).images[0].tobytes()

    assert drawn(0) == drawn(0) != drawn(1)


def test_the_adapter_says_how_the_published_model_was_trained(checkpoint: Released, tmp_path: Path) -> None:
    assert convert(checkpoint.folder, tmp_path / "a") == 0
    metadata = load_metadata(tmp_path / "a")
    assert (metadata.family, metadata.base, metadata.rank, metadata.encodes) == ("flux", tiny.dev(), 4, "canvas")
    assert (metadata.frame_size, metadata.max_sequence_length, metadata.guidance) == ((512, 512), 512, 3.5)
    sampling = metadata.sampling
    assert (sampling.steps, sampling.text_scale, sampling.image_scale, sampling.guidance) == (28, 1.0, 1.0, 3.5)
    told = ("--frame", "64", "32", "--encodes", "frames", "--sampling.steps", "3", "--max-sequence-length", "8")
    assert convert(checkpoint.folder, tmp_path / "a", *told) == 0
    metadata = load_metadata(tmp_path / "a")
    assert (metadata.frame_size, metadata.encodes, metadata.sampling.steps) == ((64, 32), "frames", 3)


def test_adapters_from_before_frames_were_told_apart_encode_frames(tmp_path: Path) -> None:
    text = json.loads(to_json(tiny.metadata()))
    assert text.pop("encodes") == "frames"
    (tmp_path / "adapter.json").write_text(json.dumps(text))
    assert load_metadata(tmp_path).encodes == AdapterMetadata.encodes == "frames"


def test_weights_in_several_files_and_in_half_precision_are_read(tmp_path: Path) -> None:
    checkpoint = released(tmp_path / "released", dtype=torch.bfloat16)
    checkpoint.write_transformer(checkpoint.transformer, shards=3)
    assert convert(checkpoint.folder, tmp_path / "a") == 0
    assert not is_full(tmp_path / "a")  # the base's float32 in the precision that was published
    (checkpoint.folder / "transformer").rename(checkpoint.folder / "transformers")
    assert convert(checkpoint.folder, tmp_path / "b") == 0
    assert load_adapter(tmp_path / "a")[0].keys() == load_adapter(tmp_path / "b")[0].keys()


def test_alpha_scales_the_lora_as_diffusers_scales_it(checkpoint: Released, tmp_path: Path) -> None:
    layers = {key.rsplit(".lora_")[0] for key in checkpoint.lora}
    alphas = {f"{layer}.alpha": torch.tensor(2.0 if "to_q" in layer else 8.0) for layer in layers}
    checkpoint.write_lora(checkpoint.lora | alphas)
    assert convert(checkpoint.folder, tmp_path / "a") == 0
    torch.testing.assert_close(by_adapter(tmp_path / "a"), by_hand(checkpoint), atol=1e-5, rtol=1e-5)


def test_alpha_in_the_header_scales_the_lora_as_diffusers_scales_it(checkpoint: Released, tmp_path: Path) -> None:
    plain = by_hand(checkpoint)
    targets = sorted({key.rsplit(".lora_")[0].removeprefix("transformer.") for key in checkpoint.lora})
    config = {"transformer.r": 4, "transformer.lora_alpha": 2, "transformer.target_modules": targets}
    checkpoint.write_lora(checkpoint.lora, {"lora_adapter_metadata": json.dumps(config)})
    assert convert(checkpoint.folder, tmp_path / "a") == 0
    torch.testing.assert_close(by_adapter(tmp_path / "a"), by_hand(checkpoint), atol=1e-5, rtol=1e-5)
    assert (by_hand(checkpoint) - plain).abs().max() > 1e-2


def test_a_changed_tensor_of_the_base_is_kept_and_told(checkpoint: Released, tmp_path: Path, capsys: Any) -> None:
    tensors = checkpoint.transformer
    tensors["single_transformer_blocks.1.proj_mlp.weight"][0, 0] += 0.5
    tensors["transformer_blocks.0.attn.norm_q.weight"] *= 1.1
    checkpoint.write_transformer(tensors)
    assert convert(checkpoint.folder, tmp_path / "a") == 0
    said = capsys.readouterr()
    assert "2 tensor(s) differ" in said.out + said.err and "single_transformer_blocks.1.proj_mlp" in said.out + said.err
    assert is_full(tmp_path / "a") and load_metadata(tmp_path / "a").rank == 0
    torch.testing.assert_close(by_adapter(tmp_path / "a"), by_hand(checkpoint), atol=1e-5, rtol=1e-5)


def test_of_another_base_a_complete_transformer_is_written(checkpoint: Released, tmp_path: Path) -> None:
    other = Path(tiny.dev())
    tensors = load_file(other / "transformer" / "diffusion_pytorch_model.safetensors")
    base = tmp_path / "base"
    (base / "transformer").mkdir(parents=True)
    for name in ("model_index.json", "transformer/config.json"):
        (base / name).write_bytes((other / name).read_bytes())
    noisy = {name: tensor + 0.01 for name, tensor in tensors.items()}
    save_file(noisy, base / "transformer" / "diffusion_pytorch_model.safetensors")
    assert convert(checkpoint.folder, tmp_path / "a", base=str(base)) == 0
    torch.testing.assert_close(by_adapter(tmp_path / "a"), by_hand(checkpoint), atol=1e-5, rtol=1e-5)


def _without(name: str) -> Any:
    return lambda c: c.write_transformer({key: t for key, t in c.transformer.items() if key != name})


def _truncated(path: str) -> Any:
    def spoil(checkpoint: Released) -> None:
        file = checkpoint.folder / path
        file.write_bytes(file.read_bytes()[:-9])

    return spoil


def _lora(change: Any) -> Any:
    return lambda c: c.write_lora(change(c.lora))


def _lost_shard(checkpoint: Released) -> None:
    checkpoint.write_transformer(checkpoint.transformer, shards=2)
    next((checkpoint.folder / "transformer").glob("*-00002-of-*")).unlink()


def _no_weights(checkpoint: Released) -> None:
    next((checkpoint.folder / "transformer").glob("*.safetensors")).unlink()


def _nan(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    name = min(tensors)
    return tensors | {name: torch.full_like(tensors[name], torch.nan)}


SPOILT = {
    "no condition": (_without("c_embedder.weight"), "cannot see a reference"),
    "a missing tensor": (_without("context_embedder.bias"), "has no tensor context_embedder.bias"),
    "a narrow condition": (
        lambda c: c.write_transformer(c.transformer | {"c_embedder.weight": torch.zeros(32, 8)}),
        "c_embedder of (32, 8)",
    ),
    "a further tensor": (lambda c: c.write_transformer(c.transformer | {"more": torch.zeros(2)}), "no tensor more"),
    "another shape": (
        lambda c: c.write_transformer(c.transformer | {"proj_out.bias": torch.zeros(2)}),
        "does not fit the base: proj_out.bias",
    ),
    "no numbers": (lambda c: c.write_transformer(_nan(c.transformer)), "no finite numbers"),
    "a half transformer": (_truncated("transformer/diffusion_pytorch_model.safetensors"), "damaged"),
    "a lost file": (_lost_shard, "is missing"),
    "no transformer": (_no_weights, "weights of one transformer"),
    "no config": (lambda c: (c.folder / "transformer" / "config.json").unlink(), "is missing"),
    "a half LoRA": (_truncated(LORA_FILE), "damaged"),
    "no LoRA": (lambda c: (c.folder / LORA_FILE).unlink(), "neither in the published layout"),
    "an empty LoRA": (_lora(lambda t: {}), "holds no LoRA"),
    "a LoRA without numbers": (_lora(_nan), "no finite numbers"),
    "one factor": (_lora(lambda t: dict(sorted(t.items())[1:])), "one factor only"),
    "a layer more": (
        _lora(lambda t: t | {f"transformer.c_embedder.lora_{x}.weight": torch.zeros(2, 2) for x in "AB"}),
        "transformer.c_embedder.lora_A.weight, which this transformer does not have",
    ),
    "another prefix": (
        _lora(lambda t: {k.replace("transformer.", "unet.", 1): v for k, v in t.items()}),
        "which this transformer does not have",
    ),
    "another width": (_lora(lambda t: {k: v[..., :3] if "_A" in k else v for k, v in t.items()}), "does not fit"),
    "a text encoder": (_lora(lambda t: t | {"text_encoder.x.lora_A.weight": torch.zeros(1, 1)}), "a text encoder"),
    "DoRA": (_lora(lambda t: t | {"transformer.x.dora_scale": torch.zeros(1)}), "more than a LoRA"),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_damaged_weights_are_one_sentence_and_leave_nothing(
    fault: str, checkpoint: Released, tmp_path: Path, capsys: Any
) -> None:
    spoil, words = SPOILT[fault]
    spoil(checkpoint)
    assert convert(checkpoint.folder, tmp_path / "a") == 2
    said = capsys.readouterr().err
    assert words in said and said.strip().count("\n") == 0 and "; " in said
    assert not (tmp_path / "a").exists()


def test_a_control_lora_for_stock_diffusers_is_an_adapter(tmp_path: Path, capsys: Any) -> None:
    adapter, exported = trained(tmp_path / "trained", bias=True), tmp_path / "exported"
    assert main(["export", "--adapter", str(adapter), "--form", "control-lora", "--out", str(exported)]) == 0
    for source in (exported, exported / LORA_FILE):
        assert convert(source, tmp_path / "a", "--encodes", "frames") == 0
        before, after = load_adapter(adapter)[0], load_adapter(tmp_path / "a")[0]
        assert before.keys() == after.keys()
        for name in before:
            torch.testing.assert_close(before[name].stored(), after[name].stored(), rtol=0, atol=0)
        assert load_metadata(tmp_path / "a").rank == 4


def test_norms_that_a_control_lora_replaces_are_kept(tmp_path: Path, capsys: Any) -> None:
    tensors = load_file(trained(tmp_path / "trained") / "adapter.safetensors")
    name = "transformer_blocks.0.attn.norm_added_k.weight"
    save_file(tensors | {f"transformer.{name}": torch.full((16,), 1.5)}, tmp_path / "lora.safetensors")
    assert convert(tmp_path / "lora.safetensors", tmp_path / "a") == 0
    assert is_full(tmp_path / "a") and name in "".join(capsys.readouterr())
    stock: Any = FluxControlPipeline.from_pretrained(tiny.dev())
    stock.load_lora_weights(str(tmp_path), weight_name="lora.safetensors")
    latents, condition, text, sigma = inputs()
    backbone: Any = load_backbone(tiny.dev(), text=False, vae=False)
    backbone.widen()
    with torch.no_grad():
        arguments = backbone.arguments(latents, sigma, text, condition, guidance=3.5)
        theirs = backbone.unpacked(stock.transformer(**arguments, return_dict=False)[0], latents)
    torch.testing.assert_close(by_adapter(tmp_path / "a"), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("inputs", "words"), [(None, "is a plain LoRA"), (16, "16 inputs"), (96, "96 inputs")])
def test_a_lora_of_another_width_is_refused(inputs: int | None, words: str, tmp_path: Path, capsys: Any) -> None:
    key = "transformer.x_embedder.lora_A.weight"
    tensors = load_file(trained(tmp_path / "trained") / "adapter.safetensors")
    if inputs is None:
        tensors = {name: tensor for name, tensor in tensors.items() if ".x_embedder." not in name}
    else:
        tensors[key] = torch.zeros(tensors[key].shape[0], inputs)
    save_file(tensors, tmp_path / "lora.safetensors")
    assert convert(tmp_path / "lora.safetensors", tmp_path / "a") == 2
    said = capsys.readouterr().err
    assert words in said and "give a control LoRA" in said and "32" in said


def test_a_lora_in_the_names_of_kohya_is_no_control_lora(tmp_path: Path, capsys: Any) -> None:
    name = "lora_unet_double_blocks_0_img_attn_proj"
    factors = {f"{name}.lora_down.weight": torch.ones(2, 32), f"{name}.lora_up.weight": torch.ones(32, 2)}
    save_file(factors | {f"{name}.alpha": torch.tensor(1.0)}, tmp_path / "lora.safetensors")
    assert convert(tmp_path / "lora.safetensors", tmp_path / "a") == 2
    assert "is a plain LoRA" in capsys.readouterr().err
    save_file({"unknown.weight": torch.ones(2)}, tmp_path / "lora.safetensors")
    assert convert(tmp_path / "lora.safetensors", tmp_path / "a") == 2
    assert "give a LoRA for this base" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["sd3", "flux2"])
def test_a_base_of_another_family_is_refused(family: str, checkpoint: Released, tmp_path: Path, capsys: Any) -> None:
    assert convert(checkpoint.folder, tmp_path / "a", base=tiny.FAMILIES[family]()) == 2
    assert f'no conversion for models of the family "{family}" yet' in capsys.readouterr().err


def test_a_base_that_takes_pictures_itself_is_refused(checkpoint: Released, tmp_path: Path, capsys: Any) -> None:
    assert convert(checkpoint.folder, tmp_path / "a") == 0
    base = load_backbone(tiny.dev())
    apply_adapter(base, tmp_path / "a")
    base.pipeline.save_pretrained(tmp_path / "widened")
    assert convert(checkpoint.folder, tmp_path / "b", base=str(tmp_path / "widened")) == 2
    assert "takes pictures itself" in capsys.readouterr().err


def test_nothing_that_was_not_written_here_is_replaced(checkpoint: Released, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").touch()
    for out in (tmp_path / "precious", checkpoint.folder):
        assert convert(checkpoint.folder, out) == 2
        assert "would be lost" in capsys.readouterr().err
    assert convert(checkpoint.folder, tmp_path / "a") == convert(checkpoint.folder, tmp_path / "a") == 0


@pytest.mark.parametrize("source", ["no/such", "nowhere", "https://x.org/a b"])
def test_a_source_that_is_not_here_is_told(source: str, tmp_path: Path, capsys: Any) -> None:
    assert convert(source, tmp_path / "a") == 2
    said = capsys.readouterr().err
    assert f'"{source}"' in said and "give a folder" in said


def test_weights_that_are_no_adapter_yet_are_told_how_to_become_one(
    checkpoint: Released, tmp_path: Path, capsys: Any
) -> None:
    tiny.picture().save(tmp_path / "x.png")
    (empty := tmp_path / "empty").mkdir()
    words = ["generate", "--image", str(tmp_path / "x.png"), "--prompt", "a cat", "--out", str(tmp_path / "o.png")]
    lora = checkpoint.folder / LORA_FILE
    for given, said in (
        (str(checkpoint.folder), "weights in the published layout"),
        (str(lora), "a LoRA"),
        ("primecai/dsd_model", "there is no such folder here"),
        (str(empty), "give the folder that training wrote"),
    ):
        assert main([*words, "--model.adapter", given]) == 2
        told = capsys.readouterr().err
        assert said in told and (f"`dsd convert {given} --out FOLDER`" in told) == (given != str(empty))


def test_the_plan_reads_nothing(tmp_path: Path, capsys: Any) -> None:
    assert main(["convert", "primecai/dsd_model", "--out", str(tmp_path / "a"), "--dry-run"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["base"] == "black-forest-labs/FLUX.1-dev" and "tensor by tensor" in said.err
    assert main(["convert", "--sorce", "x"]) == 2


def trained(folder: Path, *, bias: bool = False) -> Path:
    """An adapter folder, as training writes it."""
    transformer = load_backbone(tiny.dev(), text=False, vae=False).transformer
    save_adapter(folder, tiny.random_updates(transformer, bias=bias), tiny.metadata(base=tiny.dev()))
    return folder


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--frame", "0", "32"], "--frame is (0, 32)"),
        (["--frame", "33", "32"], "multiples of 8, the closest size is 32x32"),
        (["--frame", "32", "4"], "multiples of 8, the closest size is 32x8"),
        (["--frame", "100000", "100000"], "at most 40 million pixels"),
        (["--frame", "32", "-8"], "--frame is (32, -8)"),
        (["--max-sequence-length", "0"], "--max-sequence-length is 0"),
        (["--max-sequence-length", "100000"], "at most 512"),
    ],
)
def test_what_no_model_draws_is_one_sentence(
    more: list[str], words: str, checkpoint: Released, tmp_path: Path, capsys: Any
) -> None:
    assert convert(checkpoint.folder, tmp_path / "a", *more) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_nothing_is_written_into_what_is_read(checkpoint: Released, capsys: Any) -> None:
    for out in (checkpoint.folder / "new", Path(tiny.dev()) / "new"):
        assert convert(checkpoint.folder, out) == 2
        assert "give a folder apart" in capsys.readouterr().err
        assert not out.exists()
