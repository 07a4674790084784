"""A small HTTP server on loopback that speaks the OpenAI chat protocol and answers from what it is shown.

Its replies depend on the request alone, so that a curation with it can be repeated. Faults can be scripted.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

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


class ChatServer(ThreadingHTTPServer):
    """The server.

    Attributes:
        requests: bodies seen so far.
        script: what to answer next instead of the answer: a status and a body, or the text of a message; one that ends
            in ``…`` reached the token limit there.
        same: every verdict; None for what depends on the pair.
        closed_after: how many requests it answers at all; None for any number.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict[str, Any]] = []
        self.script: deque[str | tuple[int, dict[str, Any]]] = deque()
        self.same: bool | None = None
        self.closed_after: int | None = None

    @property
    def url(self) -> str:
        """What to give as the base URL."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            return self._send(404, {"error": {"message": "no such path"}})
        self.server.requests.append(body)
        if self.server.closed_after is not None and len(self.server.requests) > self.server.closed_after:
            return self._send(401, {"error": {"message": "closed"}})
        scripted = self.server.script.popleft() if self.server.script else None
        if isinstance(scripted, tuple):
            return self._send(*scripted)
        text = scripted if scripted is not None else json.dumps(self._answer(body))
        text, finish = text.removesuffix("…"), "length" if text.endswith("…") else "stop"
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "finish_reason": finish, "message": message}
        return self._send(
            200, {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
        )

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        asked = body["response_format"]["json_schema"]
        scenes = asked["schema"]["properties"].get("scenes", {}).get("minItems", 0)
        reply = answer(asked["name"], body["messages"][-1]["content"], scenes)
        return reply if self.server.same is None or "same" not in reply else {**reply, "same": self.server.same}

    def _send(self, status: int, body: dict[str, Any]) -> None:
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
        server.shutdown()
        server.server_close()
        thread.join()
