"""The flavour "cached": given frames are clean tokens whose keys and values are computed once a picture.

The given frames go through the transformer by themselves, at noise level 0, with neither text nor a frame to draw, and
each attention layer keeps its keys and values, which therefore depend on the pictures alone. The frames to draw then
attend to these beside their own: a one-way mask without a mask (EasyControl's causal conditional attention, arXiv
2503.07027). In training both passes are in one graph, so what is kept has gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

GUIDANCE = 1.0
"""The embedded guidance of the given frames' own pass, where a model takes one: always the same, so that what is kept
does not depend on how is drawn."""
KEPT = "reference"
"""What attention layers are told by this name: a `Recording`, or a `Reference`."""


class Numbered:
    """What makes a stock attention processor know which layer it is of.

    Args:
        number: Of the attention layer.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@dataclass(frozen=True, eq=False)
class Recording:
    """Keys and values of a pass of given frames, by the attention layer's number.

    A layer that is computed again in a backward pass keeps what it kept first, which the graph of the loss holds on to.
    """

    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def keep(self, number: int, key: Float[Tensor, "b n heads d"], value: Float[Tensor, "b n heads d"]) -> None:
        """Keeps what a layer made, with positions in it."""
        self.layers.setdefault(number, (key, value))


@dataclass(frozen=True, eq=False)
class Reference:
    """What the model keeps of given frames: of each row, the recording and its place in that.

    Attributes:
        rows: One for each row of the batch that is drawn; several may share one recording.
    """

    rows: tuple[tuple[Recording, int], ...]

    @classmethod
    def of(cls, recording: Recording, count: int) -> Reference:
        """All rows of a recording."""
        return cls(tuple((recording, place) for place in range(count)))

    @staticmethod
    def concat(references: Sequence[Reference]) -> Reference:
        """One batch of all, in order."""
        return Reference(tuple(row for reference in references for row in reference.rows))

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: Sequence[int]) -> Reference:
        """Some of the rows."""
        return Reference(tuple(self.rows[place] for place in places))

    def at(self, number: int) -> tuple[Float[Tensor, "b n heads d"], Float[Tensor, "b n heads d"]]:
        """Keys and values for an attention layer; put together here, layer by layer, so that no second copy of all is
        held."""
        places: dict[int, list[int]] = {}
        recordings = {id(recording): recording for recording, _ in self.rows}
        for at, (recording, _) in enumerate(self.rows):
            places.setdefault(id(recording), []).append(at)
        kept = []
        for name, recording in recordings.items():
            wanted = [self.rows[at][1] for at in places[name]]
            key, value = recording.layers[number]
            whole = wanted == list(range(len(key)))
            kept.append((key, value) if whole else (key[wanted], value[wanted]))
        keys, values = (one[0] if len(one) == 1 else torch.cat(one) for one in zip(*kept, strict=True))
        order = [at for name in recordings for at in places[name]]
        if order == sorted(order):
            return keys, values
        back = torch.tensor(order, device=keys.device).argsort()
        return keys[back], values[back]


def seen(
    number: int, key: Tensor, value: Tensor, kept: Recording | Reference | None
) -> tuple[Float[Tensor, "b n heads d"], Float[Tensor, "b n heads d"]]:
    """The keys and values that an attention layer's queries see.

    Args:
        number: Of the layer.
        key: Its own, with positions in it.
        value: Likewise.
        kept: Where to keep them, or what else is seen.
    """
    if isinstance(kept, Recording):
        kept.keep(number, key, value)
    elif kept is not None:
        keys, values = kept.at(number)
        key, value = torch.cat([key, keys.to(key)], dim=1), torch.cat([value, values.to(value)], dim=1)
    return key, value


def where_kept(
    ask: Callable[[list[int], bool], Float[Tensor, "n ..."]], keep: Bool[Tensor, " b"] | Sequence[bool]
) -> Float[Tensor, "b ..."]:
    """What a model says of rows of which some see their references and some see none: each kind is asked by itself.

    Args:
        ask: The model, of places of rows and whether these see their references.
        keep: Whether each row does.
    """
    told = keep.tolist() if isinstance(keep, Tensor) else list(keep)
    kinds = [(sees, [place for place, one in enumerate(told) if one is sees]) for sees in (False, True)]
    found = [(places, ask(places, sees)) for sees, places in kinds if places]
    if len(found) == 1:
        return found[0][1]
    order = torch.tensor([place for places, _ in found for place in places])
    return torch.cat([rows for _, rows in found])[order.argsort().to(found[0][1].device)]
