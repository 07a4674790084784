"""An HTTP server that speaks the OpenAI images API: a reference picture and a prompt in, pictures out.

    curl localhost:8000/v1/images/edits -F image=@cat.png -F prompt="a cat at the beach"

Any OpenAI client works: `client.images.edit(model="dsd", image=open("cat.png", "rb"), prompt="...")`.
"""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Callable
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, File, Form, Request
from fastapi.responses import JSONResponse
from PIL import Image

from dsd.errors import UserError
from dsd.images import encode_png, load_image

MODEL = "dsd"
MAX_PICTURES = 10

Draw = Callable[[list[Image.Image], list[str], tuple[int, int] | None, int], list[Image.Image]]
"""Draws each prompt: (references, prompts, (height, width) or None, seed) -> pictures."""


def create_app(draw: Draw) -> FastAPI:
    """Builds the FastAPI application.

    Args:
        draw: Called by one request at a time.
    """
    app = FastAPI(title="dsd", description=__doc__ or "")
    lock = threading.Lock()

    @app.exception_handler(UserError)
    def refuse(_: Request, error: UserError) -> JSONResponse:
        body = {"error": {"message": str(error), "type": "invalid_request_error", "param": None, "code": None}}
        return JSONResponse(body, status_code=400)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "dsd"}]}

    @app.post("/v1/images/edits")
    def edits(
        image: Annotated[list[bytes], File()],
        prompt: Annotated[str, Form()],
        n: Annotated[int, Form()] = 1,
        size: Annotated[str, Form()] = "auto",
        seed: Annotated[int, Form()] = 0,
        response_format: Annotated[str, Form()] = "b64_json",
    ) -> dict[str, Any]:
        if not 1 <= n <= MAX_PICTURES:
            raise UserError(f"n is {n}, but must be from 1 to {MAX_PICTURES}")
        if response_format != "b64_json":
            raise UserError(f'response_format is "{response_format}", but only "b64_json" is served')
        if not prompt.strip():
            raise UserError("the prompt is empty; say what the picture shall show")
        references = [load_image(one) for one in image]
        with lock:
            pictures = draw(references, [prompt] * n, parse_size(size), seed)
        data = [{"b64_json": base64.b64encode(encode_png(picture)).decode()} for picture in pictures]
        return {"created": int(time.time()), "data": data}

    return app


def parse_size(size: str) -> tuple[int, int] | None:
    """Reads OpenAI's `WIDTHxHEIGHT` into (height, width); `auto` leaves it to the model.

    Raises:
        UserError: It is neither.
    """
    if size == "auto":
        return None
    width, cross, height = size.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise UserError(f'size is "{size}", but must be "auto" or WIDTHxHEIGHT such as "512x512"')
    return int(height), int(width)


def listen(app: FastAPI, host: str, port: int) -> None:
    """Serves until interrupted.

    Raises:
        UserError: The address is taken or not ours.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise UserError(f"cannot listen on {host}:{port} ({error}); give another --host or --port") from error
    uvicorn.run(app, host=host, port=port, log_level="warning")
