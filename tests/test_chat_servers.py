"""Claims about chat models behind a server (a real one, on loopback), recorded ones, and their names."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from chat_server import ChatServer, Raw, chat_server, completion, raw
from PIL import Image

from dsd.chat.openai.asking import Patience
from dsd.chat.openai.client import OpenAIChat
from dsd.chat.openai.dialect import DataUrls
from dsd.chat.protocol import ChatFailure, ChatRequest, ImagePart, Message, TextPart
from dsd.chat.registry import load_chat
from dsd.chat.replay import Recorder, ReplayChat
from dsd.curate.schemas import DirectVerdict, GridPromptReply
from dsd.errors import UserError

BAD_REQUEST = (400, {"error": {"message": "no pictures here", "type": "invalid_request_error"}})

BRISK = Patience(seconds=5, pause=0.01, try_seconds=1)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as running:
        yield running


@pytest.fixture
def chat(server: ChatServer) -> OpenAIChat:
    return OpenAIChat("test", server.url, concurrency=4, patience=BRISK)


def question(text: str = "judge directly", seed: int = 0, *images: Image.Image) -> ChatRequest:
    parts = (*(ImagePart(image) for image in images), TextPart(text))
    return ChatRequest(messages=(Message("user", parts),), schema=DirectVerdict, seed=seed, max_tokens=9)


def test_a_request_carries_pictures_schema_and_seed(server: ChatServer, chat: OpenAIChat) -> None:
    picture = tiny.picture((8, 6))
    assert isinstance(chat.reply([question("judge directly", 5, picture)])[0], DirectVerdict)
    (body,) = server.requests
    image, text = body["messages"][0]["content"]
    header, _, data = image["image_url"]["url"].partition(",")
    assert header == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).tobytes() == picture.tobytes()
    assert text == {"type": "text", "text": "judge directly"}
    schema = body["response_format"]["json_schema"]
    assert (schema["name"], schema["schema"]["required"]) == ("DirectVerdict", ["same"])
    assert schema["schema"]["additionalProperties"] is False
    assert (body["model"], body["seed"], body["max_tokens"], body["temperature"]) == ("test", 5, 9, 0.0)


def test_a_picture_of_many_questions_is_encoded_once() -> None:
    pictures, first = DataUrls(), tiny.picture((8, 6))

    async def asked() -> list[str]:
        given_up = asyncio.create_task(pictures.of(first))
        await asyncio.sleep(0)
        given_up.cancel()  # another question goes on with what was begun for this one
        urls = [await pictures.of(first) for _ in range(2)]
        others = await asyncio.gather(*(pictures.of(tiny.picture((8, 6), seed=n)) for n in range(1, 100)))
        return [*urls, await pictures.of(first), *others]

    again, same, later, *others = asyncio.run(asked())
    assert again is same
    assert later == same and later is not same  # a picture of long ago is let go
    assert len({same, *others}) == 100


def test_questions_share_as_few_connections_as_are_in_flight(server: ChatServer, chat: OpenAIChat) -> None:
    chat.reply([question(str(number)) for number in range(20)])
    assert len(server.requests) == 20
    assert server.connections <= 4


def test_lengths_of_words_are_not_sent_but_counts_are(server: ChatServer, chat: OpenAIChat) -> None:
    request = ChatRequest(messages=(Message("user", (TextPart("hi"),)),), schema=GridPromptReply)
    assert isinstance(chat.reply([request])[0], GridPromptReply)
    sent = str(server.requests[0]["response_format"])
    assert "maxLength" not in sent
    assert "'maxItems': 4" in sent


def test_replies_come_in_the_order_of_questions_and_depend_on_them_alone(chat: OpenAIChat) -> None:
    questions = [question(str(number)) for number in range(12)]
    together = chat.reply(questions)
    assert together == [chat.reply([one])[0] for one in questions]
    assert len(set(map(str, together))) == 2


def test_a_bad_reply_is_asked_for_again(server: ChatServer, chat: OpenAIChat) -> None:
    server.script += ["Sure!", '{"same": "true"}', '```json\n{"same": true}\n```']
    assert chat.reply([question()]) == [DirectVerdict(same=True)]
    assert [body["temperature"] for body in server.requests] == [0.0, 0.7, 0.7]
    assert [body["seed"] for body in server.requests] == [0, 1, 2]


def test_a_reply_that_stays_bad_is_a_failure(server: ChatServer, chat: OpenAIChat) -> None:
    server.script += ["no", "no", "no"]
    assert chat.reply([question()]) == [ChatFailure("no JSON object", text="no")]


def test_a_reply_that_reaches_its_limit_is_cut_off_even_when_it_holds_an_object(
    server: ChatServer, chat: OpenAIChat
) -> None:
    for text in ('{"sa', '{"same": true}'):
        server.script += [text + "…"] * 3
        assert chat.reply([question()]) == [ChatFailure("cut off", "no whole reply within 9 tokens", text)]


@pytest.mark.parametrize(
    ("finish", "refusal", "detail"),
    [("stop", "I cannot judge people.", "I cannot judge people."), ("content_filter", None, "content filter")],
)
def test_a_refusal_is_a_failure_at_once(
    server: ChatServer, chat: OpenAIChat, finish: str, refusal: str | None, detail: str
) -> None:
    message = {"role": "assistant", "content": None, "refusal": refusal}
    choice = {"index": 0, "finish_reason": finish, "message": message}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "test", "choices": [choice]}
    server.script.append((200, body))
    (failure,) = chat.reply([question()])
    assert isinstance(failure, ChatFailure)
    assert failure.reason == "refused to answer"
    assert detail in failure.detail
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again(server: ChatServer, chat: OpenAIChat) -> None:
    server.script += [(429, {"error": {"message": "slow down"}}), (503, {"error": {"message": "loading"}})]
    assert isinstance(chat.reply([question()])[0], DirectVerdict)
    assert len(server.requests) == 3


def test_one_refused_request_is_a_failure_and_all_of_them_a_mistake(server: ChatServer, chat: OpenAIChat) -> None:
    server.script.append(BAD_REQUEST)
    with pytest.raises(UserError, match="no pictures here"):
        chat.reply([question()])
    chat.reply([question()])
    server.script.append(BAD_REQUEST)
    (failure,) = chat.reply([question()])
    assert isinstance(failure, ChatFailure)
    assert failure.reason == "request refused"


@pytest.mark.parametrize(("status", "words"), [(401, "wrong key"), (404, "no such model")])
def test_a_server_that_cannot_be_used_is_no_data(server: ChatServer, status: int, words: str) -> None:
    chat = OpenAIChat("test", server.url, concurrency=1)
    server.script += [(status, {"error": {"message": words}})] * 3
    with pytest.raises(UserError, match=words):
        chat.reply([question()] * 3)


def test_a_server_that_is_away_is_no_data() -> None:
    with pytest.raises(UserError, match="no connection"):
        OpenAIChat("test", "http://127.0.0.1:9/v1", patience=BRISK).reply([question()])


REPLY = json.dumps(completion('{"same": true}')).encode()
HEADERS = {
    "Content-Length": [b"-1", b"1e3", b"0x10", b"9" * 30, b"5, 5", b"\xff", b""],
    "Transfer-Encoding": [b"gzip", b"chunked, gzip", b"identity", b"CHUNKED", b"\xff", b""],
    "Content-Encoding": [b"gzip, gzip", b"identity, gzip", b"br", b"zstd", b"\xff\xfe", b",", b"GZIP", b'"'],
    "Content-Type": [b"text/html; charset=\xff", b"application/json; charset=idna", b"x; charset=rot13", b";", b"\xff"],
    "Set-Cookie": [
        *(b"a=b; expires=Mon, 01 Jan 99999 00:00:00 +" + b"9" * 30, b"a=\xff; domain=xn--a", b"=; secure"),
        *(b"a=b; max-age=" + b"9" * 400, b"a=b; domain=127.0.0.1; port=x", b"a" * 5000),
    ],
    "Date": [b"Mon, 99 Foo 2024 99:99:99", b"\xff", b"9" * 5000],
    "Retry-After": [
        *(b"Mon, 01 Jan 2024 00:00:00 +" + b"9" * 20, b"Mon, 01 Jan 0000 00:00:00 GMT", b"1 2 3 4 5 6 7", b", : :"),
        *(b"Mon, 01 Jan 0001 00:00:00 +2359", b"1 Jan " + b"9" * 30 + b" 00:00 GMT", b"nan", b"-inf", b"-5", b"1_0"),
        *(b"9" * 5000, b"\xff\xfe", b"1, 2", b"", b"0x1", b"1e-400"),
    ],
    "Connection": [b"upgrade", b"\xff", b"close, keep-alive"],
    "Link": [b"<http://xn--a/>; rel=next", b"\xff"],
    "Location": [b"http://xn--a/", b"http://[::bad/"],
    "X-Long": [b"a" * 90_000, b"a" * 200_000],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("status", [200, 429, 500])
def test_whatever_a_header_holds_ends_no_run(status: int, name: str, server: ChatServer, chat: OpenAIChat) -> None:
    own = [] if name in ("Content-Length", "Transfer-Encoding") else [b"Content-Length: %d" % len(REPLY)]
    for value in HEADERS[name]:
        lines = [b"HTTP/1.1 %d Said" % status, *own, name.encode() + b": " + value, b"", b""]
        server.script.append(Raw([b"\r\n".join(lines), REPLY]))
        (reply,) = chat.reply([question()])
        if isinstance(reply, ChatFailure):
            assert reply.reason in ("no connection", "reply broken off", "reply wrongly encoded")
        server.script.clear()


def test_cookies_are_not_kept(server: ChatServer, chat: OpenAIChat) -> None:
    server.models = server.always = raw(REPLY, "Set-Cookie: a=b; path=/")
    assert chat.reply([question(str(number)) for number in range(9)]) == [DirectVerdict(same=True)] * 9
    assert not [headers for headers in server.headers if "Cookie" in headers]


REDIRECTS = {
    **dict.fromkeys(
        ["mailto:x@y", "http://[::bad/", "", "javascript:alert(1)", "http://", "://", "?", "http://[::1"], ""
    ),
    "http://xn--a/": "http://xn--a",
    "http://a:99999999/": "http://a",
    "//b/c": "http://b",
    "https://user:pass@c:0/": "https://c",
    "HTTP://[FE80::1%25eth0]/": "http://fe80::1",
    f"http://{'a' * 5000}/": "http://aaa",
    "http://\xff.\x80/": "http://",
    "http://\u2100.com/".encode().decode("latin-1"): "http://",
}


@pytest.mark.parametrize("location", REDIRECTS)
def test_a_redirect_to_anywhere_is_one_sentence_at_once(location: str, server: ChatServer, chat: OpenAIChat) -> None:
    head = f"HTTP/1.1 302 Said\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode("latin-1")
    server.models = server.always = Raw([head])
    for act in (lambda: chat.reply([question()]), chat.require_connection):
        with pytest.raises(UserError, match="sends questions elsewhere") as error:
            act()
        assert REDIRECTS[location] in str(error.value)
        assert "\n" not in str(error.value) and "pass" not in str(error.value) and len(str(error.value)) < 500
    assert len(server.requests) == 1


def test_recorded_replies_are_found_by_pictures_and_words(server: ChatServer, chat: OpenAIChat, tmp_path: Path) -> None:
    asked = [question("a", 0, tiny.picture()), question("a", 0, tiny.picture(seed=1)), question("b")]
    server.script += ["no"] * 9
    failures = Recorder(chat, tmp_path / "replies.jsonl").reply([question("bad")])
    answers = Recorder(chat, tmp_path / "replies.jsonl").reply(asked)
    replay = load_chat(f"replay:{tmp_path / 'replies.jsonl'}")
    assert isinstance(replay, ReplayChat)
    assert replay.reply([*reversed(asked), question("bad", seed=3)]) == [*reversed(answers), *failures]
    with pytest.raises(UserError, match="no reply to a question for DirectVerdict"):
        replay.reply([question("c")])


def test_names_lead_to_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GATE_KEY", "secret")
    chat = load_chat("openai:org/model@7b@https://example.org/v1#GATE_KEY", batch_size=3)
    assert (chat.name, chat.revision) == ("org/model@7b", "served as org/model@7b")
    for name, words in {
        "openai:model": "names no server",
        "openai:": "names no server",
        "openai:m@localhost/v1": "names no server",
        "openai:@http://localhost/v1": "names no server",
        "openai:m@http://localhost/v1#NO_SUCH_KEY": "NO_SUCH_KEY",
        "embedded:tiny-vml": "did you mean",
        f"replay:{tmp_path / 'none'}": "no recording",
        str(tmp_path): "cannot be loaded as a chat model",
    }.items():
        with pytest.raises(UserError, match=words):
            load_chat(name)
