"""The one training loop: steps, metrics, checkpoints, held-out figures. To resume, run the same command again.

A task draws all its randomness from `step_generator`, a function of the seed and the step, so a run that was killed
and started again ends with the same bits as one that was not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from dsd.attention import in_right_attention
from dsd.files import make_folder
from dsd.log import progress
from dsd.train import checkpoint
from dsd.train.meter import SPEED, Meter
from dsd.train.metrics import Metrics
from dsd.train.stopping import Terminated, Termination, of_first, together
from dsd.train.trackers import Trackers

SAMPLES = "samples"
"""Of a run's sample sheets, in its folder."""


class Task(Protocol):
    """What is trained: a model with its optimizer, data and held-out evaluation."""

    def train_step(self, step: int) -> dict[str, float | Tensor]:
        """Takes one optimizer step and returns its metrics (scalars); all randomness comes from `step_generator`."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Everything that must survive a kill: weights, optimizer state, averages."""
        ...

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back what `tensors` returned."""
        ...

    def evaluate(self, step: int) -> dict[str, float]:
        """Held-out figures after ``step`` steps; may write pictures. Must not change the task's state."""
        ...


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The random state of a step: a function of seed and step alone."""
    return torch.Generator(device).manual_seed(((seed * 1_000_003 + step) * 2 + 1) % (1 << 63))


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Rounds denormal numbers to zero, on CPUs that can; enter it before torch starts its threads, which inherit it.

    Optimizer states of rarely used rows decay to denormals, on which CPUs take twice the time for a whole step.
    """
    flushed_before = float.__truediv__(sys.float_info.min, 2.0) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed_before)


def learning_rate_factor(
    step: int, steps: int, *, warmup: int = 50, decay_from: float = 0.4, floor: float = 0.02
) -> float:
    """Warm up, stay, then decay linearly to ``floor`` (trapezoid; Hägele et al. 2024, arXiv 2405.18392).

    Args:
        step: the step about to be taken, from 0.
        steps: length of the run.
        warmup: steps of linear warm-up.
        decay_from: share of the run after which the decay starts.
        floor: the factor at the end.
    """
    done = step / max(steps, 1)
    decay = 1.0 if done < decay_from else max(floor, (1 - done) / (1 - decay_from))
    return min(1.0, (step + 1) / warmup) * decay


@in_right_attention
def run(
    task: Task,
    *,
    folder: Path,
    steps: int,
    checkpoint_every: int,
    evaluate_every: int,
    description: str,
    log_every: int = 20,
    writes: bool = True,
    shares: bool = False,
    score: Callable[[dict[str, float]], float] | None = None,
    of: Mapping[str, str] | None = None,
    meter: Meter | None = None,
    track: Callable[[int], Trackers] | None = None,
    proves: Callable[[], Mapping[str, float]] | None = None,
) -> None:
    """Trains a task to ``steps`` steps, from its newest checkpoint on if there is one.

    Args:
        task: what to train, built as in its first run.
        folder: the run's folder; gets ``checkpoints/`` and ``metrics.jsonl``.
        steps: optimizer steps in all.
        checkpoint_every: steps between checkpoints.
        evaluate_every: steps between held-out figures.
        description: words for the progress bar.
        log_every: steps between lines of ``metrics.jsonl``; their metrics are means over these steps.
        writes: False on all processes of a parallel run but the first.
        shares: whether each process holds a part of what is trained, so that all of them evaluate and save.
        score: of held-out figures, higher is better; the state that scored best is kept in ``best/``.
        of: what decides the run, by name; a checkpoint that says otherwise is not gone on from.
        meter: of its speed, which is told with the metrics.
        track: starts the trackers of a run that goes on from a step.
        proves: figures of the weights as they now are, by which a state is judged before it is kept.

    Raises:
        UserError: training diverges, no checkpoint is good, or the place cannot be written to.
        Terminated: SIGTERM came; what is done is kept.
    """
    with together():
        keeper = _Keeper(task, folder, of or {}, score, meter, proves, writes=writes, shares=shares)
    with together():
        found = checkpoint.latest(folder / checkpoint.FOLDER, of=of, like=task.tensors(), says=writes)
    start = 0
    if found is not None:
        start, tensors = found
        task.restore(tensors)
        del tensors, found
    bar = progress(range(start, steps), description=description, total=steps, completed=start)
    with Termination() as stop, ExitStack() as stack:
        with together():
            if track is not None and writes:
                keeper.trackers = stack.enter_context(track(start))
        keeper.begin(start, stop, lacks_figures=start % evaluate_every == 0 or start == steps)
        for step in bar:
            values, done = task.train_step(step), step + 1
            if meter is not None:
                meter.step()
            ends, last = stop.asked_of_any(), done == steps
            keeper.gather(values)
            logs, evaluates = last or done % log_every == 0, last or done % evaluate_every == 0
            if not ends and (logs or evaluates):
                means = keeper.means(done) if logs else {}
                figures = keeper.evaluate(done, stop) if evaluates else {}
                keeper.write(done, means | figures)
                if means or figures:
                    bar.note(Meter.words(means | figures))
            if ends or last or done % checkpoint_every == 0:
                keeper.save(done)
            if ends:
                break
        if stop.asked_of_any():
            raise Terminated


class _Keeper:
    """What a run keeps: the first process writes, and the others take their part where they hold shards.

    All processes call the same methods; what fails in one of them ends all.
    """

    def __init__(
        self,
        task: Task,
        folder: Path,
        of: Mapping[str, str],
        score: Callable[[dict[str, float]], float] | None,
        meter: Meter | None,
        proves: Callable[[], Mapping[str, float]] | None,
        *,
        writes: bool,
        shares: bool,
    ) -> None:
        self._task, self._folder, self._of, self._score, self._writes = task, folder, of, score, writes
        self._shares, self._takes_part = shares, writes or shares
        self._since: dict[str, list[float | Tensor]] = {}
        self._meter, self._proves = meter, proves
        self.trackers: Trackers | None = None
        if writes:
            make_folder(folder / checkpoint.FOLDER)  # what is in the way is told before the work
            self._metrics = Metrics(folder / "metrics.jsonl")

    def begin(self, start: int, stop: Termination, *, lacks_figures: bool) -> None:
        """Goes on from a step: with the figures that a start which was stopped did not come to."""
        with together():
            if self._writes:
                self._metrics.go_on(start)
                lacks_figures = lacks_figures and not self._metrics.has(start)
        if start and of_first(lacks_figures):
            self.write(start, self.evaluate(start, stop))

    def gather(self, values: Mapping[str, float | Tensor]) -> None:
        """Keeps a step's metrics until the next line."""
        for name, value in values.items() if self._writes else ():
            self._since.setdefault(name, []).append(value)

    def means(self, done: int) -> dict[str, float]:
        """Means of what has been gathered since the last ones; empty where nothing is written."""
        with together():
            if not self._writes:
                return {}
            means, self._since = self._metrics.means(self._since, done), {}
            return means | (self._meter.figures() if self._meter is not None else {})

    def evaluate(self, done: int, stop: Termination) -> dict[str, float]:
        """Held-out figures. Where SIGTERM ends them, the state is kept, and the next start makes them anew."""
        figures: dict[str, float] = {}
        with nullcontext() if self._shares else together():  # shards are gathered in it
            try:
                with stop.at_once():
                    figures = self._task.evaluate(done) if self._takes_part else {}
            except Terminated:
                self.save(done)
                raise
        with together():
            if self._writes:
                self._metrics.require_sense(figures, done)
                self._show(done)
        self._keep_if_best(done, figures)
        if self._meter is not None:
            self._meter.pause()
        return figures if self._writes else {}

    def _show(self, done: int) -> None:
        sheet = self._folder / SAMPLES / f"step-{done:07d}.png"
        if self.trackers is not None and sheet.is_file():
            with Image.open(sheet) as picture:
                self.trackers.show(done, "samples", picture)

    def _keep_if_best(self, done: int, figures: dict[str, float]) -> None:
        if self._score is None:
            return
        is_best = self._writes and bool(figures)
        is_best = is_best and self._score(figures) >= self._metrics.best(self._score, figures)
        with together():
            if of_first(is_best) and self._takes_part:
                checkpoint.save(self._folder / "best", done, self._task.tensors(), of=self._of, keep=1)

    def write(self, done: int, line: dict[str, float]) -> None:
        """Adds a line to the metrics, if it says anything; how fast it went is no part of what the run gives."""
        with together():
            if kept := {name: value for name, value in line.items() if not name.startswith(SPEED)}:
                self._metrics.write(done, kept)
            if line and self.trackers is not None:
                self.trackers.log(done, line)

    def save(self, done: int) -> None:
        """Writes a checkpoint of a state that makes sense."""
        with together():
            if self._writes:
                self._metrics.means(self._since, done)
        with nullcontext() if self._shares else together():  # shards are gathered in it
            proof = self._proves() if self._proves is not None and self._takes_part else {}
        with together():
            if self._writes:
                self._metrics.require_sense(proof, done)
        with together():
            if self._takes_part:
                checkpoint.save(self._folder / checkpoint.FOLDER, done, self._task.tensors(), of=self._of)
