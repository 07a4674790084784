"""Checkpoints: every tensor that must survive, in safetensors files, a folder a step, written atomically.

Tensors that are whole stand in one file, which one process writes; of shards each process writes its own. Either kind
is read whole, or as shards among any number of processes.

Beside the tensors stands what they are the state of, and the digests of all bytes: a checkpoint that is damaged, or of
another run, is told and passed over for the newest good one.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsd.errors import UserError, cut, reason_of
from dsd.files import DamagedFile, atomic_folder, writing
from dsd.log import console
from dsd.train import eight_bits
from dsd.train.checkpoint_state import (
    DAMAGED,
    OF_SHARDS,
    SCHEMA,
    STATE,
    TENSORS,
    State,
    Unusable,
    describe,
    read_state,
    require_same_bytes,
    usable,
)
from dsd.train.shards import mesh_of, own, shapes_in
from dsd.train.shards import read as read_shards
from dsd.train.shards import write as write_shards
from dsd.train.stopping import is_first, of_all, of_first, together
from dsd.weights import all_finite

FOLDER = "checkpoints"
"""Of a run's checkpoints, in its folder."""
_FOLDER = re.compile(r"step-(\d{7,})")


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

    All processes that hold shards of the tensors have to call it.

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
    kept = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    are_shards = mesh_of(kept.values()) is not None
    with together() if are_shards else nullcontext():
        require_finite(kept, f'no checkpoint of step {step} is written to "{folder}"')
        if (is_first() or not are_shards) and os.path.lexists(path) and not (path / STATE).is_file():
            _remove(path)
    with _one_folder(path) if are_shards else atomic_folder(path, known_by=STATE) as temporary:
        with writing(path):
            write_shards(temporary, kept) if are_shards else save_file(kept, str(temporary / TENSORS))
        if is_first() or not are_shards:
            describe(temporary, OF_SHARDS if are_shards else SCHEMA, step, of or {})
    if is_first() or not are_shards:
        older = [one for number, one in step_folders(folder) if number <= step]  # later ones were of no use
        for old in older[:-keep]:
            _remove(old)
    return path


def _remove(path: Path) -> None:
    """A checkpoint, or what is in its place; of a link the link alone."""
    with writing(path):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@contextmanager
def _one_folder(path: Path) -> Iterator[Path]:
    """As `atomic_folder`, for all processes that train together to write into."""
    with together(), ExitStack() as stack:
        with together():
            own = stack.enter_context(atomic_folder(path, known_by=STATE)) if is_first() else path
        with together():  # the folder takes its name once all have written
            yield of_first(own)


def require_finite(tensors: Mapping[str, Tensor], consequence: str) -> None:
    """Makes sure that a state is worth keeping.

    Args:
        tensors: by name.
        consequence: what does not happen otherwise, in words.

    Raises:
        UserError: a tensor has values that are no finite numbers.
    """
    for name, tensor in tensors.items():
        if not all_finite(own(tensor)):
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

    Processes that train together all call it, and all pass over what is damaged for one of them.

    Args:
        folder: where the ``step-0001000`` folders live.
        of: what decides this run, by name; a checkpoint that says otherwise is of another one.
        like: tensors that have to be among those of a checkpoint, in these shapes; where these are shards, so are those
            that are given, on their device.
        says: print which ones are passed over; False on all processes of a parallel run but the first.

    Raises:
        UserError: there are some, but none is good.
    """
    passed: list[Unusable] = []
    for step, path in reversed(of_first(step_folders(folder))):
        tensors: dict[str, Tensor] = {}
        try:
            tensors, found = _load(path, usable(path, step, of or {}), like or {}), None
        except Unusable as error:
            found = str(error)
        wrong = [one for one in of_all(found) if one is not None]
        if wrong:
            passed.append(Unusable(wrong[0]))
            continue
        for error in passed if says and is_first() else ():
            console.print(f'warning: {error}; "{path}" is gone on from instead')
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
            usable(path, step, of)
        except Unusable as error:
            passed.append(error)
            continue
        return
    if passed:
        raise _none_is_good(folder, passed)


def _load(path: Path, state: State, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint.

    Raises:
        Unusable: they are damaged, or of another shape.
    """
    mesh = mesh_of(like.values())
    is_one = list(state.files) == [TENSORS]
    try:
        require_same_bytes(path, state)
        shapes = shapes_in(path)
        for name, tensor in like.items():
            if name not in shapes or shapes[name] != tensor.shape:
                found = f"has the shape {tuple(shapes[name])}" if name in shapes else "is missing"
                where = path / TENSORS if is_one else path
                raise Unusable(
                    f'"{where}" does not fit what is trained: {name} {found}, where {tuple(tensor.shape)} is wanted'
                )
        return load_file(str(path / TENSORS)) if is_one and mesh is None else read_shards(path, mesh)
    except (OSError, SafetensorError) as error:
        where = path / TENSORS if is_one else path
        raise Unusable(f'"{where}" cannot be read ({cut(reason_of(error))}); {DAMAGED}') from error


def _none_is_good(folder: Path, passed: Sequence[Unusable]) -> UserError:
    others = f" (and {len(passed) - 1} more of no use)" if len(passed) > 1 else ""
    return UserError(f'{passed[0]}{others}; delete "{folder}" to begin anew, or give another folder')


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
