"""What `dsd serve` does with strangers: keys, floods, slow and leaving clients, and its own end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib

import openai
import pytest
from fastapi.responses import StreamingResponse
from serve_parts import (
    LONG,
    PICTURE,
    PROMPT,
    Answer,
    Served,
    adapter_folder,
    edit,
    form,
    head,
    raw,
    read_answer,
    request,
    serve,
    until,
)

from dsd.errors import UserError
from dsd.serve.auth import keys_from_environment, require_safe_address
from dsd.serve.settings import Limits, Settings

PARTS = (("image", PICTURE), ("prompt", PROMPT))


def _slow(served: Served, **fields):
    return served.client().images.edit(image=PICTURE, prompt=PROMPT, extra_body=LONG, **fields)


def _at_once(count: int, work) -> list:
    results: list = [None] * count

    def one(number: int) -> None:
        results[number] = work(number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return results


def _hold(port: int) -> Answer:
    """What is told to somebody who asks for pictures that take long."""
    return edit(port, *PARTS, ("num_inference_steps", "100"), ("n", "10"))


def _start_and_leave(port: int, **fields: str) -> socket.socket:
    """A client that has sent its request, and reads nothing."""
    body, content_type = form(*PARTS, *fields.items())
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(head("POST", "/v1/images/edits", len(body), content_type) + body)
    return connection


def test_only_a_right_key_opens_the_api_and_health_needs_none():
    with serve(Settings(keys=("right", "second"))) as served:
        for key in ("right", "second"):
            assert [one.id for one in served.client(key).models.list()] == ["dsd"]
        for key in ("made-up", "righ", "right2"):
            with pytest.raises(openai.AuthenticationError) as error:
                served.client(key).images.edit(image=PICTURE, prompt=PROMPT)
            assert error.value.code == "invalid_api_key" and key not in error.value.message
        assert edit(served.port, *PARTS).error["code"] == "invalid_api_key"
        assert edit(served.port, *PARTS, Authorization="Basic cmlnaHQ=").status == 401
        twice = head("GET", "/v1/models", Authorization="Bearer right", authorization="Bearer made-up")
        assert raw(served.port, twice).status == 401
        for path in ("/health", "/healthz", "/readyz", "/metrics"):
            assert request(served.port, "GET", path).status == 200


def test_who_tries_wrong_keys_has_to_wait_also_with_a_right_one_and_on_the_page():
    with serve(Settings(keys=("right",), limits=Limits(wrong_keys_per_minute=3))) as served:

        def models(**headers: str) -> Answer:
            return request(served.port, "GET", "/v1/models", **headers)

        for _ in range(5):
            assert models().status == 401  # no key is no guess
        assert [models(Authorization=f"Bearer {n}").status for n in range(4)] == [401, 401, 401, 429]
        refused = models(Authorization="Bearer right")
        assert refused.status == 429 and 1 <= int(refused.headers["retry-after"]) <= 60
        assert request(served.port, "POST", "/login").error["code"] == "rate_limit_exceeded"
        assert request(served.port, "GET", "/healthz").status == 200


def test_a_connection_too_many_is_told_and_learns_only_how_the_server_is():
    with serve(Settings(limits=Limits(connections=2))) as served, contextlib.ExitStack() as opened:

        def connect() -> socket.socket:
            return opened.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=10))

        first, _ = connect(), connect()
        until(lambda: len(served.server.server_state.connections) == 2)
        refused = edit(served.port, *PARTS)
        assert (refused.status, refused.error["code"]) == (503, "server_busy") and "retry-after" in refused.headers
        assert request(served.port, "GET", "/healthz").status == 200
        first.sendall(head("GET", "/v1/models"))
        assert read_answer(first).status == 200
        for _ in range(4):
            last = connect()
        with contextlib.suppress(ConnectionError):
            assert last.recv(1) == b""  # a flood is not answered at all


def test_without_a_key_only_this_machine_is_served(monkeypatch):
    monkeypatch.delenv("DSD_API_KEY", raising=False)
    assert keys_from_environment() == ()
    for host in ("127.0.0.1", "localhost", "::1", "127.3.2.1"):
        require_safe_address(host, ())
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org"):
        with pytest.raises(UserError, match="DSD_API_KEY"):
            require_safe_address(host, ())
        require_safe_address(host, ("key",))
    monkeypatch.setenv("DSD_API_KEY", " a, b ,")
    assert keys_from_environment() == ("a", "b")
    for broken in ("", " , ", "a b", "schlüssel"):
        monkeypatch.setenv("DSD_API_KEY", broken)
        with pytest.raises(UserError, match="DSD_API_KEY"):
            keys_from_environment()


@pytest.mark.parametrize("origin", ["shop.example", "https://shop.example/", "ftp://shop.example", ""])
def test_an_origin_that_no_browser_sends_is_refused(origin):
    with pytest.raises(UserError, match="allowed origin"):
        Settings(origins=(origin,))


def test_settings_do_not_show_their_keys():
    assert "geheim" not in repr(Settings(keys=("geheim",)))


def test_a_body_that_is_too_large_is_413_before_it_is_read():
    with serve(Settings(limits=Limits(body_mib=1))) as served:
        announced = raw(served.port, head("POST", "/v1/images/edits", 10**12, "multipart/form-data; boundary=cut"))
        assert announced.status == 413 and announced.error["code"] == "body_too_large"
        large = form(("prompt", PROMPT), ("image", b"x" * (3 << 20)))
        assert request(served.port, "POST", "/v1/images/edits", *large).status == 413
        chunked = head("POST", "/v1/images/edits", None, "application/json", Transfer_Encoding="chunked")
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        assert raw(served.port, chunked + chunk * 20).status == 413
        assert edit(served.port, *PARTS).status == 200


def test_bodies_are_not_unpacked():
    with serve() as served:
        answer = request(
            served.port,
            "POST",
            "/v1/images/edits",
            zlib.compress(b"{}"),
            "application/json",
            Content_Encoding="deflate",
        )
        assert answer.status == 415


def _bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that is all black."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([1, 0, 0, 0, 0])
    rows = zlib.compress(b"\0" * ((width // 8 + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_pictures_of_too_many_pixels_are_refused_by_their_header():
    import resource

    bomb = _bomb(8000, 8000)
    assert len(bomb) < 10_000
    with serve() as served:
        assert edit(served.port, *PARTS).status == 200
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answers = _at_once(6, lambda _: edit(served.port, ("image", bomb), ("prompt", PROMPT)))
        assert {answer.status for answer in answers} == {400}
        assert "25 million" in answers[0].error["message"]
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_who_sends_slowly_is_told_408():
    with serve(Settings(limits=Limits(header_seconds=0.5, body_seconds=0.5))) as served:
        assert raw(served.port, b"POST /v1/images/edits HTTP/1.1\r\nHost: a\r\n", wait=10).status == 408
        assert raw(served.port, b"", wait=10).status == 408
        body = head("POST", "/v1/images/edits", 1000, "application/json") + b"{"
        assert raw(served.port, body, wait=10).error["code"] == "timeout"
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
            connection.sendall(head("GET", "/healthz"))
            assert read_answer(connection).status == 200
            connection.sendall(b"GET /healthz HTTP/1.1\r\n")
            assert read_answer(connection).status == 408


def test_a_key_has_so_many_requests_a_minute():
    with serve(Settings(keys=("a", "b"), limits=Limits(per_minute=2))) as served:
        statuses = [edit(served.port, *PARTS, Authorization="Bearer a").status for _ in range(3)]
        assert statuses == [200, 200, 429]
        refused = edit(served.port, *PARTS, Authorization="Bearer a")
        assert 1 <= int(refused.headers["retry-after"]) <= 31 and refused.error["type"] == "rate_limit_error"
        assert edit(served.port, *PARTS, Authorization="Bearer b").status == 200


def test_a_full_queue_is_429_with_a_time_to_come_back():
    with serve(Settings(limits=Limits(together=1, waiting=2))) as served:
        holding = [_start_and_leave(served.port, num_inference_steps="100") for _ in range(3)]
        until(lambda: served.desk.engine.waiting == 2)
        answer = edit(served.port, *PARTS)
        assert answer.status == 429 and int(answer.headers["retry-after"]) >= 1
        assert answer.error["code"] == "queue_full"
        for connection in holding:
            connection.close()


def test_all_pictures_of_a_request_wait_or_none():
    with serve(Settings(limits=Limits(together=1, waiting=3))) as served:
        holding = _start_and_leave(served.port, num_inference_steps="100")
        until(lambda: served.desk.engine.running == 1)
        assert edit(served.port, *PARTS, ("n", "4")).status == 429
        until(lambda: served.desk.engine.waiting == 0)
        holding.close()


def test_nothing_is_drawn_for_clients_that_have_left(caplog):
    with serve(Settings(limits=Limits(together=2))) as served:
        leaving = [_start_and_leave(served.port, num_inference_steps="100", n="2") for _ in range(10)]
        until(lambda: served.desk.engine.running + served.desk.engine.waiting == 20)
        for connection in leaving:
            connection.close()
        began = time.monotonic()
        assert edit(served.port, *PARTS).status == 200
        assert time.monotonic() - began < 2
        metrics = request(served.port, "GET", "/metrics").body.decode()
        assert re.search(r"dsd_dropped_pictures_total 20\.0", metrics)
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_who_leaves_a_stream_is_dropped_too():
    with serve() as served:
        stream = served.client().images.edit(
            image=PICTURE, prompt=PROMPT, stream=True, partial_images=3, extra_body=LONG
        )
        assert next(iter(stream)).type == "image_edit.partial_image"
        stream.close()
        until(lambda: served.desk.engine.running == 0, 2)


def test_health_answers_at_once_under_load():
    with serve(Settings(limits=Limits(waiting=200))) as served:
        holding = [_start_and_leave(served.port, num_inference_steps="100") for _ in range(50)]
        until(lambda: served.desk.engine.running > 0)
        for path in ("/healthz", "/readyz", "/health", "/v1/models"):
            began = time.monotonic()
            assert request(served.port, "GET", path).status == 200
            assert time.monotonic() - began < 0.5
        for connection in holding:
            connection.close()


def test_two_hundred_clients_at_once_are_all_served():
    with serve() as served:
        results = _at_once(200, lambda _: edit(served.port, *PARTS).status)
        assert set(results) <= {200, 429} and results.count(200) >= 64


def test_metrics_are_prometheus_text():
    from prometheus_client.parser import text_string_to_metric_families

    with serve() as served:
        assert edit(served.port, *PARTS, ("n", "2")).status == 200
        request(served.port, "MADEUP", "/v1/models")
        text = request(served.port, "GET", "/metrics").body.decode()
        found = {sample.name: sample for family in text_string_to_metric_families(text) for sample in family.samples}
        assert found["dsd_pictures_total"].value == 2 and found["dsd_waiting_pictures"].value == 0
        assert "MADEUP" not in text and 'dsd_requests_total{method="POST",route="edits",status="200"} 1.0' in text


@pytest.fixture
def process(tmp_path):
    """A server of its own process: (process, port)."""
    started = []

    def start(*words: str, **environment: str):
        log = (tmp_path / "log").open("w")
        command = [
            sys.executable,
            "-m",
            "dsd",
            "serve",
            "--port",
            "0",
            "--no-page",
            "--model.adapter",
            adapter_folder(),
        ]
        child = subprocess.Popen([*command, *words], stderr=log, env=os.environ | environment)
        started.append(child)
        until(lambda: "serving" in (tmp_path / "log").read_text() or child.poll() is not None, 60)
        said = (tmp_path / "log").read_text()
        found = re.search(r"127\.0\.0\.1:(\d+)", said)
        assert found, said
        return child, int(found[1])

    yield start
    for child in started:
        child.kill()
        child.wait()


def test_sigterm_under_load_lets_running_requests_finish_refuses_new_ones_and_ends_with_0(process):
    child, port = process("--drain-seconds", "20")
    answers: list = []
    load = threading.Thread(
        target=lambda: answers.extend(_at_once(6, lambda _: edit(port, *PARTS, ("num_inference_steps", "40"))))
    )
    load.start()
    until(lambda: json.loads(request(port, "GET", "/readyz").body)["running"] > 0)
    child.send_signal(signal.SIGTERM)
    until(lambda: request(port, "GET", "/readyz").status == 503, 2)
    assert request(port, "GET", "/healthz").status == 200
    refused = edit(port, *PARTS)
    assert refused.status == 503 and "retry-after" in refused.headers
    load.join(60)
    assert {answer.status for answer in answers} <= {200, 503} and 200 in {answer.status for answer in answers}
    assert child.wait(20) == 0


def test_what_does_not_finish_in_time_is_dropped():
    with serve(Settings(limits=Limits(together=1), drain_seconds=0.2)) as served:
        load: list = []
        clients = threading.Thread(target=lambda: load.extend(_at_once(4, lambda _: _hold(served.port))))
        clients.start()
        until(lambda: served.desk.engine.running > 0)
        began = time.monotonic()
        served.stop()
        clients.join(20)
        assert {answer.status for answer in load} == {503} and load[0].error["code"] == "stopping"
        until(lambda: not served.thread.is_alive())
        assert time.monotonic() - began < 5


def test_who_listens_when_the_server_ends_is_let_go_without_a_traceback(caplog):
    async def endless():
        while True:
            yield b"."
            await asyncio.sleep(0.05)

    with serve(Settings(drain_seconds=0.2)) as served:
        logging.getLogger("uvicorn.error").addHandler(caplog.handler)
        served.server.config.app.add_api_route("/listen", lambda: StreamingResponse(endless()))
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as listening:
            listening.sendall(head("GET", "/listen"))
            assert b"200 OK" in listening.recv(1000)
            served.stop()
            until(lambda: not served.thread.is_alive(), 5)
    logging.getLogger("uvicorn.error").removeHandler(caplog.handler)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.slow
def test_a_second_signal_ends_the_process_at_once(process):
    child, port = process("--drain-seconds", "600", "--limits.together", "1")
    load = [_start_and_leave(port, num_inference_steps="100", n="10") for _ in range(4)]
    until(lambda: json.loads(request(port, "GET", "/readyz").body)["running"] > 0)
    child.send_signal(signal.SIGTERM)
    until(lambda: request(port, "GET", "/readyz").status == 503, 2)
    began = time.monotonic()
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) == 128 + signal.SIGTERM and time.monotonic() - began < 2
    for connection in load:
        connection.close()


def test_a_public_address_without_a_key_is_refused_before_the_model_is_loaded(capsys, monkeypatch):
    from dsd.cli.main import main

    monkeypatch.delenv("DSD_API_KEY", raising=False)
    assert main(["serve", "--host", "0.0.0.0", "--no-page", "--model.adapter", str(io.BytesIO())]) == 2
    assert "DSD_API_KEY" in capsys.readouterr().err
