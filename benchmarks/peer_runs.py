"""One run of `benchmarks/peer_training.py`, in a process of its own: ours or that of diffusers' script."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import accelerate
import datasets  # noqa: F401  (these look for torchvision, before it seems to be there)
import diffusers  # noqa: F401
import numpy as np
import torch
import transformers  # noqa: F401
from peer_training import FRAME, Settings, settings_of
from PIL import Image

from dsd.sampling import Sampling
from dsd.train.config import TrainConfig
from dsd.train.task import TwoFrameTask
from dsd.train.trainer import train
from dsd_world.recipe import tiny

TARGETS = (
    "attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0", "attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj",
    "attn.to_add_out", "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2",
)  # fmt: skip
"""What the script trains beside the patch embedding."""
NEVER = 10**9
Note = Callable[[float], None]


def main(kind: str, what: str, folder: Path, given: Settings) -> None:
    """Trains and writes ``curve.json``."""
    torch.set_num_threads(given.threads)
    losses: list[float] = []
    ends: list[float] = []

    def note(loss: float) -> None:
        losses.append(loss)
        ends.append(time.perf_counter())

    shutil.rmtree(folder / "run", ignore_errors=True)
    if kind == "--ours":
        _ours(int(what), folder, given, note)
    else:
        _peer(what, folder, given, note)
    (folder / "curve.json").write_text(json.dumps({"losses": losses, "ends": ends}))


def _ours(tokens: int, folder: Path, given: Settings, note: Note) -> None:
    step = TwoFrameTask.train_step

    def noted(task: TwoFrameTask, number: int):
        values = step(task, number)
        note(float(values["loss"]))
        return values

    TwoFrameTask.train_step = noted
    train(_config(tokens, folder, given), folder / "pictures", folder / "run")


def _config(tokens: int, folder: Path, given: Settings) -> TrainConfig:
    recipe = vars(tiny().train) | {
        "base": str(folder / "base"),
        "rank": given.rank,
        "lora_targets": TARGETS,
        "steps": given.steps,
        "batch_size": given.batch,
        "gradient_accumulation": 1,
        "optimizer": "adamw",
        "learning_rate": given.rate,
        "warmup": 1,
        "decay_from": 1.0,
        "weight_decay": 0.0,
        "reference_weight": 1.0,
        "text_dropout": 0.0,
        "image_dropout": 0.0,
        "ema_decay": 0.0,
        "sigma_density": "uniform",
        "max_sequence_length": tokens,
        "frame_size": FRAME,
        "held_out": 0,
        "sample_every": NEVER,
        "sampling": Sampling(steps=1),
        "checkpoint_every": NEVER,
        "trackers": (),
    }
    return TrainConfig(**recipe)


def _peer(script: str, folder: Path, given: Settings, note: Note) -> None:
    transforms = types.ModuleType("torchvision.transforms")
    transforms.Compose, transforms.Resize = _Compose, _Same
    transforms.ToTensor, transforms.Normalize = _ToTensor, _Normalize
    transforms.InterpolationMode = types.SimpleNamespace(BILINEAR=2)
    torchvision = types.ModuleType("torchvision")
    torchvision.transforms = transforms
    sys.modules |= {"torchvision": torchvision, "torchvision.transforms": transforms}
    accelerate.Accelerator.log = lambda self, values, *_, **__: note(values["loss"])
    accelerate.Accelerator.init_trackers = lambda *_, **__: None
    sys.argv = [
        script, "--pretrained_model_name_or_path", str(folder / "base"), "--output_dir", str(folder / "run"),
        "--jsonl_for_train", str(folder / "peer.jsonl"), "--image_column", "image", "--caption_column", "caption",
        "--conditioning_image_column", "condition", "--resolution", str(FRAME[0]), "--cache_dir", str(folder / "cache"),
        "--train_batch_size", str(given.batch), "--max_train_steps", str(given.steps), "--rank", str(given.rank),
        "--learning_rate", str(given.rate), "--lr_scheduler", "constant", "--adam_weight_decay", "0",
        "--checkpointing_steps", str(NEVER), "--mixed_precision", "no", "--seed", "0",
        "--proportion_empty_prompts", "0",
    ]  # fmt: skip
    runpy.run_path(script, run_name="__main__")


class _Compose:
    def __init__(self, steps: list) -> None:
        self._steps = steps

    def __call__(self, picture):
        for step in self._steps:
            picture = step(picture)
        return picture


class _Same:
    """In the place of a resizing to the size that pictures have."""

    def __init__(self, size: tuple[int, int], **_: object) -> None:
        self._size = size

    def __call__(self, picture: Image.Image) -> Image.Image:
        assert picture.size == (self._size[1], self._size[0])
        return picture


class _ToTensor:
    def __call__(self, picture: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


class _Normalize:
    def __init__(self, mean: list[float], std: list[float]) -> None:
        self._mean, self._std = (torch.tensor(values)[:, None, None] for values in (mean, std))

    def __call__(self, picture: torch.Tensor) -> torch.Tensor:
        return (picture - self._mean) / self._std


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), settings_of(sys.argv[4]))
