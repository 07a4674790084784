"""`dsd curate RECIPE`: captions become grid prompts, grids, and judged pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsd.cli import calibrate, rescore
from dsd.curate.config import CurateConfig
from dsd.recipes.registry import all_recipes


@dataclass(frozen=True, kw_only=True)
class Curate:
    """Makes a dataset of consistent pairs. Run the same command again to resume."""

    out: str
    """Dataset folder to write: a path, or an address that fsspec knows, such as s3://bucket/folder."""
    curate: CurateConfig
    """Settings of phases 1 and 2."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""


def variants() -> dict[str, tuple[str, Any]]:
    recipes = {
        name: (recipe.summary, Curate(out=str(Path("runs") / name / "dataset"), curate=recipe.curate))
        for name, recipe in all_recipes().items()
    }
    return {
        **recipes,
        "calibrate": ("how far a judge can be trusted, on labelled pairs", calibrate.default()),
        "rescore": ("another min_score for a finished dataset, without asking again", rescore.default()),
    }


def plan(command: Any) -> list[str]:
    if not isinstance(command, Curate):
        return _owner(command).plan(command)
    config = command.curate
    count = config.units * config.unit_size
    how = "describing both subjects before deciding" if config.chain_of_thought else "by a direct verdict"
    if config.votes > 1:
        how += f", by the majority of {config.votes} votes"
    if config.min_score:
        how += f", kept from a score of {config.min_score:g} on"
    prompts = [
        f"read {count:,} captions of {config.captions}, in {config.units:,} units of {config.unit_size}",
        f"let {config.chat} write a grid prompt from each (templates: {config.written_with})",
    ]
    if config.subjects:
        prompts = [
            f"repeat {len(config.subjects)} subjects in {len(config.themes)} scenes {count:,} times, without captions"
        ]
    sheets = [
        *prompts,
        f"draw a sheet of each, panels of {config.panel_size} pixels, with {config.teacher} in {config.steps} steps",
    ]
    if config.sheets_from:
        sheets = [f"take the {count:,} sheets of {config.sheets_from}"]
    films = f"films of {config.references} references and {config.targets} targets, " if config.frames > 2 else ""
    return [
        *sheets,
        f"cut the sheets, and let {config.judge} judge their panels for the task {config.task}, {how} "
        f"(templates: {config.templates})",
        f"write kept pairs, {films}rejects with their reasons, and the funnel to {command.out}",
    ]


def run(command: Any) -> None:
    if not isinstance(command, Curate):
        _owner(command).run(command)
        return
    from dsd.curate.pipeline import curate

    curate(command.curate, command.out)


def _owner(command: Any) -> Any:
    """The module of a command that makes no dataset of captions."""
    return calibrate if isinstance(command, calibrate.Calibrate) else rescore
