"""What models must reply. Names and order are the contract with every chat model, small ones included.

The order matters: a model writes details before its decision, so that the decision can rest on them.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator

from dsd.chat.protocol import Decision
from dsd.chat.stand_ins import tells


def _with_letters(words: str) -> str:
    if not any(map(str.isalpha, words)):
        raise ValueError("there are no words in it")
    return words


Words = Annotated[
    str, StringConstraints(min_length=1, max_length=2000, strip_whitespace=True), AfterValidator(_with_letters)
]


def _telling(words: str) -> str:
    if not tells(words):
        raise ValueError("it says that there is nothing to say")
    return words


Told = Annotated[Words, AfterValidator(_telling)]
"""Words that are drawn or trained on; a verdict may say that two pictures share nothing."""


class _Reply(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class SheetReply(_Reply):
    """A subject and the scenes of a sheet, row by row, each another one; a task says how many."""

    subject: Told
    scenes: list[Told]

    @field_validator("scenes")
    @classmethod
    def _differ(cls, scenes: list[str]) -> list[str]:
        if len({scene.casefold() for scene in scenes}) < len(scenes):
            raise ValueError("the same scene twice; panels of one scene teach copying")
        return scenes


class GridPromptReply(SheetReply):
    """A subject and the scenes of a sheet, row by row, each another one."""

    scenes: Annotated[list[Told], Field(min_length=4, max_length=4)]


class PanelDescription(_Reply):
    """What one panel shows: who (coarse words), in which details (fine words), and a caption to train on."""

    subject: Told
    details: Told
    caption: Told


class PairVerdict(_Reply, Decision):
    """Chain of thought over two panels: common subject, details of each, comparison point by point, decision."""

    common_subject: Words
    first_details: Words
    second_details: Words
    comparison: Words
    same: bool


class DirectVerdict(_Reply, Decision):
    """The decision alone."""

    same: bool
