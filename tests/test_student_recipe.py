"""Claims about the recipes of the embedded student and of its ceiling."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from dsd.backbones.adapter import load_adapter
from dsd.baselines.dsd_method import TwoFrameStudent
from dsd.baselines.protocol import Request
from dsd.cli.main import main
from dsd.sampling import Sampling
from dsd_world.drawn_pairs import drawn_pairs
from dsd_world.models.student import train_ceiling, train_student
from dsd_world.recipe import DRAWING, tiny
from dsd_world.student_config import StudentConfig

CONFIG = StudentConfig(
    curate=replace(tiny().curate, units=1, unit_size=4),
    train=replace(
        tiny().train, steps=2, batch_size=2, warmup=1, held_out=1, sample_every=2, sampling=Sampling(steps=1)
    ),
    drawn_pairs=8,
)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("student")
    train_student(run, run / "model", config=CONFIG)
    return run


def test_a_student_is_made_by_the_pipeline_and_draws(student: Path) -> None:
    assert (student / "dataset" / "manifest.json").exists()
    card = (student / "model" / "README.md").read_text()
    assert "2 steps of 2" in card and "that the teacher drew and tiny-vlm judged" in card
    method = TwoFrameStudent.load("embedded:tiny-flux", student / "model", replace(DRAWING, sampling=Sampling(steps=2)))
    picture = Image.new("RGB", (64, 64), "white")
    asked = Request(subject_id="a", subject="a cat", reference=picture, prompt="a cat", prompt_index=0, seed=0)
    assert method.generate([asked])[0].size == (64, 64)


def test_what_is_exported_is_nearly_what_was_trained_and_packs_well(student: Path) -> None:
    trained, _ = load_adapter(student / "train" / "adapter")
    exported, metadata = load_adapter(student / "model")
    assert metadata.base == "embedded:tiny-flux"
    wanted, found = (
        torch.cat([(u.up.float() @ u.down.float()).flatten() for u in updates.values()])
        for updates in (trained, exported)
    )
    assert 0 < (wanted - found).norm() / wanted.norm() < 0.09
    exact, compact = (
        len(zlib.compress(b"".join(u.up.half().numpy().tobytes() for u in updates.values())))
        for updates in (trained, exported)
    )
    assert compact < 0.6 * exact


def test_a_ceiling_is_trained_on_what_the_world_drew(tmp_path: Path) -> None:
    train_ceiling(tmp_path, tmp_path / "model", config=CONFIG)
    assert "8 pairs that the world itself drew" in (tmp_path / "model" / "README.md").read_text()
    assert not (tmp_path / "dataset").exists()


def test_several_students_stand_in_one_table(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    mine, shipped = str(student / "model"), "embedded:tiny-student"
    words = ["--subjects", "2", "--steps", "1", "--no-apart", "--out", str(tmp_path)]
    assert main(["evaluate", "--adapter", mine, shipped, *words]) == 0
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert {row["method"] for row in rows} == {mine, shipped, "teacher", "copy", "truth"}
    capsys.readouterr()
    assert main(["evaluate", "--adapter", mine, mine, *words]) == 2
    assert "several different ones" in capsys.readouterr().err


def test_drawn_pairs_do_not_depend_on_how_many_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsd_world.drawn_pairs._DRAWN_AT_ONCE", 2)
    few, many = drawn_pairs(2, first=3), drawn_pairs(10, first=3)
    assert [p.id for p in many[:2]] == [p.id for p in few] == ["3-0", "3-1"]
    assert all(a.target.tobytes() == b.target.tobytes() for a, b in zip(few, many, strict=False))
    assert len({p.id for p in many}) == 10
    assert many[0].reference.tobytes() == many[1].target.tobytes()
