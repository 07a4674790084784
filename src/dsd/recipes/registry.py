"""The recipes by name. A new recipe is one file that returns a `Recipe`, and one line here."""

from __future__ import annotations

from collections.abc import Callable

from dsd.config import did_you_mean
from dsd.errors import UserError
from dsd.recipes.flux_dev import flux_dev
from dsd.recipes.recipe import Recipe
from dsd.recipes.tiny import tiny

RECIPES: dict[str, Callable[[], Recipe]] = {"tiny": tiny, "flux-dev": flux_dev}


def recipe(name: str) -> Recipe:
    """Returns the recipe of this name.

    Raises:
        UserError: No recipe has this name; the message holds a hint.
    """
    if name not in RECIPES:
        raise UserError(f'there is no recipe "{name}"; {did_you_mean(name, RECIPES)}')
    return RECIPES[name]()


def all_recipes() -> dict[str, Recipe]:
    """Returns every recipe by name."""
    return {name: build() for name, build in RECIPES.items()}
