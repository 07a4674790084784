"""Who works on units, by the names in the config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import RLock
from typing import TYPE_CHECKING, Any

from dsd import runs
from dsd.chat.protocol import ChatModel, ChatRequest, Reply
from dsd.chat.registry import load_chat, require_connection
from dsd.chat.templates import Templates
from dsd.curate.config import CurateConfig
from dsd.curate.tasks.registry import task_of
from dsd.curate.tasks.task import Task
from dsd.data.records import Grid, GridPrompt
from dsd.errors import UserError
from dsd.log import quiet_libraries
from dsd.places import Place

if TYPE_CHECKING:  # whoever has others do the work needs no torch
    from dsd.curate.grids import Teacher

WRITE, DRAW, JUDGE = "write", "draw", "judge"
"""The stages of a unit."""
_ROLES = {WRITE: "chat", DRAW: "teacher", JUDGE: "judge"}
_OF_SHEETS = ("chat", "teacher", "templates/grid_prompt", "templates/sheet")


@dataclass(frozen=True)
class Models:
    """Everyone who works on a unit, and on what; each is loaded when it is first asked, in the process that asks.

    Threads may share it: models that compute in this process share its devices, and take turns.

    Attributes:
        config: names them.
    """

    config: CurateConfig
    _turn: RLock = field(default_factory=RLock, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _turn=RLock())

    @cached_property
    def task(self) -> Task:
        """What is made."""
        return task_of(self.config.task)

    @cached_property
    def templates(self) -> Templates:
        """Of all questions and of the sheets."""
        return self.task.load_templates(self.config.templates, self.config.writer_templates)

    @cached_property
    def judge(self) -> ChatModel:
        """Describes panels and judges candidates."""
        return self._chat(self.config.judge)

    @cached_property
    def chat(self) -> ChatModel:
        """Writes grid prompts."""
        if self.config.judge == self.config.chat or self.config.subjects:  # with subjects nobody writes
            return self.judge
        return self._chat(self.config.chat)

    @cached_property
    def teacher(self) -> Teacher:
        """Draws sheets; see `draw`."""
        from dsd.curate.grids import Teacher

        quiet_libraries()
        return Teacher(self.config)

    def draw(self, prompts: Sequence[GridPrompt], seed: int) -> list[Grid]:
        """Has the teacher draw, when it is its turn; see `Teacher.draw`."""
        with self._turn:
            return self.teacher.draw(prompts, seed)

    def waits(self, stage: str) -> bool:
        """Whether the model of a stage computes elsewhere."""
        return stage != DRAW and _computes_elsewhere(getattr(self.config, _ROLES[stage]))

    def revision_of(self, stage: str, *, trying: bool) -> dict[str, str]:
        """The revision of the model of a stage, by its part.

        Args:
            stage: which.
            trying: whether a server is tried too.

        Raises:
            UserError: there is no such model, or its server is away.
        """
        with self._turn:  # so that each is loaded once
            if stage == DRAW:
                return {_ROLES[stage]: self.teacher.model.revision}
            model = self.chat if stage == WRITE else self.judge
        if trying:
            require_connection(model)
        return {_ROLES[stage]: model.revision}

    def sources(self, revisions: Mapping[str, str]) -> dict[str, str]:
        """What else the content depends on: the revisions of the models behind the names, and of the prompts.

        Args:
            revisions: of the stages that are done.

        Raises:
            UserError: those of sheets that are there are not known.
        """
        labels = {f"templates/{kind}": template.label for kind, template in self.templates.items()}
        drawn = {name: revisions.get(name, revisions[_ROLES[JUDGE]]) for name in ("chat", "teacher")}
        if self.config.sheets_from:
            before = runs.sources_of(self.config.sheets_from)
            if lacking := [name for name in _OF_SHEETS if name not in before]:
                raise UserError(
                    f'"{Place.of(self.config.sheets_from) / runs.SOURCES}" does not name the {lacking[0]} of its '
                    "sheets; bring the file back, or draw in another folder"
                )
            drawn = {name: before[name] for name in _OF_SHEETS}
        return {"chat": "", "judge": revisions["judge"], "teacher": "", **labels} | drawn

    def _chat(self, name: str) -> ChatModel:
        if _computes_elsewhere(name):
            return load_chat(name, batch_size=self.config.chat_batch)
        quiet_libraries()
        return _InTurn(load_chat(name, batch_size=self.config.chat_batch), self._turn)


class _InTurn:
    """A `ChatModel` that computes in this process, when it is its turn."""

    def __init__(self, model: ChatModel, turn: RLock) -> None:
        self._model, self._turn = model, turn
        self.name, self.revision = model.name, model.revision

    def reply(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        with self._turn:
            return self._model.reply(requests)


def _computes_elsewhere(name: str) -> bool:
    return name.startswith(("openai:", "replay:"))
