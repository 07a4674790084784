"""What a task is: what a sheet shows, what is asked about its panels, what they become, and what is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from dsd.chat.protocol import ChatModel
from dsd.chat.templates import Templates
from dsd.curate.panels import Described
from dsd.curate.schemas import SheetReply
from dsd.data.records import Pair, Reject
from dsd.frames import Grid

WRITTEN_WITH = ("grid_prompt", "sheet")
"""Templates of whoever writes and of what is drawn; all others are the judge's."""

Outcome: TypeAlias = "tuple[Pair, ...] | Reject"
"""What a candidate becomes: rows for training, or one of the rejects."""


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """How it is decided; the fields are those of `dsd.curate.config.CurateConfig`."""

    chain_of_thought: bool = True
    votes: int = 1
    min_score: float = 0.0
    near_copy_threshold: float = 0.03


class Judge(Protocol):
    """Decides on every candidate of some sheets."""

    def __call__(
        self,
        sheets: Sequence[Sequence[Described]],
        judge: ChatModel,
        templates: Templates,
        settings: JudgeSettings,
        seed: int,
    ) -> list[Outcome]:
        """Gives an outcome for each candidate, those of a kind in the order of the sheets.

        Args:
            sheets: the described panels of each, row by row; none of a sheet that was refused.
            judge: a vision-language model.
            templates: of the questions.
            settings: how.
            seed: of the unit that the sheets belong to.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Task:
    """One thing that students can learn from a teacher's sheets.

    Attributes:
        layout: of a sheet; a grid prompt has a scene for each of its panels.
        writer: what the chat model replies, with as many scenes.
        templates: folder with the task's own sets of templates, a folder each.
        places: the templates of a set and the places that each must have: ``grid_prompt``, ``sheet``, ``describe`` and
            the task's own questions.
        candidates: how many a sheet has.
        judge: what becomes of them.
        most_frames: of an example, references and targets together; at least two.
        metrics: what an evaluation shows of a student of this task, of `dsd.evaluate.metrics.registry.METRICS`.
    """

    layout: Grid
    writer: type[SheetReply]
    templates: Path
    places: Mapping[str, set[str]]
    candidates: int
    judge: Judge
    most_frames: int = 2
    metrics: tuple[str, ...]

    def load_templates(self, name: str, writer: str = "") -> Templates:
        """Reads a set of the task's templates by name, or one of the user's by its folder.

        Args:
            name: of the set.
            writer: of another set that those of `WRITTEN_WITH` are taken from; it need not have the others, nor the
                first one these. Empty for the same.

        Raises:
            UserError: see `Templates.load`.
        """
        if writer in ("", name):
            return Templates.load(name, self.templates, self.places)
        written, judged = (
            {kind: places for kind, places in self.places.items() if (kind in WRITTEN_WITH) is of_writer}
            for of_writer in (True, False)
        )
        found = Templates.load(writer, self.templates, written) | Templates.load(name, self.templates, judged)
        return Templates((kind, found[kind]) for kind in self.places)
