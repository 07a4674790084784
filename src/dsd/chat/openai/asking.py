"""Asking a chat server until it answers, within a deadline: which faults are asked again, and whose fault they are."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass
from typing import Any

import httpx

from dsd.chat.openai.dialect import DataUrls, Dialect, messages_of
from dsd.chat.openai.faults import Fault
from dsd.chat.openai.line import Line, Spoken
from dsd.chat.openai.replies import Said, read_reply
from dsd.chat.openai.secrecy import said_without_key
from dsd.chat.protocol import ChatFailure, ChatRequest
from dsd.errors import UserError

COMPLETIONS = "/chat/completions"
_LONGEST_PAUSE = 8.0


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a server is borne with.

    Attributes:
        seconds: from when a question goes out until it has failed, over all tries and all replies that do not parse.
        retries: after a broken line or a server's error; a busy server is asked until the time is over.
        odd_retries: after a reply that is no chat reply.
        pause: seconds before the first retry, doubled before each further one; a server may ask for more.
        try_seconds: until a connection stands, and in which a server shows that it is there at all.
        reply_bytes: of a reply, decompressed.
    """

    seconds: float = 360.0
    retries: int = 5
    odd_retries: int = 2
    pause: float = 0.5
    try_seconds: float = 30.0
    reply_bytes: int = 4 << 20


class Asking:
    """Questions in flight to one server, in one event loop.

    Args:
        line: to the server.
        model: as the server calls it.
        patience: with it.
        dialect: that it takes, as far as is known.

    Attributes:
        dialect: that it has shown to take.
    """

    def __init__(self, line: Line, model: str, patience: Patience, dialect: Dialect) -> None:
        self.dialect = dialect
        self._line, self._model, self._patience = line, model, patience
        self._pictures = DataUrls()
        self._opened: list[httpx.AsyncClient] = []
        self._idle: list[httpx.AsyncClient] = []
        self._checking = asyncio.Lock()
        self._resume_at, self._seen_at = 0.0, float("-inf")

    async def connect(self) -> Spoken:
        """Asks the server for its models, once more if the line breaks.

        Raises:
            Fault: nothing answers.
        """
        for retry in range(2):
            try:
                async with asyncio.timeout(self._patience.try_seconds):
                    return await self._exchange("/models")
            except TimeoutError:
                raise Fault("unwell", "no answer in time") from None
            except Fault as fault:
                if fault.kind == "odd":
                    break  # it lists no models, but it is there
                if retry or fault.kind != "unwell":
                    raise
                await asyncio.sleep(self._patience.pause)
        return Spoken(200, "", b"")

    async def close(self) -> None:
        """Lets go of the connections."""
        for client in self._opened:
            await client.aclose()

    async def ask(self, request: ChatRequest, attempt: int, seconds: float) -> Said:
        """Asks one question.

        Args:
            request: the question.
            attempt: of asking it, from 0.
            seconds: that are left for it.

        Returns:
            What was said, or a failure of this question alone: the server answers others.

        Raises:
            UserError: the server cannot be used; it is away, silent, busy for too long, or refuses us.
        """
        faults: list[Fault] = []
        try:
            async with asyncio.timeout(seconds):
                return said_without_key(await self._until_answered(request, attempt, seconds, faults), self._line.key)
        except TimeoutError:
            fault = Fault("unwell", "no answer in time", f"within {seconds:.3g} s over {len(faults) + 1} tries")
            if faults and faults[-1].kind == "busy":
                fault = faults[-1]
        except Fault as met:
            fault = met
        if fault.kind == "unwell":
            await self._require_presence(fault)
        if fault.kind in ("unusable", "busy"):
            raise self.unusable(fault) from None
        return said_without_key(Said(ChatFailure(fault.reason, fault.detail)), self._line.key)

    def unusable(self, fault: Fault) -> UserError:
        """The mistake that a fault of the whole server is."""
        hint = "; ask less at once (chat_batch), or of a faster server" if fault.reason == "no answer in time" else ""
        said = self._line.key.redacted(fault.sentence)
        return UserError(f"the chat server {self._line.address.url} cannot be used: {said}{hint}")

    async def _until_answered(self, request: ChatRequest, attempt: int, seconds: float, faults: list[Fault]) -> Said:
        until = _now() + seconds
        messages = await messages_of(request.messages, self._pictures)
        dialect = known = self.dialect
        while True:
            while (pause := self._resume_at - _now()) > 0:
                await asyncio.sleep(pause)
            try:
                said = await self._once({"messages": messages, **dialect.arguments(request, attempt)})
            except Fault as fault:
                less = (
                    dialect.without(fault.complaint, decides=bool(request.decides)) if fault.kind == "refused" else None
                )
                if less is None:
                    faults.append(fault)
                    await self._pause(faults, until)
                dialect = less or dialect
                continue
            if dialect != known:
                self.dialect = dialect
            return said

    async def _once(self, asked: dict[str, Any]) -> Said:
        began = _now()
        body = json.dumps({"model": self._model, **asked}).encode()
        said = read_reply(await self._exchange(COMPLETIONS, body))
        self._seen_at = max(self._seen_at, began)
        return said

    async def _exchange(self, path: str, body: bytes | None = None) -> Spoken:
        """Sends one request, over a connection that no other one uses.

        Of one client they would look through all connections each time, which takes longer than the questions do.
        """
        if self._idle:
            client = self._idle.pop()
        else:
            self._opened.append(client := self._line.open())
        try:
            return await self._line.exchange(client, path, body)
        finally:
            self._idle.append(client)

    async def _pause(self, faults: list[Fault], until: float) -> None:
        """Waits before the next try.

        Raises:
            Fault: the last one, when there should be none.
        """
        fault = faults[-1]
        met = sum(other.kind == fault.kind for other in faults)
        allowed = {"odd": self._patience.odd_retries, "unwell": self._patience.retries, "busy": met}.get(fault.kind, 0)
        if met > allowed:
            raise fault
        pause = min(self._patience.pause * 2 ** min(met - 1, 16), _LONGEST_PAUSE) * random.uniform(0.75, 1)
        if fault.wait is not None and _now() + fault.wait > until:
            raise fault
        if fault.wait:
            self._resume_at = max(self._resume_at, _now() + fault.wait)  # all questions wait, not this one alone
        await asyncio.sleep(pause)

    async def _require_presence(self, fault: Fault) -> None:
        """Asks something easy, unless the server has answered something that was asked after the fault.

        Raises:
            UserError: no answer, so the fault is the server's and not the question's.
        """
        failed_at = _now()
        async with self._checking:
            if self._seen_at >= failed_at:
                return
            easy = {"messages": [{"role": "user", "content": "Say yes."}], self.dialect.limit: 1}
            try:
                async with asyncio.timeout(min(self._patience.try_seconds, self._patience.seconds)):
                    await self._once(easy)
            except TimeoutError:
                raise self.unusable(fault) from None
            except Fault as other:
                if other.kind not in ("refused", "busy"):
                    raise self.unusable(fault if other.kind != "unusable" else other) from None


def _now() -> float:
    return asyncio.get_running_loop().time()
