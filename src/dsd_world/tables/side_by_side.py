"""Trains, draws and measures rows of a table in several processes.

These models are too small to keep many cores busy: two cores do about a fifth more with a training each than with one
on both, and the more cores there are the more is gained.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import as_completed
from pathlib import Path

from dsd.evaluate.workers import pool_of, stop
from dsd.log import console
from dsd.train.config import TrainConfig
from dsd_world.tables import measured
from dsd_world.tables.config import Row, TablesConfig
from dsd_world.tables.ingredients import Ingredients

Job = tuple[Row, int]
"""A row and the seed of its training."""


def make(ingredients: Ingredients, jobs: Sequence[Job], budget: TrainConfig, workers: int) -> None:
    """Trains, draws and measures what is not there yet, in the given order, so many jobs at a time.

    When a job fails the others are stopped; they go on at the next start.

    Args:
        ingredients: of the tables.
        jobs: rows with seeds.
        budget: of the trainings.
        workers: processes, among which torch's threads are shared out.
    """
    together = dict[str, list[Job]]()
    for row, seed in jobs:
        if measured.find(ingredients, row, seed, budget) is not None:
            continue
        ingredients.share(row, budget)
        together.setdefault(f"{ingredients.key(row, budget)}-{seed}", []).append((row, seed))  # one training, one job
    if together:
        ingredients.make_shared()
    pool = pool_of(workers)
    try:
        made_of = (ingredients.config, ingredients.out)
        for future in as_completed([pool.submit(_make, *made_of, some, budget) for some in together.values()]):
            future.result()
    except BaseException:
        stop(pool)
        raise
    pool.shutdown()


def _make(config: TablesConfig, out: Path, jobs: Sequence[Job], budget: TrainConfig) -> None:
    ingredients = Ingredients(config, out)
    for row, seed in jobs:
        console.print(f"{row.name}, seed {seed}", markup=False)
        measured.measure(ingredients, row, seed, budget)
