"""A server on a free port of this machine, in a thread of its own, with a tiny random model behind it."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import tiny
from openai import OpenAI
from PIL import Image

from dsd.backbones.adapter import save_adapter
from dsd.backbones.flux.backbone import FluxBackbone
from dsd.generate.engine import Engine
from dsd.generate.two_frame import TwoFramePipeline
from dsd.images import encode_png
from dsd.sampling import Sampling
from dsd.serve.app import create_app
from dsd.serve.desk import Desk
from dsd.serve.lifecycle import bind, server_of
from dsd.serve.settings import Settings

SIZE = (32, 32)
PICTURE = encode_png(tiny.picture())
PROMPT = "a red cat at the beach"
LONG = {"num_inference_steps": 100}
"""Of an `extra_body`: a picture that takes seconds."""


@cache
def adapter_folder() -> Path:
    """A random adapter that says it is drawn in two steps."""
    folder, base = tiny.scratch() / "served", tiny.schnell()
    transformer = FluxBackbone.from_pretrained(base, text=False, vae=False).transformer
    sampling = Sampling(steps=2, text_scale=1.5, image_scale=1.0)
    save_adapter(
        folder, tiny.random_updates(transformer, bias=True), tiny.metadata(base, frame_size=SIZE, sampling=sampling)
    )
    return folder


@cache
def pipeline() -> TwoFramePipeline:
    pipe = TwoFramePipeline.from_pretrained(tiny.schnell(), adapter_folder())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@dataclass
class Served:
    """A running server."""

    port: int
    desk: Desk
    server: Any
    thread: threading.Thread

    def stop(self) -> None:
        """What SIGTERM does to a server in the main thread."""
        self.server.loop.call_soon_threadsafe(self.server.told_to_stop)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str = "any", retries: int = 0) -> OpenAI:
        return OpenAI(api_key=key, base_url=f"{self.url}/v1", max_retries=retries, timeout=60)


@contextmanager
def serve(settings: Settings | None = None) -> Iterator[Served]:
    """Serves while it lasts."""
    settings = settings or Settings()
    limits = settings.limits
    engine = Engine(pipeline(), most_at_once=limits.together, most_waiting=limits.waiting)
    app = create_app(engine, settings)
    listener = bind("127.0.0.1", 0)
    started = threading.Event()
    server = server_of(app, started.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    port = listener.getsockname()[1]
    thread.start()
    try:
        assert started.wait(30)
        yield Served(port, app.state.desk, server, thread)
    finally:
        server.should_exit = True
        thread.join(30)
        engine.stop(finish_within=0)


def opened(data: Any) -> Image.Image:
    """The picture of a datum or event."""
    return Image.open(io.BytesIO(base64.b64decode(data.b64_json)))


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error, which is in OpenAI's shape."""
        assert self.headers["content-type"] == "application/json"
        said = json.loads(self.body)
        assert set(said) == {"error"} and set(said["error"]) == {"message", "type", "param", "code"}
        assert said["error"]["message"]
        return said["error"]


def raw(port: int, data: bytes, wait: float = 30) -> Answer:
    """What is answered to these very bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as connection:
        connection.sendall(data)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> Answer:
    got = b""
    while b"\r\n\r\n" not in got:
        more = connection.recv(65536)
        assert more, f"closed without an answer after {got!r}"
        got += more
    head, _, body = got.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += connection.recv(65536)
    return Answer(int(first.split()[1]), headers, body)


def request(port: int, method: str, path: str, body: bytes = b"", content_type: str = "", **headers: str) -> Answer:
    """What is answered to a request."""
    return raw(port, head(method, path, len(body), content_type, **headers) + body)


def head(method: str, path: str, length: int | None = 0, content_type: str = "", **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [] if length is None else [f"Content-Length: {length}"]
    lines += [f"Content-Type: {content_type}"] if content_type else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def form(*parts: tuple[str, str | bytes]) -> tuple[bytes, str]:
    """The body and content type of a form; bytes are files."""
    body = b""
    for name, value in parts:
        file = '; filename="x.png"' if isinstance(value, bytes) else ""
        body += f'--cut\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        body += (value if isinstance(value, bytes) else value.encode()) + b"\r\n"
    return body + b"--cut--\r\n", "multipart/form-data; boundary=cut"


def edit(port: int, *parts: tuple[str, str | bytes], **headers: str) -> Answer:
    body, content_type = form(*parts)
    return request(port, "POST", "/v1/images/edits", body, content_type, **headers)


def until(true: Any, seconds: float = 20) -> None:
    """Waits until something holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)
