"""What one client may take from the others: bytes and seconds of bodies, and requests a minute."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Message

from dsd.serve.errors import ApiError, busy
from dsd.serve.settings import Limits

MOST_CALLERS = 10_000


class Bodies:
    """The bodies that are being read, and their bytes."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0

    @asynccontextmanager
    async def reading(self, request: Request) -> AsyncIterator[Request]:
        """The request, whose body is counted and timed as it arrives; its bytes are let go at the end.

        Raises:
            ApiError: 413 for too many bytes, 408 for too many seconds, 503 when all bodies together are too large, 415
                when it is compressed.
            ClientDisconnect: The client left.
        """
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiError(415, "compressed bodies are not read; send the body as it is", code="unsupported_encoding")
        self._check_announced(request)
        deadline = asyncio.get_running_loop().time() + self._limits.body_seconds
        read = 0

        async def receive() -> Message:
            nonlocal read
            try:
                async with asyncio.timeout_at(deadline):
                    message = await request.receive()
            except TimeoutError as error:
                seconds = f"{self._limits.body_seconds:g}"
                raise ApiError(408, f"the body did not arrive within {seconds} seconds", code="timeout") from error
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            size = len(message.get("body", b""))
            read, self._held = read + size, self._held + size
            if read > self._limits.body_bytes:
                raise self._too_large()
            if self._held > self._limits.bodies_bytes:
                raise busy("too many uploads arrive at once; try again", 2, status=503, code="server_busy")
            return message

        try:
            yield Request(request.scope, receive)
        finally:
            self._held -= read

    def _check_announced(self, request: Request) -> None:
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and (len(announced) > 15 or int(announced) > self._limits.body_bytes):
            raise self._too_large()

    def _too_large(self) -> ApiError:
        return ApiError(
            413, f"the body is larger than {self._limits.body_mib:g} MiB; send smaller pictures", code="body_too_large"
        )


@dataclass
class _Bucket:
    left: float
    at: float


class Rates:
    """What each caller may do in a minute, as buckets that fill up again; a full bucket allows a burst.

    Args:
        per_minute: How often; None for any number.
        what: Is counted, in words.
    """

    def __init__(self, per_minute: int | None, what: str = "requests") -> None:
        self._per_minute, self._what = per_minute, what
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def require(self, caller: str) -> None:
        """Finds out whether one more is left, without counting it.

        Raises:
            ApiError: 429, with the time until the next one.
        """
        if self._per_minute is not None and (left := self._bucket(caller, self._per_minute).left) < 1:
            seconds = (1 - left) * 60 / self._per_minute
            raise busy(f"more than {self._per_minute} {self._what} a minute were sent; wait a moment", seconds + 0.5)

    def take(self, caller: str) -> None:
        """Counts one.

        Raises:
            ApiError: 429, with the time until the next one.
        """
        self.require(caller)
        if self._per_minute is not None:
            self._bucket(caller, self._per_minute).left -= 1

    def _bucket(self, caller: str, per_minute: int) -> _Bucket:
        now = time.monotonic()
        bucket = self._buckets.pop(caller, None) or _Bucket(per_minute, now)
        bucket.left = min(per_minute, bucket.left + (now - bucket.at) * per_minute / 60)
        bucket.at = now
        self._buckets[caller] = bucket
        if len(self._buckets) > MOST_CALLERS:
            self._buckets.popitem(last=False)
        return bucket
