"""Claims about the recipes of the embedded models: what is kept, what goes on, what is refused."""

from __future__ import annotations

import dataclasses
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
from dsd_world.models import teacher
from dsd_world.models.face import FaceTask
from dsd_world.models.siblings import trained
from dsd_world.training import RECIPES, train_model


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
            score=lambda figures: sum(figures.values()),
        )  # fmt: skip
    ((step, _),) = checkpoint.step_folders(tmp_path / "best")
    assert step == 4, "of two equal ones the later"
    found = checkpoint.latest(tmp_path / "best")
    assert found is not None
    assert found[1]["value"] == 4


def test_a_trained_autoencoder_goes_on_with_its_decoder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsd_world.models.autoencoder._HELD_PANELS", 10)
    monkeypatch.setattr("dsd_world.models.autoencoder._HELD_SHEETS", 2)
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


@pytest.fixture
def small_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher's run on a handful of pictures."""
    small = {
        name: dataclasses.replace(part, count=8, batch=2)
        for name, part in (("PANELS", teacher.PANELS), ("SHEETS", teacher.SHEETS), ("STRIPS", teacher.STRIPS))
    }
    for name, part in small.items():
        monkeypatch.setattr(teacher, name, part)
    monkeypatch.setattr(teacher, "CYCLE", (small["PANELS"], small["SHEETS"], small["STRIPS"]))
    monkeypatch.setattr(teacher, "HELD_PANELS", 4)
    monkeypatch.setattr(teacher.TeacherTask, "_write_pictures", lambda *_: None)


@pytest.mark.slow
def test_a_teacher_that_was_stopped_has_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_teacher: None
) -> None:
    train_model("teacher", steps=6, run=tmp_path / "whole")
    step = teacher.TeacherTask.train_step

    def stopping(task: teacher.TeacherTask, number: int) -> dict[str, float | Tensor]:
        if number == 4:
            raise KeyboardInterrupt
        return step(task, number)

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(teacher.TeacherTask, "train_step", stopping)
        train_model("teacher", steps=6, run=tmp_path / "stopped")
    train_model("teacher", steps=6, run=tmp_path / "stopped")
    weights = "model/transformer/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "whole" / weights).read_bytes() == (tmp_path / "stopped" / weights).read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert "alignment" in lines[-1], "the middle block was aligned in the first half"


def test_all_models_are_trained_in_an_order_that_lets_them_build_on_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, float, Path]] = []
    monkeypatch.setattr(
        "dsd_world.training._train_recipe",
        lambda name, steps, hours, run, folder, start: asked.append((name, hours, folder)),
    )
    monkeypatch.setattr(
        "dsd_world.models.student.train_student",
        lambda run, out, *, steps, hours: asked.append(("student", hours, out)),
    )
    train_model("all", hours=7, run=tmp_path)
    names = [name for name, _, _ in asked]
    assert sorted(names) == sorted([*RECIPES, "student"])
    assert names.index("autoencoder") < names.index("teacher") > names.index("vlm")
    assert names.index("judge") > names.index("teacher")
    assert names[-1] == "student"
    assert sum(hours for _, hours, _ in asked) == pytest.approx(7)
    assert all(folder == tmp_path / name / "model" for name, _, folder in asked)
    with pytest.raises(UserError, match="give --hours"):
        train_model("all", steps=10, run=tmp_path)


@pytest.mark.slow
def test_a_finished_model_is_seen_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(self: FaceTask, folder: Path, card: str) -> None:
        (folder / "landmarks").mkdir(parents=True)
        (folder / "landmarks" / "config.json").write_text('{"half')
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FaceTask, "export", half)
        with pytest.raises(KeyboardInterrupt):
            train_model("face", steps=2, run=tmp_path)
    assert not (tmp_path / "model").exists()
    train_model("face", steps=2, run=tmp_path)
    assert json.loads((tmp_path / "model" / "landmarks" / "config.json").read_text())


def test_models_of_runs_beside_come_first(tmp_path: Path) -> None:
    assert trained(tmp_path / "teacher", "autoencoder") == Path(resolve("embedded:tiny-flux")) / "vae"
    (tmp_path / "autoencoder" / "model").mkdir(parents=True)
    assert trained(tmp_path / "teacher", "autoencoder") == tmp_path / "autoencoder" / "model"


def test_no_embedded_model_tells_where_it_was_made() -> None:
    weights = Path(resolve("embedded:tiny-flux")).parent
    assert not [path for path in weights.rglob("*.json") if re.search(r'_name_or_path": "[^"]', path.read_text())]


@pytest.mark.parametrize("name", ["dino", "student", "all"])
def test_what_cannot_go_on_says_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} cannot go on"):
        train_model(name, steps=4, run=tmp_path, start="embedded:tiny-flux")
