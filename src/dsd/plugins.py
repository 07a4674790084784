"""What other packages add to this one, by entry points (https://packaging.python.org/specifications/entry-points).

A package that is installed beside this one names in its groups ``dsd.verbs`` (modules as those of `dsd.cli`),
``dsd.evaluations`` (likewise, whose variants stand beside those of ``dsd evaluate``), ``dsd.recipes`` (functions that
give a `dsd.recipes.recipe.Recipe`), ``dsd.tasks`` (a `dsd.curate.tasks.task.Task` each), ``dsd.examples`` (functions
that give a `dsd.serve.examples.Examples`) and ``dsd.models`` (packages whose folder holds the model's, for
``embedded:NAME``).
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Literal

Group = Literal["verbs", "evaluations", "recipes", "tasks", "examples", "models"]


@functools.cache
def added(group: Group) -> dict[str, EntryPoint]:
    """The entry points of a group by name; nothing is imported yet."""
    return {point.name: point for point in sorted(entry_points(group=f"dsd.{group}"))}


def folder_of(point: EntryPoint) -> Path:
    """The folder of the package that an entry point names."""
    return _file_of(point.module).parent


def summary_of(point: EntryPoint) -> str:
    """The first line of the docs of the module that an entry point names, which is not imported for it."""
    docs = ast.get_docstring(ast.parse(_file_of(point.module).read_text(encoding="utf-8"))) or ""
    return docs.partition("\n")[0].rstrip(".")


def _file_of(module: str) -> Path:
    """The source file of a module or package; only top-level packages can be looked up without importing any."""
    top, *inner = module.split(".")
    found = importlib.util.find_spec(top)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"no package {top}, which an entry point names")
    path = Path(found.submodule_search_locations[0]).joinpath(*inner)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
