"""A chat model behind any server that speaks the OpenAI protocol: vLLM, SGLang, Ollama, OpenAI, Gemini and so on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from dsd.chat.openai.address import Address, Key
from dsd.chat.openai.asking import Asking, Patience
from dsd.chat.openai.decisions import decision_of
from dsd.chat.openai.dialect import Dialect
from dsd.chat.openai.faults import Fault
from dsd.chat.openai.line import Line
from dsd.chat.openai.replies import Said
from dsd.chat.openai.secrecy import reply_without_key
from dsd.chat.parse import Answer, ask_until_parsed
from dsd.chat.protocol import ChatFailure, ChatRequest, Decision, Reply
from dsd.errors import UserError

_REFUSED = "request refused"
_T = TypeVar("_T")


class OpenAIChat:
    """Questions go out side by side, with the reply's JSON schema, pictures as data URLs.

    A reply that cannot be used becomes a `ChatFailure`; a server that cannot be used raises, since its silence must
    not end as data. Where it is served is no part of the model's name and revision, which data is claimed by.

    Args:
        model: as the server calls it.
        base_url: such as ``http://localhost:8000/v1``.
        key_variable: environment variable with the key; None for ``OPENAI_API_KEY`` at the host that it is for, and
            for no key elsewhere.
        concurrency: requests in flight.
        patience: with the server.

    Raises:
        UserError: the address cannot be read or holds a key, the variable is not set, or the key would go over an
            open line.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        key_variable: str | None = None,
        concurrency: int = 64,
        patience: Patience = Patience(),  # noqa: B008
    ) -> None:
        address = Address.parse(base_url)
        self.name, self.revision = model, f"served as {model}"
        self._concurrency, self._patience = concurrency, patience
        self._line = Line(address, Key.of(address, key_variable), patience.reply_bytes, patience.try_seconds)
        self._dialect = Dialect()
        self._answered = False

    def require_connection(self) -> None:
        """Tries the server, whatever it says.

        Raises:
            UserError: nothing answers there, or what does is a web page.
        """
        _run(self._connect())

    def reply(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        """See `dsd.chat.protocol.ChatModel`."""
        numbered = [_Numbered(**vars(request), number=number) for number, request in enumerate(requests)]
        course = _Course([self._patience.seconds] * len(requests), [None] * len(requests))
        replies = ask_until_parsed(numbered, lambda asked, attempt: _run(self._ask(asked, attempt, course)))
        for request, reply, said in zip(requests, replies, course.said, strict=True):
            if request.decides and isinstance(reply, Decision) and said is not None:
                decision = decision_of(said.log_probabilities, request.decides)
                if decision is not None and decision[0] is getattr(reply, request.decides):
                    reply._probability = decision[1]
        return [reply_without_key(reply, self._line.key) for reply in replies]

    async def _connect(self) -> None:
        asking = self._asking()
        try:
            spoken = await asking.connect()
        except Fault as fault:
            raise asking.unusable(fault) from None
        finally:
            await asking.close()
        if spoken.status == 200 and spoken.kind == "text/html":
            page = Fault("unusable", "a web page is there", "most addresses of chat servers end in /v1")
            raise asking.unusable(page)

    async def _ask(self, requests: Sequence[ChatRequest], attempt: int, course: _Course) -> list[Answer]:
        asking, places = self._asking(), asyncio.Semaphore(self._concurrency)

        async def ask(request: ChatRequest) -> Answer:
            assert isinstance(request, _Numbered)
            async with places:
                return await course.ask(asking, request, attempt)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(ask(request)) for request in requests]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            self._dialect = asking.dialect
            await asking.close()
        answers = [task.result() for task in tasks]
        refused = [a for a in answers if isinstance(a, ChatFailure) and a.reason == _REFUSED]
        if len(refused) == len(answers) and not self._answered:
            raise UserError(
                f"the chat server {self._line.address.url} refuses every request: {refused[0].detail}; "
                f'check that "{self.name}" takes pictures and structured output'
            )
        self._answered = True
        return answers

    def _asking(self) -> Asking:
        return Asking(self._line, self.name, self._patience, self._dialect)


@dataclass(frozen=True, kw_only=True)
class _Numbered(ChatRequest):
    """A question that is known again when it is asked again.

    Attributes:
        number: of all that were asked together.
    """

    number: int


@dataclass(frozen=True)
class _Course:
    """How questions fare over all attempts.

    Attributes:
        seconds: left for each.
        said: last to each.
    """

    seconds: list[float]
    said: list[Said | None]

    async def ask(self, asking: Asking, request: _Numbered, attempt: int) -> Answer:
        number, clock = request.number, asyncio.get_running_loop().time
        self.said[number] = None
        if self.seconds[number] <= 0:
            return ChatFailure("no answer in time", "its earlier replies took all of it")
        began = clock()
        said = await asking.ask(request, attempt, self.seconds[number])
        self.seconds[number] -= clock() - began
        self.said[number] = said
        return said.answer


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    """Runs what is asynchronous, from code that is not, even inside an event loop such as a notebook's."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
