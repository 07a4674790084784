"""Models that cost nothing, or that only wait, so that what a curation does beside its models can be measured."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from dsd.chat.parse import Answer, ask_until_parsed
from dsd.chat.protocol import ChatRequest, ImagePart, Reply
from dsd.curate.config import CurateConfig
from dsd.curate.models import Models
from dsd.curate.seeds import derive_seed
from dsd.data.records import Grid, GridPrompt, Model
from dsd.images import to_pil
from dsd_world.sheets import draw_sheets

SHEETS = 64


class InstantChat:
    """Writes, describes and judges by a hash of what it is shown; half of all pairs are the same.

    Args:
        seconds: that it takes for the questions of a unit.
    """

    name = revision = "instant"

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def reply(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        """See `dsd.chat.protocol.ChatModel`."""
        time.sleep(self._seconds)
        return ask_until_parsed(requests, lambda some, _: [_answer(request) for request in some])


class InstantTeacher:
    """Draws sheets that are there already.

    Args:
        panel_size: in pixels.
        seconds: that it takes for the sheets of a unit.
    """

    def __init__(self, panel_size: int, seconds: float) -> None:
        self.model = Model(name="instant", revision="instant")
        self._seconds = seconds
        sheets = draw_sheets("validation", torch.arange(SHEETS), size=panel_size).images
        self._pictures = to_pil(sheets)

    def draw(self, prompts: Sequence[GridPrompt], seed: int) -> list[Grid]:
        """See `dsd.curate.grids.Teacher`."""
        time.sleep(self._seconds)
        seeds = [derive_seed(seed, "sheet", prompt.id) for prompt in prompts]
        return [
            Grid(prompt=prompt.id, image=self._pictures[own % SHEETS], seed=own, teacher=self.model)
            for prompt, own in zip(prompts, seeds, strict=True)
        ]


@dataclass(frozen=True)
class InstantModels(Models):
    """Those models in place of the ones that a config names.

    Attributes:
        seconds: that a writer, teacher or judge takes for the questions of a unit, the judge twice as long.
    """

    seconds: float = 0.0

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "seconds": self.seconds}

    @cached_property
    def judge(self) -> InstantChat:  # pyright: ignore[reportIncompatibleVariableOverride]
        return InstantChat(self.seconds)

    @cached_property
    def chat(self) -> InstantChat:  # pyright: ignore[reportIncompatibleVariableOverride]
        return InstantChat(self.seconds)

    @cached_property
    def teacher(self) -> InstantTeacher:  # pyright: ignore[reportIncompatibleVariableOverride]
        return InstantTeacher(self.config.panel_size, self.seconds)

    def draw(self, prompts: Sequence[GridPrompt], seed: int) -> list[Grid]:
        return self.teacher.draw(prompts, seed)  # it only waits, so nobody has to take turns

    def waits(self, stage: str) -> bool:
        return True


def config(captions: str, **changes: object) -> CurateConfig:
    """A curation of the instant models."""
    settings: dict[str, object] = {
        "units": 64, "unit_size": 16, "chat": "replay:instant", "judge": "replay:instant", "templates": "compact",
        "chat_batch": 64, "teacher_batch": 8, "teacher": "instant", "panel_size": 64, "steps": 1,
        "true_guidance": 1.0, "sheet_text_tokens": 48,
    }  # fmt: skip
    return CurateConfig(captions=captions, **(settings | changes))  # pyright: ignore[reportArgumentType]


def _answer(request: ChatRequest) -> Answer:
    parts = request.messages[-1].parts
    shown = b"".join(part.image.tobytes() if isinstance(part, ImagePart) else part.text.encode() for part in parts)
    digest = hashlib.md5(shown, usedforsecurity=False).hexdigest()
    fields = request.schema.model_fields
    if "scenes" in fields:
        return json.dumps({"subject": f"{digest[:6]} cat", "scenes": [f"scene {number}" for number in range(4)]})
    words = {name: f"{name} {digest[:6]}" for name in fields if name != "same"}
    return json.dumps(words | ({"same": int(digest[-1], 16) % 2 == 0} if "same" in fields else {}))
