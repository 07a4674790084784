"""The reference itself, whatever the prompt: perfect identity, no diversity, the highest copy score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from dsd.baselines.protocol import Request
from dsd.baselines.setting import Setting


@dataclass(frozen=True, kw_only=True)
class CopyReference:
    """Returns the reference. The floor of diversity and prompt following."""

    name: str = "copy"
    fingerprint: str = "1"
    subjects_at_once: int = 64

    def prepare(self, requests: Sequence[Request]) -> None:
        """Needs nothing."""

    def generate(self, requests: Sequence[Request]) -> list[Image.Image]:
        """The reference of each request."""
        return [request.reference.copy() for request in requests]


def copy_reference(setting: Setting) -> CopyReference:
    """The row of the copied reference."""
    return CopyReference(name=setting.name)
