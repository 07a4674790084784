"""Reading weights: what does not fit a network is refused, where libraries would start it at random and go on."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from dsd.errors import UserError

_NAMED = 3


def load(cls: Any, name: str, *, optional: Collection[str] = (), strict: bool = True, **kwargs: Any) -> Any:
    """Reads a network of diffusers or transformers, all of it.

    Args:
        cls: With a `from_pretrained` that gives the library's loading info.
        name: A folder or a hub id.
        optional: Parts of the network that are left out (None) when their weights are missing.
        strict: Whether weights that the network has no place for are refused too.
        **kwargs: Passed on, such as `subfolder` and `dtype`.

    Raises:
        UserError: Weights are missing, have other shapes, are of another network, or are no finite numbers.
    """
    where = "/".join(part for part in (name, kwargs.get("subfolder")) if part)
    try:
        network, info = cls.from_pretrained(name, output_loading_info=True, **kwargs)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f'"{where}" cannot be loaded ({reason}); give the folder or hub id of a whole model') from error
    missing = set(info["missing_keys"])
    for part in optional:
        if lost := {key for key in missing if key.startswith(f"{part}.")}:
            missing -= lost
            setattr(network, part, None)
    faults = {"lacks": missing, "has other shapes of": info["mismatched_keys"]}
    if strict:
        faults["has no place for"] = info["unexpected_keys"]
    for fault, keys in faults.items():
        if keys:
            raise UserError(
                f'the weights in "{where}" are not those of a {type(network).__name__}: it {fault} {_some(keys)}; '
                "give the folder or hub id of a whole model"
            )
    require_finite(network, where)
    return network


def load_pipeline(
    cls: Any, name: str, assemble: Any = None, *, dtype: torch.dtype, absent: Collection[str] = (), **given: Any
) -> Any:
    """Reads a diffusers pipeline, each of its networks by `load`.

    Args:
        cls: The pipeline's class.
        name: A folder in its layout, or a hub id.
        assemble: Makes the pipeline of its components; the class's `from_pretrained` by default.
        dtype: Of all weights.
        absent: Components to leave out.
        **given: Components that are there already, and what else the pipeline's `from_pretrained` takes.

    Raises:
        UserError: The model cannot be found, or see `load`.
    """
    try:
        index: dict[str, Any] = dict(cls.load_config(name))
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f'"{name}" cannot be loaded ({reason}); give the folder or hub id of a whole model') from error
    for component, entry in index.items():
        if component in absent:
            given[component] = None
        if component in given or not isinstance(entry, (list, tuple)) or entry[0] is None:
            continue
        kind = getattr(importlib.import_module(entry[0]), entry[1], None)
        if isinstance(kind, type) and issubclass(kind, nn.Module):
            given[component] = load(kind, name, subfolder=component, dtype=dtype, use_safetensors=True)
    return (assemble or cls.from_pretrained)(name, dtype=dtype, **given)


def require_finite(network: nn.Module, where: str) -> None:
    """Makes sure that all weights, and the statistics that are stored with them, are numbers.

    Raises:
        UserError: One is not.
    """
    stored = network.state_dict(keep_vars=True)  # what a network makes for itself, such as a mask of -inf, is none
    wrong = [
        name for name, t in stored.items()
        if isinstance(t, Tensor) and t.device.type != "meta" and not t.isfinite().all()
    ]  # fmt: skip
    if wrong:
        raise UserError(f'the weights in "{where}" are no finite numbers in {_some(wrong)}; copy or train them again')


def _some(keys: Collection[Any]) -> str:
    names = sorted(key if isinstance(key, str) else str(key[0]) for key in keys)
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
