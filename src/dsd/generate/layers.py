"""Layers of stock transformers that compute the same in less time; their weights and names stay as they are."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn

_MOST_KEPT = 16


def hasten(transformer: nn.Module, rotary: str | None) -> list[str]:
    """Puts them in place.

    Args:
        transformer: Of any family.
        rotary: See `dsd.backbones.protocol.Layers`.

    Returns:
        What was done, in sentences.
    """
    done = []
    if rotary is not None:
        keep_positions(transformer, rotary)
        done.append("The rotary embedding is computed once a size, and not in every step.")
    return done


class KeptPositions(nn.Module):
    """A rotary embedding that is computed once for each set of positions that the transformer is given.

    Positions are known by the tensors that were handed to the transformer: as long as they are the same objects and
    nothing was written to them, so is what they give.
    """

    def __init__(self, embed: nn.Module) -> None:
        super().__init__()
        self.embed = embed
        self._kept: OrderedDict[tuple[int, ...], tuple[tuple[Tensor, ...], list[Any]]] = OrderedDict()
        self._now: list[Any] | None = None
        self._place = 0

    def begin(self, *ids: Any) -> None:
        """What the transformer is called with, before it is; what cannot be known again is not kept."""
        self._place, self._now = 0, None
        if not all(isinstance(one, Tensor) and not one.is_inference() for one in ids):
            return
        key = tuple(fact for one in ids for fact in (id(one), one._version))
        _, self._now = self._kept.setdefault(key, (ids, []))  # holds them, so that no other has their id
        self._kept.move_to_end(key)
        if len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)

    def forward(self, ids: Tensor) -> Any:
        """See the stock module."""
        if self._now is None:
            return self.embed(ids)
        if self._place == len(self._now):
            self._now.append(self.embed(ids))
        self._place += 1
        return self._now[self._place - 1]


def keep_positions(transformer: nn.Module, rotary: str) -> None:
    """Makes a transformer compute its rotary embedding once a size."""
    embed = transformer.get_submodule(rotary)
    if isinstance(embed, KeptPositions):
        return
    kept = KeptPositions(embed)
    transformer.set_submodule(rotary, kept)

    def begin(transformer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept.begin(kwargs.get("img_ids"), kwargs.get("txt_ids"))

    transformer.register_forward_pre_hook(begin, with_kwargs=True)
