"""The routes under `/v1`: pictures and models, as OpenAI's clients call them."""

from __future__ import annotations

import asyncio
import time
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image

from dsd.errors import cut
from dsd.generate.orders import Order
from dsd.serve.auth import require_key, require_origin
from dsd.serve.bodies import read
from dsd.serve.desk import Desk
from dsd.serve.errors import ApiError
from dsd.serve.events import Kind, Stream, Streamed, events
from dsd.serve.fields import Edit, Generation, Variation
from dsd.serve.orders import check, most_pixels, orders_of, said_of, size_of
from dsd.serve.pictures import encoded

Given = TypeVar("Given", bound=Variation)


def router_of(desk: Desk) -> APIRouter:
    """The routes, which draw with a desk's engine."""
    settings = desk.settings

    async def known(request: Request) -> str:
        return require_key(request, settings.keys)

    async def admitted(request: Request) -> None:
        desk.require_ready()
        require_origin(request, settings)
        desk.rates.take(require_key(request, settings.keys))

    router = APIRouter()

    @router.api_route("/models", methods=["GET", "HEAD"], dependencies=[Depends(known)])
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(name) for name in settings.names]}

    @router.api_route("/models/{name:path}", methods=["GET", "HEAD"], dependencies=[Depends(known)])
    async def model(name: str) -> dict[str, Any]:
        _require_model(name, desk)
        return _model(name)

    @router.post("/images/edits", dependencies=[Depends(admitted)], openapi_extra=_schema(Edit))
    async def edits(request: Request) -> Response:
        return await _drawn(Edit, "image_edit", request, desk)

    @router.post("/images/generations", dependencies=[Depends(admitted)], openapi_extra=_schema(Generation))
    async def generations(request: Request) -> Response:
        return await _drawn(Generation, "image_generation", request, desk)

    @router.post("/images/variations", dependencies=[Depends(admitted)], openapi_extra=_schema(Variation))
    async def variations(request: Request) -> Response:
        return await _drawn(Variation, "image_edit", request, desk)

    return router


async def _drawn(kind: type[Given], event: Kind, request: Request, desk: Desk) -> Response:
    """Reads a request, has its pictures drawn, and answers."""
    facts, settings = desk.engine.facts, desk.settings
    async with desk.bodies.reading(request) as counted, read(kind, counted, settings.limits) as body:
        fields = body.fields
        if fields.model is not None:
            _require_model(fields.model, desk)
        check(fields, facts, settings, len(body.pictures))
        size = size_of(fields, facts, settings)
        pixels = most_pixels(facts, settings.limits) if size is None else size[0] * size[1]
        references = await desk.decoder.decode(body.pictures, pixels, as_is=size is None)
    orders = orders_of(fields, references, facts, settings)
    answer = _Answer(desk, fields, orders)
    answer.check()
    if isinstance(fields, Generation) and fields.stream:
        stream = Stream(fields.partial_images or 0)
        job = desk.order(orders, stream.on_step)
        return Streamed(desk, job, events(desk, job, stream, event, answer.event), answer.headers)
    pictures = await desk.pictures(request, desk.order(orders))
    return JSONResponse(await asyncio.to_thread(answer.body, pictures), headers=answer.headers)


class _Answer:
    """What is said of the pictures of a request."""

    def __init__(self, desk: Desk, fields: Variation, orders: list[Order]) -> None:
        self._desk, self._fields, self._orders = desk, fields, orders
        self.headers = {"x-seed": ",".join(str(order.seed) for order in orders), "Cache-Control": "no-store"}

    def check(self) -> None:
        """Finds out before anything is drawn whether a file can say all that it shall.

        Raises:
            UserError: It cannot.
        """
        self._encoded(0, Image.new("RGB", (1, 1)))

    def body(self, pictures: list[Image.Image]) -> dict[str, Any]:
        """OpenAI's ImagesResponse, with the seed beside each picture."""
        data = [
            {"b64_json": self._encoded(number, picture), "seed": self._orders[number].seed}
            for number, picture in enumerate(pictures)
        ]
        about = self._about(pictures[0]) | {"background": "opaque", "usage": self._usage(pictures)}
        about.pop("quality")  # which OpenAI's answers name where it was chosen
        return {"created": int(time.time()), "data": data, **about}

    def event(self, number: int, picture: Image.Image, last: bool) -> dict[str, Any]:
        """The fields of a streamed event, with the picture's number and seed."""
        said = {"b64_json": self._encoded(number, picture, last), **self._about(picture)}
        said |= {"picture_index": number, "seed": self._orders[number].seed}
        return said | ({"usage": self._usage([picture])} if last else {})

    def _about(self, picture: Image.Image) -> dict[str, Any]:
        fields = self._fields
        asked = fields if isinstance(fields, Generation) else Generation()
        identifier = {"safety_identifier": fields.identifier} if fields.identifier else {}
        return {
            "background": asked.background,
            "output_format": asked.output_format,
            "quality": asked.quality,
            "size": f"{picture.width}x{picture.height}",
            **identifier,
        }

    def _encoded(self, number: int, picture: Image.Image, last: bool = True) -> str:
        settings = self._desk.settings
        said = said_of(self._orders[number], settings.names[0]) if settings.metadata and last else None
        return encoded(picture, self._fields, said)

    def _usage(self, pictures: list[Image.Image]) -> dict[str, Any]:
        """Tokens as the model counts them: text is filled up to a fixed number, a frame is drawn by squares."""
        facts = self._desk.engine.facts
        frame = (pictures[0].width // facts.multiple) * (pictures[0].height // facts.multiple)
        text, image, out = facts.text_tokens, frame * len(self._orders[0].references), frame * len(pictures)
        return {
            "input_tokens": text + image,
            "input_tokens_details": {"text_tokens": text, "image_tokens": image},
            "output_tokens": out,
            "output_tokens_details": {"text_tokens": 0, "image_tokens": out},
            "total_tokens": text + image + out,
        }


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "dsd"}


def _require_model(name: str, desk: Desk) -> None:
    if name not in desk.settings.names:
        served = ", ".join(f'"{one}"' for one in desk.settings.names)
        raise ApiError(
            404, f'there is no model "{cut(name)}" here; served: {served}', param="model", code="model_not_found"
        )


def _schema(kind: type[Variation]) -> dict[str, Any]:
    """What the docs at `/v1/docs` say of a body, which is read by hand."""
    schema = kind.model_json_schema()
    picture = {"type": "array", "items": {"type": "string", "format": "binary"}}
    form = schema | {"properties": {"image": picture, **schema["properties"]}}
    kinds = {"application/json": {"schema": schema}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": kinds}}
