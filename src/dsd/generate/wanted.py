"""What a film shall show and how it shall be drawn, as a table's row, a command or a request may say it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from dsd.images import Fit


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of a film, but for its references and its seed.

    Attributes:
        prompt: What it shall show.
        negative_prompt: What guidance by the text leads away from.
        frames: Pictures that are drawn together; what the model was trained at by default.
        height: In pixels; what the model was trained at by default.
        width: Likewise.
        fit: What is done to references of other proportions; see `dsd.images.fit`.
        steps: See `dsd.sampling.Sampling`, as the next three; what the model was trained to be drawn with by default.
        text_scale: See above.
        image_scale: See above.
        guidance: See above.
    """

    prompt: str = ""
    negative_prompt: str = ""
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    fit: Fit = "crop"
    steps: int | None = None
    text_scale: float | None = None
    image_scale: float | None = None
    guidance: float | None = None

    def wanted(self) -> dict[str, Any]:
        """These fields by name, without what a class that has more of them adds."""
        return {field.name: getattr(self, field.name) for field in fields(Wanted)}
