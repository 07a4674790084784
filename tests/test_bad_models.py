"""Bad bases and adapters by the real command: one sentence and status 2 each, and nothing is drawn."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from dsd.backbones.adapter import save_adapter
from dsd.backbones.registry import load_backbone
from dsd.cli.main import main
from dsd.sampling import Sampling

WEIGHTS = "diffusion_pytorch_model.safetensors"
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    transformer = load_backbone(tiny.schnell(), text=False, vae=False).transformer
    metadata = tiny.metadata(base=tiny.schnell(), frame_size=(32, 32), sampling=Sampling(steps=1))
    save_adapter(folder, tiny.random_updates(transformer), metadata)
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def says(content: str | bytes) -> Damage:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def with_values(**values: Any) -> Damage:
    def damage(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return damage


def within(name: str, **values: Any) -> Damage:
    def damage(path: Path) -> None:
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {name: content[name] | values}))

    return damage


def folder_for(path: Path) -> None:
    path.unlink()
    path.mkdir()


def file_for(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("x")


def loop_for(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(path)


def pipe_for(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Damage:
    def damage(path: Path) -> None:
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return damage


def swapped(part: str, other: str) -> Damage:
    return lambda folder: (folder / part).write_bytes((folder / other).read_bytes())


def first(change: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    def changed(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        name = sorted(found)[0]
        return found | {name: change(found[name]).contiguous()}

    return tensors(changed)


def classes(**entries: Any) -> Damage:
    return with_values(**entries)


BASES: dict[str, tuple[str, Damage]] = {
    "no folder": ("", shutil.rmtree),
    "a file": ("", file_for),
    "a loop": ("", loop_for),
    "empty index": ("model_index.json", says("")),
    "index is a list": ("model_index.json", says("[1]")),
    "index is text": ("model_index.json", says('"x"')),
    "index is bytes": ("model_index.json", says(b"\xff\xfe\0\0")),
    "index is deep": ("model_index.json", says("[" * 100_000)),
    "index is a folder": ("model_index.json", folder_for),
    "index is a loop": ("model_index.json", loop_for),
    "index without a class": ("model_index.json", says("{}")),
    "another pipeline": ("model_index.json", classes(_class_name="StableDiffusionPipeline")),
    "no such pipeline": ("model_index.json", classes(_class_name="NoPipeline")),
    "no such class": ("model_index.json", classes(vae=["diffusers", "NoSuchAutoencoder"])),
    "no such library": ("model_index.json", classes(vae=["nolibrary", "AutoencoderKL"])),
    "another library": ("model_index.json", classes(vae=["os", "system"])),
    "another class": ("model_index.json", classes(vae=["diffusers", "FluxTransformer2DModel"])),
    "a class that is none": ("model_index.json", classes(vae=["diffusers", 3])),
    "a component of one word": ("model_index.json", classes(vae=["diffusers"])),
    "a component of no words": ("model_index.json", classes(vae=[])),
    "a component that is text": ("model_index.json", classes(vae="AutoencoderKL")),
    "a component that is a number": ("model_index.json", classes(vae=3)),
    "a component that is null": ("model_index.json", classes(vae=[None, None])),
    "a transformer that is null": ("model_index.json", classes(transformer=[None, None])),
    "a tokenizer that is a network": ("model_index.json", classes(tokenizer=["transformers", "T5EncoderModel"])),
    "no transformer": ("transformer", shutil.rmtree),
    "a file for the transformer": ("transformer", file_for),
    "a loop for the transformer": ("transformer", loop_for),
    "a loop in the transformer": ("transformer/config.json", loop_for),
    "a pipe for weights": (f"transformer/{WEIGHTS}", pipe_for),
    "no weights": (f"transformer/{WEIGHTS}", Path.unlink),
    "empty weights": (f"transformer/{WEIGHTS}", says("")),
    "cut weights": (f"transformer/{WEIGHTS}", cut),
    "weights of garbage": (f"transformer/{WEIGHTS}", says(os.urandom(64))),
    "weights with a huge header": (f"transformer/{WEIGHTS}", says(b"\xff" * 7 + b"\x7f" + b"{}")),
    "weights that are a folder": (f"transformer/{WEIGHTS}", folder_for),
    "weights of the autoencoder": ("", swapped(f"transformer/{WEIGHTS}", f"vae/{WEIGHTS}")),
    "weights of the transformer": ("", swapped(f"vae/{WEIGHTS}", f"transformer/{WEIGHTS}")),
    "weights of another shape": (f"transformer/{WEIGHTS}", first(lambda t: torch.cat([t, t]))),
    "weights of no number": (f"transformer/{WEIGHTS}", first(lambda t: t * torch.nan)),
    "weights of infinity": (f"vae/{WEIGHTS}", first(lambda t: t + torch.inf)),
    "no tensors": (f"transformer/{WEIGHTS}", tensors(lambda d: {"x": torch.zeros(1)})),
    "weights of another text encoder": (
        "", swapped("text_encoder/model.safetensors", "text_encoder_2/model.safetensors")),
    "text weights cut": ("text_encoder_2/model.safetensors", cut),
    "config is a list": ("transformer/config.json", says("[]")),
    "config is empty": ("transformer/config.json", says("")),
    "config is text": ("vae/config.json", says('"x"')),
    "config says nothing": ("transformer/config.json", says("{}")),
    "0 heads": ("transformer/config.json", with_values(num_attention_heads=0)),
    "-1 heads": ("transformer/config.json", with_values(num_attention_heads=-1)),
    "heads in words": ("transformer/config.json", with_values(num_attention_heads="two")),
    "half a head": ("transformer/config.json", with_values(num_attention_heads=0.5)),
    "another width": ("transformer/config.json", with_values(attention_head_dim=32)),
    "another depth": ("transformer/config.json", with_values(num_layers=5)),
    "no depth": ("transformer/config.json", with_values(num_layers=None)),
    "channels in words": ("transformer/config.json", with_values(in_channels="many")),
    "0 channels": ("transformer/config.json", with_values(in_channels=0)),
    "axes of another sum": ("transformer/config.json", with_values(axes_dims_rope=[2, 2, 2])),
    "0 norm groups": ("vae/config.json", with_values(norm_num_groups=0)),
    "latents in words": ("vae/config.json", with_values(latent_channels="four")),
    "another kind of block": ("vae/config.json", with_values(down_block_types=["NoBlock2D"] * 3)),
    "no levels": ("vae/config.json", with_values(block_out_channels=[])),
    "scaling in words": ("vae/config.json", with_values(scaling_factor="x")),
    "scaling of nothing": ("vae/config.json", with_values(scaling_factor=None)),
    "scaling of 0": ("vae/config.json", with_values(scaling_factor=0)),
    "shift in words": ("vae/config.json", with_values(shift_factor="x")),
    "scheduler is a list": ("scheduler/scheduler_config.json", says("[]")),
    "another scheduler": ("model_index.json", classes(scheduler=["diffusers", "DDIMScheduler"])),
    "shift of no number": ("scheduler/scheduler_config.json", with_values(shift="x")),
    "shift of 0 tokens": (
        "scheduler/scheduler_config.json", with_values(use_dynamic_shifting=True, base_image_seq_len=64),
    ),
    "shift of absurd size": (
        "scheduler/scheduler_config.json", with_values(use_dynamic_shifting=True, base_shift="a"),
    ),
    "text config is a list": ("text_encoder_2/config.json", says("[]")),
    "0 text heads": ("text_encoder_2/config.json", with_values(num_heads=0)),
    "text width in words": ("text_encoder_2/config.json", with_values(d_model="x")),
    "another kind of text": ("text_encoder_2/config.json", with_values(model_type="nothing")),
    "vocabulary of 1": ("text_encoder_2/config.json", with_values(vocab_size=1)),
    "tokenizer is a list": ("tokenizer_2/tokenizer.json", says("[]")),
    "tokenizer config is a list": ("tokenizer_2/tokenizer_config.json", says("[]")),
    "tokenizer of another kind": ("tokenizer_2/tokenizer_config.json", with_values(tokenizer_class="NoTokenizer")),
    "tokenizer of a few words": ("tokenizer_2/tokenizer_config.json", with_values(model_max_length="x")),
    "tokenizer of more words than the encoder": ("", swapped("tokenizer_2/tokenizer.json", "tokenizer/tokenizer.json")),
}  # fmt: skip

LAYER = "adapter.safetensors"
ADAPTERS: dict[str, tuple[str, Damage]] = {
    "no folder": ("", shutil.rmtree),
    "a file": ("", file_for),
    "a loop": ("", loop_for),
    "no metadata": ("adapter.json", Path.unlink),
    "metadata is empty": ("adapter.json", says("")),
    "metadata is a list": ("adapter.json", says("[]")),
    "metadata is a number": ("adapter.json", says("3")),
    "metadata is bytes": ("adapter.json", says(b"\xff\xfe")),
    "metadata is deep": ("adapter.json", says("[" * 100_000)),
    "metadata is a folder": ("adapter.json", folder_for),
    "metadata is a pipe": ("adapter.json", pipe_for),
    "metadata says nothing": ("adapter.json", says("{}")),
    "another field": ("adapter.json", with_values(colour="red")),
    "rank in words": ("adapter.json", with_values(rank="four")),
    "rank of 0": ("adapter.json", with_values(rank=0)),
    "rank of 1.5": ("adapter.json", with_values(rank=1.5)),
    "rank of null": ("adapter.json", with_values(rank=None)),
    "metadata is text": ("adapter.json", says('"flux"')),
    "metadata is half": ("adapter.json", cut),
    "metadata is deep in a field": ("adapter.json", says('{"rank": ' + "[" * 100_000 + "]" * 100_000 + "}")),
    "rank of -1": ("adapter.json", with_values(rank=-1)),
    "0 text tokens": ("adapter.json", with_values(max_sequence_length=0)),
    "a million text tokens": ("adapter.json", with_values(max_sequence_length=10**6)),
    "text tokens in words": ("adapter.json", with_values(max_sequence_length="16")),
    "half a text token": ("adapter.json", with_values(max_sequence_length=8.5)),
    "0 pixels": ("adapter.json", with_values(frame_size=[0, 0])),
    "-1 pixels": ("adapter.json", with_values(frame_size=[-1, 7])),
    "pixels between tokens": ("adapter.json", with_values(frame_size=[33, 33])),
    "three sides": ("adapter.json", with_values(frame_size=[32, 32, 32])),
    "sides in words": ("adapter.json", with_values(frame_size="32x32")),
    "sides of a million": ("adapter.json", with_values(frame_size=[2**20, 2**20])),
    "0 steps": ("adapter.json", within("sampling", steps=0)),
    "-5 steps": ("adapter.json", within("sampling", steps=-5)),
    "a billion steps": ("adapter.json", within("sampling", steps=10**9)),
    "half a step": ("adapter.json", within("sampling", steps=0.5)),
    "scale of no number": ("adapter.json", within("sampling", text_scale=float("nan"))),
    "scale of infinity": ("adapter.json", within("sampling", image_scale=float("inf"))),
    "scale in words": ("adapter.json", within("sampling", guidance="much")),
    "sampling is a list": ("adapter.json", with_values(sampling=[])),
    "film without a target": ("adapter.json", within("film", given=[True, True])),
    "film of nothing": ("adapter.json", within("film", given=[], weights=[])),
    "film of two targets first": ("adapter.json", within("film", given=[False, True])),
    "film of other weights": ("adapter.json", within("film", weights=[1.0])),
    "film of no weight": ("adapter.json", within("film", weights=[float("nan"), 1.0])),
    "film is text": ("adapter.json", with_values(film="two")),
    "schema of the future": ("adapter.json", with_values(schema=99)),
    "another family": ("adapter.json", with_values(family="sd3")),
    "no such family": ("adapter.json", with_values(family="sd1")),
    "family is null": ("adapter.json", with_values(family=None)),
    "base is nowhere": ("adapter.json", with_values(base="no/such/model/anywhere")),
    "base is empty": ("adapter.json", with_values(base="")),
    "base has a NUL": ("adapter.json", with_values(base="a\0b")),
    "base is embedded nowhere": ("adapter.json", with_values(base="embedded:nobody")),
    "base is away": ("adapter.json", with_values(base="someone/unknown")),
    "no weights": (LAYER, Path.unlink),
    "empty weights": (LAYER, says("")),
    "cut weights": (LAYER, cut),
    "weights are a folder": (LAYER, folder_for),
    "weights are a pipe": (LAYER, pipe_for),
    "weights are a loop": (LAYER, loop_for),
    "weights of no number": (LAYER, first(lambda t: t * torch.nan)),
    "weights of infinity": (LAYER, first(lambda t: t + torch.inf)),
    "small floats of no number": (LAYER, first(lambda t: (t * torch.nan).to(torch.float8_e4m3fn))),
    "weights that were not written": (LAYER, first(lambda t: t * 2)),
    "a rank that no layer has": ("adapter.json", with_values(rank=77)),
    "weights whose product is infinite": (LAYER, tensors(lambda d: {n: t + 1e30 for n, t in d.items()})),
    "factors of other ranks": (LAYER, first(lambda t: torch.cat([t, t]))),
    "factors of other widths": (LAYER, first(lambda t: torch.cat([t, t], 1))),
    "a factor of no axes": (LAYER, first(lambda t: t.flatten()[0])),
    "a factor of one axis": (LAYER, first(lambda t: t.flatten())),
    "a factor of three axes": (LAYER, first(lambda t: t[None])),
    "a factor of whole numbers": (LAYER, first(lambda t: t.long())),
    "no tensors": (LAYER, tensors(lambda d: {"x": torch.zeros(1)})),
    "nothing at all": (LAYER, tensors(lambda d: {})),
    "a tensor beside the LoRA's": (LAYER, tensors(lambda d: d | {"x": torch.zeros(1)})),
    "a magnitude, as of DoRA": (LAYER, tensors(lambda d: d | {
        sorted(d)[0].rpartition(".lora_")[0] + ".lora_magnitude_vector.weight": torch.ones(4)})),
    "factors of rank 0": (LAYER, tensors(lambda d: {
        n: t[:0].contiguous() if "lora_A" in n else t[:, :0].contiguous() if t.ndim > 1 else t for n, t in d.items()})),
    "layers of nobody": (LAYER, tensors(lambda d: {f"{n}": t for n, t in d.items()} | {
        "transformer.nobody.lora_A.weight": torch.zeros(2, 2), "transformer.nobody.lora_B.weight": torch.zeros(2, 2)})),
    "a whole transformer that is empty": ("transformer", Path.mkdir),
    "a whole transformer that is a file": ("transformer", says("x")),
}  # fmt: skip
HARMLESS = {"a whole transformer that is a file", "another kind of text", "tokenizer of another kind"}


def refused(command: list[str], capsys: Any) -> str:
    assert main(command) == 2
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if not line.startswith(("warning: ", "the words that"))]
    assert len(lines) == 1 and lines[0].startswith("dsd: error: ") and not said.out, said.err
    return lines[0]


def command(folder: Path, *more: str) -> list[str]:
    tiny.picture().save(folder / "x.png")
    return ["generate", "--image", str(folder / "x.png"), "--prompt", "a cat", "--out", str(folder / "out"), *more]


@pytest.mark.parametrize("kind", BASES)
def test_a_bad_base_is_one_sentence(kind: str, whole: Path, tmp_path: Path, capsys: Any) -> None:
    part, damage = BASES[kind]
    base = shutil.copytree(tiny.schnell(), tmp_path / "base")
    damage(base / part)
    words = command(tmp_path, "--model.adapter", str(whole), "--model.base", str(base))
    if kind in HARMLESS:
        assert main(words) == 0
    else:
        assert str(base) in refused(words, capsys)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_bad_adapter_is_one_sentence(kind: str, whole: Path, tmp_path: Path, capsys: Any) -> None:
    part, damage = ADAPTERS[kind]
    adapter = shutil.copytree(whole, tmp_path / "adapter")
    damage(adapter / part)
    words = command(tmp_path, "--model.adapter", str(adapter))
    if kind in HARMLESS:
        assert main(words) == 0
    else:
        refused(words, capsys)


@pytest.mark.parametrize(
    "name", ["", "a\0b", "embedded:", "embedded:nobody", "a/b/c", "..", "/dev/null", "x" * 5000, "\n"]
)
@pytest.mark.parametrize("flag", ["--model.adapter", "--model.base"])
def test_a_name_of_no_model_is_one_sentence(flag: str, name: str, whole: Path, tmp_path: Path, capsys: Any) -> None:
    words = command(tmp_path, *(["--model.adapter", str(whole)] if flag == "--model.base" else []))
    refused([*words, f"{flag}={name}"], capsys)


@pytest.mark.parametrize("family", ["sd3", "flux2"])
def test_an_adapter_on_a_base_of_another_family_is_refused(
    family: str, whole: Path, tmp_path: Path, capsys: Any
) -> None:
    base = tiny.FAMILIES[family]()
    said = refused(command(tmp_path, "--model.adapter", str(whole), "--model.base", base), capsys)
    assert 'of the family "flux"' in said and f'"{family}"' in said
