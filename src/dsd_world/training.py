"""Trains the embedded models: ``dsd world train NAME``. Each recipe is a task for the one loop of `dsd.train.loop`."""

from __future__ import annotations

import functools
import importlib
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from dsd.attention import in_right_attention
from dsd.config import did_you_mean
from dsd.devices import mixed_precision
from dsd.errors import UserError
from dsd.files import atomic_folder
from dsd.log import console
from dsd.models import resolve
from dsd.train import checkpoint, environment, loop
from dsd_world.budget import Budget, kept_budget

RECIPES = {name: f"dsd_world.models.{name}" for name in ("autoencoder", "vlm", "teacher", "judge", "dino", "clip")}
ASIDE = {"face": "dsd_world.models.face"}
"""Models that are not shipped: InstantID's face pack."""
_TASKS = RECIPES | ASIDE
STUDENT = "student"
"""Not a task of its own: its recipe is curation and training as any user runs them."""
CEILING = "ceiling"
"""A student of perfect drawn pairs, to compare with; it is not shipped."""
ALL = "all"
HOURS = {"autoencoder": 0.6, "vlm": 1.5, "teacher": 4.0, "judge": 0.5, "dino": 0.2, "clip": 0.4, STUDENT: 1.0}
"""The order in which models build on each other, and how `ALL` shares out its time: about so many hours of two cores
were spent on each shipped one.
"""
_MEASURED_STEPS = 12
_CHECKED_STEPS, _ALIKE = 3, 0.05
_EVALUATED_EVERY = 1000  # steps, of a long run: a few minutes


class Recipe(loop.Task, Protocol):
    """A task that also knows which state of it is best and where its model goes."""

    def score(self, figures: dict[str, float]) -> float:
        """One number of the held-out figures of `evaluate`; higher is better."""
        ...

    def export(self, folder: Path, card: str) -> None:
        """Writes the model's standard folder (float16 safetensors) with ``card`` as its README.md."""
        ...


def _measured_steps(recipe: Recipe, hours: float) -> int:
    started = time.perf_counter()
    for step in range(_MEASURED_STEPS):
        if step == 2:
            started = time.perf_counter()
        recipe.train_step(step)
    return max(1, int(hours * 3600 / ((time.perf_counter() - started) / (_MEASURED_STEPS - 2)) * 0.95))


@in_right_attention
@loop.flushed_denormals()
def train_model(
    name: str,
    *,
    steps: int | None = None,
    hours: float | None = None,
    run: Path,
    out: Path | None = None,
    start: str | None = None,
) -> None:
    """Trains one embedded model, or all of them, and writes their folders.

    Args:
        name: a key of `RECIPES` or `ASIDE`, `STUDENT`, `CEILING` or `ALL`.
        steps: optimizer steps; or
        hours: a wall-clock budget, from which the first start measures the steps.
        run: the run's folder (checkpoints, metrics, contact sheets; of `ALL` a folder a model); re-running resumes.
        out: the folder of the finished model; ``run/model`` when absent.
        start: a finished model (``embedded:NAME`` or a folder) to go on from, for autoencoder and teacher.

    Raises:
        UserError: for an unknown name, a missing budget or a model that cannot go on from another.
    """
    names = (*_TASKS, STUDENT, CEILING, ALL)
    if name not in names:
        raise UserError(f'there is no embedded model "{name}"; {did_you_mean(name, names)}')
    if start is not None and name not in _TASKS:
        raise UserError(f"{name} cannot go on from a finished model; leave out --start")
    folder = out if out is not None else run / "model"
    if name == ALL:
        _train_all(steps, hours, run)
    elif name in (STUDENT, CEILING):
        from dsd_world.models import student

        train = student.train_student if name == STUDENT else student.train_ceiling
        train(run, folder, steps=steps, hours=hours)
    else:
        _train_recipe(name, steps, hours, run, folder, start)


def _train_all(steps: int | None, hours: float | None, run: Path) -> None:
    """Each model in a folder beside the others, where those that build on it find it."""
    if steps is not None or hours is None:
        raise UserError("the models share a budget of time; give --hours in place of --steps")
    whole = sum(HOURS.values())
    for name, share in HOURS.items():
        train_model(name, hours=hours * share / whole, run=run / name)


def _train_recipe(
    name: str, steps: int | None, hours: float | None, run: Path, folder: Path, start: str | None
) -> None:
    build = _builder(name, start)
    run.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with precision_of(functools.partial(build, run)):
        decide = functools.partial(_budget, name, build, steps, hours, run, start)
        budget = kept_budget(run, decide, start)
        recipe = build(run, steps=budget.steps)
        loop.run(
            recipe,
            folder=run,
            steps=budget.steps,
            checkpoint_every=budget.checkpoint_every,
            evaluate_every=budget.evaluate_every,
            description=f"training {name}",
            score=recipe.score,
        )
        best = checkpoint.latest(run / "best")
        if best is not None:
            recipe.restore(best[1])
        figures = recipe.evaluate(best[0] if best is not None else budget.steps)
    with atomic_folder(folder, known_by="README.md") as temporary:
        recipe.export(temporary, _card(name, budget, figures, time.perf_counter() - started))
    console.print(f"{name}: {json.dumps(figures)} -> {folder}")


def precision_of(
    build: Callable[..., Recipe], wished: Callable[[], AbstractContextManager[object]] = mixed_precision
) -> AbstractContextManager[object]:
    """The wished precision where a recipe is right in it, else float32.

    It is right when the first losses, whose later ones rest on the gradients of the earlier ones, are finite and those
    of float32 to within a twentieth.

    Args:
        build: makes the recipe anew for so many ``steps``.
        wished: makes a context of the wished precision; `contextlib.nullcontext` for float32, which is not checked.
    """
    if isinstance(context := wished(), nullcontext):
        return context
    found, wanted = (_first_losses(build, precision) for precision in (wished, nullcontext))
    if all(abs(one - other) <= _ALIKE * abs(other) for one, other in zip(found, wanted, strict=True)):
        return wished()
    console.print(f"warning: in low precision the first losses are {found}, not {wanted}: training in float32")
    return nullcontext()


def _first_losses(build: Callable[..., Recipe], precision: Callable[[], AbstractContextManager[object]]) -> list[float]:
    """Sums of the metrics of the first steps of a recipe."""
    with precision():
        recipe = build(steps=_MEASURED_STEPS)
        return [
            round(sum(float(value) for value in recipe.train_step(step).values()), 4) for step in range(_CHECKED_STEPS)
        ]


def _budget(
    name: str, build: Callable[..., Recipe], steps: int | None, hours: float | None, run: Path, start: str | None
) -> Budget:
    if steps is None:
        if hours is None:
            raise UserError(f"no budget for {name}: give --steps or --hours")
        steps = _measured_steps(build(run, steps=1000), hours)
    every = max(1, min(steps // 12, _EVALUATED_EVERY))
    return Budget(steps=steps, checkpoint_every=every, evaluate_every=every, start=start)


def _builder(name: str, start: str | None) -> Callable[..., Recipe]:
    module = importlib.import_module(_TASKS[name])
    if start is None:
        return module.build
    if not hasattr(module, "go_on"):
        raise UserError(f"{name} cannot go on from a finished model; leave out --start")
    return functools.partial(module.go_on, start=Path(resolve(start)))


def _card(name: str, budget: Budget, figures: dict[str, float], seconds: float) -> str:
    lines = "\n".join(f"| {key} | {value:.4g} |" for key, value in figures.items())
    start = f" --start {budget.start}" if budget.start else ""
    return (
        f"# tiny {name}\n\nAn embedded model of `dsd`, trained on the drawn world by `dsd world train {name} "
        f"--steps {budget.steps}{start}`.\n\n"
        f"Commit {environment.commit()}; {environment.machine()}; {seconds / 60:.0f} minutes since its last start.\n\n"
        f"| held-out figure | value |\n|---|---|\n{lines}\n"
    )
