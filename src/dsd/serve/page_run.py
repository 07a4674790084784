"""What one visitor of the page has drawn at the moment, and what came of it; nothing here knows how it is shown."""

from __future__ import annotations

import re
import secrets
import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dsd.errors import UserError, cut, reason_of
from dsd.generate.engine import Engine, Progress, QueueFull, Stopping
from dsd.generate.orders import DrawnFilm, Order
from dsd.images import encode

PREVIEW_EVERY = 0.5
"""Seconds between two partial pictures of a drawing; each has to be decoded, which takes the drawings' time."""
KEPT_SECONDS = 24 * 3600
"""How long a visitor's pictures can be found again."""
MOST_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A finished picture.

    Attributes:
        order: what it was drawn after.
        file: a PNG that says so too.
    """

    order: Order
    file: Path

    def words(self) -> str:
        """The prompt and the seed, for below the picture."""
        return f"{cut(self.order.prompt, 400)} · seed {self.order.seed}"


class Run:
    """Orders of one visitor, all handed to the engine at once.

    Args:
        engine: draws.
        orders: one a picture.

    Raises:
        UserError: the engine takes none of these orders, or no more orders at all.
    """

    def __init__(self, engine: Engine, orders: Sequence[Order]) -> None:
        for order in orders:
            engine.check(order)
        self._engine = engine
        self._left = threading.Event()
        self.parts = [Part(order) for order in orders]
        self._before = engine.waiting
        try:
            for part in self.parts:
                part.future = engine.submit(part.order, on_step=part.see, gone=self._left.is_set)
        except QueueFull as error:
            self.cancel()
            raise UserError("too many drawings wait at the moment; try again in a minute") from error
        except Stopping as error:
            self.cancel()
            raise UserError("the server is being stopped and draws no more; come back later") from error

    def cancel(self) -> None:
        """Drops what is not finished: now what waits, and after its present step what is being drawn."""
        self._left.set()
        for part in self.parts:
            part.future.cancel()

    @property
    def cancelled(self) -> bool:
        """Whether it was dropped."""
        return self._left.is_set()

    @property
    def done(self) -> bool:
        """Whether nothing of it waits or is being drawn."""
        return all(part.future.done() for part in self.parts)

    @property
    def before(self) -> int:
        """How many drawings at most are drawn before the first of these."""
        own = sum(not (part.future.done() or part.steps) for part in self.parts)
        self._before = min(self._before, max(0, self._engine.waiting - own))
        return self._before

    def words(self) -> str:
        """How far it is."""
        begun = [part for part in self.parts if part.steps]
        if not begun:
            return f"Waiting: {self.before} before you" if self.before else "Starting"
        part = min(begun, key=lambda part: part.step / part.steps)
        several = f" · {len(self.parts)} pictures" if len(self.parts) > 1 else ""
        return f"Step {part.step} of {part.steps}{several}"

    @property
    def share(self) -> float:
        """How much of it is drawn, from 0 to 1."""
        return sum(1 if part.future.done() else part.step / max(1, part.steps) for part in self.parts) / len(self.parts)


class Part:
    """One picture of a run.

    Args:
        order: to be drawn.
    """

    def __init__(self, order: Order) -> None:
        self.order = order
        self.future: Future[DrawnFilm] = Future()
        self.step = self.steps = 0
        self.preview: Image.Image | None = None
        self._next_preview = 0.0

    def see(self, progress: Progress) -> None:
        """Notes a step; the engine calls it."""
        now = time.monotonic()
        if now >= self._next_preview and progress.step < progress.steps:
            self.preview = progress.preview()
            self._next_preview = time.monotonic() + PREVIEW_EVERY
        self.step, self.steps = progress.step, progress.steps

    def failure(self) -> str:
        """Why there is no picture, in words; empty where there is one, or it was dropped."""
        if not self.future.done() or self.future.cancelled():
            return ""
        error = self.future.exception()
        if error is None:
            return ""
        if isinstance(error, UserError):
            return str(error)
        return f"the picture could not be drawn ({reason_of(error) if isinstance(error, Exception) else error})"


def random_seed() -> int:
    """A seed of at most six digits, which a person can note."""
    return secrets.randbelow(1_000_000)


def read_seed(text: str) -> int:
    """The seed that somebody typed.

    Raises:
        UserError: it is no whole number, or out of range.
    """
    digits = text.strip()
    if not re.fullmatch(r"[0-9]{1,19}", digits) or int(digits) > MOST_SEED:
        raise UserError(
            f'the seed is "{cut(digits, 40)}", but must be a whole number from 0 to {MOST_SEED}; '
            "empty the field for a random one"
        )
    return int(digits)


def save(picture: Image.Image, order: Order, folder: Path, model: str | None) -> Drawn:
    """Writes a picture as a PNG that says how it was made.

    Args:
        picture: as drawn.
        order: that it was drawn after.
        folder: for such files; each gets a name that nobody guesses, and goes when `KEPT_SECONDS` are over.
        model: its name; None writes the picture alone.
    """
    made = None if model is None else {"model": model, "prompt": order.prompt, "seed": str(order.seed)}
    inside = folder / "drawn" / secrets.token_hex(16)
    inside.mkdir(parents=True)
    for old in inside.parent.iterdir():
        if time.time() - old.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    words = re.sub(r"[^a-z0-9]+", "-", order.prompt.lower()).strip("-")[:40] or "picture"
    file = inside / f"{words}-{order.seed}.png"
    file.write_bytes(encode(picture, "png", made))
    return Drawn(order=order, file=file)
