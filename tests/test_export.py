"""Exports: what reads them finds the names that it documents, and draws the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import bfl
import pytest
import tiny
import torch
from diffusers import FluxControlPipeline, FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from safetensors.torch import load_file
from torch import Tensor

from dsd.backbones.adapter import LowRank, apply_adapter, load_metadata, save_adapter, save_full
from dsd.backbones.flux.comfy import LORA_FILE, MODEL_FILE, layer_names, lora_tensors, model_tensors
from dsd.backbones.protocol import Text
from dsd.backbones.registry import load_backbone
from dsd.cli.main import main
from dsd.errors import UserError
from dsd.generate.two_frame import TwoFramePipeline

WORKFLOWS = Path(__file__).parent.parent / "examples" / "comfyui"
TINY = bfl.Shape(
    in_channels=32, out_channels=16, vec_in_dim=16, context_in_dim=16, hidden_size=32, num_heads=2, depth=1,
    depth_single_blocks=2, axes_dim=(4, 6, 6),
)  # fmt: skip


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    transformer = load_backbone(tiny.dev(), text=False, vae=False).transformer
    save_adapter(folder, tiny.random_updates(transformer, bias=True), tiny.metadata(base=tiny.dev(), encodes="canvas"))
    return folder


def export(adapter: Path, form: str, out: Path) -> int:
    return main(["export", "--adapter", str(adapter), "--form", form, "--out", str(out)])


def merged(adapter: Path) -> Any:
    backbone = load_backbone(tiny.dev(), text=False, vae=False)
    apply_adapter(backbone, adapter)
    return backbone


def test_the_comfyui_layout_has_the_documented_names_and_shapes(adapter: Path, tmp_path: Path) -> None:
    assert export(adapter, "comfyui", tmp_path / "c") == 0
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["export.json", MODEL_FILE]
    tensors = load_file(tmp_path / "c" / MODEL_FILE)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == TINY.parameters()


def test_at_full_size_the_names_are_those_of_flux_depth_dev() -> None:
    documented = bfl.DEPTH_DEV.parameters()
    layers = layer_names(bfl.DEPTH_DEV.depth, bfl.DEPTH_DEV.depth_single_blocks)
    parts = {name: ("scale",) if name.endswith("_norm") else ("weight", "bias") for name in layers}
    assert {f"{name}.{part}" for name in layers for part in parts[name]} == set(documented)


def test_the_comfyui_layout_computes_what_the_adapter_does(adapter: Path, tmp_path: Path) -> None:
    assert export(adapter, "comfyui", tmp_path / "c") == 0
    model = bfl.Flux(TINY, load_file(tmp_path / "c" / MODEL_FILE))
    backbone, generator = merged(adapter), torch.Generator().manual_seed(0)
    noisy, condition = torch.randn(2, 2, 2, tiny.LATENT_CHANNELS, 8, 8, generator=generator)
    text = Text(torch.randn(2, 8, 16, generator=generator), torch.randn(2, 16, generator=generator))
    with torch.no_grad():
        told = backbone.arguments(noisy, torch.tensor([0.9, 0.2]), text, condition, guidance=3.5)
        ours = backbone.transformer(**told, return_dict=False)[0]
        theirs = model(
            told["hidden_states"], told["img_ids"], told["encoder_hidden_states"], told["txt_ids"], told["timestep"],
            told["pooled_projections"], told["guidance"],
        )  # fmt: skip
    torch.testing.assert_close(theirs, ours, atol=2e-5, rtol=1e-4)


def test_diffusers_turns_the_comfyui_layout_back_into_the_same_tensors() -> None:
    shape = bfl.DEPTH_DEV  # diffusers' converter knows no other width: outputs are whole here, inputs are one each
    with torch.device("meta"):
        stock = FluxTransformer2DModel(
            in_channels=shape.in_channels, out_channels=shape.out_channels, guidance_embeds=True, num_layers=2,
            num_single_layers=3,
        )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    before = {
        name: torch.randn(tensor.shape[0], *([1] * (tensor.ndim - 1)), generator=generator)
        for name, tensor in stock.state_dict().items()
    }
    written = model_tensors(dict(before))
    small = replace(shape, depth=2, depth_single_blocks=3).parameters()
    assert {name: tensor.shape[0] for name, tensor in written.items()} == {
        name: size[0] for name, size in small.items()
    }
    after = convert_flux_transformer_checkpoint_to_diffusers(written)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_full_fine_tune_and_one_without_guidance_have_the_layout_too(tmp_path: Path) -> None:
    backbone = load_backbone(tiny.schnell(), text=False, vae=False)
    backbone.widen()
    save_full(tmp_path / "full", backbone.transformer, tiny.metadata(base=tiny.schnell(), rank=0))
    assert export(tmp_path / "full", "comfyui", tmp_path / "c") == 0
    tensors = load_file(tmp_path / "c" / MODEL_FILE)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == replace(TINY, guidance_embed=False).parameters()


def test_what_the_layout_has_no_name_for_is_refused() -> None:
    tensors = dict(load_backbone(tiny.dev(), text=False, vae=False).transformer.state_dict())
    with pytest.raises(UserError, match=r"no name for the weights of c_embedder\.weight"):
        model_tensors(tensors | {"c_embedder.weight": torch.zeros(1)})


def test_the_comfyui_lora_holds_the_keys_that_its_loader_looks_for(adapter: Path, tmp_path: Path) -> None:
    assert export(adapter, "comfyui-lora", tmp_path / "l") == 0
    tensors = load_file(tmp_path / "l" / LORA_FILE)
    layers = {layer for layer in _comfy_lora_layers(TINY) if ".attn." in layer or layer.endswith("x_embedder")}
    assert tensors.keys() == {
        *(f"{layer}.lora_{factor}.weight" for layer in layers for factor in "AB"),
        "transformer.x_embedder.reshape_weight",
        "diffusion_model.img_in.diff_b",
    }
    assert tensors["transformer.x_embedder.reshape_weight"].tolist() == [TINY.hidden_size, TINY.in_channels]


def test_the_comfyui_lora_patches_the_base_into_the_comfyui_model(tmp_path: Path) -> None:
    transformer = load_backbone(tiny.dev(), text=False, vae=False).transformer
    updates, generator = tiny.random_updates(transformer, bias=True), torch.Generator().manual_seed(7)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.2

    for name, layer in transformer.named_modules():
        if isinstance(layer, torch.nn.Linear) and name != "x_embedder":
            outputs, inputs = layer.weight.shape
            updates[name] = LowRank(random(3, inputs), random(outputs, 3), random(outputs))
    save_adapter(tmp_path / "a", updates, tiny.metadata(base=tiny.dev(), rank=3))
    for form in ("comfyui-lora", "comfyui"):
        assert export(tmp_path / "a", form, tmp_path / form) == 0
    patched = model_tensors(dict(transformer.state_dict()))
    _patch(patched, load_file(tmp_path / "comfyui-lora" / LORA_FILE))
    for name, tensor in load_file(tmp_path / "comfyui" / MODEL_FILE).items():
        torch.testing.assert_close(patched[name], tensor, atol=1e-5, rtol=1e-5)


def _patch(model: dict[str, Tensor], lora: dict[str, Tensor]) -> None:
    """What ComfyUI's loader does with each key that it knows; there must be no other."""
    left = set(lora)
    for layer, (name, start) in _comfy_lora_layers(TINY).items():
        if f"{layer}.lora_A.weight" not in lora:
            continue
        left -= {f"{layer}.lora_A.weight", f"{layer}.lora_B.weight", f"{layer}.reshape_weight"}
        change = lora[f"{layer}.lora_B.weight"] @ lora[f"{layer}.lora_A.weight"]
        weight = model[f"{name}.weight"]
        if (reshape := lora.get(f"{layer}.reshape_weight")) is not None:
            wide = torch.zeros(*reshape.tolist())
            wide[:, : weight.shape[1]] = weight
            model[f"{name}.weight"] = weight = wide
        if name == "final_layer.adaLN_modulation.1":
            change = torch.cat(change.chunk(2)[::-1])
        weight[start : start + len(change)] += change
    for key in sorted(left):
        name = key.removeprefix("diffusion_model.").removesuffix(".diff_b")
        assert key == f"diffusion_model.{name}.diff_b"
        model[f"{name}.bias"] += lora[key]


def _comfy_lora_layers(shape: bfl.Shape) -> dict[str, tuple[str, int]]:
    """Keys that ComfyUI's loader maps (`flux_to_diffusers`): each to its layer and the first of its outputs there."""
    hidden = shape.hidden_size
    layers = {
        "x_embedder": ("img_in", 0),
        "context_embedder": ("txt_in", 0),
        "proj_out": ("final_layer.linear", 0),
        "norm_out.linear": ("final_layer.adaLN_modulation.1", 0),
    }
    for here, there in (("timestep", "time"), ("text", "vector"), ("guidance", "guidance")):
        for number, side in ((1, "in"), (2, "out")):
            layers[f"time_text_embed.{here}_embedder.linear_{number}"] = (f"{there}_in.{side}_layer", 0)
    streams = {
        "img": ("to_q", "to_k", "to_v", "to_out.0", "norm1", "ff"),
        "txt": ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "norm1_context", "ff_context"),
    }
    for n in range(shape.depth):
        here, there = f"transformer_blocks.{n}", f"double_blocks.{n}"
        for stream, (*parts, out, norm, feed_forward) in streams.items():
            for place, part in enumerate(parts):
                layers[f"{here}.attn.{part}"] = (f"{there}.{stream}_attn.qkv", place * hidden)
            layers |= {
                f"{here}.attn.{out}": (f"{there}.{stream}_attn.proj", 0),
                f"{here}.{norm}.linear": (f"{there}.{stream}_mod.lin", 0),
                f"{here}.{feed_forward}.net.0.proj": (f"{there}.{stream}_mlp.0", 0),
                f"{here}.{feed_forward}.net.2": (f"{there}.{stream}_mlp.2", 0),
            }
    for n in range(shape.depth_single_blocks):
        here, there = f"single_transformer_blocks.{n}", f"single_blocks.{n}"
        for place, part in enumerate(("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")):
            layers[f"{here}.{part}"] = (f"{there}.linear1", place * hidden)
        layers |= {f"{here}.proj_out": (f"{there}.linear2", 0), f"{here}.norm.linear": (f"{there}.modulation.lin", 0)}
    return {f"transformer.{name}": where for name, where in layers.items()}


def test_a_bias_that_comfyui_would_lose_is_refused() -> None:
    update = LowRank(torch.ones(1, 4), torch.ones(4, 1), torch.ones(4))
    name = "single_transformer_blocks.0.attn.to_q"
    with pytest.raises(UserError, match=r"a bias of single_blocks.0.linear1 but not that of .*to_k"):
        lora_tensors({name: update})
    zero = LowRank(update.down, update.up, torch.zeros(4))
    assert not any(key.endswith("diff_b") for key in lora_tensors({name: zero}))


def drawn(pipeline: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    control = torch.randn(1, 32, 16, generator=generator)
    return pipeline(
        "a cat", control_image=control, height=32, width=64, num_inference_steps=2, max_sequence_length=8,
        generator=torch.Generator().manual_seed(0), output_type="latent",
    ).images  # fmt: skip


def test_all_forms_for_diffusers_draw_the_same_picture(adapter: Path, tmp_path: Path) -> None:
    for form in ("transformer", "control-lora"):
        assert export(adapter, form, tmp_path / form) == 0
    whole = FluxTransformer2DModel.from_pretrained(tmp_path / "transformer")
    pictures = [drawn(FluxControlPipeline.from_pretrained(tiny.dev(), transformer=whole))]
    pipeline: Any = FluxControlPipeline.from_pretrained(tiny.dev())
    pipeline.load_lora_weights(str(tmp_path / "control-lora"))
    pictures.append(drawn(pipeline))
    ours: Any = FluxControlPipeline.from_pretrained(tiny.dev(), transformer=merged(adapter).transformer)
    for picture in pictures:
        torch.testing.assert_close(picture, drawn(ours), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("form", ["transformer", "control-lora", "comfyui", "comfyui-lora"])
def test_the_note_says_what_was_trained_on_which_base(form: str, adapter: Path, tmp_path: Path) -> None:
    assert export(adapter, form, tmp_path / "e") == 0
    note = json.loads((tmp_path / "e" / "export.json").read_text())
    assert note["form"] == form and note["base"] == note["trained"]["base"] == tiny.dev()
    metadata = load_metadata(adapter)
    assert note["trained"]["encodes"] == metadata.encodes == "canvas"
    assert note["trained"]["base_revision"] == metadata.base_revision and note["trained"]["film"]["given"] == [
        True,
        False,
    ]
    assert note["trained"]["sampling"]["steps"] == metadata.sampling.steps


@pytest.mark.parametrize("form", ["comfyui", "comfyui-lora"])
@pytest.mark.parametrize("family", ["sd3", "flux2"])
def test_the_forms_for_comfyui_are_refused_for_other_families(
    family: str, form: str, tmp_path: Path, capsys: Any
) -> None:
    base = tiny.FAMILIES[family]()
    backbone = load_backbone(base, text=False, vae=False)
    backbone.widen()
    save_full(tmp_path / "adapter", backbone.transformer, tiny.metadata(base, family=family))
    assert export(tmp_path / "adapter", form, tmp_path / "e") == 2
    assert f'no layout of ComfyUI for models of the family "{family}" yet' in capsys.readouterr().err
    assert not (tmp_path / "e").exists()


def test_a_full_fine_tune_has_no_lora_to_export(tmp_path: Path, capsys: Any) -> None:
    backbone = load_backbone(tiny.dev(), text=False, vae=False)
    backbone.widen()
    save_full(tmp_path / "full", backbone.transformer, tiny.metadata(base=tiny.dev(), rank=0))
    for form in ("control-lora", "comfyui-lora"):
        assert export(tmp_path / "full", form, tmp_path / "e") == 2
        assert "is a full fine-tune and has no LoRA" in capsys.readouterr().err


def test_an_export_has_the_precision_of_the_base(adapter: Path, tmp_path: Path) -> None:
    base = load_backbone(tiny.dev(), dtype=torch.bfloat16)
    base.pipeline.save_pretrained(tmp_path / "base")
    words = ["export", "--adapter", str(adapter), "--base", str(tmp_path / "base"), "--form", "comfyui"]
    assert main([*words, "--out", str(tmp_path / "c")]) == 0
    assert {tensor.dtype for tensor in load_file(tmp_path / "c" / MODEL_FILE).values()} == {torch.bfloat16}


INPUTS = {
    "UNETLoader": {"unet_name", "weight_dtype"},
    "LoraLoaderModelOnly": {"model", "lora_name", "strength_model"},
    "DualCLIPLoader": {"clip_name1", "clip_name2", "type"},
    "VAELoader": {"vae_name"},
    "LoadImage": {"image"},
    "ImageScale": {"image", "upscale_method", "width", "height", "crop"},
    "EmptyImage": {"width", "height", "batch_size", "color"},
    "ImageStitch": {"image1", "direction", "match_image_size", "spacing_width", "spacing_color", "image2"},
    "CLIPTextEncode": {"text", "clip"},
    "FluxGuidance": {"conditioning", "guidance"},
    "InstructPixToPixConditioning": {"positive", "negative", "vae", "pixels"},
    "ModelSamplingFlux": {"model", "max_shift", "base_shift", "width", "height"},
    "KSampler": {
        "model", "seed", "steps", "cfg", "sampler_name", "scheduler", "positive", "negative", "latent_image", "denoise"
    },
    "VAEDecode": {"samples", "vae"},
    "ImageCrop": {"image", "width", "height", "x", "y"},
    "SaveImage": {"images", "filename_prefix"},
}  # fmt: skip
"""Node classes of ComfyUI, with all their inputs, as its nodes.py and comfy_extras/ define them."""
OUTPUTS = {
    "UNETLoader": ["MODEL"], "LoraLoaderModelOnly": ["MODEL"], "DualCLIPLoader": ["CLIP"], "VAELoader": ["VAE"],
    "LoadImage": ["IMAGE", "MASK"], "ImageScale": ["IMAGE"], "EmptyImage": ["IMAGE"], "ImageStitch": ["IMAGE"],
    "CLIPTextEncode": ["CONDITIONING"], "FluxGuidance": ["CONDITIONING"],
    "InstructPixToPixConditioning": ["CONDITIONING", "CONDITIONING", "LATENT"], "ModelSamplingFlux": ["MODEL"],
    "KSampler": ["LATENT"], "VAEDecode": ["IMAGE"], "ImageCrop": ["IMAGE"], "SaveImage": [],
}  # fmt: skip
TAKEN = {
    "model": "MODEL", "clip": "CLIP", "vae": "VAE", "image": "IMAGE", "image1": "IMAGE", "image2": "IMAGE",
    "pixels": "IMAGE", "images": "IMAGE", "conditioning": "CONDITIONING", "positive": "CONDITIONING",
    "negative": "CONDITIONING", "latent_image": "LATENT", "samples": "LATENT",
}  # fmt: skip
"""What an input takes, where another node's output goes in."""


@pytest.mark.parametrize("name", ["reference_to_picture.json", "reference_to_picture_lora.json"])
def test_the_workflows_use_nodes_and_inputs_that_comfyui_has(name: str) -> None:
    nodes = json.loads((WORKFLOWS / name).read_text())
    for number, node in nodes.items():
        kind, inputs = node["class_type"], node["inputs"]
        assert set(inputs) == INPUTS[kind], (number, kind)
        for label, value in inputs.items():
            if isinstance(value, list):
                source, output = value
                assert OUTPUTS[nodes[source]["class_type"]][output] == TAKEN[label], (number, label)
            else:
                assert label not in TAKEN or kind == "LoadImage", (number, label)
        assert set(node) == {"class_type", "inputs", "_meta"} and node["_meta"]["title"]


def test_the_workflows_load_what_was_exported_and_draw_as_the_published_model() -> None:
    for name, file in (("reference_to_picture.json", MODEL_FILE), ("reference_to_picture_lora.json", LORA_FILE)):
        text = (WORKFLOWS / name).read_text()
        assert f'"{file}"' in text
        nodes = {node["class_type"]: node["inputs"] for node in json.loads(text).values()}
        sampler, crop, canvas = nodes["KSampler"], nodes["ImageCrop"], nodes["ModelSamplingFlux"]
        assert (sampler["steps"], sampler["sampler_name"], sampler["denoise"]) == (28, "euler", 1.0)
        assert nodes["FluxGuidance"]["guidance"] == 3.5
        assert (canvas["width"], canvas["height"]) == (1024, 512)
        assert (crop["x"], crop["y"], crop["width"], crop["height"]) == (512, 0, 512, 512)
        assert (nodes["ImageScale"]["width"], nodes["EmptyImage"]["width"], nodes["EmptyImage"]["color"]) == (
            512,
            512,
            0,
        )
        titles = " ".join(node["_meta"]["title"] for node in json.loads(text).values())
        assert "guidance by the picture is not there" in titles


@pytest.mark.parametrize("form", ["transformer", "control-lora", "comfyui", "comfyui-lora"])
def test_a_base_that_is_none_for_the_adapter_is_refused(form: str, adapter: Path, tmp_path: Path, capsys: Any) -> None:
    asked = ["export", "--adapter", str(adapter), "--form", form, "--out", str(tmp_path / "e"), "--base"]
    for base, words in ((tiny.sd3(), 'family "sd3"'), (str(tmp_path / "none"), "there is no")):
        assert main([*asked, base]) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "e").exists()


def test_an_adapter_is_not_exported_twice_in_one_transformer(adapter: Path, tmp_path: Path, capsys: Any) -> None:
    TwoFramePipeline.from_pretrained(tiny.dev(), adapter).save_pretrained(tmp_path / "base")
    for form in ("transformer", "comfyui"):
        out = ["--base", str(tmp_path / "base"), "--form", form, "--out", str(tmp_path / "e")]
        assert main(["export", "--adapter", str(adapter), *out]) == 2
        assert "a second time" in capsys.readouterr().err
