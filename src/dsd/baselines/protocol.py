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
