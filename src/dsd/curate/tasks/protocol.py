"""What a task is: what a sheet shows, what is asked about its panels, what they become, and what is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

from dsd.chat.protocol import ChatModel
from dsd.curate.config import CurateConfig
from dsd.curate.panels import Described
from dsd.curate.schemas import SheetReply
from dsd.curate.templates import Templates
from dsd.data.records import Pair, Reject
from dsd.frames import Grid

Outcome: TypeAlias = "tuple[Pair, ...] | Reject"
"""What a candidate becomes: rows for training, or one of the rejects."""


class Task(Protocol):
    """One thing that students can learn from a teacher's sheets."""

    @property
    def layout(self) -> Grid:
        """Of a sheet; a grid prompt has a scene for each of its panels."""
        ...

    @property
    def candidates(self) -> int:
        """How many a sheet has; each of them gets one `Outcome`."""
        ...

    @property
    def most_frames(self) -> int:
        """Of an example, references and targets together; at least two."""
        ...

    @property
    def writer(self) -> type[SheetReply]:
        """What the chat model replies, with as many scenes as the layout has panels."""
        ...

    @property
    def templates(self) -> Path:
        """Folder with the task's own sets of templates, a folder each."""
        ...

    @property
    def places(self) -> Mapping[str, set[str]]:
        """The templates of a set and the places that each must have: ``grid_prompt``, ``sheet``, ``describe`` and the
        task's own questions."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """What an evaluation shows of a student of this task, by the metrics' names."""
        ...

    def judge(
        self,
        sheets: Sequence[Sequence[Described]],
        judge: ChatModel,
        templates: Templates,
        config: CurateConfig,
        seed: int,
    ) -> list[Outcome]:
        """Decides on every candidate of some sheets.

        Args:
            sheets: the described panels of each, row by row; none of a sheet that was refused.
            judge: a vision-language model.
            templates: of the questions.
            config: the settings.
            seed: of the unit that the sheets belong to.
        """
        ...
