"""The one sampling loop of models that see a picture: guidance by text and by image, from noise to latents.

A film that is being drawn is a `Drawing`. One step of many drawings is one evaluation of the model on `Rows`, whatever
their prompts, scales, schedules and steps; only sizes have to agree, and `advance` sorts by them. So what is drawn does
not depend on what is drawn beside it, and a drawing may join or leave between any two steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dsd import flow
from dsd.backbones.protocol import Text
from dsd.sampling import Sampling


@dataclass(kw_only=True, eq=False)
class Drawing:
    """What is drawn of one prompt and its references, between two steps.

    Attributes:
        latents: where it is on the path; noise at first.
        text: its prompt.
        no_text: what stands for no prompt, or a negative one.
        sampling: how it is guided.
        sigmas: the schedule, falling from 1 to 0; on the CPU.
        sees: whether it has references; without them it is drawn after words alone.
        step: how many steps it has taken.
        estimate: of the finished latents, after its last step; None before the first.
    """

    latents: Float[Tensor, " *film"]
    text: Text
    no_text: Text
    sampling: Sampling
    sigmas: Float[Tensor, " steps+1"]
    sees: bool = True
    step: int = 0
    estimate: Float[Tensor, " *film"] | None = None

    @property
    def steps(self) -> int:
        """How many steps it takes in all."""
        return len(self.sigmas) - 1

    @property
    def is_finished(self) -> bool:
        """Whether no step is left."""
        return self.step == self.steps

    def branches(self) -> list[tuple[float, bool, bool]]:
        """What its next step needs: (weight, whether the text is read, whether the picture is shown)."""
        text_scale, image_scale = self.sampling.scales_at(float(self.sigmas[self.step]))
        nothing, image, both = flow.branch_weights(text_scale, image_scale if self.sees else 1.0)
        weighed = [(nothing, False, False), (image, False, self.sees), (both, True, self.sees)]
        return [branch for branch in weighed if branch[0] != 0]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What the model is asked at once: each guidance branch of each drawing is a row.

    Attributes:
        latents: noisy.
        sigma: noise level of each, in [0, 1].
        text: one prompt each.
        keep: whether it is shown its picture; where not, the model sees none.
        of: the place of each one's drawing among those that were given.
        names: of each row, the same in each step of its drawing.
        owners: the drawing of each row, for who keeps something of a row from step to step: hold it by them, weakly,
            for a name is given anew when its drawing is gone.
    """

    latents: Float[Tensor, "n *film"]
    sigma: Float[Tensor, " n"]
    text: Text
    keep: Bool[Tensor, " n"]
    of: tuple[int, ...]
    names: tuple[tuple[int, bool, bool], ...]
    owners: tuple[Drawing, ...]

    def take(self, places: Sequence[int]) -> Rows:
        """Some of the rows."""
        index = list(places)
        return Rows(
            latents=self.latents[index], sigma=self.sigma[index], text=self.text.take(index), keep=self.keep[index],
            of=tuple(self.of[place] for place in index), names=tuple(self.names[place] for place in index),
            owners=tuple(self.owners[place] for place in index),
        )  # fmt: skip

    def seen(self, conditions: Sequence[Float[Tensor, " *film"]] | Tensor) -> Float[Tensor, "n *film"]:
        """The condition of each row: all zeros where no picture is shown, as the published model was trained.

        Args:
            conditions: one for each drawing that was given.
        """
        rows = torch.stack([conditions[place] for place in self.of])
        return rows * self.keep.view(-1, *[1] * (rows.ndim - 1)).to(rows)


Velocity: TypeAlias = Callable[[Rows], Float[Tensor, "n *film"]]
"""A model's velocity of each row."""
current_rows: ContextVar[Rows | None] = ContextVar("current_rows", default=None)
"""What the model is being asked by `advance`, for what watches its layers; None outside of it."""


@dataclass(frozen=True)
class _Branch:
    place: int
    weight: float
    text: bool
    keep: bool


def advance(velocity: Velocity, drawings: Sequence[Drawing]) -> None:
    """Takes one step of each drawing, with one evaluation of the model for all that agree in size.

    Args:
        velocity: the model; `Rows.of` are places in ``drawings``.
        drawings: unfinished.
    """
    groups: dict[tuple[torch.Size, torch.Size], list[int]] = {}
    for place, drawing in enumerate(drawings):
        groups.setdefault((drawing.latents.shape, drawing.text.tokens.shape), []).append(place)
    for places in groups.values():
        _advance(velocity, drawings, places)


def _advance(velocity: Velocity, drawings: Sequence[Drawing], places: Sequence[int]) -> None:
    branches = [_Branch(place, *branch) for place in places for branch in drawings[place].branches()]
    branches.sort(key=lambda branch: (branch.text, branch.keep))  # stable: branch by branch, each in the given order
    rows = _rows(drawings, branches)
    token = current_rows.set(rows)
    try:
        predicted = velocity(rows)
    finally:
        current_rows.reset(token)
    guided: dict[int, Tensor] = {}
    for branch, row in zip(branches, predicted, strict=True):
        part = row if branch.weight == 1 else branch.weight * row
        guided[branch.place] = guided[branch.place] + part if branch.place in guided else part
    for place, direction in guided.items():
        drawing = drawings[place]
        now, after = drawing.sigmas[drawing.step], drawing.sigmas[drawing.step + 1]
        drawing.estimate = flow.euler_step(drawing.latents, direction, now, torch.zeros_like(now))
        drawing.latents = flow.euler_step(drawing.latents, direction, now, after)
        drawing.step += 1


def _rows(drawings: Sequence[Drawing], branches: Sequence[_Branch]) -> Rows:
    asked = [drawings[branch.place] for branch in branches]
    device = asked[0].latents.device
    return Rows(
        latents=torch.stack([one.latents for one in asked]),
        sigma=torch.stack([one.sigmas[one.step] for one in asked]).to(device),
        text=Text.concat([one.text if b.text else one.no_text for one, b in zip(asked, branches, strict=True)]),
        keep=torch.tensor([branch.keep for branch in branches], device=device),
        of=tuple(branch.place for branch in branches),
        names=tuple((id(one), b.text, b.keep) for one, b in zip(asked, branches, strict=True)),
        owners=tuple(asked),
    )


def drawings_of(
    noise: Float[Tensor, "b *film"],
    text: Text,
    no_text: Text,
    sampling: Sampling,
    shift: float,
    sees: bool = True,
) -> list[Drawing]:
    """Starts a batch.

    Args:
        noise: standard normal.
        text: a prompt for each.
        no_text: what stands for no prompt, one for all or one for each.
        sampling: steps and scales.
        shift: resolution shift of the canvas, as in training.
        sees: whether they have references.
    """
    sigmas = flow.schedule(sampling.steps, shift)
    return [
        Drawing(
            latents=one,
            text=text.take([n]),
            no_text=no_text.take([n % len(no_text)]),
            sampling=sampling,
            sigmas=sigmas,
            sees=sees,
        )
        for n, one in enumerate(noise)
    ]


def draw(
    velocity: Velocity, noise: Float[Tensor, "b *film"], text: Text, no_text: Text, sampling: Sampling, shift: float
) -> Float[Tensor, "b *film"]:
    """Denoises a batch to the end; see `drawings_of`."""
    drawings = drawings_of(noise, text, no_text, sampling, shift)
    while not drawings[0].is_finished:
        advance(velocity, drawings)
    return torch.stack([drawing.latents for drawing in drawings])
