"""Drawn pairs to examine a judge on: the world knows which show one individual, and no caption tells."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from dsd_world.details import FIELDS_OF_PARTS, PARTS, differences
from dsd_world.draw import draw_panels
from dsd_world.individuals import Split, blend, drifted, sample_individuals, sample_scenes, strangers


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Drawn pairs to test a judge on.

    Attributes:
        first, second: images in [-1, 1].
        same: whether both show one individual.
    """

    first: Float[Tensor, "n 3 h w"]
    second: Float[Tensor, "n 3 h w"]
    same: list[bool]


def equal_word_pairs(split: Split, index: Int[Tensor, " n"], other: str = "stranger") -> Pairs:
    """Pairs whose captions name the same subject: even numbers the same individual twice, odd ones two.

    Args:
        split: whose individuals.
        index: numbers of the pairs.
        other: whom odd pairs show second: a ``stranger`` or a ``drifted`` copy (see `dsd_world.individuals`).
    """
    one = sample_individuals(split, index)
    two = (strangers if other == "stranger" else drifted)(one, split, index)
    same = index % 2 == 0
    second = blend([(same, one)], two)
    scenes = [sample_scenes(split, 2 * index + k) for k in (0, 1)]
    return Pairs(
        first=draw_panels(one, scenes[0]), second=draw_panels(second, scenes[1]), same=[bool(s) for s in same.tolist()]
    )


def one_part_pairs(split: Split, index: Int[Tensor, " n"], part: str) -> Pairs:
    """Pairs of an individual and a copy that differs, visibly, in one of `PARTS` alone; their captions are the same.

    Args:
        split: whose individuals.
        index: numbers of the individuals; those whose stranger looks the same in this part are left out.
        part: of `PARTS`.
    """
    one, number = sample_individuals(split, index), PARTS.index(part)
    stranger = strangers(one, split, index)
    two = dataclasses.replace(one, **{name: getattr(stranger, name) for name in FIELDS_OF_PARTS[number]})
    rows = differences(one, two)[:, number]
    one, two, index = one.take(rows), two.take(rows), index[rows]
    first, second = (draw_panels(w, sample_scenes(split, 2 * index + k)) for k, w in enumerate((one, two)))
    return Pairs(first=first, second=second, same=[False] * len(index))
