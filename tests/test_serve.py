from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from dsd.errors import UserError
from dsd.images import encode_png, load_image
from dsd.serve.api import create_app, parse_size


def _draw(references, prompts, size, seed):
    """Stands for a model: as many pictures as prompts, of the size, in the last reference's colour."""
    reference = references[-1]
    height, width = size or (8, 8)
    return [Image.new("RGB", (width, height), reference.getpixel((0, 0))) for _ in prompts]


@pytest.fixture
def client() -> TestClient:
    return TestClient(create_app(_draw))


def _post(client: TestClient, picture: bytes, **fields):
    return client.post("/v1/images/edits", files={"image": ("x.png", picture)}, data={"prompt": "a cat", **fields})


RED = encode_png(Image.new("RGB", (4, 4), "red"))


def test_an_edit_answers_as_openai_does(client):
    answer = _post(client, RED, n=2, size="16x8").json()
    assert isinstance(answer["created"], int) and len(answer["data"]) == 2
    picture = load_image(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"])))
    assert picture.size == (16, 8) and picture.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("picture", "fields", "words"),
    [
        (b"no picture", {}, "not a picture"),
        (b"", {}, "empty"),
        (RED, {"n": 99}, "from 1 to 10"),
        (RED, {"size": "big"}, "WIDTHxHEIGHT"),
        (RED, {"prompt": " "}, "prompt is empty"),
        (RED, {"response_format": "url"}, "b64_json"),
    ],
)
def test_a_mistake_answers_400_with_the_sentence(client, picture, fields, words):
    answer = _post(client, picture, **fields)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


def test_models_and_health_answer(client):
    assert client.get("/v1/models").json()["data"][0]["id"] == "dsd"
    assert client.get("/health").json() == {"status": "ok"}


def test_openai_sizes_are_width_by_height():
    assert parse_size("512x256") == (256, 512) and parse_size("auto") is None
    with pytest.raises(UserError):
        parse_size("512")
