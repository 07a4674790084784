"""The recipes by name. A new recipe is one file that returns a `Recipe`, and one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from dsd.config import did_you_mean
from dsd.errors import UserError
from dsd.plugins import added
from dsd.recipes.published import flux2_klein, flux_dev, flux_schnell, sd35_medium
from dsd.recipes.recipe import Recipe
from dsd.recipes.small import flux_dev_lora_24gb, flux_schnell_lora, sd35_medium_lora

T = TypeVar("T")

RECIPES: dict[str, Callable[[], Recipe]] = {
    "flux-dev": flux_dev,
    "flux-schnell": flux_schnell,
    "sd35-medium": sd35_medium,
    "flux2-klein": flux2_klein,
    "flux-dev-lora-24gb": flux_dev_lora_24gb,
    "flux-schnell-lora": flux_schnell_lora,
    "sd35-medium-lora": sd35_medium_lora,
}


def recipe(name: str) -> Recipe:
    """Returns the recipe of this name.

    Raises:
        UserError: No recipe has this name; the message holds a hint.
    """
    builders = _builders()
    if name not in builders:
        raise UserError(f'there is no recipe "{name}"; {did_you_mean(name, builders)}')
    return builders[name]()


def all_recipes() -> dict[str, Recipe]:
    """Returns every recipe by name, those that other packages add first."""
    return {name: build() for name, build in _builders().items()}


def first() -> Recipe:
    """The recipe of commands that are told none: of what is installed, the one that needs the least."""
    return next(iter(_builders().values()))()


def first_and_named(of: Callable[[Recipe], T]) -> dict[str, tuple[str, T]]:
    """Returns what a command makes of each recipe by name, with its summary, and under "" what it makes of `first`."""
    return {"": ("", of(first()))} | {name: (recipe.summary, of(recipe)) for name, recipe in all_recipes().items()}


def _builders() -> dict[str, Callable[[], Recipe]]:
    return {name: point.load() for name, point in added("recipes").items()} | RECIPES
