"""Answers from a file: what a model said once, to be said again without it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsd.chat.protocol import ChatFailure, ChatModel, ChatRequest, Decision, ImagePart, Reply
from dsd.errors import UserError
from dsd.files import sha256_of


def request_key(request: ChatRequest) -> str:
    """What a recorded reply is found by: its conversation with the example (pictures by pixels), its schema's name."""
    digest = hashlib.sha256(request.schema.__name__.encode())
    for message in request.example + request.messages:
        digest.update(f"\0{message.role}".encode())
        for part in message.parts:
            if isinstance(part, ImagePart):
                digest.update(f"\0image {part.image.mode} {part.image.size}\0".encode() + part.image.tobytes())
            else:
                digest.update(f"\0text {part.text}".encode())
    return digest.hexdigest()


class Recorder:
    """Asks another model and appends its replies to a file that `ReplayChat` reads.

    Args:
        model: the one to ask.
        path: JSON lines; made when missing.
    """

    def __init__(self, model: ChatModel, path: Path) -> None:
        self._model, self._path = model, path
        self.name, self.revision = model.name, model.revision

    def reply(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        """See `dsd.chat.protocol.ChatModel`."""
        replies = self._model.reply(requests)
        with self._path.open("a", encoding="utf-8") as file:
            for request, reply in zip(requests, replies, strict=True):
                file.write(json.dumps({"key": request_key(request), **_recorded(reply)}, ensure_ascii=False) + "\n")
        return replies


class ReplayChat:
    """Replies as `Recorder` wrote them.

    Args:
        path: the recording.

    Raises:
        UserError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.name = f"replay:{path}"
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            self._replies: dict[str, dict[str, Any]] = {line["key"]: line for line in lines}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f'"{path}" is no recording of chat replies ({error}); give a file that one wrote'
            ) from error
        self.revision = sha256_of(path)[:12]

    def reply(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        """See `dsd.chat.protocol.ChatModel`.

        Raises:
            UserError: a question was never recorded.
        """
        return [self._reply(request) for request in requests]

    def _reply(self, request: ChatRequest) -> Reply:
        line = self._replies.get(request_key(request))
        if line is None:
            raise UserError(
                f'"{self.name}" holds no reply to a question for {request.schema.__name__}; '
                "replay with the captions, templates and models of the recording"
            )
        if "failure" in line:
            return ChatFailure(**line["failure"])
        reply = request.schema.model_validate_json(json.dumps(line["reply"]))
        if isinstance(reply, Decision):
            reply._probability = line.get("probability")
        return reply


def _recorded(reply: Reply) -> dict[str, Any]:
    if isinstance(reply, ChatFailure):
        return {"failure": {"reason": reply.reason, "detail": reply.detail, "text": reply.text}}
    probability = reply.probability if isinstance(reply, Decision) else None
    weighed = {} if probability is None else {"probability": probability}
    return {"reply": reply.model_dump(mode="json"), **weighed}
