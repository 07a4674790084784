"""`dsd plan curate RECIPE`: what pairs take in sheets, calls, hours, money and disk, before it is spent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from dsd.curate.config import CurateConfig
from dsd.limits import require_rate, require_within
from dsd.recipes.recipe import Recipe
from dsd.recipes.registry import recipe as find_recipe

if TYPE_CHECKING:
    from dsd.curate.past import Past


@dataclass(frozen=True, kw_only=True)
class PlanCurate:
    """Counts what a curation takes, and says what it assumes."""

    curate: CurateConfig
    """Settings of the curation."""
    pairs: int | None = None
    """Pairs (or films) to make; the recipe's own units when left out."""
    funnel: str | None = None
    """The funnel.json of a past curation, or its folder, whose rows are then measured too; what is known of the recipe
    when left out."""
    calibrate: bool = True
    """Curate a few captions in a temporary folder and time them, where all models compute on this machine."""
    gpus: int = 1
    """Devices of each machine."""
    machines: int = 1
    """How many machines."""
    tflops: float
    """Peak of one device in 10^12 operations a second (an H100 in bfloat16: 989), where nothing is calibrated."""
    utilization: float = 0.4
    """The share of the peak that drawing reaches."""
    reply_seconds: float = 5.0
    """Seconds that a chat server takes for a reply."""
    gpu_hour_price: float | None = None
    """Price of an hour of one device."""
    million_tokens_price: tuple[float, float] | None = None
    """Prices of a million tokens that servers are given, and that they reply."""
    recipe: tyro.conf.Suppress[str]
    """Whose known funnel is counted on."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""

    def __post_init__(self) -> None:
        for name in ("pairs", "gpus", "machines"):
            if (value := getattr(self, name)) is not None:
                require_within(name, value, 1)
        require_rate(self.tflops, self.utilization)
        require_within("reply_seconds", self.reply_seconds, 0, above=True)
        for name, prices in (
            ("gpu_hour_price", (self.gpu_hour_price,)),
            ("million_tokens_price", self.million_tokens_price or ()),
        ):
            for price in prices:
                if price is not None:
                    require_within(name, price, 0)


def of(name: str, recipe: Recipe) -> PlanCurate:
    """The command of a recipe."""
    return PlanCurate(curate=recipe.curate, tflops=recipe.tflops, recipe=name)


def plan(command: PlanCurate) -> list[str]:
    config = command.curate
    wanted = f"{config.units:,} units of {config.unit_size}" if command.pairs is None else f"{command.pairs:,} pairs"
    tried = "curate a few captions in a temporary folder and time them, if all models are on this machine"
    return [
        f"count what {wanted} take, by {command.funnel or f'what is known of the recipe {command.recipe}'}",
        f"count the operations of {config.teacher} on the meta device from its configs (no weights are read)",
        tried if command.calibrate else "calibrate nothing",
    ]


def run(command: PlanCurate) -> None:
    from dsd.curate.estimate import Means, estimate
    from dsd.curate.past import read_past
    from dsd.curate.trial import not_here, run_trial
    from dsd.log import console

    config = command.curate
    past = read_past(command.funnel, config) if command.funnel is not None else None
    untried = not_here(config) if command.calibrate else "--no-calibrate was given"
    trial = None
    if not untried:
        models = ", ".join(dict.fromkeys((config.teacher, config.chat, config.judge)))
        line = f"curating a few captions with {models}, to time them (--no-calibrate leaves it out)"
        console.print(line)
        trial = run_trial(config)
    planned = estimate(
        config,
        command.pairs,
        past or _known(command),
        Means(
            gpus=command.gpus,
            machines=command.machines,
            tflops=command.tflops,
            utilization=command.utilization,
            reply_seconds=command.reply_seconds,
            gpu_hour_price=command.gpu_hour_price,
            million_tokens_price=command.million_tokens_price,
        ),
        trial,
        untried,
    )
    for name, value in planned.rows:
        print(f"{name:<24} {value}")
    for sentence in planned.assumptions:
        print(f"assumed: {sentence}")


def _known(command: PlanCurate) -> Past:
    """What is known of the recipe, where it is planned as it was measured."""
    from dsd.curate.cost import PAIRS_OF_A_CAPTION, assumed_funnel
    from dsd.curate.past import Past

    recipe, config = find_recipe(command.recipe), command.curate
    if recipe.funnel is not None and (config.task, config.frames) == (recipe.curate.task, recipe.curate.frames):
        told = f"as a measured curation of the recipe {command.recipe} did (--funnel tells of another one)"
        return Past(funnel=recipe.funnel, told_by=told)
    told = (
        f"by a rule of thumb, since no curation like it was measured: every caption gives a sheet, and each sheet "
        f"{PAIRS_OF_A_CAPTION} examples (--funnel tells of a past one)"
    )
    return Past(funnel=assumed_funnel(config), told_by=told)
