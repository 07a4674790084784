"""AdamW with its state in eight bits, torchao's: what a checkpoint needs of it.

Moments of at least 4096 values are codes with a scale each 256 values; a checkpoint keeps both, so nothing is rounded
again when a run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dsd.errors import import_extra
from dsd.train.config import TrainConfig

_SIGNED = {"exp_avg": True, "exp_avg_sq": False}
"""Moments by whether they have a sign."""


def require_usable(config: TrainConfig) -> None:
    """Makes sure that the optimizer of a run is there, before anything is made.

    Raises:
        UserError: torchao is missing.
    """
    if config.optimizer == "adamw8bit":
        import_extra("torchao.optim", "speed")


def adamw(parameters: list[nn.Parameter], **settings: Any) -> torch.optim.Optimizer:
    """The optimizer.

    Args:
        parameters: what it moves.
        **settings: as AdamW takes them.

    Raises:
        UserError: torchao is not installed.
    """
    return import_extra("torchao.optim", "speed").AdamW8bit(parameters, **settings)


def is_in_eight_bits(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer came from `adamw`."""
    return type(optimizer).__module__.startswith("torchao.")


def flat(name: str, value: Any) -> dict[str, Any]:
    """A part of an optimizer's state as plain tensors: itself, or ``name.codes`` and ``name.scale``."""
    if not hasattr(value, "codes"):
        return {name: value}
    return {f"{name}.codes": value.codes, f"{name}.scale": value.scale}


def restored(optimizer: Any, state: Mapping[int, Mapping[str, Tensor]]) -> dict[int, dict[str, Tensor]]:
    """The state of plain tensors as the optimizer holds it; the inverse of `flat`.

    Args:
        optimizer: from `adamw`.
        state: by number of the parameter and name.
    """
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    found: dict[int, dict[str, Tensor]] = {}
    for number, values in state.items():
        found[number] = {name: value for name, value in values.items() if "." not in name}
        for name in {name.split(".")[0] for name in values if "." in name}:
            moment = optimizer._new_buffer(parameters[number], _SIGNED[name])
            moment.codes.copy_(values[f"{name}.codes"])
            moment.scale.copy_(values[f"{name}.scale"])
            found[number][name] = moment
    return found
