"""What is compared: methods that draw a given subject under a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Request:
    """One picture that is wanted.

    Attributes:
        subject_id: names the subject within its benchmark.
        subject: what kind of thing it is, such as ``red striped cat with a hat``.
        reference: the one picture of it.
        prompt: the whole sentence.
        prompt_index: which of the subject's prompts this is.
        seed: of the picture; equal requests give equal pictures.
        repeat: which of the prompt's pictures this is.
    """

    subject_id: str
    subject: str
    reference: Image.Image
    prompt: str
    prompt_index: int
    seed: int
    repeat: int = 0


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How all methods of a table draw. A method ignores what it has no use for.

    Attributes:
        size: (height, width) in pixels, of methods that are not trained at a size of their own.
        max_sequence_length: text tokens a prompt is padded to, likewise.
        steps: denoising steps.
        text_scale: true guidance by the text, of methods that see a picture; 1 is off.
        image_scale: true guidance by the picture, likewise; 1 is off.
        true_guidance: ``true_cfg_scale`` of the plain text-to-image model; 1 is off.
        guidance_scale: embedded guidance of guidance-distilled models.
        batch: pictures drawn together; it changes none of them.
    """

    size: tuple[int, int] = (64, 64)
    max_sequence_length: int = 16
    steps: int = 16
    text_scale: float = 1.5
    image_scale: float = 1.5
    true_guidance: float = 2.5
    guidance_scale: float = 3.5
    batch: int = 32

    @property
    def with_picture(self) -> str:
        """Names the settings that change the pictures of methods that see one."""
        return f"{self.steps}-{self.text_scale}-{self.image_scale}-{self.guidance_scale}"

    @property
    def without_picture(self) -> str:
        """Names the settings that change the pictures of the plain text-to-image model."""
        return f"{self.steps}-{self.true_guidance}-{self.guidance_scale}"


class SubjectMethod(Protocol):
    """A competitor; one a file in this folder."""

    @property
    def name(self) -> str:
        """The row's name in tables."""
        ...

    @property
    def fingerprint(self) -> str:
        """Short text that changes whenever the method's pictures would: weights, settings."""
        ...

    @property
    def subjects_at_once(self) -> int:
        """How many subjects may share one call of `generate`; 1 for methods that fit themselves to a subject."""
        ...

    def prepare(self, requests: Sequence[Request]) -> None:
        """Test-time work for the subjects of the requests, such as fine-tuning. It is timed apart from the drawing."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[Image.Image]:
        """One picture a request, in their order."""
        ...
