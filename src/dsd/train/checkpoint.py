"""Checkpoints: every tensor that must survive, in one safetensors file a step, written atomically.

Beside the tensors stands what they are the state of, and the digests of all bytes: a checkpoint that is damaged, or of
another run, is told and passed over for the newest good one.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsd.errors import UserError, cut, reason_of
from dsd.files import DamagedFile, atomic_folder, read_json, sha256_of_parts
from dsd.log import console
from dsd.train import eight_bits
from dsd.weights import all_finite

FOLDER = "checkpoints"
"""Of a run's checkpoints, in its folder."""
SCHEMA = 2
"""Of the folders; those of schema 1 had no digests."""
TENSORS, STATE = "state.safetensors", "state.json"
_FOLDER = re.compile(r"step-(\d{7,})")
_DAMAGED = "it is no whole checkpoint"


class Unusable(UserError):
    """A checkpoint that training cannot go on from."""


@dataclass(frozen=True, kw_only=True)
class State:
    """What ``state.json`` says of a checkpoint.

    Attributes:
        step: number of finished steps.
        of: what decides the run that it is of (settings, revisions of data and base), by name.
        size: of the file of tensors, in bytes.
        sha256: of its parts; see `dsd.files.sha256_of_parts`.
    """

    step: int
    of: Mapping[str, str]
    size: int
    sha256: list[str]


def step_folders(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints in a folder as (step, path), oldest first; a damaged one is among them."""
    found = [(int(m[1]), p) for p in folder.glob("step-*") if (m := _FOLDER.fullmatch(p.name)) and p.is_dir()]
    return sorted(found)


def newest(folder: Path) -> int:
    """Finished steps of the newest checkpoint that says so; 0 when there is none."""
    for step, path in reversed(step_folders(folder)):
        try:
            read_state(path)
        except DamagedFile:
            continue
        return step
    return 0


def save(
    folder: Path, step: int, tensors: dict[str, Tensor], *, of: Mapping[str, str] | None = None, keep: int = 2
) -> Path:
    """Writes the checkpoint of a step; the older ones beyond ``keep`` are removed afterwards.

    Args:
        folder: where the ``step-0001000`` folders live.
        step: number of finished steps.
        tensors: everything that must survive, by name.
        of: what decides the run, by name; see `State`.
        keep: how many of the newest checkpoints stay.

    Returns:
        The checkpoint's folder.

    Raises:
        UserError: a tensor has values that are no finite numbers, or the place cannot be written to.
    """
    path = folder / f"step-{step:07d}"
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    require_finite(whole, f'no checkpoint of step {step} is written to "{folder}"')
    if path.exists() and not (path / STATE).is_file():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with atomic_folder(path, known_by=STATE) as temporary:
        file = temporary / TENSORS
        save_file(whole, str(file))
        content = {
            "schema": SCHEMA, "step": step, "of": dict(of or {}), "size": file.stat().st_size,
            "sha256": sha256_of_parts(file),
        }  # fmt: skip
        (temporary / STATE).write_text(json.dumps(content | {"digest": _digest(content)}, indent=2) + "\n")
    older = [one for number, one in step_folders(folder) if number <= step]  # later ones were of no use
    for old in older[:-keep]:
        shutil.rmtree(old)
    return path


def require_finite(tensors: Mapping[str, Tensor], consequence: str) -> None:
    """Makes sure that a state is worth keeping.

    Args:
        tensors: by name.
        consequence: what does not happen otherwise, in words.

    Raises:
        UserError: a tensor has values that are no finite numbers.
    """
    for name, tensor in tensors.items():
        if not all_finite(tensor):
            raise UserError(
                f"training has diverged: {name} holds values that are no finite numbers, so {consequence}; go on from "
                "the last good checkpoint in float32, or train at a lower learning rate in another folder"
            )


def latest(
    folder: Path,
    *,
    of: Mapping[str, str] | None = None,
    like: Mapping[str, Tensor] | None = None,
    says: bool = True,
) -> tuple[int, dict[str, Tensor]] | None:
    """The newest good checkpoint as (finished steps, tensors on the CPU); None when there is none at all.

    Args:
        folder: where the ``step-0001000`` folders live.
        of: what decides this run, by name; a checkpoint that says otherwise is of another one.
        like: tensors that have to be among those of a checkpoint, in these shapes.
        says: print which ones are passed over; False on all processes of a parallel run but the first.

    Raises:
        UserError: there are some, but none is good.
    """
    passed: list[Unusable] = []
    for step, path in reversed(step_folders(folder)):
        try:
            tensors = _load(path, _usable(path, step, of or {}), like or {})
        except Unusable as error:
            passed.append(error)
            continue
        for error in passed if says else ():
            console.print(f'warning: {error}; "{path}" is gone on from instead', soft_wrap=True, markup=False)
        return step, tensors
    if passed:
        raise _none_is_good(folder, passed)
    return None


def require_usable(folder: Path, of: Mapping[str, str]) -> None:
    """Tells early, before tensors are read, that training cannot go on from what a folder holds.

    Args:
        folder: where the ``step-0001000`` folders live.
        of: what decides this run, by name.

    Raises:
        UserError: there are checkpoints, but each says that it is of another run, or is damaged.
    """
    passed: list[Unusable] = []
    for step, path in reversed(step_folders(folder)):
        try:
            _usable(path, step, of)
        except Unusable as error:
            passed.append(error)
            continue
        return
    if passed:
        raise _none_is_good(folder, passed)


def read_state(path: Path) -> State:
    """What a checkpoint says of itself.

    Raises:
        DamagedFile: it is damaged, or of another schema.
    """

    def read(content: Any) -> State:
        digest = content.pop("digest", None)
        if content.pop("schema") != SCHEMA or digest != _digest({"schema": SCHEMA, **content}):
            raise ValueError(f"it is not what a checkpoint of schema {SCHEMA} says")
        return State(**content)

    return read_json(path / STATE, read, _DAMAGED)


def _usable(path: Path, step: int, of: Mapping[str, str]) -> State:
    """What a checkpoint says of itself, if it is of this run.

    Raises:
        Unusable: it is damaged, or of another run.
    """
    try:
        state = read_state(path)
    except UserError as error:
        raise Unusable(str(error)) from error
    if state.step != step:
        raise Unusable(f'"{path}" is a checkpoint of step {state.step} under another name')
    for name, now in of.items():
        if state.of.get(name, now) != now:
            raise Unusable(f'"{path}" is a checkpoint of a run with {name} = {state.of[name]} (now {now})')
    return state


def _load(path: Path, state: State, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint.

    Raises:
        Unusable: they are damaged, or of another shape.
    """
    file = path / TENSORS
    try:
        if file.stat().st_size != state.size or sha256_of_parts(file) != state.sha256:
            raise Unusable(f'"{file}" is damaged (it has other bytes than were written); {_DAMAGED}')
        tensors = load_file(str(file))
    except (OSError, SafetensorError) as error:
        raise Unusable(f'"{file}" cannot be read ({cut(reason_of(error))}); {_DAMAGED}') from error
    for name, tensor in like.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            found = f"has the shape {tuple(tensors[name].shape)}" if name in tensors else "is missing"
            raise Unusable(
                f'"{file}" does not fit what is trained: {name} {found}, where {tuple(tensor.shape)} is wanted'
            )
    return tensors


def _none_is_good(folder: Path, passed: Sequence[Unusable]) -> UserError:
    others = f" (and {len(passed) - 1} more of no use)" if len(passed) > 1 else ""
    return UserError(f'{passed[0]}{others}; delete "{folder}" to begin anew, or give another folder')


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """An optimizer's state as named tensors: ``prefix.<parameter number>.<state name>``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}.{number}.{name}": torch.as_tensor(value)
        for number, values in state.items()
        for whole, moment in values.items()
        for name, value in eight_bits.flat(whole, moment).items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str) -> None:
    """Puts back what `optimizer_tensors` took out; the optimizer must be built as it was."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(prefix + "."):
            number, name = key[len(prefix) + 1 :].split(".", 1)
            state.setdefault(int(number), {})[name] = value
    if eight_bits.is_in_eight_bits(optimizer):
        state = eight_bits.restored(optimizer, state)
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
