"""Claims about what chat servers send that is no reply: each is asked for again, then counted, and ends nothing."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from chat_server import ChatServer, Endless, Raw, Scripted, chat_server, completion, raw
from hypothesis import given, settings
from hypothesis import strategies as st

from dsd.chat.openai.asking import Patience
from dsd.chat.openai.client import OpenAIChat
from dsd.chat.openai.faults import Fault
from dsd.chat.openai.line import Spoken
from dsd.chat.openai.replies import Said, read_reply
from dsd.chat.protocol import ChatFailure, ChatRequest, Message, TextPart
from dsd.curate.schemas import DirectVerdict
from dsd.errors import UserError

BRISK = Patience(seconds=8, pause=0.01, try_seconds=1, retries=2)
JUDGED = '{"same": true}'
WHOLE = json.dumps(completion(JUDGED)).encode()
HTML = b"<!DOCTYPE html><html><head><title>502 Bad\nGateway</title></head></html>"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def message(**fields: Any) -> tuple[int, Any]:
    return 200, {"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **fields}}]}


ODD: dict[str, tuple[Scripted, str]] = {
    "garbage": (raw(b"\x00\xff\xfe garbage"), "no JSON from the server"),
    "nothing": (raw(b""), "no JSON from the server"),
    "no content": (raw(b"", status=204), "no JSON from the server"),
    "truncated JSON": (raw(WHOLE[: len(WHOLE) // 2]), "no JSON from the server"),
    "two objects": (raw(WHOLE + WHOLE), "no JSON from the server"),
    "deep JSON": (raw(b"[" * 200_000), "no JSON from the server"),
    "a number without end": (raw(b"1" * 10_000), "no JSON from the server"),
    "wrong charset": (raw(WHOLE.decode().encode("utf-16")[1:]), "no JSON from the server"),
    "a web page": (raw(HTML, "Content-Type: text/html"), "web page for a reply"),
    "a web page called JSON": (raw(HTML, "Content-Type: application/json"), "web page for a reply"),
    "an event stream": (
        raw(b'data: {"choices": []}\n\ndata: [DONE]\n\n', "Content-Type: text/event-stream"),
        "event stream for a reply",
    ),
    "a list": ((200, [completion(JUDGED)]), "no chat reply"),
    "null": ((200, None), "no chat reply"),
    "a text": ((200, JUDGED), "no chat reply"),
    "a number": ((200, 3.5), "no chat reply"),
    "true": ((200, True), "no chat reply"),
    "an empty object": ((200, {}), "no choices in the reply"),
    "no choices": ((200, {"choices": []}), "no choices in the reply"),
    "choices null": ((200, {"choices": None}), "no choices in the reply"),
    "choices an object": ((200, {"choices": {"0": completion(JUDGED)["choices"][0]}}), "no choices in the reply"),
    "a choice null": ((200, {"choices": [None]}), "no message in the reply"),
    "a choice a text": ((200, {"choices": [JUDGED]}), "no message in the reply"),
    "no message": ((200, {"choices": [{"text": JUDGED}]}), "no message in the reply"),
    "message null": ((200, {"choices": [{"message": None}]}), "no message in the reply"),
    "message a list": ((200, {"choices": [{"message": [JUDGED]}]}), "no message in the reply"),
    "content a number": (message(content=1), "no text in the reply"),
    "content true": (message(content=True), "no text in the reply"),
    "content an object": (message(content={"same": True}), "no text in the reply"),
    "content parts of numbers": (message(content=[1, 2]), "no text in the reply"),
    "content a picture": (message(content=[{"type": "image_url", "image_url": {}}]), "no text in the reply"),
    "content a part without text": (message(content=[{"type": "text"}]), "no text in the reply"),
    "content null": (message(content=None), "empty reply"),
    "content missing": (message(), "empty reply"),
    "content no parts": (message(content=[]), "empty reply"),
    "gzip that is none": (raw(WHOLE, "Content-Encoding: gzip"), "reply wrongly encoded"),
    "gzip cut": (raw(gzip.compress(WHOLE)[:-9], "Content-Encoding: gzip"), "reply broken off"),
    "an encoding nobody asked for": (raw(WHOLE, "Content-Encoding: br"), "reply wrongly encoded"),
    "a body cut": (raw(WHOLE[:40], length=len(WHOLE)), "reply broken off"),
    "broken chunks": (Raw([CHUNKED, b"ZZ\r\n", WHOLE]), "reply broken off"),
    "chunks without end": (Raw([CHUNKED, f"{len(WHOLE):x}\r\n".encode(), WHOLE]), "reply broken off"),
    "too much": (raw(b'"' + b"x" * (5 << 20) + b'"'), "reply too large"),
    "too much of gzip": (raw(gzip.compress(b" " * (5 << 20)), "Content-Encoding: gzip"), "reply too large"),
    "without end": (Raw(Endless([CHUNKED], b"8000\r\n" + b" " * 32768 + b"\r\n")), "reply too large"),
}


@pytest.fixture(scope="module")
def running() -> Iterator[ChatServer]:
    with chat_server() as server:
        yield server


@pytest.fixture
def server(running: ChatServer) -> ChatServer:
    running.requests.clear()
    running.script.clear()
    running.always = None
    return running


@pytest.fixture
def chat(server: ChatServer) -> OpenAIChat:
    return OpenAIChat("test", server.url, concurrency=4, patience=BRISK)


def question(text: str = "judge directly") -> ChatRequest:
    return ChatRequest(messages=(Message("user", (TextPart(text),)),), schema=DirectVerdict)


@pytest.mark.parametrize("name", ODD)
def test_an_odd_reply_is_asked_for_again_and_then_counted_by_its_reason(
    name: str, server: ChatServer, chat: OpenAIChat
) -> None:
    odd, reason = ODD[name]
    server.script += [odd] * 3
    (failure,) = chat.reply([question()])
    assert isinstance(failure, ChatFailure)
    assert failure.reason == reason
    assert len(server.requests) == 3
    assert len(failure.detail) < 300 and "\n" not in failure.detail
    server.script.append(odd)
    assert isinstance(chat.reply([question()])[0], DirectVerdict)


@pytest.mark.parametrize(
    "fields",
    [
        {"content": [{"type": "text", "text": '{"same":'}, {"type": "text", "text": " true}"}]},
        {"content": ['{"same":', " true}"]},
        {"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": JUDGED}]},
        {"content": JUDGED, "refusal": {}, "reasoning_content": "hm", "tool_calls": []},
    ],
)
def test_text_in_parts_and_fields_beside_it_are_a_reply(
    fields: dict[str, Any], server: ChatServer, chat: OpenAIChat
) -> None:
    server.script.append(message(**fields))
    assert chat.reply([question()]) == [DirectVerdict(same=True)]
    assert len(server.requests) == 1


def test_a_compressed_reply_is_read(server: ChatServer, chat: OpenAIChat) -> None:
    server.script.append(raw(gzip.compress(WHOLE), "Content-Encoding: gzip"))
    assert chat.reply([question()]) == [DirectVerdict(same=True)]


ERRORS: dict[str, tuple[Any, int]] = {
    "a status": ({"error": {"message": "why", "code": 429}}, 429),
    "a status in words": ({"error": {"message": "why", "code": "503"}}, 503),
    "a kind": ({"error": {"message": "why", "type": "rate_limit_error"}}, 429),
    "a wrong key": ({"error": {"message": "why", "type": "authentication_error"}}, 401),
    "no money": ({"error": {"message": "why", "code": "insufficient_quota"}}, 402),
    "a wrong question": ({"error": {"message": "why", "type": "invalid_request_error"}}, 400),
    "an error of vLLM": ({"object": "error", "message": "why", "type": "BadRequestError", "code": 400}, 400),
    "a text": ({"error": "why"}, 500),
    "true": ({"error": True}, 500),
    "beside choices": ({"error": {"message": "why"}, "choices": completion(JUDGED)["choices"]}, 500),
    "in a choice": ({"choices": [{"error": {"code": 502, "message": "why"}, "message": {"content": JUDGED}}]}, 502),
    "as a finish": (completion(JUDGED, finish="error"), 500),
}
MEANS = {429: "busy", 503: "busy", 401: "unusable", 402: "unusable", 400: "refused", 500: "unwell", 502: "unwell"}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_that_comes_with_status_200_is_the_error_that_it_stands_for(name: str) -> None:
    body, status = ERRORS[name]
    with pytest.raises(Fault) as met:
        read_reply(Spoken(200, "application/json", json.dumps(body).encode()))
    assert met.value.kind == MEANS[status]
    if name not in ("true", "as a finish"):
        assert "why" in met.value.sentence


def test_an_error_with_status_200_is_retried_and_fails_its_own_question_only(
    server: ChatServer, chat: OpenAIChat
) -> None:
    error = (200, {"error": {"message": "out of memory"}})
    server.script += [error] * 2
    assert isinstance(chat.reply([question()])[0], DirectVerdict)
    server.script += [error] * 3
    assert chat.reply([question()]) == [ChatFailure("server error", "status 500: out of memory")]
    server.always = error
    with pytest.raises(UserError, match="out of memory"):
        chat.reply([question()])


@pytest.mark.parametrize(
    "body",
    [HTML, b"", b"\xff\x00", b"[]", b"null", b'[{"error": {"message": "Bad Gateway"}}]', b'{"detail": [{"msg": 1}]}'],
)
@pytest.mark.parametrize("status", [400, 500, 503])
def test_odd_bodies_of_errors_leave_the_status_to_say_what_is_wrong(
    status: int, body: bytes, server: ChatServer, chat: OpenAIChat
) -> None:
    chat.reply([question()])
    server.script += [raw(body, status=status)] * (1 if status == 400 else 2)
    (reply,) = chat.reply([question()])
    assert isinstance(reply, ChatFailure if status == 400 else DirectVerdict)
    server.script += [raw(gzip.compress(b"x" * (1 << 20)), "Content-Encoding: gzip", status=status)]
    chat.reply([question()])


def test_a_broken_line_fails_its_question_only_while_the_server_answers_others(
    server: ChatServer, chat: OpenAIChat
) -> None:
    server.script += [Raw([])] * 3
    (failure,) = chat.reply([question()])
    assert isinstance(failure, ChatFailure) and failure.reason == "no connection"
    server.script += [Raw([b"SSH-2.0-OpenSSH_9.2\r\n"])] * 3
    (failure,) = chat.reply([question()])
    assert isinstance(failure, ChatFailure) and failure.reason == "no connection"
    server.always = Raw([])
    with pytest.raises(UserError, match="no connection"):
        chat.reply([question()])


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"


@pytest.mark.parametrize(
    "slow",
    [
        Raw([], hangs=True),
        Raw([HEAD], hangs=True),
        Raw(Endless([HEAD[:20]], b"x"), pause=0.05),
        Raw(Endless([HEAD], b" "), pause=0.05),
        Raw(Endless([CHUNKED], b"1\r\n \r\n"), pause=0.05),
        Raw(Endless([], b"HTTP/1.1 100 Continue\r\n\r\n"), pause=0.05),
    ],
    ids=["silent", "silent after its head", "slow head", "slow body", "slow chunks", "to be continued"],
)
def test_a_question_ends_at_its_deadline_and_a_silent_server_is_no_data(slow: Raw, server: ChatServer) -> None:
    chat = OpenAIChat("test", server.url, patience=replace(BRISK, seconds=0.5, try_seconds=0.3))
    server.script.append(slow)
    began = time.monotonic()
    (failure,) = chat.reply([question()])
    assert isinstance(failure, ChatFailure) and failure.reason == "no answer in time"
    assert time.monotonic() - began < 1.5
    server.always = Raw([HEAD[:30]], hangs=True)
    with pytest.raises(UserError, match="no answer in time"):
        chat.reply([question()])
    assert time.monotonic() - began < 4


def test_the_deadline_holds_over_replies_that_do_not_parse(server: ChatServer) -> None:
    chat = OpenAIChat("test", server.url, patience=replace(BRISK, seconds=0.6))
    server.always = replace(raw(json.dumps(completion("no")).encode()), pause=0.2)
    (failure,) = chat.reply([question()])
    assert isinstance(failure, ChatFailure) and failure.reason == "no answer in time"
    assert len(server.requests) in (2, 3)


def test_a_flood_of_zeros_takes_no_memory(server: ChatServer, chat: OpenAIChat) -> None:
    bomb = gzip.compress(bytes(128 << 20), 1)
    server.script += [raw(bomb, "Content-Encoding: gzip")] * 3
    tracemalloc.start()
    (failure,) = chat.reply([question()])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(failure, ChatFailure) and failure.reason == "reply too large"
    assert peak < 24 << 20


def test_a_busy_server_is_asked_when_it_wants_to_be(server: ChatServer, chat: OpenAIChat) -> None:
    server.script += [raw(b"{}", "Retry-After: 0.4", status=429)]
    began = time.monotonic()
    replies = chat.reply([question(str(number)) for number in range(3)])
    assert all(isinstance(reply, DirectVerdict) for reply in replies)
    assert 0.4 <= time.monotonic() - began < 3
    server.script += [raw(b"{}", "Retry-After: soon", status=503)] * 7
    assert isinstance(chat.reply([question()])[0], DirectVerdict)


def test_a_server_that_stays_busy_or_asks_for_too_long_a_wait_is_no_data(server: ChatServer) -> None:
    chat = OpenAIChat("test", server.url, patience=replace(BRISK, seconds=0.4))
    for headers in (("Retry-After: 3600",), ()):
        server.always = raw(b'{"error": {"message": "slow down"}}', *headers, status=429)
        began = time.monotonic()
        with pytest.raises(UserError, match="slow down"):
            chat.reply([question()])
        assert time.monotonic() - began < 1


def test_a_web_page_is_no_chat_server(server: ChatServer, chat: OpenAIChat) -> None:
    chat.require_connection()
    for odd in (raw(b"garbage"), raw(b"{}", status=404), (200, None)):
        server.models = odd
        chat.require_connection()
    server.models = raw(HTML, "Content-Type: text/html")
    with pytest.raises(UserError, match=r"web page.*/v1"):
        chat.require_connection()


def test_questions_are_asked_inside_a_running_event_loop_too(chat: OpenAIChat) -> None:
    async def notebook() -> object:
        return chat.reply([question()])[0]

    assert isinstance(asyncio.run(notebook()), DirectVerdict)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", JUDGED, "error", "length", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "content",
                    "error",
                    "code",
                    "type",
                    "text",
                    "refusal",
                    "finish_reason",
                    "logprobs",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(values, st.sampled_from([200, 200, 200, 400, 401, 429, 500]))
def test_whatever_json_comes_is_a_reply_or_a_fault(value: Any, status: int) -> None:
    try:
        said = read_reply(Spoken(status, "application/json", json.dumps(value).encode()))
    except Fault as fault:
        assert fault.reason and len(fault.detail) < 300
        fault.sentence.encode()
    else:
        assert isinstance(said, Said) and status == 200
