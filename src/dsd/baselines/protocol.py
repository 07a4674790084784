"""What is compared: methods that draw a given subject under a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from dsd.sampling import Sampling


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
        sampling: of methods that see a picture; those that see none take its steps and its embedded guidance.
        true_guidance: ``true_cfg_scale`` of the plain text-to-image model; 1 is off.
        batch: pictures drawn together; it changes none of them.
    """

    size: tuple[int, int]
    max_sequence_length: int
    sampling: Sampling
    true_guidance: float
    batch: int = 32

    @property
    def with_picture(self) -> str:
        """Names the settings that change the pictures of methods that see one."""
        sampling = self.sampling
        scales = f"{sampling.text_scale:g}-{sampling.image_scale:g}-{sampling.guidance:g}"
        return f"{self._frame}-{sampling.steps}-{scales}"

    @property
    def without_picture(self) -> str:
        """Names the settings that change the pictures of the plain text-to-image model."""
        return f"{self._frame}-{self.sampling.steps}-{self.true_guidance:g}-{self.sampling.guidance:g}"

    @property
    def _frame(self) -> str:
        return f"{self.size[0]}x{self.size[1]}-{self.max_sequence_length}"


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
