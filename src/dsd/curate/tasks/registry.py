"""The tasks by name. A new one is a file in this folder and a line here, or an entry point of ``dsd.tasks``."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

from dsd.config import did_you_mean
from dsd.errors import UserError
from dsd.plugins import added

if TYPE_CHECKING:
    from dsd.curate.tasks.task import Task

DEFAULT = "identity"
TASKS = {
    DEFAULT: "dsd.curate.tasks.identity:IDENTITY",
}


def task_of(name: str) -> Task:
    """The task of this name.

    Raises:
        UserError: there is none.
    """
    return find(name).load()


def find(name: str) -> EntryPoint:
    """Where the task of this name is; nothing is imported yet.

    Raises:
        UserError: there is none.
    """
    if name in TASKS:
        return EntryPoint(name, TASKS[name], "dsd.tasks")
    if name not in added("tasks"):
        raise UserError(f'there is no task "{name}"; {did_you_mean(name, [*TASKS, *added("tasks")])}')
    return added("tasks")[name]
