"""What clients of OpenAI's images API find at `dsd serve`."""

from __future__ import annotations

import base64
import http.client
import io
import json
import threading
import warnings

import openai
import pytest
import tiny
from PIL import Image
from serve_parts import LONG, PICTURE, PROMPT, Served, edit, form, head, opened, raw, request, serve

from dsd.serve.events import partial_index
from dsd.serve.settings import Limits, Settings


@pytest.fixture(scope="module")
def served():
    with serve() as running:
        yield running


def _draw(served: Served, **fields):
    return served.client().images.edit(**{"image": PICTURE, "prompt": PROMPT, **fields})


def test_the_official_client_edits(served):
    drawn = _draw(served, model="dsd", n=2, size="40x32", user="me", extra_body={"seed": 7})
    assert [opened(one).size for one in drawn.data] == [(40, 32)] * 2 and drawn.size == "40x32"
    assert [one.seed for one in drawn.data] == [7, 8]
    assert drawn.usage.total_tokens == drawn.usage.input_tokens + drawn.usage.output_tokens
    assert drawn.usage.output_tokens == 2 * 5 * 4 and drawn.safety_identifier == "me"


def test_a_list_of_one_picture_is_one_picture(served):
    assert len(_draw(served, image=[PICTURE]).data) == 1
    with pytest.raises(openai.BadRequestError, match="trained with 1") as error:
        _draw(served, image=[PICTURE, PICTURE])
    assert error.value.param == "image"


def test_the_official_client_generates_varies_and_lists_models(served):
    client = served.client()
    assert opened(client.images.generate(prompt=PROMPT, model="dsd").data[0]).size == (32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert opened(client.images.create_variation(image=PICTURE).data[0]).size == (32, 32)
    assert [one.id for one in client.models.list()] == ["dsd"]
    assert client.models.retrieve("dsd").id == "dsd"
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("owner/other")
    assert error.value.code == "model_not_found"


def test_a_seed_draws_the_same_picture_and_no_seed_another_each_time(served):
    first, again = (_draw(served, extra_body={"seed": 3}).data[0].b64_json for _ in range(2))
    assert first == again
    one, other = (_draw(served).data[0] for _ in range(2))
    assert one.seed != other.seed and one.b64_json != other.b64_json
    told = _draw(served, extra_body={"seed": one.seed}).data[0]
    assert opened(told).tobytes() == opened(one).tobytes()


def test_the_second_of_two_pictures_is_the_picture_of_the_next_seed(served):
    second = _draw(served, n=2, extra_body={"seed": 3}).data[1]
    assert opened(second).tobytes() == opened(_draw(served, extra_body={"seed": 4}).data[0]).tobytes()


def test_seeds_stand_in_the_header_and_all_that_was_said_in_the_file(served):
    answer = served.client().images.with_raw_response.edit(
        image=PICTURE, prompt=PROMPT, n=2, extra_body={"seed": 5, "text_scale": 2}
    )
    assert answer.headers["x-seed"] == "5,6"
    picture = opened(answer.parse().data[1])
    assert {"model": "dsd", "prompt": PROMPT, "seed": "6", "text_scale": "2.0"}.items() <= picture.info.items()
    jpeg = opened(_draw(served, output_format="jpeg", output_compression=50, extra_body={"seed": 5}).data[0])
    assert jpeg.format == "JPEG" and b'"seed": "5"' in jpeg.getexif().get_ifd(0x8769)[0x9286]
    with serve(Settings(metadata=False)) as quiet:
        assert "prompt" not in opened(_draw(quiet).data[0]).info


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_pictures_come_in_the_format_that_was_asked_for(served, image_format):
    drawn = _draw(served, output_format=image_format, background="opaque")
    assert opened(drawn.data[0]).format == image_format.upper() and drawn.output_format == image_format


def test_our_own_fields_change_the_picture(served):
    def picture(**extra):
        return opened(_draw(served, extra_body={"seed": 1, **extra}).data[0]).tobytes()

    usual = picture()
    for extra in (
        {"text_scale": 4}, {"image_scale": 3}, {"num_inference_steps": 4}, {"negative_prompt": "a blue dog"}
    ):  # fmt: skip
        assert picture(**extra) != usual, extra


def test_a_stream_brings_partial_pictures_and_then_the_picture(served):
    stream = _draw(served, stream=True, partial_images=2, extra_body={"num_inference_steps": 6, "seed": 4})
    told = list(stream)
    kinds = ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert [event.type for event in told] == kinds
    assert [event.partial_image_index for event in told[:2]] == [0, 1]
    assert all(opened(event).size == (32, 32) and event.size == "32x32" for event in told)
    assert told[-1].usage.output_tokens == 16
    whole = _draw(served, extra_body={"num_inference_steps": 6, "seed": 4}).data[0]
    assert opened(told[-1]).tobytes() == opened(whole).tobytes()
    generated = list(served.client().images.generate(prompt=PROMPT, stream=True, n=2))
    assert [event.type for event in generated] == ["image_generation.completed"] * 2
    assert {event.picture_index for event in generated} == {0, 1}


def test_partial_pictures_are_spread_over_the_steps_and_never_the_last():
    for steps in range(1, 30):
        for count in range(4):
            due = [partial_index(step, steps, count) for step in range(1, steps + 1)]
            assert [one for one in due if one is not None] == list(range(min(count, steps - 1)))
            assert due[-1] is None


def test_json_with_data_urls_is_read(served):
    url = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
    pixels = set()
    for pictures in (
        {"images": [{"image_url": url}]}, {"image": url}, {"image": [url]}, {"image": {"image_url": {"url": url}}},
        {"image": url.replace("data:", "DATA:").replace("base64", "BASE64"), "mask": None},
    ):  # fmt: skip
        body = json.dumps({"prompt": PROMPT, "seed": 2, "n": 1, "user": None, **pictures}).encode()
        answer = request(served.port, "POST", "/v1/images/edits", body, "application/json")
        assert answer.status == 200, answer.body
        pixels.add(json.loads(answer.body)["data"][0]["b64_json"])
    assert len(pixels) == 1


def test_a_slash_at_the_end_loses_nothing(served):
    body, content_type = form(("image", PICTURE), ("prompt", PROMPT))
    assert request(served.port, "POST", "/v1/images/edits/", body, content_type).status == 200
    for path in ("/healthz/", "/health/", "/readyz/", "/metrics/", "/v1/models/", "/v1/models/dsd/"):
        assert request(served.port, "GET", path).status == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/v1/models", "/v1/models/dsd"])
def test_what_can_be_got_can_be_asked_for_its_head(served, path):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    connection.request("HEAD", path)
    assert connection.getresponse().status == 200
    connection.close()


REFUSED = [
    ({"model": "gpt-image-1"}, 404, "model"),
    ({"mask": PICTURE}, 400, "mask"),
    ({"markup": PICTURE}, 400, "markup"),
    ({"style": "vivid"}, 400, "style"),
    ({"input_fidelity": "high"}, 400, "input_fidelity"),
    ({"svg[model]": "x"}, 400, "svg"),
    ({"frame_count": "3"}, 400, "frame_count"),
    ({"quality": "hd"}, 400, "quality"),
    ({"background": "transparent"}, 400, "background"),
    ({"output_format": "gif"}, 400, "output_format"),
    ({"output_compression": "50"}, 400, "output_compression"),
    ({"response_format": "url"}, 400, "response_format"),
    ({"moderation": "none"}, 400, "moderation"),
    ({"partial_images": "2"}, 400, "partial_images"),
    ({"stream": "true", "partial_images": "4"}, 400, "partial_images"),
    ({"sede": "1"}, 400, "sede"),
    ({"n": "0"}, 400, "n"),
    ({"n": "11"}, 400, "n"),
    ({"n": "many"}, 400, "n"),
    ({"n": "1" * 5000}, 400, "n"),
    ({"prompt": " "}, 400, "prompt"),
    ({"prompt": "a\0b"}, 400, "prompt"),
    ({"prompt": "x" * 40_000}, 400, "prompt"),
    ({"negative_prompt": "x" * 40_000}, 400, "negative_prompt"),
    ({"size": "big"}, 400, "size"),
    ({"size": "1024x1024"}, 400, "size"),
    ({"size": "16384x16384"}, 400, "size"),
    ({"size": "1" * 5000}, 400, "size"),
    ({"size": f"{'9' * 5000}x8"}, 400, "size"),
    ({"size": "0x0"}, 400, "size"),
    ({"size": "33x32"}, 400, None),
    ({"seed": "-1"}, 400, "seed"),
    ({"seed": str(2**64)}, 400, "seed"),
    ({"seed": str(-(2**70))}, 400, "seed"),
    ({"seed": str(2**63 - 1), "n": "2"}, 400, None),
    ({"seed": str(2**64 - 1), "n": "2"}, 400, "seed"),
    ({"seed": "1" * 5000}, 400, "seed"),
    ({"seed": "1_000"}, 400, "seed"),
    ({"n": "1_0"}, 400, "n"),
    ({"text_scale": "1_0"}, 400, "text_scale"),
    ({"num_inference_steps": "1000000"}, 400, "num_inference_steps"),
    ({"text_scale": "nan"}, 400, "text_scale"),
    ({"negative_prompt": "a dog", "text_scale": "1"}, 400, None),
    ({"image_scale": "1e30"}, 400, "image_scale"),
    ({"fit": "squash"}, 400, "fit"),
    ({"guidance_scale": "3"}, 400, "guidance_scale"),
    ({"prompt": "\N{SNOWMAN}" * 30_000, "output_format": "jpeg"}, 400, None),
    ({"image": "https://example.org/cat.png"}, 400, "image"),
    ({"image": b"no picture"}, 400, None),
    ({"image": b""}, 400, None),
    ({"prompt": b"a file"}, 400, "prompt"),
    ({"x" * 5000: "1"}, 400, None),
]


@pytest.mark.parametrize(("fields", "status", "param"), REFUSED, ids=[str(one[0])[:40] for one in REFUSED])
def test_what_cannot_be_honoured_is_refused_in_the_shape(served, fields, status, param):
    given = {"image": PICTURE, "prompt": PROMPT, **fields}
    answer = edit(served.port, *given.items())
    assert answer.status == status, answer.body
    assert param is None or answer.error["param"] == param
    assert len(answer.error["message"]) < 600 and answer.error["type"] == "invalid_request_error"


def test_missing_and_doubled_fields_are_refused_in_the_shape(served):
    for parts, param in (
        ((("image", PICTURE),), "prompt"),
        ((("prompt", PROMPT),), "image"),
        ((("image", PICTURE), ("prompt", PROMPT), ("prompt", "another")), "prompt"),
        ((("image", PICTURE), ("image[]", PICTURE), ("prompt", PROMPT)), "image"),
    ):
        answer = edit(served.port, *parts)
        assert (answer.status, answer.error["param"]) == (400, param)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b'{"n": 1e400}', b'{"n": ' + b"1" * 5000 + b"}", b"[" * 100_000, b"\xff\xfe",
        b'{"prompt": "a", "image": "http://a/b.png"}', b'{"prompt": "a", "image": {"file_id": "f"}}',
        b'{"prompt": "a", "image": "data:image/png,abc"}', b'{"prompt": "a", "image": "data:image/png;base64,***"}',
        b'{"prompt": "a", "image": 3}', b'{"prompt": 3}', b'{"prompt": "a", "n": true}', b'{"prompt": "\\ud800"}',
        b'{"prompt": "a", "seed": NaN}', b'{"prompt": "a", "image": "x", "images": ["y"]}',
        b'{"prompt": "a", "prompt": "b"}', b'{"prompt": "a", "sede": null}',
    ],
)  # fmt: skip
def test_json_that_cannot_be_read_is_refused_in_the_shape(served, body):
    answer = request(served.port, "POST", "/v1/images/edits", body, "application/json")
    assert answer.status == 400 and answer.error


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_another_kind_of_body_is_415(served, content_type):
    assert request(served.port, "POST", "/v1/images/edits", b"a=b", content_type).error
    assert request(served.port, "POST", "/v1/images/edits", b"a=b", content_type).status == 415


def test_a_form_is_read_whole_and_as_utf8_or_not_at_all(served):
    body, content_type = form(("image", PICTURE), ("prompt", PROMPT))
    for broken in (body.removesuffix(b"--cut--\r\n"), body[:-20], body.replace(PROMPT.encode(), b"a \xff cat")):
        answer = request(served.port, "POST", "/v1/images/edits", broken, content_type)
        assert (answer.status, answer.error["code"]) == (400, "invalid_form")
    for charset in ("undefined", "utf-16", "nonsense"):
        answer = request(served.port, "POST", "/v1/images/edits", body, f"{content_type}; charset={charset}")
        assert answer.status == 415 and answer.error
    assert request(served.port, "POST", "/v1/images/edits", body, f"{content_type}; charset=UTF-8").status == 200


def test_a_refusal_says_what_a_number_must_be(served):
    answer = edit(served.port, ("image", PICTURE), ("prompt", PROMPT), ("text_scale", "-1"))
    assert answer.error["message"] == 'text_scale is "-1", but must be a number from 0 to 100'


def test_broken_forms_are_400(served):
    for content_type in ("multipart/form-data", "multipart/form-data; boundary=other"):
        answer = request(served.port, "POST", "/v1/images/edits", form(("prompt", "a"))[0], content_type)
        assert answer.status == 400 and answer.error
    many = form(*[(f"x{number}", "1") for number in range(500)])
    assert request(served.port, "POST", "/v1/images/edits", *many).status == 400


def test_pictures_are_not_ignored_where_none_are_drawn_from(served):
    body, content_type = form(("image", PICTURE), ("prompt", PROMPT))
    answer = request(served.port, "POST", "/v1/images/generations", body, content_type)
    assert answer.status == 400 and answer.error["param"] == "image"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/nothing", 404),
        ("GET", "/" + "x" * 30_000, 404),
        ("GET", "/v1/images/edits", 405),
        ("DELETE", "/v1/models", 405),
        ("BREW", "/v1/models", 405),
        ("POST", "/healthz", 405),
    ],
)
def test_addresses_and_methods_that_are_not_there_are_told_in_the_shape(served, method, path, status):
    answer = request(served.port, method, path)
    assert answer.status == status and len(answer.error["message"]) < 300
    assert status == 404 or "GET" in answer.headers["allow"] or "POST" in answer.headers["allow"]


def test_what_is_no_http_is_told_in_the_shape(served):
    assert raw(served.port, b"hello\r\n\r\n").status == 400
    assert raw(served.port, b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 200_000 + b"\r\n\r\n").error


def test_a_fault_of_ours_is_told_without_its_insides(served, monkeypatch, caplog):
    class Secret(RuntimeError):
        pass

    def failing(*_, **__):
        raise Secret("a path of ours")

    monkeypatch.setattr(served.desk.decoder, "decode", failing)
    answer = edit(served.port, ("image", PICTURE), ("prompt", PROMPT))
    assert answer.status == 500 and b"path" not in answer.body and answer.error["type"] == "server_error"


def test_browsers_of_this_machine_may_ask_and_others_only_when_they_are_named(served):
    def preflight(port: int, origin: str):
        return request(
            port, "OPTIONS", "/v1/images/edits", Origin=origin, Access_Control_Request_Method="POST",
            Access_Control_Request_Headers="authorization,x-stainless-lang",
        )  # fmt: skip

    local = preflight(served.port, "http://localhost:3000")
    assert local.status == 200 and local.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "x-stainless-lang" in local.headers["access-control-allow-headers"]
    assert preflight(served.port, "https://evil.example").error["code"] == "origin_not_allowed"
    parts = (("image", PICTURE), ("prompt", PROMPT))
    assert edit(served.port, *parts, Origin="https://evil.example").status == 403
    for odd in ("null", "http://[::1", f"http://evil.example:{served.port}"):
        host = odd.removeprefix("http://")
        body, content_type = form(*parts)
        sent = request(served.port, "POST", "/v1/images/edits", body, content_type, Origin=odd)
        assert sent.error["code"] == "origin_not_allowed"
        pointed_here = head("POST", "/v1/images/edits", len(body), content_type, Origin=odd)
        answer = raw(served.port, pointed_here.replace(b"127.0.0.1", host.encode()) + body)
        assert answer.error["code"] == "origin_not_allowed"
    drawn = edit(served.port, *parts, Origin="http://localhost:3000")
    assert drawn.status == 200 and "x-seed" in drawn.headers["access-control-expose-headers"]
    with serve(Settings(origins=("https://shop.example",))) as shop:
        assert preflight(shop.port, "https://shop.example").status == 200
        assert edit(shop.port, *parts, Origin="https://shop.example").status == 200


def test_a_reference_of_any_size_is_scaled_down_before_it_waits(served):
    large, strip = io.BytesIO(), io.BytesIO()
    tiny.picture((2000, 1500)).save(large, "PNG")
    Image.new("RGB", (60_000, 100)).save(strip, "PNG")
    for picture in (large, strip):
        assert edit(served.port, ("image", picture.getvalue()), ("prompt", PROMPT)).status == 200


def test_pictures_of_several_sizes_and_steps_are_drawn_at_once(served):
    sizes = ["32x32", "40x32", "32x40", "auto"]
    alone = [opened(_draw(served, size=size, extra_body={"seed": 9}).data[0]) for size in sizes]
    together: dict[int, Image.Image] = {}

    def draw(number: int) -> None:
        together[number] = opened(_draw(served, size=sizes[number], extra_body={"seed": 9}).data[0])

    threads = [threading.Thread(target=draw, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, picture in enumerate(alone):
        assert picture.size == together[number].size
        assert max(abs(a - b) for a, b in zip(picture.tobytes(), together[number].tobytes(), strict=True)) <= 1


def test_limits_that_make_no_sense_are_refused():
    from dsd.errors import UserError

    for broken in ({"waiting": 0}, {"body_mib": float("nan")}, {"per_minute": -1}):
        with pytest.raises(UserError, match="above 0"):
            Limits(**broken)
    assert LONG["num_inference_steps"] <= Limits().steps
