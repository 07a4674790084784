"""Claims about what chat servers send that is no reply: each is asked for again, then counted, and ends nothing."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import time
import tracemalloc
import zlib
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
from dsd.chat.parse import CutText
from dsd.chat.protocol import ChatFailure, ChatRequest, Message, TextPart
from dsd.curate.schemas import DirectVerdict
from dsd.errors import UserError

BRISK = Patience(seconds=8, pause=0.01, try_seconds=1, retries=2)
JUDGED = '{"same": true}'
WHOLE = json.dumps(completion(JUDGED)).encode()
HTML = b"<!DOCTYPE html><html><head><title>502 Bad\nGateway</title></head></html>"
BROKEN = "reply broken off"
GZIPPED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


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
    "a call of a tool": (
        message(content=JUDGED, tool_calls=[{"type": "function", "function": {"name": "f", "arguments": "{}"}}]),
        "tool call for a reply",
    ),
    "a call of a function": (
        message(content=JUDGED, function_call={"name": "f", "arguments": "{}"}),
        "tool call for a reply",
    ),
    "the user's turn": (message(content=JUDGED, role="user"), "reply of another role"),
    "a tool's turn": (message(content=JUDGED, role="tool"), "reply of another role"),
    "a role that is a list": (message(content=JUDGED, role=["assistant"]), "reply of another role"),
    "two choices": (
        (200, {"choices": [*completion(JUDGED)["choices"], *completion('{"same": false}')["choices"]]}),
        "several choices in the reply",
    ),
    "a choice and null": ((200, {"choices": [*completion(JUDGED)["choices"], None]}), "several choices in the reply"),
    "the second choice": ((200, completion(JUDGED, index=1)), "no first choice in the reply"),
    "a piece of a stream": (
        (200, {**completion(JUDGED, finish=None), "object": "chat.completion.chunk"}),
        "event stream for a reply",
    ),
    "choices twice": (
        raw(WHOLE[:-1] + b', "choices": ' + json.dumps(completion('{"same": false}')["choices"]).encode() + b"}"),
        "repeated key from the server",
    ),
    "an error taken back": (raw(b'{"error": "why", "error": null, ' + WHOLE[1:]), "repeated key from the server"),
    "an ending taken back": (
        raw(WHOLE.replace(b'"finish_reason": "stop"', b'"finish_reason": "length", "finish_reason": "stop"')),
        "repeated key from the server",
    ),
    "a part that is a thought": (message(content=[{"type": "text", "text": JUDGED, "thought": True}]), "empty reply"),
    "a part of reasoning": (message(content=[{"type": "reasoning_text", "text": JUDGED}]), "empty reply"),
    "a part that a vendor marks": (
        message(content=[{"type": "text", "text": JUDGED, "extra_content": {"google": {"thought": True}}}]),
        "empty reply",
    ),
    "a part on another channel": (
        message(content=[{"type": "text", "text": JUDGED, "channel": "analysis"}]),
        "empty reply",
    ),
    "a message that is a thought": (message(content=JUDGED, thought=True), "empty reply"),
    "gzip and more": (raw(gzip.compress(WHOLE) + b"x" * 99, "Content-Encoding: gzip"), "reply wrongly encoded"),
    "gzip and zeros": (raw(gzip.compress(WHOLE) + bytes(99), "Content-Encoding: gzip"), "reply wrongly encoded"),
    "gzip and half of one": (raw(gzip.compress(WHOLE) + gzip.compress(b" ")[:-9], "Content-Encoding: gzip"), BROKEN),
    "gzip and the end of deflate": (
        raw(gzip.compress(WHOLE) + zlib.compress(b" "), "Content-Encoding: gzip"),
        "reply wrongly encoded",
    ),
    "deflate and more": (
        raw(zlib.compress(WHOLE) + zlib.compress(b" "), "Content-Encoding: deflate"),
        "reply wrongly encoded",
    ),
    "gzip and bytes without end": (
        Raw(Endless([GZIPPED, _chunk(gzip.compress(WHOLE))], _chunk(b" " * 32768))),
        "reply wrongly encoded",
    ),
    "gzip and empty ones without end": (
        Raw(Endless([GZIPPED, _chunk(gzip.compress(WHOLE))], _chunk(gzip.compress(b"") * 2000))),
        "reply too large",
    ),
    "gzip and full ones without end": (
        Raw(Endless([GZIPPED, _chunk(gzip.compress(WHOLE))], _chunk(gzip.compress(bytes(1 << 20))))),
        "reply too large",
    ),
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
        {"content": [{"type": "text", "text": "no", "thought": True}, {"type": "text", "text": JUDGED}]},
        {"content": JUDGED, "refusal": {}, "reasoning_content": "hm", "tool_calls": []},
        {"content": JUDGED, "refusal": " ", "tool_calls": None, "function_call": None, "role": "Assistant"},
        {"content": JUDGED, "refusal": False, "role": None, "annotations": []},
    ],
)
def test_text_in_parts_and_fields_beside_it_are_a_reply(
    fields: dict[str, Any], server: ChatServer, chat: OpenAIChat
) -> None:
    server.script.append(message(**fields))
    assert chat.reply([question()]) == [DirectVerdict(same=True)]
    assert len(server.requests) == 1


@pytest.mark.parametrize("cuts", [(), (9,), (0, 1, 50)])
def test_a_compressed_reply_is_read_in_one_member_or_several(
    cuts: tuple[int, ...], server: ChatServer, chat: OpenAIChat
) -> None:
    members = [gzip.compress(WHOLE[a:b]) for a, b in itertools.pairwise((0, *cuts, len(WHOLE)))]
    server.script.append(raw(b"".join(members), "Content-Encoding: gzip"))
    server.script.append(Raw([GZIPPED, *(_chunk(bytes([byte])) for byte in b"".join(members)), b"0\r\n\r\n"]))
    assert chat.reply([question()]) + chat.reply([question()]) == [DirectVerdict(same=True)] * 2
    assert len(server.requests) == 2


CUT = "cut off"
REFUSED = "refused to answer"
UNKNOWN = "unknown ending"
ERROR = "server error"
ENDINGS: dict[str, list[Any]] = {
    CUT: [
        *("length", "LENGTH", "MAX_TOKENS", "max_tokens", "model_length", "max_output_tokens", "max_length"),
        *("incomplete", "Length", "token_limit", "FINISH_REASON_MAX_TOKENS", ["length"], {"type": "length"}),
    ],
    REFUSED: [
        *("content_filter", "content-filter", "ContentFilter", "SAFETY", "safety", "RECITATION", "BLOCKLIST"),
        *("PROHIBITED_CONTENT", "refusal", "guardrail_intervened", ["content_filter"]),
    ],
    ERROR: ["error", "ERROR", "insufficient_system_resource", "error_finish", "MALFORMED_FUNCTION_CALL", "failed"],
    UNKNOWN: [
        *("abort", "cancelled", "tool_calls", "function_call", "unknown", "FINISH_REASON_UNSPECIFIED", "pause_turn"),
        *("stopped", "not stop", "null", 1, True, False, [], {}, ["stop"], {"type": "stop"}, 0.5),
    ],
}
GOOD = ("stop", "STOP", "Stop", "eos", "eos_token", "end_turn", "stop_sequence", "COMPLETE", "completed", None, "")


def _reasons(bodies: list[dict[str, Any]], server: ChatServer, chat: OpenAIChat) -> list[str]:
    """Why no reply is read from each of some bodies, or ``read``."""
    reasons = []
    for body in bodies:
        server.script.clear()
        server.script += [(200, body)] * 3
        (reply,) = chat.reply([question()])
        reasons.append(reply.reason if isinstance(reply, ChatFailure) else "read")
    return reasons


@pytest.mark.parametrize("reason", ENDINGS)
def test_only_endings_that_are_known_to_be_good_are_replies(reason: str, server: ChatServer, chat: OpenAIChat) -> None:
    bodies = [completion(JUDGED, finish=ending) for ending in ENDINGS[reason]]
    assert _reasons(bodies, server, chat) == [reason] * len(bodies)


def test_good_endings_are_replies_however_they_are_spelt(server: ChatServer, chat: OpenAIChat) -> None:
    bodies = [completion(JUDGED, finish=ending) for ending in GOOD]
    bodies += [completion(JUDGED, stop_reason=reason) for reason in (None, 151645, "<|im_end|>", "</s>", "end_turn")]
    bodies += [{**completion(JUDGED), "status": status} for status in ("completed", "success", 200, None)]
    bodies += [completion(JUDGED, native_finish_reason="STOP", truncated=False, content_filter_results={"hate": {}})]
    bodies += [{**completion(JUDGED), "errors": [], "error": None, "incomplete_details": None}]
    bodies += [{"choices": completion(JUDGED)["choices"] + completion(JUDGED, index=1)["choices"]}]
    del (missing := completion(JUDGED))["choices"][0]["finish_reason"]
    assert _reasons([*bodies, missing], server, chat) == ["read"] * (len(bodies) + 1)


def test_a_bad_ending_counts_wherever_it_is_said() -> None:
    def reason_of(body: dict[str, Any]) -> str:
        try:
            answer = read_reply(Spoken(200, "application/json", json.dumps(body).encode())).answer
        except Fault as fault:
            return fault.reason
        return CUT if isinstance(answer, CutText) else answer.reason if isinstance(answer, ChatFailure) else "read"

    said: dict[str, list[dict[str, Any]]] = {
        CUT: [
            {"stop_reason": "length"},
            {"stop_reason": "max_tokens"},
            {"native_finish_reason": "MAX_TOKENS"},
            {"done_reason": "length"},
            {"stop_type": "limit"},
            {"status": "incomplete"},
            {"status": "in_progress"},
            {"incomplete_details": {"reason": "max_output_tokens"}},
            {"finish_details": {"type": "max_tokens"}},
            {"truncated": True},
        ],
        REFUSED: [
            {"stop_reason": "refusal"},
            {"native_finish_reason": "SAFETY"},
            {"content_filter_results": {"hate": {"filtered": True}}},
            {"status": "blocked"},
        ],
        ERROR: [{"status": "failed"}, {"native_finish_reason": "error"}, {"errors": ["why"]}, {"error": {"a": "why"}}],
        UNKNOWN: [{"status": "cancelled"}, {"stop_reason": "tool_use"}, {"status": 500}, {"stop_reason": ["stop"]}],
    }
    for reason, cases in said.items():
        for fields in cases:
            whole = completion(JUDGED)
            choice = whole["choices"][0]
            within = {**whole, "choices": [{**choice, "message": {**choice["message"], **fields}}]}
            bodies = [{**whole, **fields}, completion(JUDGED, **fields), within]
            assert list(map(reason_of, bodies)) == [reason] * 3, fields


@pytest.mark.parametrize("refusal", ["no", ["no"], {"reason": "no"}, True, [" "], 1])
def test_a_refusal_counts_whatever_its_shape(refusal: Any, server: ChatServer, chat: OpenAIChat) -> None:
    beside = message(content=[{"type": "refusal", "refusal": refusal}, {"type": "text", "text": JUDGED}])[1]
    bodies = [message(content=JUDGED, refusal=refusal)[1], beside]
    assert _reasons(bodies, server, chat) == [REFUSED] * 2
    assert len(server.requests) == 2


def test_a_reply_of_any_depth_is_a_reply_or_a_fault() -> None:
    for depth, status in itertools.product(range(100, 1200, 29), (200, 401)):
        deep = "[" * depth + "]" * depth
        for name in ("error", "errors", "index", "finish_reason", "role", "refusal", "x"):
            body = f'{{"{name}": {deep}, "choices": [{{"{name}": {deep}, "message": {{"{name}": {deep}}}}}]}}'
            try:
                read_reply(Spoken(status, "application/json", body.encode()))
            except Fault as fault:
                assert (fault.kind == "unusable") is (status == 401)


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
    "of several": ({"errors": [{"message": "why", "code": 429}], "choices": completion(JUDGED)["choices"]}, 429),
    "bare": ({"message": "why", "code": 429}, 429),
    "in a message": ({"choices": [{"message": {"content": JUDGED, "error": {"message": "why"}}}]}, 500),
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
