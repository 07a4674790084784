"""What a model is shown of each drawing's references, and its velocity when it sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dsd.backbones.cached import Reference, where_kept
from dsd.backbones.stock import StockBackbone
from dsd.generate.draw import Rows, current_rows


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """What a model is told of a film's references.

    Attributes:
        condition: The latents of the given frames, and on a canvas a black frame's in place of each to draw; zeros
            without any.
        reference: What a cached model keeps of the given frames; None without any, and of a canvas.
    """

    condition: Float[Tensor, "f c h w"]
    reference: Reference | None = None


def velocity_of(
    backbone: StockBackbone, shown: Sequence[Shown], guidance: Sequence[float], **more: Any
) -> Callable[[Rows], Float[Tensor, "n *film"]]:
    """A model's velocity of rows, for `dsd.generate.draw.advance`.

    Args:
        backbone: The model.
        shown: To each drawing.
        guidance: Embedded guidance of each drawing; models without ignore it.
        **more: For the transformer.
    """
    values = torch.tensor(guidance)

    def asked(rows: Rows, condition: Tensor | None = None, reference: Reference | None = None) -> Tensor:
        embedded = values[list(rows.of)] if backbone.takes_guidance else None
        with backbone.cache_context("rows"):
            return backbone.velocity(
                rows.latents, rows.sigma, rows.text, condition, embedded, reference=reference, **more
            )

    def on_canvas(rows: Rows) -> Tensor:
        return asked(rows, condition=rows.seen([one.condition for one in shown]))

    def cached(rows: Rows) -> Tensor:
        def ask(places: list[int], sees: bool) -> Tensor:
            some = rows if len(places) == len(rows.of) else rows.take(places)
            kept = [reference for place in some.of if (reference := shown[place].reference) is not None]
            token = current_rows.set(some)
            try:
                return asked(some, reference=Reference.concat(kept) if sees else None)
            finally:
                current_rows.reset(token)

        return where_kept(ask, [keep for _, _, keep in rows.names])

    return cached if backbone.is_cached else on_canvas
