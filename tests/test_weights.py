"""Weights that do not fit are refused, wherever they are read; libraries would start them at random and go on."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from training_parts import simple_pairs, small_config
from transformers import AutoModel, ViTConfig, ViTModel

from dsd.backbones.adapter import LowRank, load_adapter, save_adapter
from dsd.backbones.cost import shape_of
from dsd.backbones.registry import FAMILIES, load_backbone
from dsd.baselines.vision import Vision
from dsd.chat.local import LocalChat
from dsd.cli.main import main
from dsd.encoders import ImageEncoder
from dsd.errors import UserError
from dsd.generate.text_to_image import TextToImage
from dsd.generate.two_frame import TwoFramePipeline
from dsd.models import resolve, revision_or_name
from dsd.train.trainer import train
from dsd.weights import load, load_processor

WEIGHTS = "diffusion_pytorch_model.safetensors"


def broken(base: str, folder: Path, change: Any, component: str = "transformer", file: str = WEIGHTS) -> str:
    """A copy of a model in which the weights of one component are changed."""
    shutil.copytree(base, folder)
    path = folder / component / file
    tensors = load_file(str(path))
    save_file(change(tensors), str(path), metadata={"format": "pt"})
    return str(folder)


def without_one(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(list(tensors.items())[1:])


def with_one_more(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**tensors, "nobody.weight": torch.zeros(1)}


def not_a_number(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = next(iter(tensors))
    return {**tensors, name: torch.full_like(tensors[name], torch.nan)}


FAULTS = [(without_one, "lacks"), (with_one_more, "no place for nobody.weight"), (not_a_number, "no finite numbers")]


@pytest.mark.parametrize(("change", "words"), FAULTS, ids=["missing", "unexpected", "not finite"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_with_other_weights_in_a_component_is_refused(
    family: str, change: Any, words: str, tmp_path: Path
) -> None:
    folder = broken(tiny.FAMILIES[family](), tmp_path / "model", change)
    for read in (load_backbone, TextToImage.load, TwoFramePipeline.from_pretrained):
        with pytest.raises(UserError, match=words):
            read(folder)
    assert load_backbone(folder, transformer=False).latent_channels, "what is not read is not missed"


@pytest.mark.parametrize(("component", "file"), [("vae", WEIGHTS), ("text_encoder", "model.safetensors")])
def test_every_component_is_looked_at(component: str, file: str, tmp_path: Path) -> None:
    folder = broken(tiny.schnell(), tmp_path / "model", without_one, component, file)
    with pytest.raises(UserError, match=f"{component}.*lacks"):
        load_backbone(folder)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _brace(path: Path) -> None:
    path.write_text("{")


DAMAGE: list[tuple[str, Any]] = [
    ("scheduler", shutil.rmtree),
    ("scheduler/scheduler_config.json", _brace),
    ("text_encoder/config.json", Path.unlink),
    ("text_encoder/model.safetensors", _cut),
    ("tokenizer", shutil.rmtree),
    ("tokenizer/tokenizer.json", Path.unlink),
    ("tokenizer/tokenizer.json", _brace),
    ("tokenizer/tokenizer_config.json", Path.unlink),
    ("transformer/config.json", Path.unlink),
    (f"transformer/{WEIGHTS}", _cut),
    ("vae", shutil.rmtree),
    ("model_index.json", _brace),
]


@pytest.mark.parametrize(("part", "damage"), DAMAGE, ids=lambda value: getattr(value, "__name__", value))
@pytest.mark.parametrize("family", FAMILIES)
def test_a_damaged_model_is_one_sentence_that_names_the_part(
    family: str, part: str, damage: Any, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny.FAMILIES[family](), tmp_path / "model"))
    damage(folder / part)
    named = folder / part.partition("/")[0]
    for read in (load_backbone, TwoFramePipeline.from_pretrained):
        with pytest.raises(UserError, match=re.escape(str(named))) as told:
            read(str(folder))
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_a_second_tokenizer_without_words_is_refused(family: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny.FAMILIES[family](), tmp_path / "model"))
    for path in folder.glob("tokenizer_[23]/tokenizer.json"):
        path.unlink()
    with pytest.raises(UserError, match=r"tokenizer_2\" has no vocabulary"):
        load_backbone(str(folder))


@pytest.mark.parametrize("content", ["[]", '{"_class_name": 3}', ""])
def test_a_model_index_that_names_no_class_is_one_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(content)
    for read in (load_backbone, shape_of):
        with pytest.raises(UserError, match=r"model_index\.json"):
            read(str(tmp_path))


def test_an_encoder_without_its_processor_is_one_sentence(tmp_path: Path) -> None:
    shutil.copytree(resolve("embedded:tiny-dino"), tmp_path / "dino")
    (tmp_path / "dino" / "preprocessor_config.json").unlink()
    for read in (ImageEncoder, Vision):
        with pytest.raises(UserError, match=r"dino.* cannot be loaded"):
            read(str(tmp_path / "dino"))


def test_an_error_without_words_is_told_by_its_kind(tmp_path: Path) -> None:
    class Silent:
        @staticmethod
        def from_pretrained(*_: Any, **__: Any) -> None:
            raise NotImplementedError

    (tmp_path / "config.json").touch()
    for read in (load, load_processor):
        with pytest.raises(UserError, match=r"cannot be loaded \(NotImplementedError\)"):
            read(Silent, str(tmp_path))


def test_an_adapter_with_damaged_metadata_is_named(trained: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(trained, tmp_path / "adapter")) / "adapter.json"
    for content in (b"{", b"\xff"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"adapter\.json. does not say what the adapter was trained for"):
            load_adapter(path.parent)


def test_another_model_s_weights_end_a_command_with_a_sentence(tmp_path: Path, capsys: Any) -> None:
    folder = broken(tiny.schnell(), tmp_path / "model", lambda _: load_file(f"{tiny.schnell()}/vae/{WEIGHTS}"))
    assert main(["train", "tiny", "--train.base", folder, "--data", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    assert main(["generate", "--image", "x.png", "--prompt", "a", "--model.base", folder]) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err


def test_a_chat_model_and_an_encoder_are_looked_at(tmp_path: Path) -> None:
    for name, read in (("tiny-vlm", LocalChat), ("tiny-dino", ImageEncoder)):
        shutil.copytree(resolve(f"embedded:{name}"), tmp_path / name)
        path = tmp_path / name / "model.safetensors"
        save_file(without_one(load_file(str(path))), str(path), metadata={"format": "pt"})
        with pytest.raises(UserError, match="lacks"):
            read(str(tmp_path / name))


def test_a_pooler_that_was_never_published_is_left_out(tmp_path: Path) -> None:
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    assert load(AutoModel, str(tmp_path), optional=("pooler",)).pooler is None
    with pytest.raises(UserError, match=r"lacks pooler\.dense"):
        load(AutoModel, str(tmp_path))


@pytest.mark.parametrize("statistic", ["running_mean", "running_var"])
def test_stored_statistics_are_weights_too(statistic: str, tmp_path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return tensors | {f"bn.{statistic}": torch.full_like(tensors[f"bn.{statistic}"], torch.nan)}

    folder = broken(tiny.flux2(), tmp_path / "model", change, "vae")
    with pytest.raises(UserError, match=rf"model/vae.* no finite numbers in bn\.{statistic}"):
        load_backbone(folder, transformer=False, text=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small_config(steps=1, sample_every=9), simple_pairs(), tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("part", ["lora_A.weight", "lora_B.weight", "lora_B.bias"])
@pytest.mark.parametrize("fuse", [True, False])
def test_an_adapter_that_holds_no_numbers_is_refused(part: str, fuse: bool, trained: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(trained, tmp_path / "adapter")) / "adapter.safetensors"
    tensors = load_file(str(path))
    name = next(name for name in tensors if name.endswith(part))
    save_file(tensors | {name: torch.full_like(tensors[name], torch.nan)}, str(path))
    with pytest.raises(UserError, match="holds no finite numbers"):
        load_adapter(path.parent)
    with pytest.raises(UserError, match="holds no finite numbers"):
        TwoFramePipeline.from_pretrained(tiny.schnell(), path.parent, fuse=fuse)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fuse", [True, False])
def test_an_adapter_that_sees_no_reference_is_refused(family: str, fuse: bool, tmp_path: Path) -> None:
    base = tiny.FAMILIES[family]()
    adapter = tmp_path / "adapter"
    backbone = load_backbone(base, text=False, vae=False)
    name = next(n for n, layer in backbone.transformer.named_modules() if n.endswith("attn.to_q"))
    weight = backbone.transformer.get_submodule(name).weight
    save_adapter(adapter, {name: LowRank.exact(torch.zeros_like(weight))}, tiny.metadata(base, family=family))
    with pytest.raises(UserError, match=f"no change of the patch embedding {backbone.layers.patch_embedding}"):
        TwoFramePipeline.from_pretrained(base, adapter, fuse=fuse)


def test_a_full_fine_tune_with_a_layer_missing_is_refused(tmp_path: Path) -> None:
    adapter = train(small_config(full=True, steps=1, sample_every=9), simple_pairs(), tmp_path)
    path = adapter / "transformer" / WEIGHTS
    save_file(without_one(load_file(str(path))), str(path), metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks"):
        TwoFramePipeline.from_pretrained(tiny.schnell(), adapter=adapter)


def test_a_model_of_the_hub_is_known_by_the_commit_that_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789" * 4
    snapshot = tmp_path / "models--owner--model" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "model_index.json").write_text(json.dumps({}))
    (tmp_path / "models--owner--model" / "refs").mkdir()
    (tmp_path / "models--owner--model" / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert revision_or_name("owner/model") == commit
    assert revision_or_name("owner/other") == "owner/other"
