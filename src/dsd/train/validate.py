"""Held-out pairs by what people look for: is it the same individual, and does it follow the words.

A flow-matching loss hardly moves while both of these do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from dsd.encoders import ImageEncoder, PictureTextEncoder
from dsd.log import console
from dsd.scales import CannotTell, IdentityScale, follows_prompt
from dsd.train.config import TrainConfig
from dsd.train.samples import Row

IDENTITY = "held_out_identity"
PROMPT_FOLLOWING = "held_out_prompt_following"
_FEW = 2


@dataclass(frozen=True)
class Encoders:
    """What measures, loaded before anything is made that would be lost without it.

    Attributes:
        identity: tells individuals apart; None where that is not measured.
        agreement: of pictures and sentences; None where that is not measured.
    """

    identity: ImageEncoder | None
    agreement: PictureTextEncoder | None

    @classmethod
    def of(cls, config: TrainConfig, device: torch.device | str) -> Encoders:
        """Those that a run names.

        Raises:
            UserError: one cannot be loaded.
        """
        return cls(
            None if config.identity is None else ImageEncoder(config.identity, device),
            None if config.agreement is None else PictureTextEncoder(config.agreement, device),
        )


class Validation:
    """Measures drawings of held-out examples with encoders of the user's choice.

    Identity is 0 where drawings are as close to their references as the other examples' targets are on average, and 1
    where they are as close as their own targets. A drawing follows its caption when no other example's fits better.
    What cannot be measured on these examples is left out, with a warning.

    Args:
        encoders: that measure.
        references: a picture of each example, each of another individual.
        targets: of each example.
        captions: of each example.
    """

    def __init__(
        self,
        encoders: Encoders,
        *,
        references: Sequence[Image.Image],
        targets: Sequence[Sequence[Image.Image]],
        captions: Sequence[str],
    ) -> None:
        self._identity = self._agreement = None
        try:
            if encoders.identity is not None:
                self._identity = _Identity.of(encoders.identity, references, targets)
        except CannotTell as error:
            _warn(f"train.identity is left out: {error}")
        if encoders.agreement is not None and len(set(captions)) > 1:
            self._agreement = _Agreement.of(encoders.agreement, captions)
        elif encoders.agreement is not None:
            _warn("train.agreement is left out: all captions that are drawn are the same")

    @torch.no_grad()
    def figures(self, rows: Sequence[Row]) -> dict[str, float]:
        """Means over all drawings.

        Args:
            rows: the examples in the order in which they were given.

        Returns:
            ``held_out_identity`` and ``held_out_prompt_following``, as far as they can be measured.
        """
        parts = {IDENTITY: self._identity, PROMPT_FOLLOWING: self._agreement}
        return {name: part(rows) for name, part in parts.items() if part is not None}


@dataclass(frozen=True)
class _Identity:
    encoder: ImageEncoder
    references: Tensor
    scale: IdentityScale

    @classmethod
    def of(
        cls, encoder: ImageEncoder, references: Sequence[Image.Image], targets: Sequence[Sequence[Image.Image]]
    ) -> _Identity:
        if len(references) < _FEW:
            raise CannotTell("it needs pairs of two individuals or more among those that are drawn")
        seen = encoder.pooled(references)
        own = [encoder.pooled(pictures) for pictures in targets]
        others = [torch.cat([*own[:number], *own[number + 1 :]]) for number in range(len(own))]
        return cls(encoder, seen, IdentityScale.of([one[None] for one in seen], own, others))

    def __call__(self, rows: Sequence[Row]) -> float:
        pairs = zip(self.references, rows, strict=True)
        return torch.cat([self.scale(one[None], self.encoder.pooled(row.drawn)) for one, row in pairs]).mean().item()


@dataclass(frozen=True)
class _Agreement:
    encoder: PictureTextEncoder
    options: list[Tensor]

    @classmethod
    def of(cls, encoder: PictureTextEncoder, captions: Sequence[str]) -> _Agreement:
        sentences = encoder.sentences(captions)
        return cls(
            encoder,
            [
                sentences[[number, *(place for place, other in enumerate(captions) if other != caption)]]
                for number, caption in enumerate(captions)
            ],
        )

    def __call__(self, rows: Sequence[Row]) -> float:
        follows = [
            follows_prompt(self.encoder.pictures(row.drawn), options.expand(len(row.drawn), -1, -1))
            for options, row in zip(self.options, rows, strict=True)
        ]
        return torch.cat(follows).float().mean().item()


def _warn(sentence: str) -> None:
    console.print(f"warning: {sentence}")
