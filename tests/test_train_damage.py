"""Nothing wrong is trained on: what is damaged, of another run or has diverged is told in a sentence, and what is good
goes on with the same bits."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_parts import simple_pairs, small_config

from dsd.errors import UserError
from dsd.train.trainer import train

Damage = Callable[[Path], object]
CONFIG = small_config(steps=6, checkpoint_every=2, sample_every=9)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps, with the checkpoints of steps 4 and 6."""
    out = tmp_path_factory.mktemp("finished") / "run"
    train(CONFIG, simple_pairs(), out)
    return out


@pytest.fixture
def begun(finished: Path, tmp_path: Path) -> Path:
    """The same run, killed before it wrote its adapter."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    shutil.rmtree(out / "adapter")
    return out


@pytest.fixture(scope="module")
def of_another_rank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("other") / "run"
    train(small_config(steps=6, checkpoint_every=6, sample_every=9, rank=2), simple_pairs(), out)
    return out / "checkpoints" / "step-0000006"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter.safetensors")


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbled(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def folder_for(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, tuple[str, Damage]] = {
    **{f"tensors {d.__name__}": ("state.safetensors", d) for d in (half, empty, garbled, one_bit, folder_for)},
    "tensors missing": ("state.safetensors", Path.unlink),
    **{f"state {d.__name__}": ("state.json", d) for d in (half, empty, garbled, one_bit, folder_for)},
    "state missing": ("state.json", Path.unlink),
    "state is a list": ("state.json", lambda path: path.write_text("[]")),
    "state of another step": (
        "state.json",
        lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"step": 4})),
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_newest_good_one_is_gone_on_from(
    kind: str, finished: Path, begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, damage = DAMAGES[kind]
    newest = begun / "checkpoints" / "step-0000006"
    damage(newest / name)
    train(CONFIG, simple_pairs(), begun)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line and "checkpoint" in line]
    assert str(newest / name) in line and str(begun / "checkpoints" / "step-0000004") in line
    assert same(finished, begun)
    shutil.rmtree(begun / "adapter")  # the checkpoint that was damaged has been made anew
    train(CONFIG, simple_pairs(), begun)
    assert "warning" not in capsys.readouterr().err and same(finished, begun)
