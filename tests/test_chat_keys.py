"""Claims about keys of chat servers: each goes to the host that it is for, and is seen nowhere else."""

from __future__ import annotations

import base64
import codecs
import html
import itertools
import json
import logging
import re
import time
import traceback
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chat_server import ChatServer, Raw, Scripted, chat_server, completion, raw

from dsd.chat.openai.address import Address, Key
from dsd.chat.openai.asking import Patience
from dsd.chat.openai.client import OpenAIChat
from dsd.chat.openai.spelling import hidden
from dsd.chat.protocol import ChatFailure, ChatRequest, Message, TextPart
from dsd.chat.registry import claimed_name, load_chat
from dsd.chat.replay import Recorder
from dsd.curate.schemas import DirectVerdict, PanelDescription
from dsd.errors import UserError

SECRET = "sk-proj-Zx81mPq0-7hFvKd93Wc2"
BRISK = Patience(seconds=5, pause=0.01, try_seconds=1, retries=1)


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[ChatServer, ChatServer]]:
    with chat_server() as one, chat_server() as other:
        yield one, other


@pytest.fixture
def server(running: tuple[ChatServer, ChatServer], monkeypatch: pytest.MonkeyPatch) -> ChatServer:
    for one in running:
        one.requests.clear()
        one.headers.clear()
        one.script.clear()
        one.always = None
    monkeypatch.setenv("GATE_KEY", SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai-alone-0123456789")
    return running[0]


@pytest.fixture
def elsewhere(running: tuple[ChatServer, ChatServer]) -> ChatServer:
    return running[1]


def question() -> ChatRequest:
    return ChatRequest(messages=(Message("user", (TextPart("judge directly"),)),), schema=DirectVerdict)


def test_the_usual_key_goes_to_its_own_host_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    for url in ("https://api.openai.com/v1", "https://API.OpenAI.com:443/v1/", "HTTPS://api.openai.com"):
        assert Key.of(Address.parse(url), None).secret == SECRET
    for url in (
        "http://api.openai.com/v1",
        "https://api.openai.com:8443/v1",
        "https://api.openai.com.example.org/v1",
        "https://api-openai.com/v1",
        "https://example.org/api.openai.com/v1",
        "https://api.openai.com./v1",
        "http://127.0.0.1:8000/v1",
    ):
        assert Key.of(Address.parse(url), None).secret == ""
        if url.startswith("https"):
            assert Key.of(Address.parse(url), "OPENAI_API_KEY").secret == SECRET
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match='"OPENAI_API_KEY" is not set'):
        load_chat("openai:gpt-4o@https://api.openai.com/v1")


def test_a_server_gets_the_key_that_was_named_for_it_and_no_other(server: ChatServer) -> None:
    load_chat(f"openai:test@{server.url}").reply([question()])
    load_chat(f"openai:test@{server.url}#GATE_KEY").reply([question()])
    assert [headers.get("Authorization") for headers in server.headers] == [None, f"Bearer {SECRET}"]
    assert "openai" not in str(server.headers).lower().replace("user-agent", "")


@pytest.mark.parametrize(
    "host", ["192.168.0.7:8000", "gpu-box", "example.org", "localhost.example.org", "0.0.0.0:8000"]
)
def test_no_key_goes_over_an_open_line(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATE_KEY", SECRET)
    with pytest.raises(UserError, match=r"not sent to .*https") as error:
        load_chat(f"openai:test@http://{host}/v1#GATE_KEY")
    assert SECRET not in str(error.value)
    load_chat(f"openai:test@http://{host}/v1")


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "127.8.9.1:1", "[::1]:8000"])
def test_this_machine_is_no_open_line(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATE_KEY", SECRET)
    assert Key.of(Address.parse(f"http://{host}/v1"), "GATE_KEY").secret == SECRET


def test_nothing_for_this_machine_goes_over_a_proxy(
    server: ChatServer, elsewhere: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, elsewhere.url.removesuffix("/v1"))
    assert isinstance(load_chat(f"openai:test@{server.url}#GATE_KEY").reply([question()])[0], DirectVerdict)
    assert not elsewhere.headers


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (f"https://user:{SECRET}@example.org/v1", "user name or a password"),
        (f"https://{SECRET}@example.org/v1", "user name or a password"),
        (f"https://example.org/v1?key={SECRET}", "query"),
        (f"https://example.org?{SECRET}", "query"),
        (f"https://example.org\\@{SECRET}/v1", "password"),
        (f"https://example.org/v1 {SECRET}", "cannot be read"),
        (f"https://example.org/v1;{SECRET}", "cannot be read"),
        (f"https://exa\nmple.org/{SECRET}", "cannot be read"),
        ("https://example.org:99999/v1", "cannot be read"),
        ("https:///v1", "cannot be read"),
        (f"https://example.org/v1#{SECRET}", "names no environment variable"),
        (f"https://example.org/v1#{SECRET.replace('-', '')}", "is not set"),
        (f"ftp://{SECRET}@example.org/v1", "names no server"),
        (f"user:{SECRET}@example.org/v1", "names no server"),
    ],
)
def test_an_address_that_holds_a_key_is_refused_and_not_repeated(address: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        load_chat(f"openai:test@{address}")
    assert SECRET not in str(error.value) and SECRET.replace("-", "") not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("secret", [f"{SECRET}\nX: y", f"{SECRET} {SECRET}", f"{SECRET}é", "  "])
def test_a_key_that_cannot_be_sent_is_one_sentence_without_it(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATE_KEY", secret)
    with pytest.raises(UserError, match="GATE_KEY") as error:
        load_chat("openai:test@https://example.org/v1#GATE_KEY")
    assert "sk-" not in str(error.value)
    monkeypatch.setenv("GATE_KEY", f"{SECRET}\n")
    assert Key.of(Address.parse("https://example.org/v1"), "GATE_KEY").secret == SECRET


ECHO = f"wrong key Bearer {SECRET}"
TELLING: dict[str, Scripted] = {
    "401": (401, {"error": {"message": ECHO}}),
    "401 cut": (401, {"error": {"message": f"wrong key {SECRET[:20]}... of {'x' * 170}{SECRET}"}}),
    "403 page": raw(f"<title>{ECHO}</title>".encode(), status=403),
    "400": (400, {"error": {"message": ECHO}}),
    "500": (500, {"detail": [{"msg": ECHO}]}),
    "429": raw(b"{}", "Retry-After: 3600", f"X-Key: {SECRET}", status=429),
    "error with 200": (200, {"error": ECHO}),
    "escaped": raw(json.dumps({"error": {"message": ECHO, "code": 401}}).replace("k-", "\\u006b-").encode()),
    "garbage": raw(ECHO.encode()),
    "web page": raw(f"<html>{ECHO}".encode()),
    "wrong JSON": (200, [ECHO]),
    "refusal": (200, {"choices": [{"message": {"refusal": ECHO}}]}),
    "filter": (200, completion(ECHO, finish="content_filter")),
    "words": ECHO,
    "words cut": f"{ECHO}…",
    "no JSON": (200, completion(f'{{"same": "{SECRET}"}}')),
    "reason phrase": Raw([f"HTTP/1.1 401 {ECHO}\r\nContent-Length: 0\r\n\r\n".encode()]),
    "no HTTP": Raw([f"{ECHO}\r\n\r\n".encode()]),
    "encoding": raw(b"{}", f"Content-Encoding: {SECRET}"),
    "redirect": raw(b"", f"Location: http://127.0.0.1:9/{SECRET}?key={SECRET}", status=307),
    "redirect to it": raw(b"", f"Location: http://{SECRET}.example.org/", status=307),
}


@pytest.mark.parametrize("name", TELLING)
def test_a_server_that_repeats_the_key_is_not_repeated(
    name: str, server: ChatServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    chat = OpenAIChat("test", server.url, key_variable="GATE_KEY", patience=BRISK)
    server.always = TELLING[name]
    recording = tmp_path / "replies.jsonl"
    try:
        (reply,) = Recorder(chat, recording).reply([question()])
        told = f"{reply!r} {recording.read_text()}"
        assert isinstance(reply, ChatFailure)
    except UserError:
        told = traceback.format_exc()
    told += caplog.text + repr(chat) + repr(vars(chat)) + chat.name + chat.revision
    pieces = (SECRET[at : at + 12] for at in range(len(SECRET) - 11))
    assert not [piece for piece in pieces if piece in told]


def _escaped(text: str) -> str:
    return "".join(f"\\u{ord(c):04x}" for c in text)


def _wide(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) for c in text)


SPELT: dict[str, Callable[[str], str]] = {
    "plain": str,
    "JSON": _escaped,
    "JSON, capital": lambda text: _escaped(text).upper().replace("U", "u"),
    "JSON in JSON": lambda text: json.dumps(_escaped(text))[1:-1],
    "JSON of JSON": lambda text: _escaped(_escaped(text)),
    "JSON, half": lambda text: text[:7] + _escaped(text[7:]),
    "JavaScript": lambda text: "".join(f"\\u{{{ord(c):x}}}" for c in text),
    "C": lambda text: "".join(f"\\x{ord(c):02x}" for c in text),
    "octal": lambda text: "".join(f"\\{ord(c):03o}" for c in text),
    "slashes": lambda text: "".join(f"\\{c}" if not c.isalnum() else c for c in text),
    "URL": lambda text: "".join(f"%{ord(c):02X}" for c in text),
    "URL, twice": lambda text: urllib.parse.quote("".join(f"%{ord(c):02x}" for c in text)),
    "HTML": lambda text: "".join(f"&#{ord(c)};" for c in text),
    "HTML, hexadecimal": lambda text: "".join(f"&#x{ord(c):x};" for c in text),
    "HTML of JSON": lambda text: html.escape(_escaped(text)),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64, within": lambda text: base64.b64encode(f"key={text}, so".encode()).decode(),
    "base64, elsewhere": lambda text: base64.urlsafe_b64encode(f"k={text}".encode()).decode(),
    "base64, in lines": lambda text: "\n".join(re.findall(".{1,9}", base64.b64encode(text.encode()).decode())),
    "base64 in JSON": lambda text: _escaped(base64.b64encode(text.encode()).decode()),
    "base32": lambda text: base64.b32encode(f"abc{text}".encode()).decode(),
    "hexadecimal": lambda text: text.encode().hex(),
    "hexadecimal, spread": lambda text: text.encode().hex(":").upper(),
    "backwards": lambda text: text[::-1],
    "backwards in JSON": lambda text: _escaped(text[::-1]),
    "ROT13": lambda text: codecs.encode(text, "rot13"),
    "capitals": str.upper,
    "wide": _wide,
    "spaces": " ".join,
    "lines": "\n".join,
    "commas": '", "'.join,
    "zero width": "\u200b".join,
    "soft hyphens": "\u00ad".join,
    "joiners": "\u2060".join,
    "marks": "\u0301".join,
    "zero width in JSON": lambda text: json.dumps("\u200b".join(text))[1:-1],
    "soft hyphens in HTML": "&shy;".join,
}


def _without_piece(text: str, spelt: str) -> bool:
    """Whether no half of what was spelt is in a text."""
    half = len(spelt) // 2
    return not any(spelt[at : at + half] in text for at in range(len(spelt) - half + 1))


@pytest.mark.parametrize("name", SPELT)
def test_a_key_is_found_however_it_is_spelt(name: str) -> None:
    for secret in (SECRET, "sk-proj/ab+cd==EFGH1234ijkl", "0123456789abcdef0123456789abcdef", "AIzaSyD_x-9Q"):
        spelt = SPELT[name](secret)
        for before, after in (("", ""), ("a red cat ", " at night"), ('{"caption": "', '"}')):
            shown = hidden(before + spelt + after, secret)
            assert "[key]" in shown and _without_piece(shown, spelt), shown
            assert shown.startswith(before[:8]) and shown.endswith(after)


@pytest.mark.parametrize("name", SPELT)
@pytest.mark.parametrize("place", ["a field", "the name of a field", "a field that is cut", "an error", "a refusal"])
def test_a_key_gets_neither_into_a_reply_nor_into_a_failure(
    place: str, name: str, server: ChatServer, tmp_path: Path
) -> None:
    spelt = SPELT[name](SECRET)
    inner = spelt if spelt.startswith("\\u00") else json.dumps(spelt)[1:-1]  # escapes of JSON are read as what they say
    described = '{"subject": "cat", "details": "in red", "caption": "a cat KEY"}'.replace("KEY", inner)
    named = f'{{"subject": "cat", "details": "in red", "caption": "a cat", "{inner}": 1}}'
    said: dict[str, Scripted] = {
        "a field": described,
        "the name of a field": named,
        "a field that is cut": f"{described}…",
        "an error": (401, {"error": {"message": f"wrong {spelt}"}}),
        "a refusal": (200, {"choices": [{"message": {"refusal": f"wrong {spelt}"}}]}),
    }
    server.always = said[place]
    chat = OpenAIChat("test", server.url, key_variable="GATE_KEY", patience=BRISK)
    request = ChatRequest(messages=(Message("user", (TextPart("describe"),)),), schema=PanelDescription)
    recording = tmp_path / "replies.jsonl"
    try:
        (reply,) = Recorder(chat, recording).reply([request])
        assert isinstance(reply, ChatFailure)
        assert reply.reason == ("refused to answer" if place == "a refusal" else "holds the key")
        told = f"{reply.detail} {reply.text} {recording.read_text()}"
    except UserError as error:
        told = str(error)
        assert place == "an error"
    assert "[key]" in told or len(spelt) > 1000  # of which a failure tells a few characters only
    assert _without_piece(told, spelt) and _without_piece(told, inner) and _without_piece(told, SECRET)
    assert len(server.requests) == 1


def test_words_that_are_no_key_stay() -> None:
    words = "a red cat at the beach, sk-proj of 100% caf\u00e9 &amp; \\u0041 \U0001f431 Zx81 aGVsbG8gd29ybGQ="
    assert hidden(words, SECRET) == words


def test_a_key_is_looked_for_in_time_that_grows_with_the_text() -> None:
    for text in (
        "x" * (1 << 17),
        "\\" * (1 << 17),
        "%25" * 40_000,
        "&" * (1 << 17),
        f"{SECRET} " * 4_000,
        "\u200b" * (1 << 17),
    ):
        began = time.process_time()
        hidden(text, SECRET)
        assert time.process_time() - began < 4


@pytest.mark.parametrize("word", ["1", "true", "EMPTY", "choices", "same"])
def test_a_key_that_is_a_word_leaves_replies_as_they_are(
    word: str, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATE_KEY", word)
    chat = OpenAIChat("test", server.url, key_variable="GATE_KEY", patience=BRISK)
    server.script += ['{"same": true}', (401, {"error": {"message": f"wrong key EMPTY {word}"}})]
    assert chat.reply([question()]) == [DirectVerdict(same=True)]
    with pytest.raises(UserError, match=r"wrong key") as error:
        chat.reply([question()])
    assert ("EMPTY" in str(error.value)) is (word != "EMPTY")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_questions_do_not_follow_a_server_that_sends_them_elsewhere(
    status: int, server: ChatServer, elsewhere: ChatServer
) -> None:
    chat = OpenAIChat("test", server.url, key_variable="GATE_KEY", patience=BRISK)
    server.always = raw(b"", f"Location: {elsewhere.url}/chat/completions", status=status)
    with pytest.raises(UserError, match=rf"sends questions elsewhere.*status {status}, to http://127.0.0.1"):
        chat.reply([question()])
    server.models = server.always
    with pytest.raises(UserError, match="sends questions elsewhere"):
        chat.require_connection()
    server.models = (200, {})
    assert not elsewhere.headers
    assert len(server.requests) == 1


def test_a_claimed_name_says_what_answers_and_not_where() -> None:
    for place, key in itertools.product(("http://localhost:8000/v1", "https://example.org/v1"), ("", "#GATE_KEY")):
        assert claimed_name(f"openai:org/model@7b@{place}{key}") == "openai:org/model@7b"
    for name in ("openai:org/model@7b", "replay:a@b#c", "embedded:tiny-vlm", "org/model", "folder#1"):
        assert claimed_name(name) == name
    with pytest.raises(UserError, match="query"):
        claimed_name(f"openai:m@https://example.org/v1?key={SECRET}")
