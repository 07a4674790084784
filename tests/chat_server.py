"""A small HTTP server on loopback that speaks the OpenAI chat protocol and answers from what it is shown.

Its replies depend on the request alone, so that a curation with it can be repeated. Any fault can be scripted.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import select
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

SCENES = ("at the beach", "in the forest", "at night", "in the city", "in the snow", "at sea")


def answer(schema: str, content: list[dict[str, Any]], scenes: int = 4) -> dict[str, Any]:
    """A reply of the schema that depends on the content."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()
    word = digest.hex()[:6]
    if schema == "PanelDescription":
        return {"subject": "cat", "details": f"in {word}", "caption": f"a cat of {word}"}
    if schema not in ("PairVerdict", "DirectVerdict"):
        return {"subject": f"{word} cat", "scenes": [SCENES[(digest[0] + n) % len(SCENES)] for n in range(scenes)]}
    same = digest[1] % 2 == 0
    if schema == "PairVerdict":
        details = {"first_details": f"in {word}", "second_details": "in red"}
        return {"common_subject": "cat", **details, "comparison": "same colour", "same": same}
    return {"same": same}


@dataclass(frozen=True)
class Raw:
    """Bytes that go out as they are, after which the connection ends.

    Attributes:
        chunks: of the whole answer, head included; endless where they are.
        pause: seconds before each of them.
        hangs: whether nothing more comes then, not even an end.
    """

    chunks: Iterable[bytes]
    pause: float = 0.0
    hangs: bool = False


@dataclass(frozen=True)
class Endless:
    """Chunks of a `Raw`: some, and then one for ever."""

    first: Sequence[bytes]
    then: bytes

    def __iter__(self) -> Iterator[bytes]:
        return itertools.chain(self.first, itertools.repeat(self.then))


def raw(body: bytes, *headers: str, status: int = 200, length: int | None = None) -> Raw:
    """An answer of HTTP with any body and headers; its length may be a lie."""
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body) if length is None else length}", *headers, "", ""]
    return Raw(["\r\n".join(lines).encode(), body])


def completion(content: Any, *, finish: Any = "stop", **more: Any) -> dict[str, Any]:
    """A chat completion; ``more`` belongs to its choice."""
    message = {"role": "assistant", "content": content, "refusal": None}
    choice = {"index": 0, "finish_reason": finish, "message": message, **more}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "test", "choices": [choice]}


def log_probabilities(tokens: Sequence[tuple[str, dict[str, float]]]) -> dict[str, Any]:
    """Of a reply's tokens, each with its alternatives, which name itself first, and their log-probabilities."""

    def entry(token: str, number: float) -> dict[str, Any]:
        return {"token": token, "logprob": number, "bytes": list(token.encode())}

    content = [
        {**entry(token, others.get(token, 0.0)), "top_logprobs": [entry(*other) for other in others.items()]}
        for token, others in tokens
    ]
    return {"content": content}


Scripted: TypeAlias = str | tuple[int, Any] | Raw


class ChatServer(ThreadingHTTPServer):
    """The server.

    Attributes:
        requests: bodies seen so far.
        connections: that were opened so far.
        headers: of each request so far, those for the models too.
        script: what to answer next instead of the answer: a status and a body, the text of a message (one that ends in
            ``…`` reached the token limit there), or anything at all.
        always: what to answer when the script is over; None for the answer.
        models: what to answer when asked for its models.
        refuses: arguments, or values of ``response_format``, that it does not know.
        same: every verdict; None for what depends on the pair.
        closed_after: how many requests it answers at all; None for any number.
    """

    daemon_threads = True
    request_queue_size = 128  # a client that knocks in vain tries again after a second

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.connections = self._left = 0
        self._lock = threading.Lock()
        self.script: deque[Scripted] = deque()
        self.always: Scripted | None = None
        self.refuses: set[str] = set()
        self.models: Scripted = (200, {"object": "list", "data": []})
        self.closing = threading.Event()
        self.same: bool | None = None
        self.closed_after: int | None = None

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._lock:
            self._left += 1

    def settle(self) -> None:
        """Waits until all clients have left, and what they asked last has been seen."""
        quiet = 0
        while quiet < 3:
            knocking, _, _ = select.select([self.socket], [], [], 0)
            quiet = quiet + 1 if not knocking and self._left == self.connections else 0
            time.sleep(0.01)

    @property
    def url(self) -> str:
        """What to give as the base URL."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.headers.append(dict(self.headers))
        self._say(self.server.models)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            return self._send(404, {"error": {"message": "no such path"}})
        self.server.headers.append(dict(self.headers))
        self.server.requests.append(body)
        if self.server.closed_after is not None and len(self.server.requests) > self.server.closed_after:
            return self._send(401, {"error": {"message": "closed"}})
        asked = {*body, body.get("response_format", {}).get("type")}
        if unknown := self.server.refuses & asked:
            return self._send(400, {"error": {"message": f"unknown argument {unknown.pop()}", "code": 400}})
        scripted = self.server.script.popleft() if self.server.script else self.server.always
        return self._say(json.dumps(self._answer(body)) if scripted is None else scripted)

    def _say(self, scripted: Scripted) -> None:
        if isinstance(scripted, Raw):
            return self._pour(scripted)
        if isinstance(scripted, tuple):
            return self._send(*scripted)
        text, finish = scripted.removesuffix("…"), "length" if scripted.endswith("…") else "stop"
        return self._send(200, completion(text, finish=finish))

    def _pour(self, said: Raw) -> None:
        self.close_connection = True
        with suppress(OSError):
            for chunk in said.chunks:
                time.sleep(said.pause)
                self.wfile.write(chunk)
                if self.server.closing.is_set():
                    return
            if said.hangs:
                self.server.closing.wait()

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        asked = body.get("response_format", {}).get("json_schema")
        if asked is None:
            return answer("DirectVerdict", body["messages"][-1]["content"])
        scenes = asked["schema"]["properties"].get("scenes", {}).get("minItems", 0)
        reply = answer(asked["name"], body["messages"][-1]["content"], scenes)
        return reply if self.server.same is None or "same" not in reply else {**reply, "same": self.server.same}

    def _send(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    """Runs a server until the block ends."""
    server = ChatServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
