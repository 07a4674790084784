"""Tensors of a transformer's folder, read one by one: two models of 24 GB are compared without holding either."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dsd.errors import UserError, reason_of
from dsd.files import read_json

_INDEX = ".safetensors.index.json"
_WHOLE = "copy the folder again, whole"


class Stored:
    """The weights of a network that diffusers saved, in one safetensors file or in several with an index.

    Attributes:
        folder: Where they lie.
        config: What its `config.json` says.
    """

    def __init__(self, folder: Path, files: dict[str, Any]) -> None:
        self.folder = folder
        self.config = read_json(folder / "config.json", dict, _WHOLE)
        self._files = files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, without reading it."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def tensor(self, name: str) -> Tensor:
        """A tensor, in the precision in which it is stored.

        Raises:
            UserError: It holds no finite numbers.
        """
        tensor = self._files[name].get_tensor(name)
        if not tensor.isfinite().all():
            raise UserError(f'the weights in "{self.folder}" are no finite numbers in {name}; {_WHOLE}')
        return tensor


@contextmanager
def opened(folder: Path) -> Iterator[Stored]:
    """Opens the weights in a folder.

    Raises:
        UserError: A file is missing or damaged, or is not where the index says.
    """
    with ExitStack() as stack:
        handles = {path: stack.enter_context(_handle(path)) for path in _weights(folder)}
        files = {name: handle for handle in handles.values() for name in handle.keys()}  # noqa: SIM118
        for index in folder.glob(f"*{_INDEX}"):
            named = read_json(index, lambda content: dict(content["weight_map"]), _WHOLE)
            if lost := sorted(name for name in named if name not in files):
                raise UserError(f'"{folder}" lacks the tensor {lost[0]}, which "{index.name}" names; {_WHOLE}')
        yield Stored(folder, files)


def precision_of(folder: Path) -> torch.dtype:
    """The precision in which a transformer's weights are stored; see `opened`."""
    with opened(folder) as stored:
        return stored.tensor(next(iter(stored))).dtype


def safetensors_of(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of one file, and its header's metadata.

    Raises:
        UserError: It is missing or damaged.
    """
    with _handle(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def _weights(folder: Path) -> list[Path]:
    indices = sorted(folder.glob(f"*{_INDEX}"))
    if len(indices) == 1:
        named = read_json(indices[0], lambda content: dict(content["weight_map"]), _WHOLE)
        return [folder / name for name in sorted(set(map(str, named.values())))]
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1 or indices:
        found = ", ".join(path.name for path in indices or files) or "none"
        raise UserError(
            f'"{folder}" must hold the weights of one transformer, as one safetensors file or several with an index, '
            f"but has: {found}; {_WHOLE}"
        )
    return files


@contextmanager
def _handle(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise UserError(f'"{path}" is missing; {_WHOLE}')
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise UserError(f'"{path}" is damaged ({reason_of(error)}); copy it again') from error
    with file as handle:
        yield handle
