"""Who and where: the identities and scenes of the drawn world, as tensors that a seed and an index determine.

Individual number ``i`` of a split is the same whatever the batch it is drawn in and whatever the device: its
parameters are a counter-based hash of ``(split, i)``, so nothing is stored and every subset can be drawn alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Split = Literal["training", "validation", "evaluation"]

CHARACTERS = ("cat", "bear", "rabbit", "frog", "robot", "bird")
OBJECTS = ("mug", "lamp", "car")
KINDS = CHARACTERS + OBJECTS
COLORS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink")
PATTERNS = ("plain", "striped", "spotted", "bellied", "halved")
ACCESSORIES = ("none", "hat", "scarf", "bow")
PLACES = ("beach", "forest", "snow", "night", "room", "desert", "city", "sea")
POSITIONS = ("left", "middle", "right")
MOODS = ("smiling", "sad", "surprised")

_SPLIT_SEEDS: dict[str, int] = {"training": 0x1D5D_0001, "validation": 0x2D5D_0002, "evaluation": 0x3D5D_0003}
_IDENTITY_STREAM, _SCENE_STREAM, _STRANGER_STREAM, _DRIFT_STREAM = 1, 2, 3, 4
_OBJECT_SHARE = 0.2


def _int64(value: int) -> int:
    """The signed 64-bit integer with the bits of ``value``, as torch wants its constants."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _shift_right(x: Int[Tensor, "*shape"], bits: int) -> Int[Tensor, "*shape"]:
    """Logical right shift (torch shifts signed integers arithmetically)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): a bijection of 64-bit words that scatters every bit."""
    x = x + _int64(0x9E3779B97F4A7C15)
    x = (x ^ _shift_right(x, 30)) * _int64(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _int64(0x94D049BB133111EB)
    return x ^ _shift_right(x, 31)


def uniforms(seed: int, stream: int, index: Int[Tensor, "n"], count: int) -> Float[Tensor, "n count"]:
    """Uniform numbers in [0, 1) that depend on ``(seed, stream, index, column)`` and on nothing else."""
    columns = torch.arange(count, device=index.device)
    key = _mix(index.long() + _int64(seed * 0x9E3779B1 + stream * 0x85EBCA77C2B2AE63))
    bits = _mix(key[:, None] + columns[None, :] * _int64(0xD6E8FEB86659FD93))
    return _shift_right(bits, 40).double().div(1 << 24).float()


class _Batch:
    """What both value objects share: indexing, repeating and joining along the batch."""

    def __len__(self) -> int:
        return len(getattr(self, dataclasses.fields(self)[0].name))  # type: ignore[arg-type]

    def _map(self, function):
        return type(self)(**{f.name: function(getattr(self, f.name)) for f in dataclasses.fields(self)})  # type: ignore[arg-type]

    def take(self, rows: Tensor):
        """The rows given by an index or a mask, in that order."""
        return self._map(lambda value: value[rows])

    def repeat_interleave(self, times: int):
        """Each row ``times`` times in a row."""
        return self._map(lambda value: value.repeat_interleave(times, 0))

    def to(self, device: torch.device | str):
        """A copy on ``device``."""
        return self._map(lambda value: value.to(device))

    def row(self, i: int) -> dict[str, float | int]:
        """One row as plain numbers, for metadata files."""
        return {f.name: getattr(self, f.name)[i].item() for f in dataclasses.fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True)
class Individuals(_Batch):
    """A batch of identities; every field has shape ``(n,)``.

    Attributes:
        kind: index into `KINDS`.
        hue, saturation, value: the main colour, each in [0, 1].
        second_hue, second_saturation, second_value: the second colour (pattern, ears, paws), each in [0, 1].
        pattern: index into `PATTERNS`.
        frequency: of stripes and spots, 3 to 5.5 half periods a unit.
        angle: of stripes, spots and halves, in [0, pi).
        width: of the body, 0.85 to 1.15.
        ears: size of ears, antennae, handle or shade, 0.7 to 1.3.
        eye_size: 0.85 to 1.3.
        eye_hue: in [0, 1]; of an object, its knob or wheels.
        accessory: index into `ACCESSORIES`; objects wear none.
        accessory_hue: in [0, 1].
    """

    kind: Tensor
    hue: Tensor
    saturation: Tensor
    value: Tensor
    second_hue: Tensor
    second_saturation: Tensor
    second_value: Tensor
    pattern: Tensor
    frequency: Tensor
    angle: Tensor
    width: Tensor
    ears: Tensor
    eye_size: Tensor
    eye_hue: Tensor
    accessory: Tensor
    accessory_hue: Tensor

    @property
    def color(self) -> Int[Tensor, "n"]:
        """The caption's word for the main colour, as an index into `COLORS`."""
        return color_word(self.hue)

    @property
    def is_object(self) -> Tensor:
        """Whether the row is one of `OBJECTS`."""
        return self.kind >= len(CHARACTERS)

    @property
    def words(self) -> Int[Tensor, "n"]:
        """One number for all that a caption tells of an identity; equal numbers mean equal words."""
        code = self.kind * len(COLORS) + self.color
        return (code * len(PATTERNS) + self.pattern) * len(ACCESSORIES) + self.accessory


@dataclass(frozen=True)
class Scenes(_Batch):
    """A batch of scenes; every field has shape ``(n,)``.

    Attributes:
        place, position, mood: indices into `PLACES`, `POSITIONS`, `MOODS`.
        shift_x, shift_y: offset from the position, in half panels.
        size: scale of the subject, 0.92 to 1.12.
        lean: rotation in radians, -0.1 to 0.1.
        horizon: height of the horizon, 0.35 to 0.5 in half panels below the middle.
        prop, prop_phase: where the sun, moon, window, trees, dunes or waves are, each in [0, 1].
        light_azimuth: direction that the light comes from, in radians.
        light_strength: 0 (flat) to 0.35.
        light_tint: -1 (cool) to 1 (warm).
    """

    place: Tensor
    position: Tensor
    mood: Tensor
    shift_x: Tensor
    shift_y: Tensor
    size: Tensor
    lean: Tensor
    horizon: Tensor
    prop: Tensor
    prop_phase: Tensor
    light_azimuth: Tensor
    light_strength: Tensor
    light_tint: Tensor


def color_word(hue: Float[Tensor, "n"]) -> Int[Tensor, "n"]:
    """The nearest of the eight colour words, as an index into `COLORS`."""
    return (hue * len(COLORS) + 0.5).long() % len(COLORS)


def _choice(u: Tensor, options: int) -> Tensor:
    return (u * options).long().clamp(max=options - 1)


def _identity(u: Float[Tensor, "n 17"]) -> Individuals:
    is_object = u[:, 0] < _OBJECT_SHARE
    kind = torch.where(is_object, len(CHARACTERS) + _choice(u[:, 1], len(OBJECTS)), _choice(u[:, 1], len(CHARACTERS)))
    hue = u[:, 2]
    return Individuals(
        kind=kind,
        hue=hue,
        saturation=0.6 + 0.35 * u[:, 3],
        value=0.7 + 0.3 * u[:, 4],
        second_hue=(hue + 0.2 + 0.6 * u[:, 5]) % 1,
        second_saturation=0.35 + 0.55 * u[:, 6],
        second_value=0.6 + 0.4 * u[:, 7],
        pattern=_choice(u[:, 8], len(PATTERNS)),
        frequency=3 + 2.5 * u[:, 9],
        angle=torch.pi * u[:, 10],
        width=0.85 + 0.3 * u[:, 11],
        ears=0.7 + 0.6 * u[:, 12],
        eye_size=0.85 + 0.45 * u[:, 13],
        eye_hue=u[:, 14],
        accessory=torch.where(is_object, 0, _choice(u[:, 15], len(ACCESSORIES))),
        accessory_hue=u[:, 16],
    )


def sample_individuals(split: Split, index: Int[Tensor, "n"]) -> Individuals:
    """Individuals number ``index`` of a split; the splits never share a seed."""
    return _identity(uniforms(_SPLIT_SEEDS[split], _IDENTITY_STREAM, index, 17))


def strangers(individuals: Individuals, split: Split, index: Int[Tensor, "n"]) -> Individuals:
    """Other individuals whom a caption tells no difference of: the same words, everything else drawn anew.

    Args:
        individuals: whose words are kept.
        split: whose seeds are used.
        index: the stranger's number, ``(n,)``; the same individual and number give the same stranger.
    """
    u = uniforms(_SPLIT_SEEDS[split], _STRANGER_STREAM, index, 17)
    other = _identity(u)
    hue = ((individuals.color - 0.5 + 0.02 + 0.96 * u[:, 2]) / len(COLORS)) % 1
    return dataclasses.replace(
        other,
        kind=individuals.kind,
        hue=hue,
        second_hue=(hue + 0.2 + 0.6 * u[:, 5]) % 1,
        pattern=individuals.pattern,
        accessory=individuals.accessory,
    )


def drifted(individuals: Individuals, split: Split, index: Int[Tensor, "n"], share: float = 0.6) -> Individuals:
    """The same individuals after a teacher's drift: each attribute is a stranger's with probability ``share``."""
    other = strangers(individuals, split, index)
    u = uniforms(_SPLIT_SEEDS[split], _DRIFT_STREAM, index, len(dataclasses.fields(Individuals)))
    mixed = {
        f.name: torch.where(u[:, i] < share, getattr(other, f.name), getattr(individuals, f.name))
        for i, f in enumerate(dataclasses.fields(Individuals))
    }
    return Individuals(**mixed)


def blend(choices: Sequence[tuple[Bool[Tensor, "n"], Individuals]], otherwise: Individuals) -> Individuals:
    """Row by row the last of the choices whose mask holds there, else ``otherwise``."""
    values = {f.name: getattr(otherwise, f.name) for f in dataclasses.fields(Individuals)}
    for mask, individuals in choices:
        values = {name: torch.where(mask, getattr(individuals, name), value) for name, value in values.items()}
    return Individuals(**values)


def sample_scenes(split: Split, index: Int[Tensor, "n"]) -> Scenes:
    """Scenes number ``index`` of a split, independent of the individuals of the same numbers."""
    u = uniforms(_SPLIT_SEEDS[split], _SCENE_STREAM, index, 13)
    return Scenes(
        place=_choice(u[:, 0], len(PLACES)),
        position=_choice(u[:, 1], len(POSITIONS)),
        mood=_choice(u[:, 2], len(MOODS)),
        shift_x=0.12 * (u[:, 3] - 0.5),
        shift_y=0.08 * (u[:, 4] - 0.5),
        size=0.92 + 0.2 * u[:, 5],
        lean=0.2 * (u[:, 6] - 0.5),
        horizon=0.35 + 0.15 * u[:, 7],
        prop=u[:, 8],
        prop_phase=u[:, 9],
        light_azimuth=2 * torch.pi * u[:, 10],
        light_strength=0.35 * u[:, 11],
        light_tint=2 * u[:, 12] - 1,
    )
