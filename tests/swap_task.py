"""A second task, as `CONTRIBUTING.md` says how to add one: the target is the reference, mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from PIL import ImageOps
from pydantic import Field

from dsd.chat.protocol import ChatModel
from dsd.chat.templates import Templates, scene_places
from dsd.curate.judge import Candidate
from dsd.curate.pairs import without_description
from dsd.curate.panels import Described
from dsd.curate.schemas import SheetReply, Words
from dsd.curate.tasks.task import JudgeSettings, Outcome, Task
from dsd.data.records import Model, Pair, content_id
from dsd.frames import Grid

LAYOUT = Grid(1, 2)


class TwoScenes(SheetReply):
    """A subject in two scenes."""

    scenes: Annotated[list[Words], Field(min_length=2, max_length=2)]


def mirror(
    sheets: Sequence[Sequence[Described]], judge: ChatModel, templates: Templates, settings: JudgeSettings, seed: int
) -> list[Outcome]:
    """Every panel is a candidate, and nobody is asked about it but for its caption."""
    who = Model(name=judge.name, revision=judge.revision, template=templates["describe"].label)
    return [_outcome(one, who) for panels in sheets for one in panels]


def _outcome(one: Described, who: Model) -> Outcome:
    if one.failure is not None:
        return without_description(Candidate(one, one), one.failure, who)
    panel, words = one.panel, one.panel.description
    pair = Pair(
        id=content_id("swap", panel.id), grid=panel.grid, reference_panel=panel.id, target_panel=panel.id,
        reference=panel.image, target=ImageOps.mirror(panel.image), reference_caption=words.caption,
        target_caption=f"{words.caption}, mirrored", subject=words.subject, first_details=words.details,
        second_details=words.details, comparison="", judge=who,
    )  # fmt: skip
    return (pair,)


SWAP = Task(
    layout=LAYOUT,
    writer=TwoScenes,
    templates=Path(__file__).parent / "swap_templates",
    places={
        "grid_prompt": {"caption"},
        "describe": {"image"},
        "sheet": {"subject", *scene_places(LAYOUT.panels)},
    },
    candidates=LAYOUT.panels,
    judge=mirror,
    metrics=("copy",),
)
