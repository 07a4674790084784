"""The server's application: OpenAI's images API under `/v1`, and how the server is beside it.

    curl localhost:8000/v1/images/edits -F image=@cat.png -F prompt="a cat at the beach"

Any OpenAI client works: `client.images.edit(model="dsd", image=open("cat.png", "rb"), prompt="...")`.
"""

from __future__ import annotations

import time
import uuid

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dsd.generate.engine import Engine
from dsd.serve import errors
from dsd.serve.auth import LOCAL_ORIGINS, WrongKeys, not_allowed
from dsd.serve.desk import Desk
from dsd.serve.images_api import router_of
from dsd.serve.metrics import CONTENT_TYPE
from dsd.serve.settings import HEALTH, Settings

API = "/v1"
_METHODS = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH")


def create_app(engine: Engine, settings: Settings) -> FastAPI:
    """Builds the application; its `state.desk` is what a page beside it draws with.

    Args:
        engine: Draws; whoever made it stops it.
        settings: See there.
    """
    desk = Desk(engine, settings)
    api = FastAPI(title="dsd", description=__doc__ or "", redirect_slashes=False)
    api.include_router(router_of(desk))
    errors.install(api)

    app = FastAPI(title="dsd", redirect_slashes=False, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.desk = desk
    errors.install(app)
    _add_health(app, desk)
    app.mount(API, api)
    if settings.keys:
        app.add_middleware(WrongKeys, per_minute=settings.limits.wrong_keys_per_minute)
    app.add_middleware(
        _Cors,
        allow_origins=settings.origins,
        allow_origin_regex=LOCAL_ORIGINS.pattern,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        expose_headers=("x-seed", "x-request-id", "retry-after"),
        allow_private_network=True,
    )
    app.add_middleware(_Counting, desk=desk)
    return app


def _add_health(app: FastAPI, desk: Desk) -> None:
    """What load balancers ask, without a key; nothing here waits for the engine."""

    async def health() -> JSONResponse:
        alive = desk.engine.is_alive or desk.draining
        return JSONResponse({"status": "ok" if alive else "the model does not draw any more"}, 200 if alive else 503)

    async def ready() -> JSONResponse:
        status = "ready" if desk.is_ready else "stopping" if desk.draining else "the model does not draw any more"
        said = {"status": status, "waiting": desk.engine.waiting, "running": desk.engine.running}
        return JSONResponse(said, 200 if desk.is_ready else 503)

    async def metrics() -> Response:
        return Response(desk.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    answers = {"/health": health, "/healthz": health, "/readyz": ready, "/metrics": metrics}
    for path in HEALTH:
        app.add_api_route(path, answers[path], methods=["GET", "HEAD"])


class _Cors(CORSMiddleware):
    """Lets browsers ask whether a page may call; a page that may not is told so in the shape of other errors."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        return response if response.status_code < 400 else not_allowed().response()


class _Counting:
    """Counts requests and their time, numbers them, and takes a path with a slash at its end for the one without."""

    def __init__(self, app: ASGIApp, desk: Desk) -> None:
        self._app, self._desk = app, desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path, status = scope["path"], errors.CLIENT_LEFT
        in_api = path == API or path.startswith(f"{API}/")
        if path.endswith("/") and (in_api or path.rstrip("/") in HEALTH):
            scope["path"] = path = path.rstrip("/")
        number = uuid.uuid4().hex

        async def numbered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = number
            await send(message)

        began = time.monotonic()
        self._desk.answering += in_api
        try:
            await self._app(scope, receive, numbered)
        finally:
            self._desk.answering -= in_api
            route = getattr(scope.get("endpoint"), "__name__", "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._desk.metrics.requests.labels(route, method, str(status)).inc()
            self._desk.metrics.request_seconds.labels(route).observe(time.monotonic() - began)
