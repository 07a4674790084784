"""Server-sent events with partial pictures, as OpenAI's clients read them."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from typing import Any, Literal

from fastapi.responses import StreamingResponse
from PIL import Image
from starlette.types import Receive, Scope, Send

from dsd.errors import UserError
from dsd.generate.engine import Progress
from dsd.generate.orders import DrawnFilm
from dsd.serve.desk import Desk, Job
from dsd.serve.errors import ApiError

Kind = Literal["image_edit", "image_generation"]


class Stream:
    """Takes what the engine tells of a job into the event loop.

    Args:
        partial_images: How many unfinished pictures are wanted of each picture, spread over its steps.
    """

    def __init__(self, partial_images: int) -> None:
        self._partial_images = partial_images
        self._loop = asyncio.get_running_loop()
        self._told: asyncio.Queue[tuple[int, int, Image.Image | DrawnFilm | BaseException]] = asyncio.Queue()

    def on_step(self, number: int, progress: Progress) -> None:
        """For `Desk.order`; runs in the engine's thread."""
        index = partial_index(progress.step, progress.steps, self._partial_images)
        if index is not None:
            self._tell(number, index, progress.preview())

    async def told(self, job: Job) -> AsyncIterator[tuple[int, int | None, Image.Image | DrawnFilm | BaseException]]:
        """Pictures as they come: (number, index of a partial picture or None for the last, picture or what failed)."""
        for number, future in enumerate(job.futures):
            future.add_done_callback(lambda future, number=number: self._finish(number, future))
        left = len(job.futures)
        while left:
            number, index, picture = await self._told.get()
            left -= index < 0
            yield number, None if index < 0 else index, picture

    def _finish(self, number: int, future: Future[DrawnFilm]) -> None:
        cancelled = asyncio.CancelledError() if future.cancelled() else None
        self._tell(number, -1, cancelled or future.exception() or future.result())

    def _tell(self, number: int, index: int, picture: Image.Image | DrawnFilm | BaseException) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._told.put_nowait, (number, index, picture))


def partial_index(step: int, steps: int, partial_images: int) -> int | None:
    """Which partial picture is due after a step; the last step is the picture itself.

    Args:
        step: From 1 to `steps`.
        steps: How many there are.
        partial_images: How many partial pictures are wanted; fewer are given where there are fewer steps.
    """
    count = min(partial_images, steps - 1)
    due = [math.ceil(steps * (index + 1) / (count + 1)) for index in range(count)]
    return due.index(step) if step in due else None


class Streamed(StreamingResponse):
    """An answer of events, whose job is dropped when the client leaves, be it before the first one."""

    def __init__(self, desk: Desk, job: Job, told: AsyncIterator[bytes], headers: dict[str, str]) -> None:
        super().__init__(told, media_type="text/event-stream", headers=headers)
        self._desk, self._job = desk, job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._desk.drop(self._job)


async def events(desk: Desk, job: Job, stream: Stream, kind: Kind, describe: Any) -> AsyncIterator[bytes]:
    """The events of a job; one that fails ends with an error, which clients raise.

    Args:
        desk: Where the job was ordered.
        job: The pictures.
        stream: What was given to `Desk.order`.
        kind: The prefix of the events' types.
        describe: Gives an event's fields for (number of the picture, picture, whether it is the last).
    """
    try:
        async for number, index, told in stream.told(job):
            picture = told if isinstance(told, Image.Image) else desk.picture(told)
            name = f"{kind}.{'completed' if index is None else 'partial_image'}"
            said = await asyncio.to_thread(describe, number, picture, index is None)
            more = {} if index is None else {"partial_image_index": index}
            yield _event(name, {"type": name, "created_at": int(time.time()), **said, **more})
    except ApiError as error:
        yield _event("error", {"type": "error", **error.body})
    except UserError as error:
        yield _event("error", {"type": "error", **ApiError(400, str(error)).body})


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
