"""Reads a request's body, a form or JSON, into fields and pictures."""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import IO, Any, Generic

import pydantic_core
from fastapi import Request
from starlette.datastructures import FormData, UploadFile

from dsd.errors import cut
from dsd.serve import forms
from dsd.serve.errors import ApiError, refused
from dsd.serve.fields import Given, Variation, fields_of
from dsd.serve.settings import Limits

MOST_FILES = 32
MOST_FIELDS = 64
PICTURES = ("image", "image[]", "images", "images[]")


@dataclass(frozen=True)
class Body(Generic[Given]):
    """What was sent: fields, and the files of pictures as they came."""

    fields: Given
    pictures: list[IO[bytes]]


@asynccontextmanager
async def read(kind: type[Given], request: Request, limits: Limits) -> AsyncIterator[Body[Given]]:
    """Reads the body of a request; the files of a form are closed at the end.

    Raises:
        ApiError: 415 for what is neither a form nor JSON, 400 for one that is broken or says what cannot be honoured.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "application/json":
        yield _of_json(kind, await request.body())
    elif content_type == "multipart/form-data":
        form = await forms.read(request, MOST_FILES, MOST_FIELDS, max(1 << 20, limits.body_bytes))
        try:
            yield _of_form(kind, form)
        finally:
            await form.close()
    else:
        said = f'"{cut(content_type)}"' if content_type else "missing"
        raise ApiError(
            415,
            f"the content type is {said}, but must be multipart/form-data or application/json",
            code="unsupported_media_type",
        )


def _of_form(kind: type[Given], form: FormData) -> Body[Given]:
    given: dict[str, str] = {}
    pictures: list[IO[bytes]] = []
    for name, value in form.multi_items():
        plain = name.partition("[")[0]
        if plain in ("image", "images"):
            pictures.append(value.file if isinstance(value, UploadFile) else _linked(value, plain))
        elif isinstance(value, UploadFile):
            given[name] = "a file"
            if name in kind.model_fields:
                raise refused(name, f"{cut(name)} is a file, but must be sent as text")
        elif name in given:
            raise refused(cut(name), f"{cut(name)} was given twice; give it once")
        else:
            given[name] = value
    return Body(fields_of(kind, given, strict=False), pictures)


def _of_json(kind: type[Given], body: bytes) -> Body[Given]:
    try:
        given: Any = pydantic_core.from_json(body, allow_inf_nan=False)
        json.loads(body, object_pairs_hook=_require_once)
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from error
    if not isinstance(given, dict):
        raise ApiError(400, "the body is JSON, but must be an object", code="invalid_json")
    sent = [name for name in PICTURES if given.get(name) is not None]
    if len(sent) > 1:
        raise refused(sent[1], f"pictures were given as {sent[0]} and as {sent[1]}; give one of them")
    pictures = _listed(given[sent[0]], sent[0]) if sent else []
    rest = {name: value for name, value in given.items() if name not in PICTURES}
    return Body(fields_of(kind, rest, strict=True), pictures)


def _require_once(pairs: list[tuple[str, Any]]) -> None:
    names: set[str] = set()
    for name, _ in pairs:
        if name in names:
            raise refused(cut(name), f"{cut(name)} was given twice; give it once")
        names.add(name)


def _listed(value: Any, name: str) -> list[IO[bytes]]:
    values = value if isinstance(value, list) else [value]
    if len(values) > MOST_FILES:
        raise refused(name, f"{len(values)} pictures were given, but at most {MOST_FILES} are read")
    return [_linked(one, name) for one in values]


def _linked(value: Any, name: str) -> IO[bytes]:
    """The file in a data URL, or in `{"image_url": URL}`, where the URL may be in an object once more."""
    for key in ("image_url", "url"):
        if isinstance(value, dict) and "file_id" in value:
            raise refused(name, f"{name} names a file_id, but no files are kept; send the picture itself")
        if isinstance(value, dict) and set(value) <= {key, "type", "detail"} and key in value:
            value = value[key]
    if not isinstance(value, str) or value[:5].lower() != "data:":
        is_address = str(value)[:6].lower().startswith(("http:", "https:"))
        what = "an address, but nothing is fetched" if is_address else "no picture"
        raise refused(name, f'{name} is {what}; send a file, or a data URL such as "data:image/png;base64,..."')
    head, comma, data = value.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise refused(name, f'{name} is "{cut(head, 60)}", but a data URL must be "data:image/png;base64,..."')
    try:
        return io.BytesIO(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError) as error:
        raise refused(name, f"{name} is a data URL whose base64 is broken ({error})") from error


def required(fields: Variation, name: str) -> str:
    """The text of a field that has to be there.

    Raises:
        ApiError: 400.
    """
    value = getattr(fields, name)
    if value is None:
        raise refused(name, f"{name} is missing; say what the picture shall show", "missing_required_parameter")
    if not value.strip():
        raise refused(name, f"the {name} is empty; say what the picture shall show")
    return value
