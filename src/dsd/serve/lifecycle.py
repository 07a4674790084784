"""From listening to the end: SIGTERM lets running requests finish, for so long and no longer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI

from dsd.errors import UserError
from dsd.serve.connection import protocol_of
from dsd.serve.desk import Desk

LAST_SECONDS = 2
"""What connections have to close after all is answered or dropped."""
KEEP_ALIVE_SECONDS = 30
"""How long a connection without a request is kept, longer than clients keep theirs."""
STOPS = (signal.SIGTERM, signal.SIGINT)


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens, once connections are taken from it.

    Raises:
        UserError: The address is taken or not ours.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # Only now is it sure that nobody else listens there; connections wait until the model is loaded.
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        raise UserError(f"cannot listen on {host}:{port} ({error}); give another --host or --port") from error
    return listener


def listen(app: FastAPI, listener: socket.socket, started: Callable[[], None] = lambda: None) -> None:
    """Serves until told to stop by SIGTERM or SIGINT, and then until the drain is over; a second one ends it at once.

    Args:
        app: As `create_app` built it.
        listener: As `bind` gave it; closed at the end.
        started: Called when requests are answered.
    """
    desk: Desk = app.state.desk
    server_of(app, started).run(sockets=[listener])
    if desk.engine.is_alive:  # in the midst of a step, which nobody waits for any more and which cannot be broken off
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def server_of(app: FastAPI, started: Callable[[], None] = lambda: None) -> Server:
    """uvicorn's server with our deadlines, for an application as `create_app` built it; see `listen`."""
    desk: Desk = app.state.desk
    config = uvicorn.Config(
        app,
        http=protocol_of(desk.settings.limits),
        ws="none",
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=LAST_SECONDS,
        server_header=False,
    )
    return Server(config, desk, started)


class Server(uvicorn.Server):
    """uvicorn's server, which goes on answering while it drains: 503, and 200 to those who look whether it lives."""

    def __init__(self, config: uvicorn.Config, desk: Desk, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._desk = desk
        self._when_started = started
        self._drain: asyncio.Task[None] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        """Where it runs; `told_to_stop` is called there."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._when_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in STOPS:
            loop.add_signal_handler(number, self.told_to_stop, number)
        try:
            yield
        finally:
            for number in STOPS:
                loop.remove_signal_handler(number)

    def told_to_stop(self, number: int = signal.SIGTERM) -> None:
        """Starts the drain; the second time, ends the process."""
        if self._drain is not None:
            os._exit(128 + number)
        self._desk.draining = True
        self._drain = asyncio.get_running_loop().create_task(self._until_drained())

    async def _until_drained(self) -> None:
        end = time.monotonic() + self._desk.settings.drain_seconds
        engine = self._desk.engine
        while time.monotonic() < end and (self._desk.answering or engine.running or engine.waiting):
            await asyncio.sleep(0.05)
        self._desk.stop_engine()
        end = time.monotonic() + LAST_SECONDS
        while time.monotonic() < end and self._desk.answering:
            await asyncio.sleep(0.05)
        for connection in list(self.server_state.connections):  # of pages that listen, which are not told that they end
            connection.transport.close()
        self.should_exit = True
