"""`dsd plan RECIPE`: what a training run needs in memory, time and disk, before any of it is spent.

`dsd plan curate RECIPE` plans the curation before it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsd.cli import plan_curate
from dsd.curate.cost import PAIRS_OF_A_CAPTION
from dsd.curate.estimate import bytes_in_words
from dsd.data.own import Columns
from dsd.limits import require_frame, require_rate, require_within
from dsd.recipes.recipe import Recipe
from dsd.recipes.registry import all_recipes
from dsd.train.config import TrainConfig

if TYPE_CHECKING:
    from dsd.backbones.cost import Shape
    from dsd.train.cache_cost import CacheCost, Contents
    from dsd.train.cost import Predicted

_CARD = 85.0
_KEPT = 2
"""Checkpoints of a run."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Counts the real model's layers and estimates a training run."""

    train: TrainConfig
    """Settings of the training."""
    devices: int = 1
    """How many accelerators share the batch."""
    tflops: float
    """Peak of one device in 10^12 operations a second (an H100 in bfloat16: 989)."""
    utilization: float = 0.44
    """The share of the peak that the products of a training step reach (measured on an H200: 0.44)."""
    card: float | None = None
    """Memory of one device in GB, by which `auto` chooses (an H100's 85 when left out; an H200: 150). Where it is
    given, as by recipes for a card, it is said whether the run fits."""
    frame: tuple[int, int] | None = None
    """(height, width) of a frame in pixels; when left out the training's, or that of most of the data."""
    pairs: int
    """How many pairs the cache of latents and texts holds."""
    data: str | None = None
    """What will be trained on: pictures and captions are then counted in its first examples, not assumed."""
    columns: Columns = Columns()
    """Names of the columns of such own data."""
    gpu_hour_price: float | None = None
    """Price of an hour of one device; nothing is priced without."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""

    def __post_init__(self) -> None:
        require_rate(self.tflops, self.utilization)
        require_within("devices", self.devices, 1)
        require_within("pairs", self.pairs, 1)
        if self.card is not None:
            require_within("card", self.card, 0, above=True)
        if self.frame is not None:
            require_frame("frame", self.frame)
        if self.gpu_hour_price is not None:
            require_within("gpu_hour_price", self.gpu_hour_price, 0)


def variants() -> dict[str, tuple[str, Any]]:
    recipes = all_recipes().items()
    return {
        **{name: (recipe.summary, _of(recipe)) for name, recipe in recipes},
        **{
            f"curate {name}": (f"its curation: {recipe.summary}", plan_curate.of(name, recipe))
            for name, recipe in recipes
        },
    }


def _of(recipe: Recipe) -> Plan:
    pairs = PAIRS_OF_A_CAPTION * recipe.curate.units * recipe.curate.unit_size
    return Plan(train=recipe.train, tflops=recipe.tflops, card=recipe.card, pairs=pairs)


def plan(command: Any) -> list[str]:
    if not isinstance(command, Plan):
        return plan_curate.plan(command)
    return [
        f"build {command.train.base} on the meta device from its configs (no weights are read)",
        f"count memory, time and disk of {command.train.steps:,} steps on {command.devices} device(s) of "
        f"{command.tflops:g} TFLOP/s",
    ]


def run(command: Any) -> None:
    if not isinstance(command, Plan):
        plan_curate.run(command)
        return
    from dsd.backbones.cost import shape_of
    from dsd.log import duration
    from dsd.train.cost import Device, counted, training_cost
    from dsd.train.offload import require_alone

    config = command.train
    require_alone(config, command.devices)
    config.require_divisible(command.devices)
    shape = shape_of(config.base)
    shape.backbone.require(config.flavour)
    model = [
        ("transformer", f"{shape.parameters / 1e6:,.1f} M parameters"),
        ("text encoders", f"{shape.text_parameters / 1e6:,.1f} M parameters (needed once, for the cache)"),
        ("autoencoder", f"{shape.vae_parameters / 1e6:,.1f} M parameters (needed once, for the cache)"),
    ]
    contents = _contents(command)
    for size in contents.pictures:
        shape.backbone.check_size(*size)
    caches = _caches(command, shape, contents)  # before the shape is trained on
    device = Device(
        speed=command.tflops * 1e12 * command.utilization,
        memory=(command.card or _CARD) * 1e9 if config.mixed_precision == "bf16" else None,
    )
    found = counted(config, shape, max(contents.pictures, key=contents.pictures.__getitem__))
    cost = training_cost(config, found, devices=command.devices, device=device)
    seconds = cost.chosen.seconds * config.batch_size * config.steps / command.devices
    rows = [
        *model,
        ("trained", f"{cost.trained_parameters / 1e6:,.1f} M parameters"),
        *((f"memory: {name}", bytes_in_words(value)) for name, value in cost.memory.items()),
        ("memory of a device", bytes_in_words(sum(cost.memory.values()))),
        *_fits(command.card, sum(cost.memory.values()), cost.encoding),
        ("arithmetic", f"{cost.operations:.3g} operations"),
        *((said_of(one, one == cost.chosen), _figures(one)) for one in cost.others or (cost.chosen,)),
        ("time", f"{duration(seconds)} on {command.devices} device(s){_price(command, seconds)}"),
        (f"{_KEPT} checkpoints", f"{bytes_in_words(_KEPT * cost.checkpoint)} of disk"),
        *((f"cache, text {name}", words) for name, words in caches.items()),
    ]
    for name, value in rows:
        print(f"{name:<58} {value}")
    print(f"assumed of the cache: {contents.said}" if command.data is None else f"counted: {contents.said}")
    print("the text cache is train.text_cache; trimmed is refused where the encoder's padding depends on the caption")
    encoders = [name for name in (config.identity, config.agreement) if name is not None]
    if encoders:
        print(f"not counted: memory of {' and '.join(encoders)}, which measure held-out drawings")
    print(
        "estimates; activations are a rule of thumb, times are an H200's, scaled to this peak; a star marks what "
        "is chosen; what the optimizer's steps, held-out drawings and checkpoints take of the time is not counted",
        file=sys.stderr,
    )


def said_of(way: Predicted, chosen: bool) -> str:
    """A way to work through a batch in words; a star marks the chosen one."""
    return f"{'* ' if chosen else ''}{way.choice.said}, {'compiled' if way.compiled else 'not compiled'}"


def _figures(way: Predicted) -> str:
    return f"{1000 * way.seconds:,.3g} ms and {way.operations:.4g} operations a sample, {way.memory / 2**30:.1f} GiB"


def _fits(card: float | None, training: float, encoding: float) -> list[tuple[str, str]]:
    """Whether a run fits a card of so many GB, beside what the driver, kernels and sample sheets take."""
    from dsd.generate.memory import WORKING

    if card is None:
        return []
    left = card * 1e9 - max(training, encoding)
    rest = f"{bytes_in_words(abs(left))} {'left' if left >= 0 else 'missing'}, {bytes_in_words(WORKING)} wanted"
    return [
        ("memory to encode the cache, before", bytes_in_words(encoding)),
        (f"fits a card of {card:g} GB", f"{'yes' if left >= WORKING else 'no'}, {rest} for the driver and kernels"),
    ]


def _contents(command: Plan) -> Contents:
    """What a pair adds to the cache."""
    from dsd.data.sources import open_source
    from dsd.train.cache_cost import assumed, counted

    config = command.train
    if command.data is None:
        return assumed(config, command.frame or _frame(config))
    return counted(open_source(command.data, command.columns), config, command.frame, _tokenizer(config))


def _tokenizer(config: TrainConfig) -> Callable[[Sequence[str]], list[int]] | None:
    """Counts the tokens that captions fill, if the base lies here; its configs alone may be known."""
    from dsd.backbones.registry import load_backbone
    from dsd.models import resolve

    if not (Path(resolve(config.base)) / "model_index.json").is_file():
        return None
    backbone = load_backbone(config.base, transformer=False, vae=False)
    return lambda captions: backbone.real_tokens(captions, config.max_sequence_length)


def _caches(command: Plan, shape: Shape, contents: Contents) -> dict[str, str]:
    """What each choice of the text cache costs, in words."""
    from dsd.log import duration
    from dsd.train.cache_cost import cache_costs

    def said(cost: CacheCost) -> str:
        rate = command.devices * command.tflops * 1e12 * command.utilization
        words = f"{bytes_in_words(cost.disk)} of disk for {command.pairs:,} pairs"
        before, later = ((cost.operations - cost.while_training) / rate, cost.while_training / rate)
        words += f", {duration(before)} to encode{_price(command, before)}"
        if later:
            words += f", {duration(later)} more while training{_price(command, later)}"
        return words + (f" and {bytes_in_words(cost.memory)} of memory on each device" if cost.memory else "")

    costs = cache_costs(command.train, shape, contents, command.pairs)
    return {name: said(cost) for name, cost in costs.items()}


def _price(command: Plan, seconds: float) -> str:
    if command.gpu_hour_price is None:
        return ""
    return f" (price: {command.gpu_hour_price * command.devices * seconds / 3600:,.2f})"


def _frame(config: TrainConfig) -> tuple[int, int]:
    return config.frame_size or (config.buckets or ((64, 64),))[0]
