"""Runs of a second that are damaged: their command, what it says, and ways to damage files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_parts import small_config

from dsd.cli.main import main

Damage = Callable[[Path], object]
CONFIG = small_config(steps=6, checkpoint_every=2, sample_every=9)
CHECKPOINT = "checkpoints/step-0000006"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter.safetensors")


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def command(data: Path | str, out: Path, *more: str) -> list[str]:
    """The words of a run of `CONFIG` on the command line."""
    names = ("base", "rank", "steps", "batch_size", "warmup", "held_out", "sample_every", "max_sequence_length",
             "checkpoint_every", "ema_decay")  # fmt: skip
    settings = {f"--train.{name.replace('_', '-')}": str(getattr(CONFIG, name)) for name in names}
    words = [word for pair in settings.items() for word in pair]
    return ["train", "tiny", "--data", str(data), "--out", str(out), *words, "--train.sampling.steps", "2",
            "--train.identity", "None", "--train.agreement", "None", *more]  # fmt: skip


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence that a command ends with."""
    assert main(words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert line.startswith("dsd: error: ")
    return line


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


@contextmanager
def as_nobody() -> Iterator[Path]:
    """A folder of another user, who this process is meanwhile."""
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    with tempfile.TemporaryDirectory() as place:
        os.chown(place, 65534, 65534)
        base = Path(CONFIG.base)
        for path in (base.parent, base, *base.rglob("*")):
            path.chmod(0o755)
        os.seteuid(65534)
        try:
            yield Path(place)
        finally:
            os.seteuid(0)


def copied(folder: Path, to: Path) -> Path:
    """A copy that belongs to who runs; only root may read the original."""
    user = os.geteuid()
    os.seteuid(0)
    shutil.copytree(folder, to)
    for path in (to, *to.rglob("*")):
        os.chown(path, user, user)
    os.seteuid(user)
    return to
