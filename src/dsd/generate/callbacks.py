"""What a caller's function sees of a drawing after each step, and what it may change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dsd.backbones.protocol import Text
from dsd.errors import UserError
from dsd.generate.draw import Drawing

Callback: TypeAlias = Callable[[Any, int, Any, dict[str, Tensor]], Mapping[str, Tensor] | None]


def require(callback: Any, names: Any, known: Sequence[str]) -> None:
    """Makes sure that a callback can be called, and that there is what it wants to see.

    Args:
        callback: None, or a function.
        names: Of the tensors that it is given.
        known: All names.

    Raises:
        UserError: It is no function, or a tensor that there is not.
    """
    if callback is not None and not callable(callback):
        raise UserError(
            f"callback_on_step_end is a {type(callback).__name__}, but must be a function of (pipeline, step, "
            "timestep, tensors)"
        )
    if not isinstance(names, (list, tuple)):
        raise UserError(f'callback_on_step_end_tensor_inputs is {names!r}, but must be a list such as ["latents"]')
    for name in names:
        if name not in known:
            raise UserError(f'callback_on_step_end_tensor_inputs names "{name}", but there are only {", ".join(known)}')


def given(drawings: Sequence[Drawing], names: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of these names, one row a drawing."""
    return {name: _tensor(drawings, name) for name in names}


def put_back(drawings: Sequence[Drawing], tensors: Any, known: Sequence[str]) -> None:
    """Puts what a callback gave back in the drawings' place.

    Args:
        drawings: As many as the tensors have rows.
        tensors: What it returned.
        known: Names of the tensors that may be replaced.

    Raises:
        UserError: It is neither nothing nor tensors by name, or one of them has another shape than it had.
    """
    if tensors is None:
        return
    if not isinstance(tensors, Mapping):
        raise UserError(
            f"callback_on_step_end returned a {type(tensors).__name__}, but must return the tensors that it changed by "
            'name, as in {"latents": latents}, or nothing'
        )
    for name, tensor in tensors.items():
        if name not in known:
            raise UserError(f'callback_on_step_end returned "{name}", but there are only {", ".join(known)}')
        wanted = tuple(_tensor(drawings, name).shape)
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != wanted:
            got = f"of the shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else f"as {type(tensor).__name__}"
            raise UserError(
                f"callback_on_step_end returned {name} {got}, but it must be a tensor of the shape {wanted}, as it was "
                "given"
            )
        for drawing, one in zip(drawings, tensor, strict=True):
            _put(drawing, name, one)


def _tensor(drawings: Sequence[Drawing], name: str) -> Tensor:
    if name == "latents":
        return torch.stack([drawing.latents for drawing in drawings])
    text = Text.concat([drawing.text for drawing in drawings])
    tensor = text.tokens if name == "prompt_embeds" else text.pooled
    assert tensor is not None
    return tensor


def _put(drawing: Drawing, name: str, one: Tensor) -> None:
    if name == "latents":
        drawing.latents = one.to(drawing.latents)
    elif name == "prompt_embeds":
        drawing.text = replace(drawing.text, tokens=one[None].to(drawing.text.tokens))
    else:
        assert drawing.text.pooled is not None
        drawing.text = replace(drawing.text, pooled=one[None].to(drawing.text.pooled))
