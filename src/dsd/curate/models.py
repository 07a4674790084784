"""Who works on units, by the names in the config."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dsd import runs
from dsd.chat.protocol import ChatModel
from dsd.chat.registry import load_chat, require_connection
from dsd.chat.templates import Templates
from dsd.curate.config import CurateConfig
from dsd.curate.grids import Teacher
from dsd.curate.tasks.registry import task_of
from dsd.curate.tasks.task import Task
from dsd.errors import UserError
from dsd.log import quiet_libraries

_OF_SHEETS = ("chat", "teacher", "templates/grid_prompt", "templates/sheet")


@dataclass(frozen=True)
class Models:
    """Everyone who works on a unit, and on what; each is loaded when it is first asked, in the process that asks.

    Attributes:
        config: names them.
    """

    config: CurateConfig

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config}

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
        quiet_libraries()
        return load_chat(self.config.judge, batch_size=self.config.chat_batch)

    @cached_property
    def chat(self) -> ChatModel:
        """Writes grid prompts."""
        if self.config.judge == self.config.chat or self.config.subjects:  # with subjects nobody writes
            return self.judge
        return load_chat(self.config.chat, batch_size=self.config.chat_batch)

    @cached_property
    def teacher(self) -> Teacher:
        """Draws sheets."""
        quiet_libraries()
        return Teacher(self.config)

    def require_servers(self) -> None:
        """Tries the servers that will be asked.

        Raises:
            UserError: one of them is away.
        """
        require_connection(self.judge)
        if not self.config.sheets_from and self.chat is not self.judge:
            require_connection(self.chat)

    def sources(self) -> dict[str, str]:
        """What else the content depends on: the revisions of the models behind the names, and of the prompts.

        Raises:
            UserError: one of them cannot be found; of those that draw, only when sheets have to be drawn.
        """
        labels = {f"templates/{kind}": template.label for kind, template in self.templates.items()}
        judge = self.judge.revision
        if self.config.sheets_from:
            before = runs.sources_of(Path(self.config.sheets_from))
            if lacking := [name for name in _OF_SHEETS if name not in before]:
                raise UserError(
                    f'"{Path(self.config.sheets_from) / runs.SOURCES}" does not name the {lacking[0]} of its sheets; '
                    "bring the file back, or draw in another folder"
                )
            drawn = {name: before[name] for name in _OF_SHEETS}
        else:
            drawn = {"chat": self.chat.revision, "teacher": self.teacher.model.revision}
        return {"chat": drawn["chat"], "judge": judge, "teacher": drawn["teacher"], **labels} | drawn
