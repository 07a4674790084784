"""Claims about the recipes of the embedded models: what is kept, what goes on, what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor

from dsd.errors import UserError
from dsd.models import resolve
from dsd.train import checkpoint, loop
from dsd.world.training import train_model


class Wandering(loop.Task):
    """A task whose held-out figure is best in the middle."""

    figures = (0.1, 0.7, 0.4, 0.7, 0.2)

    def __init__(self) -> None:
        self.value = torch.zeros(())

    def train_step(self, step: int) -> dict[str, float | Tensor]:
        self.value = self.value + 1
        return {}

    def tensors(self) -> dict[str, Tensor]:
        return {"value": self.value}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.value = tensors["value"]

    def evaluate(self, step: int) -> dict[str, float]:
        return {"figure": self.figures[step - 1]}


@pytest.mark.parametrize("stops", [(5,), (1, 2, 3, 4, 5), (2, 5), (4, 5)])
def test_the_best_state_is_kept_however_often_the_run_stops(tmp_path: Path, stops: tuple[int, ...]) -> None:
    for steps in stops:
        loop.run(
            Wandering(), folder=tmp_path, steps=steps, checkpoint_every=1, evaluate_every=1, description="test",
            score=lambda figures: figures["figure"],
        )  # fmt: skip
    ((step, _),) = checkpoint.step_folders(tmp_path / "best")
    assert step == 4, "of two equal ones the later"
    found = checkpoint.latest(tmp_path / "best")
    assert found is not None
    assert found[1]["value"] == 4


def test_a_trained_autoencoder_goes_on_with_its_decoder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsd.world.recipes.autoencoder._HELD_PANELS", 10)
    monkeypatch.setattr("dsd.world.recipes.autoencoder._HELD_SHEETS", 2)
    train_model("autoencoder", steps=4, run=tmp_path, start="embedded:tiny-flux")
    before = load_file(Path(resolve("embedded:tiny-flux")) / "vae" / "diffusion_pytorch_model.safetensors")
    after = load_file(tmp_path / "model" / "diffusion_pytorch_model.safetensors")
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert {name for name in before if name.startswith("encoder.")} <= same
    assert any(name.startswith("decoder.") for name in before.keys() - same)
    configs = [AutoencoderKL.load_config(path) for path in (f"{resolve('embedded:tiny-flux')}/vae", tmp_path / "model")]
    assert not configs[1].get("_name_or_path")
    assert configs[0]["scaling_factor"] == configs[1]["scaling_factor"]
    assert "--start embedded:tiny-flux" in (tmp_path / "model" / "README.md").read_text()
    assert json.loads((tmp_path / "budget.json").read_text())["start"] == "embedded:tiny-flux"
    with pytest.raises(UserError, match="started from embedded:tiny-flux"):
        train_model("autoencoder", steps=4, run=tmp_path)


def test_no_embedded_model_tells_where_it_was_made() -> None:
    weights = Path(resolve("embedded:tiny-flux")).parent
    assert not [path for path in weights.rglob("*.json") if re.search(r'_name_or_path": "[^"]', path.read_text())]


@pytest.mark.parametrize("name", ["vlm", "student"])
def test_what_cannot_go_on_says_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} cannot go on"):
        train_model(name, steps=4, run=tmp_path, start="embedded:tiny-flux")
