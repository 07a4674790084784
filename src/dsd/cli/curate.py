"""`dsd curate RECIPE`: captions become grid prompts, grids, and judged pairs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsd.cli import calibrate, rescore
from dsd.curate.config import CurateConfig
from dsd.curate.executors.pools import Pools
from dsd.errors import UserError, import_extra
from dsd.files import require_outside
from dsd.models import resolve
from dsd.places import Place
from dsd.recipes.registry import all_recipes

if TYPE_CHECKING:  # imported where it is used: `dsd --help` is quick
    from dsd.curate.executors.protocol import Executor


@dataclass(frozen=True, kw_only=True)
class Curate:
    """Makes a dataset of consistent pairs. Run the same command again to resume."""

    out: str
    """Dataset folder to write: a path, or an address that fsspec knows, such as s3://bucket/folder."""
    curate: CurateConfig
    """Settings of phases 1 and 2."""
    workers: int = 1
    """Without a cluster: units in work at once in each stage that only waits for a server."""
    cluster: str = ""
    """Ray cluster to work on: ray://HOST:PORT, auto on a machine of it, or local for one of this machine alone; empty
    for this process. See docs/cluster.md."""
    pools: Pools = field(default_factory=Pools)
    """With a cluster: how many workers each stage has there, and of what size."""
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
    where = f"have workers of the Ray cluster at {command.cluster} do that" if command.cluster else ""
    return [
        *sheets,
        f"cut the sheets, and let {config.judge} judge their panels for the task {config.task}, {how} "
        f"(templates: {config.templates})",
        f"write kept pairs, {films}rejects with their reasons, and the funnel to {command.out}",
        *([where] if where else []),
    ]


def run(command: Any) -> None:
    if not isinstance(command, Curate):
        _owner(command).run(command)
        return
    local = Place.of(command.out).local
    for model in (command.curate.teacher, command.curate.chat, command.curate.judge):
        if local is not None:
            require_outside(local, resolve(model), "a model's folder")
    with _executor(command) as executor:
        from dsd.curate.pipeline import curate

        curate(command.curate, command.out, executor)


def _executor(command: Curate) -> AbstractContextManager[Executor]:
    if not command.cluster:
        from dsd.curate.executors.local import Local

        if command.pools != Pools():
            raise UserError("pools are given without a cluster; give --cluster too, or --workers for this process")
        return nullcontext(Local(command.workers))
    if command.workers != 1:
        raise UserError(f"workers is {command.workers} beside a cluster; give --pools.judge.at-once and its like there")
    import_extra("ray", "cluster")
    from dsd.curate.executors.ray import Ray

    return Ray(command.cluster, command.pools)


def _owner(command: Any) -> Any:
    """The module of a command that makes no dataset of captions."""
    return calibrate if isinstance(command, calibrate.Calibrate) else rescore
