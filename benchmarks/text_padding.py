"""How much the padding after a caption depends on the caption, and how much the transformer makes of it.

    python benchmarks/text_padding.py --base embedded:tiny-flux --tokens 32

Padding of the empty text is put in the place of each caption's own, which is what a cache of trimmed captions would do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import tyro
from torch import Tensor

from dsd.backbones.protocol import Text
from dsd.backbones.registry import load_backbone
from dsd_world.drawn_pairs import drawn_pairs


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured.

    Attributes:
        base: model.
        tokens: that captions are padded to.
        captions: of the drawn world.
        rows: of latents in a frame, and columns.
        seed: of latents and noise levels.
    """

    base: str = "embedded:tiny-flux"
    tokens: int = 32
    captions: int = 64
    rows: int = 8
    seed: int = 0


@torch.no_grad()
def main(settings: Settings) -> None:
    """Prints the shares."""
    backbone, count = load_backbone(settings.base), settings.captions
    captions = [pair.caption for pair in drawn_pairs(count)]
    empty = backbone.encode_text([""], settings.tokens).take([0] * count)
    own = backbone.encode_text(captions, settings.tokens)
    further = own.tokens.shape[1] - settings.tokens
    ends = torch.tensor([further + real for real in backbone.real_tokens(captions, settings.tokens)])
    padding = (torch.arange(own.tokens.shape[1]) >= ends[:, None])[..., None]
    trimmed = Text(torch.where(padding, empty.tokens, own.tokens), own.pooled)
    generator = torch.Generator().manual_seed(settings.seed)
    shape = (count, 2, backbone.latent_channels, settings.rows, settings.rows)
    latents, sigma = torch.randn(*shape, generator=generator), torch.rand(count, generator=generator)
    guidance = 3.5 if backbone.takes_guidance else None

    def velocity(text: Text) -> Tensor:
        return backbone.velocity(latents, sigma, text, guidance=guidance)

    wanted = velocity(own)
    print(f"{settings.base}: {count} captions of {ends.float().mean():.1f} in {own.tokens.shape[1]} tokens")
    print(f"padding differs from the empty text's by  {_share(trimmed.tokens * padding, own.tokens * padding):.1%}")
    print(f"which moves the velocity by               {_share(velocity(trimmed), wanted):.1%}")
    print(f"leaving out the whole text moves it by    {_share(velocity(empty), wanted):.1%}")


def _share(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
