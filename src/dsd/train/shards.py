"""Tensors of which each process holds some rows: told from whole ones, and kept in files.

The files are safetensors, written and read by `torch.distributed.checkpoint`: each process writes its rows, and any
number of processes reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, zeros


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which each process may hold a shard; then all of them have to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor; shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def mesh_of(tensors: Iterable[Tensor]) -> DeviceMesh | None:
    """The processes that hold shards of these tensors; None where all are whole."""
    return next((tensor.device_mesh for tensor in tensors if isinstance(tensor, DTensor)), None)


def write(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors, a file for each process; all of them have to, into one folder.

    Raises:
        OSError: a process could not write, or read what another one wrote.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        distributed_checkpoint.save(dict(tensors), storage_writer=writer)
    except CheckpointException as error:
        raise _reason(error) from error


def shapes_in(folder: Path) -> dict[str, torch.Size]:
    """The shapes of the tensors in a folder of safetensors files, as one process wrote them or several."""
    return {name: found.size for name, found in _found_in(folder).items()}


def read(folder: Path, mesh: DeviceMesh | None) -> dict[str, Tensor]:
    """Reads tensors that one process wrote or several; each may read alone, and reads its rows alone.

    Args:
        folder: of safetensors files.
        mesh: the processes among which rows are shared out, as `torch.distributed.fsdp.fully_shard` does; None for
            whole tensors, on the CPU.

    Raises:
        OSError: they cannot be read.
    """
    tensors: dict[str, Tensor] = {}
    for name, found in _found_in(folder).items():
        if mesh is None or not found.size:
            tensors[name] = torch.zeros(found.size, dtype=found.properties.dtype)
        else:
            tensors[name] = zeros(found.size, dtype=found.properties.dtype, device_mesh=mesh, placements=[Shard(0)])
    reader = HuggingFaceStorageReader(str(folder))
    try:
        distributed_checkpoint.load(tensors, storage_reader=reader, no_dist=True)
    except CheckpointException as error:
        raise _reason(error) from error
    return tensors


def _found_in(folder: Path) -> dict[str, TensorStorageMetadata]:
    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: kept for name, kept in found.items() if isinstance(kept, TensorStorageMetadata)}


def _reason(error: CheckpointException) -> BaseException:
    """What went wrong in the first of the processes where something did."""
    failed = [found for _, found in sorted(error.failures.items())]
    return next((one[0] if isinstance(one, tuple) else one for one in failed), error)
