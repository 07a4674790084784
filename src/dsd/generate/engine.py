"""Draws for many callers at once: orders wait in a bounded queue, and join and leave the batch between steps.

One thread owns the pipeline. Before each step it lets waiting orders in, while there is room, and drops those that
nobody waits for any more; then all that are being drawn take one step together. So an order does not wait until a
batch before it is finished, and what was ordered depends on its own seed alone.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from PIL import Image

from dsd.errors import UserError
from dsd.generate import orders
from dsd.generate.orders import DrawnFilm, Order
from dsd.generate.references import Black
from dsd.generate.two_frame import FilmDrawing, TwoFramePipeline
from dsd.sampling import Sampling


class QueueFull(Exception):
    """As many orders wait as may wait."""


class Stopping(Exception):
    """No more orders are taken."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far an order is.

    Attributes:
        step: Steps taken.
        steps: Steps in all.
        preview: Decodes what the picture will probably look like; to be called while its `on_step` runs.
    """

    step: int
    steps: int
    preview: Callable[[], Image.Image]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What callers have to know of the model.

    Attributes:
        base: The text-to-image model's name.
        size: (height, width) in pixels of a picture where none is asked for; None takes the reference's.
        multiple: Both sides are multiples of it, in pixels.
        references: Pictures that it was trained with.
        text_tokens: Of a prompt that it reads.
        takes_guidance: Whether it has embedded guidance.
        sampling: How it draws where nothing else is asked for.
    """

    base: str
    size: tuple[int, int] | None
    multiple: int
    references: int
    text_tokens: int
    takes_guidance: bool
    sampling: Sampling


@dataclass(kw_only=True, eq=False)
class _Job:
    order: Order
    future: Future[DrawnFilm]
    on_step: Callable[[Progress], None] | None
    gone: Callable[[], bool] | None
    drawing: FilmDrawing | None = None

    @property
    def begun(self) -> FilmDrawing:
        """Its drawing, of one that was admitted."""
        assert self.drawing is not None
        return self.drawing

    @property
    def is_wanted(self) -> bool:
        return not self.future.cancelled() and not (self.gone is not None and self.gone())

    def fail(self, error: BaseException) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Engine:
    """Owns a pipeline and draws orders with it; nobody else changes its networks meanwhile.

    Args:
        pipeline: With its adapter.
        most_at_once: Pictures that are drawn together.
        most_waiting: Pictures that may wait.
    """

    def __init__(self, pipeline: TwoFramePipeline, *, most_at_once: int = 8, most_waiting: int = 64) -> None:
        self.pipeline, self.most_at_once, self.most_waiting = pipeline, most_at_once, most_waiting
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._running: list[_Job] = []
        self._stopping = self._dropping = False
        self._beginning = 0  # that do not wait any more and are not encoded yet
        self._facts = _facts_of(pipeline)
        pipeline.kept = Black()
        self._thread = threading.Thread(target=self._work, name="dsd-engine", daemon=True)
        self._thread.start()

    @property
    def facts(self) -> Facts:
        """What callers have to know of the model."""
        return self._facts

    @property
    def waiting(self) -> int:
        """Orders that are not begun."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Orders that are being drawn."""
        return len(self._running) + self._beginning

    @property
    def is_alive(self) -> bool:
        """Whether orders are drawn."""
        return self._thread.is_alive()

    def check(self, order: Order) -> None:
        """Finds what is wrong with an order before any work is done.

        Raises:
            UserError: It cannot be drawn.
        """
        if not order.prompt.strip() and not order.references:
            raise UserError("the prompt is empty; say what the picture shall show")
        self._require_use_of_negative(order)
        orders.check(self.pipeline, order)

    def _require_use_of_negative(self, order: Order) -> None:
        usual = self._facts.sampling
        text = usual.text_scale if order.text_scale is None else order.text_scale
        image = usual.image_scale if order.image_scale is None else order.image_scale
        if order.negative_prompt and text == 1 and (image == 1 or not order.references):
            raise UserError(
                "a negative prompt has no effect while text_scale is 1, which is off; raise text_scale, or leave the "
                "negative prompt out"
            )

    def submit(
        self,
        order: Order,
        *,
        on_step: Callable[[Progress], None] | None = None,
        gone: Callable[[], bool] | None = None,
    ) -> Future[DrawnFilm]:
        """Puts an order into the queue; safe from any thread.

        Args:
            order: One that `check` finds nothing wrong with.
            on_step: Called after each of its steps, in the engine's thread.
            gone: Asked before it is begun and between steps; where it says so, or the future is cancelled, the order is
                dropped and its future cancelled.

        Raises:
            QueueFull: Too many wait.
            Stopping: The engine takes no more.
        """
        return self.submit_all([order], on_step=on_step, gone=gone)[0]

    def submit_all(
        self,
        ordered: Sequence[Order],
        *,
        on_step: Callable[[Progress], None] | None = None,
        gone: Callable[[], bool] | None = None,
    ) -> list[Future[DrawnFilm]]:
        """Puts orders into the queue together, all or none; see `submit`."""
        with self._changed:
            if self._stopping or not self.is_alive:
                raise Stopping
            if len(self._waiting) + len(ordered) > self.most_waiting:
                raise QueueFull
            jobs = [_Job(order=order, future=Future(), on_step=on_step, gone=gone) for order in ordered]
            self._waiting.extend(jobs)
            self._changed.notify_all()
        return [job.future for job in jobs]

    def stop(self, *, finish_within: float = 0.0) -> None:
        """Takes no more orders, waits for those that are there, and drops what is not drawn in time.

        Args:
            finish_within: Seconds. The step that is being taken when they are over is still finished.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout=max(finish_within, 0.0))
        with self._changed:
            self._dropping = True
            self._changed.notify_all()
        self._thread.join()
        self.pipeline.kept = None

    def _work(self) -> None:
        while self._has_work():
            self._drop_unwanted()
            self._begin(self._admitted())
            self._step()
            self._finish()
            time.sleep(0)  # lets other threads have the interpreter

    def _has_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._running or self._stopping)
            return bool(self._waiting or self._running) or not self._stopping

    def _drop_unwanted(self) -> None:
        with self._changed:
            jobs = [*self._waiting, *self._running]
            unwanted = {id(job) for job in jobs if self._dropping or not job.is_wanted}
            self._waiting = deque(job for job in self._waiting if id(job) not in unwanted)
            self._running = [job for job in self._running if id(job) not in unwanted]
        for job in jobs:
            if id(job) in unwanted:
                job.future.cancel()

    def _admitted(self) -> list[_Job]:
        with self._changed:
            room = self.most_at_once - len(self._running)
            self._beginning = min(room, len(self._waiting))
            return [self._waiting.popleft() for _ in range(self._beginning)]

    def _begin(self, admitted: Sequence[_Job]) -> None:
        """Encodes orders, those that are alike together."""
        for group in orders.grouped(admitted, lambda job: job.order.alike()):
            failed = self._fails(group, lambda jobs=group: self._start(jobs))
            with self._changed:
                self._running.extend([] if failed else group)
                self._beginning -= len(group)

    def _start(self, jobs: Sequence[_Job]) -> None:
        for job, drawing in zip(jobs, orders.begin(self.pipeline, [job.order for job in jobs]), strict=True):
            job.drawing = drawing

    def _step(self) -> None:
        """One step of all; where they fail together, each is tried alone."""
        drawings = [job.begun for job in self._running]
        before = [drawing.step for drawing in drawings]
        if drawings and self._fails((), lambda: self.pipeline.advance(drawings)):
            for job, drawing, step in zip(list(self._running), drawings, before, strict=True):
                if drawing.step == step:
                    self._fails([job], lambda one=drawing: self.pipeline.advance([one]))
        for job in list(self._running):
            if job.on_step is not None:
                self._fails([job], lambda one=job: self._tell(one))

    def _tell(self, job: _Job) -> None:
        drawing = job.begun
        assert job.on_step is not None
        preview = lambda: self.pipeline.preview(drawing)  # noqa: E731
        job.on_step(Progress(step=drawing.step, steps=drawing.steps, preview=preview))

    def _finish(self) -> None:
        finished = [job for job in self._running if job.begun.is_finished]
        with self._changed:
            self._running = [job for job in self._running if job not in finished]
        for group in orders.grouped(finished, lambda job: job.begun.latents.shape):
            self._fails(group, lambda jobs=group: self._hand_over(jobs))

    def _hand_over(self, jobs: Sequence[_Job]) -> None:
        for job, drawn in zip(jobs, orders.finish(self.pipeline, [job.begun for job in jobs]), strict=True):
            if job.future.set_running_or_notify_cancel():
                job.future.set_result(drawn)

    def _fails(self, jobs: Sequence[_Job], work: Callable[[], None]) -> bool:
        """Does something for some orders; where it fails they are told, and the others are drawn on."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whoever waits for the order gets it
            for job in jobs:
                job.fail(error)
            with self._changed:
                self._running = [job for job in self._running if job not in jobs]
            return True
        return False


def _facts_of(pipeline: TwoFramePipeline) -> Facts:
    adapter, backbone = pipeline.adapter, pipeline.backbone
    return Facts(
        base="" if adapter is None else adapter.base,
        size=None if adapter is None else adapter.frame_size,
        multiple=backbone.pixels_per_token,
        references=sum(pipeline.film.given),
        text_tokens=pipeline.max_text_tokens,
        takes_guidance=backbone.takes_guidance,
        sampling=Sampling() if adapter is None else adapter.sampling,
    )
