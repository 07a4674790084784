"""HTTP connections with deadlines: nobody holds one by sending or taking nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from dsd.serve.errors import ApiError, busy
from dsd.serve.settings import HEALTH, Limits

LINGER_SECONDS = 10.0
"""How long what still arrives of a refused body is thrown away, so that its sender reads the refusal."""


def protocol_of(limits: Limits) -> type[H11Protocol]:
    """uvicorn's protocol with the deadlines of the limits."""
    return type("Connection", (_Connection,), {"limits": limits})


class _Crowded:
    """What answers on a connection that is one too many: how the server is, and nothing else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in HEALTH:
            return await self._app(scope, receive, send)
        refusal = busy("too many connections are open; try again", 2, status=503, code="server_busy").response()
        refusal.headers["connection"] = "close"
        await refusal(scope, receive, send)


class _Connection(H11Protocol):
    limits: Limits
    _head: asyncio.TimerHandle | None = None
    _linger: asyncio.TimerHandle | None = None
    _taking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self.app = _Crowded(self.app)
        if len(self.connections) > 2 * self.limits.connections:  # who floods is not answered
            self.transport.abort()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head, self._linger, self._taking):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head is None and self.conn.their_state is h11.IDLE:
            self._await_head()
        super().data_received(data)
        if self._head is not None and self.conn.their_state is not h11.IDLE:
            self._head.cancel()
            self._head = None

    def on_response_complete(self) -> None:
        cycle, unread = self.cycle, self.conn.their_state is h11.SEND_BODY
        super().on_response_complete()
        if unread and not self.transport.is_closing():
            self._linger = self.loop.call_later(LINGER_SECONDS, self._end_linger, cycle)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._taking = self.loop.call_later(self.limits.answer_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def send_400_response(self, msg: str) -> None:
        self._refuse(ApiError(400, "this is not HTTP/1.1 that can be read", code="invalid_http"))

    def _await_head(self) -> None:
        self._head = self.loop.call_later(self.limits.header_seconds, self._end_head)

    def _end_head(self) -> None:
        self._head = None
        seconds = f"{self.limits.header_seconds:g}"
        self._refuse(ApiError(408, f"no request arrived within {seconds} seconds", code="timeout"))

    def _end_linger(self, cycle: object) -> None:
        if self.cycle is cycle and self.conn.their_state is h11.SEND_BODY:
            self.transport.abort()

    def _refuse(self, error: ApiError) -> None:
        """Answers where there is no request that the application could answer, and closes."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not self.transport.is_closing():
            body = json.dumps(error.body).encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            for event in (
                h11.Response(status_code=error.status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
