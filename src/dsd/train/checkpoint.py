"""Checkpoints: every tensor that must survive, in one safetensors file a step, written atomically."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsd.files import atomic_folder

_FOLDER = re.compile(r"step-(\d{7})$")


def step_folders(folder: Path) -> list[tuple[int, Path]]:
    """The complete checkpoints in a folder as (step, path), oldest first."""
    found = [(int(m[1]), p) for p in folder.glob("step-*") if (m := _FOLDER.search(p.name)) and p.is_dir()]
    return sorted(found)


def newest(folder: Path) -> int:
    """Finished steps of the newest checkpoint; 0 when there is none."""
    return max((step for step, _ in step_folders(folder)), default=0)


def save(folder: Path, step: int, tensors: dict[str, Tensor], *, keep: int = 2) -> Path:
    """Writes the checkpoint of a step; the older ones beyond ``keep`` are removed afterwards.

    Args:
        folder: where the ``step-0001000`` folders live.
        step: number of finished steps.
        tensors: everything that must survive, by name.
        keep: how many of the newest checkpoints stay.

    Returns:
        The checkpoint's folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:07d}"
    if not path.exists():
        with atomic_folder(path) as temporary:
            whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
            save_file(whole, str(temporary / "state.safetensors"))
            (temporary / "state.json").write_text(json.dumps({"schema": 1, "step": step}) + "\n")
    for _, old in step_folders(folder)[:-keep]:
        shutil.rmtree(old)
    return path


def latest(folder: Path) -> tuple[int, dict[str, Tensor]] | None:
    """The newest checkpoint as (finished steps, tensors on the CPU); None when there is none."""
    found = step_folders(folder)
    if not found:
        return None
    step, path = found[-1]
    return step, load_file(str(path / "state.safetensors"))


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """An optimizer's state as named tensors: ``prefix.<parameter number>.<state name>``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}.{number}.{name}": torch.as_tensor(value)
        for number, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str) -> None:
    """Puts back what `optimizer_tensors` took out; the optimizer must be built as it was."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(prefix + "."):
            number, name = key[len(prefix) + 1 :].split(".", 1)
            state.setdefault(int(number), {})[name] = value
    whole = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def module_tensors(module: torch.nn.Module, prefix: str) -> dict[str, Tensor]:
    """A module's state under a prefix, as stored in a checkpoint."""
    return {f"{prefix}.{name}": value for name, value in module.state_dict().items()}


def restore_module(module: torch.nn.Module, tensors: dict[str, Tensor], prefix: str) -> None:
    """Puts back what `module_tensors` took out.

    Raises:
        RuntimeError: when names or shapes differ from the module's.
    """
    module.load_state_dict({k[len(prefix) + 1 :]: v for k, v in tensors.items() if k.startswith(prefix + ".")})
