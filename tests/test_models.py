from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
from diffusers import FluxPipeline
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor

from dsd.errors import UserError
from dsd.models import embedded_folder, resolve, revision_of
from dsd.plugins import added

EMBEDDED = list(added("models"))


def test_hub_ids_and_folders_pass_unchanged(tmp_path):
    assert resolve("black-forest-labs/FLUX.1-dev") == "black-forest-labs/FLUX.1-dev"
    assert resolve(str(tmp_path)) == str(tmp_path)


def test_a_hub_that_does_not_answer_is_told_at_once_and_asked_once(monkeypatch):
    from huggingface_hub import constants

    from dsd.backbones.published import local
    from dsd.backbones.registry import family_of
    from dsd.chat.registry import load_chat

    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"  # where nobody listens afterwards
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for read in (load_chat, family_of, lambda name: local(name, ["*"])):
        began = time.monotonic()
        with pytest.raises(UserError, match='"nobody/nothing" is no folder here, and the hub cannot be reached'):
            read("nobody/nothing")
        assert time.monotonic() - began < 5


def test_an_unknown_embedded_name_gets_a_hint():
    with pytest.raises(UserError, match='did you mean "tiny-flux"'):
        resolve("embedded:tiny-fluxx")


def test_missing_weights_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr("dsd.models.folder_of", lambda point: tmp_path)
    with pytest.raises(UserError, match="install the package again"):
        resolve("embedded:tiny-flux")


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_models_are_installed_as_safetensors_only(name):
    folder = embedded_folder(name)
    assert resolve(f"embedded:{name}") == str(folder)
    assert list(folder.rglob("*.safetensors"))
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")]


def test_the_embedded_models_fit_the_package():
    sizes = [path.stat().st_size for name in EMBEDDED for path in embedded_folder(name).rglob("*") if path.is_file()]
    assert sum(sizes) <= 32 * 2**20


def _stock_flux() -> Any:
    pipeline: Any = FluxPipeline.from_pretrained(resolve("embedded:tiny-flux"))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        "a red cat", height=64, width=64, num_inference_steps=1, max_sequence_length=16, output_type="np"
    ).images


def _stock_vlm() -> Any:
    folder = resolve("embedded:tiny-vlm")
    processor: Any = AutoProcessor.from_pretrained(folder)
    model: Any = AutoModelForImageTextToText.from_pretrained(folder)
    asked = [
        {
            "role": "user",
            "content": [{"type": "image", "image": tiny.picture((64, 64))}, {"type": "text", "text": "describe"}],
        }
    ]
    inputs = processor.apply_chat_template(
        asked, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return model(**inputs).logits.detach().numpy()


def _stock_dino() -> Any:
    folder = resolve("embedded:tiny-dino")
    inputs = AutoImageProcessor.from_pretrained(folder)(images=tiny.picture(), return_tensors="pt")
    return AutoModel.from_pretrained(folder)(**inputs).pooler_output.detach().numpy()


def _stock_clip() -> Any:
    folder = resolve("embedded:tiny-clip")
    inputs = AutoProcessor.from_pretrained(folder)(text=["a red cat"], images=tiny.picture(), return_tensors="pt")
    return AutoModel.from_pretrained(folder)(**inputs).logits_per_image.detach().numpy()


@pytest.mark.parametrize("use", [_stock_flux, _stock_vlm, _stock_dino, _stock_clip])
def test_stock_classes_compute_with_an_embedded_model_without_being_told_a_dtype(use: Callable[[], Any]) -> None:
    found = use()
    assert found.dtype == np.float32 and np.isfinite(found).all()


def test_the_revision_is_of_the_content_and_not_of_the_place(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "w.safetensors").write_bytes(b"weights")
    shutil.copy(__file__, tmp_path / "b" / "README.md")
    assert revision_of(tmp_path / "a") == revision_of(tmp_path / "b")
    (tmp_path / "b" / "sub" / "w.safetensors").write_bytes(b"other")
    assert revision_of(tmp_path / "a") != revision_of(tmp_path / "b")


def test_a_missing_folder_has_no_revision(tmp_path):
    with pytest.raises(UserError, match="no model folder"):
        revision_of(tmp_path / "none")
