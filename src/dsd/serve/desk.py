"""Between requests and the engine: orders go in, pictures come back, and nothing is drawn for who has left."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field

from fastapi import Request
from PIL import Image
from starlette.requests import ClientDisconnect

from dsd.errors import UserError
from dsd.generate.engine import Engine, Progress, QueueFull, Stopping
from dsd.generate.orders import DrawnFilm, Order
from dsd.serve.errors import ApiError, busy, internal, stopping
from dsd.serve.limits import Bodies, Rates
from dsd.serve.metrics import Metrics
from dsd.serve.pictures import Decoder
from dsd.serve.settings import Settings

logger = logging.getLogger(__name__)

OnStep = Callable[[int, Progress], None]


@dataclass
class Job:
    """The pictures of one request. `leave` drops them, also while they are drawn."""

    orders: list[Order]
    futures: list[Future[DrawnFilm]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)

    def leave(self) -> None:
        self.left.set()
        for future in self.futures:
            future.cancel()


class Desk:
    """What the routes of one server share."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine, self.settings = engine, settings
        self.metrics = Metrics(engine)
        self.bodies, self.rates = Bodies(settings.limits), Rates(settings.limits.per_minute)
        self.decoder = Decoder(settings.limits)
        self.draining = False
        self.answering = 0
        """Requests for pictures that are not answered in full."""

    @property
    def is_ready(self) -> bool:
        return self.engine.is_alive and not self.draining

    def require_ready(self) -> None:
        """Refuses new work while the server stops.

        Raises:
            ApiError: 503.
        """
        if self.draining:
            raise stopping()
        if not self.engine.is_alive:
            raise ApiError(503, "the model does not draw any more; start the server again", code="not_ready")

    def order(self, orders: list[Order], on_step: OnStep | None = None) -> Job:
        """Hands orders to the engine, all or none.

        Args:
            orders: The pictures of one request.
            on_step: Called in the engine's thread with the number of the picture and how far it is.

        Raises:
            UserError: The model cannot draw such.
            ApiError: 429 when too many wait, 503 when the server stops.
        """
        job = Job(orders)
        try:
            for order in orders:
                self.engine.check(order)
            for number, order in enumerate(orders):
                job.futures.append(self._submit(job, number, order, on_step))
        except QueueFull as error:
            job.leave()
            waiting = self.engine.waiting + self.engine.running
            raise busy(
                f"{self.engine.waiting} pictures wait already; try again later",
                self.metrics.seconds_for(waiting),
                code="queue_full",
            ) from error
        except Stopping as error:
            job.leave()
            raise stopping() from error
        return job

    async def pictures(self, request: Request, job: Job) -> list[Image.Image]:
        """Waits for the pictures of a job, as long as the client does.

        Raises:
            ClientDisconnect: The client left; the job is dropped.
            ApiError: 503 when the server stops, 500 when drawing failed.
        """
        watch = asyncio.create_task(_disconnected(request))
        drawn = asyncio.gather(*map(asyncio.wrap_future, job.futures), return_exceptions=True)
        try:
            await asyncio.wait([watch, drawn], return_when=asyncio.FIRST_COMPLETED)
            if not drawn.done():
                raise ClientDisconnect
        finally:
            watch.cancel()
            if not drawn.done():
                self.drop(job)
                drawn.add_done_callback(lambda all_: all_.cancelled() or all_.exception())  # which nobody else asks for
                drawn.cancel()
        return [self.picture(result) for result in drawn.result()]

    def drop(self, job: Job) -> None:
        """Drops what is left of a job whose client has left."""
        self.metrics.dropped.inc(sum(not future.done() for future in job.futures))
        job.leave()

    def stop_engine(self) -> None:
        """Drops what is still drawn, without waiting for it."""
        threading.Thread(target=self.engine.stop, kwargs={"finish_within": 0.0}, daemon=True).start()

    def picture(self, result: DrawnFilm | BaseException) -> Image.Image:
        """The picture, or the error that a client is told.

        Raises:
            ApiError: 503 when the server stops, 500 when drawing failed.
            UserError: What the model cannot draw.
        """
        if isinstance(result, DrawnFilm):
            return result.pictures[0]
        if isinstance(result, asyncio.CancelledError | CancelledError | Stopping):
            raise stopping() from result
        if isinstance(result, UserError):
            raise result
        logger.error("drawing failed", exc_info=result)
        raise internal() from result

    def _submit(self, job: Job, number: int, order: Order, on_step: OnStep | None) -> Future[DrawnFilm]:
        began = time.monotonic()

        def step(progress: Progress) -> None:
            self.metrics.batch.observe(self.engine.running)
            if on_step is not None:
                on_step(number, progress)

        def done(future: Future[DrawnFilm]) -> None:
            if not future.cancelled() and future.exception() is None:
                self.metrics.finished(time.monotonic() - began)

        future = self.engine.submit(order, on_step=step, gone=job.left.is_set)
        future.add_done_callback(done)
        return future


async def _disconnected(request: Request) -> None:
    """Returns when the client leaves."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
