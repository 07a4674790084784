"""Every error in the shape of OpenAI's API: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from dsd.errors import UserError, cut

logger = logging.getLogger(__name__)

CLIENT_LEFT = 499
"""Status in the metrics of a request whose client left; nobody receives it."""

_TYPES = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}


class ApiError(Exception):
    """A request that is refused.

    Args:
        status: HTTP status, 400 to 599.
        message: One sentence for whoever sent the request.
        param: The field that it is about.
        code: A word for programs.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        kind = _TYPES.get(HTTPStatus(self.status), "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, status_code=self.status, headers=self.headers)


def refused(param: str, message: str, code: str = "invalid_value") -> ApiError:
    """A field that is not as it must be."""
    return ApiError(400, message, param=param, code=code)


def busy(message: str, seconds: float, *, status: int = 429, code: str = "rate_limit_exceeded") -> ApiError:
    """A request that may come back, in so many seconds."""
    return ApiError(status, message, code=code, headers={"Retry-After": str(max(1, round(seconds)))})


def stopping() -> ApiError:
    return busy("the server is stopping; send the request to another one, or again", 5, status=503, code="stopping")


def internal() -> ApiError:
    """What a client learns of a fault of ours: nothing but that; the log has the rest."""
    return ApiError(500, "the server failed; its log says why", code="internal_error")


def install(app: FastAPI) -> None:
    """Makes an application answer all its errors in the shape."""
    app.add_exception_handler(ApiError, _refuse)
    app.add_exception_handler(UserError, _mistake)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _left)
    app.add_exception_handler(Exception, _fault)


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _mistake(_: Request, error: Exception) -> Response:
    return ApiError(400, str(error)).response()


async def _http(request: Request, error: Exception) -> Response:
    """What the framework itself refuses."""
    assert isinstance(error, HTTPException)
    path, message, code = cut(request.url.path), str(error.detail), None
    if error.status_code == HTTPStatus.NOT_FOUND:
        message, code = f"there is nothing at {path}; see /v1/docs for what is served", "unknown_url"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "another method")
        message, code = f"{path} takes {allowed}, not {request.method}", "method_not_allowed"
    return ApiError(error.status_code, message, code=code, headers=error.headers).response()


async def _left(_: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)


async def _fault(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed", request.method, request.url.path)
    return internal().response()
