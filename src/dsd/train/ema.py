"""Averaged weights: the ones that are evaluated and exported.

Averaging is torch's; its `AveragedModel` would copy frozen weights too, and diffusers' `EMAModel` keeps the trained
ones on the CPU while the averages are in place, and counts steps of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dsd.train.shards import own


class Ema:
    """An exponential moving average of parameters, quick at first and slow later.

    Args:
        parameters: what is trained, by name.
        decay: share of the old average that a late step keeps; with 0 there is no average but the weights themselves.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self._named, self._parameters = parameters, list(parameters.values())
        self.average = {name: p.detach().clone() for name, p in parameters.items()} if decay else {}

    def update(self, step: int) -> None:
        """Follows the weights after a step (counted from 0), with the decay warmed up as (1 + step) / (10 + step)."""
        if not self.average:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, weights = ([own(t.detach()) for t in found] for found in (self.average.values(), self._parameters))
        get_ema_multi_avg_fn(decay)(averages, weights, step)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Puts the averages into the model for the length of the block; the trained weights return exactly."""
        if not self.average:
            yield
            return
        trained = [p.detach().clone() for p in self._parameters]
        self._write(list(self.average.values()))
        try:
            yield
        finally:
            self._write(trained)

    def tensors(self) -> dict[str, Tensor]:
        """The trained weights and their averages, for a checkpoint."""
        weights = {f"weights.{name}": p.detach() for name, p in self._named.items()}
        return weights | {f"average.{name}": value for name, value in self.average.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `tensors` gave."""
        for name, parameter in self._named.items():
            own(parameter.detach()).copy_(own(tensors[f"weights.{name}"]))
            if self.average:
                own(self.average[name]).copy_(own(tensors[f"average.{name}"]))

    @torch.no_grad()
    def _write(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            own(parameter.detach()).copy_(own(value))
