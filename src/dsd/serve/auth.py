"""Who may call: API keys, and pages of other sites."""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import os
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dsd.errors import UserError
from dsd.serve.errors import ApiError
from dsd.serve.limits import Rates
from dsd.serve.settings import Settings

KEY_VARIABLE = "DSD_API_KEY"
LOCAL_ORIGINS = re.compile(r"https?://(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?")


def keys_from_environment() -> tuple[str, ...]:
    """The keys in `DSD_API_KEY`, separated by commas.

    Raises:
        UserError: The variable is set, but holds no key, or one that no header can carry.
    """
    given = os.environ.get(KEY_VARIABLE)
    if given is None:
        return ()
    keys = tuple(key for part in given.split(",") if (key := part.strip()))
    if not keys or not all(key.isascii() and key.isprintable() and " " not in key for key in keys):
        raise UserError(
            f"{KEY_VARIABLE} is set, but must hold one or more keys of printable ASCII characters without spaces, "
            "separated by commas; unset it to serve without a key"
        )
    return keys


def require_safe_address(host: str, keys: tuple[str, ...]) -> None:
    """Refuses to let everybody who can reach the machine draw.

    Raises:
        UserError: There is no key, and the address is not this machine's own.
    """
    if not keys and not is_loopback(host):
        raise UserError(
            f"--host {host} can be reached from other machines, but there is no API key; set {KEY_VARIABLE}, or listen "
            "on 127.0.0.1"
        )


def require_key(request: Request, keys: tuple[str, ...]) -> str:
    """Whom a request is counted for: its key's number, or the client's address where there are no keys.

    Raises:
        ApiError: 401 without a right key.
    """
    if not keys:
        return request.client.host if request.client else ""
    sent = request.headers.getlist("authorization")
    scheme, _, given = ", ".join(sent).partition(" ")
    number = number_of_key(given.strip(), keys)
    if scheme.lower() != "bearer" or number is None:
        message = "no API key was given" if not given else "the API key is wrong"
        raise ApiError(
            401,
            f'{message}; send "Authorization: Bearer KEY"',
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return f"key {number}"


def number_of_key(given: str, keys: tuple[str, ...]) -> int | None:
    """Which of the keys was given; the time it takes tells nothing of them."""
    right = [hmac.compare_digest(given.encode(), key.encode()) for key in keys]
    return right.index(True) if any(right) else None


class WrongKeys:
    """Lets nobody guess keys: an address that sent too many wrong ones is told to wait, whatever it sends next.

    Args:
        app: What asks for a key: an API that answers 401, and the page's `LOGIN`.
        per_minute: Wrong keys that are answered.
    """

    LOGIN = "/login"

    def __init__(self, app: ASGIApp, per_minute: int) -> None:
        self._app, self._rates = app, Rates(per_minute, "wrong API keys")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        is_login = scope["path"] == self.LOGIN and scope["method"] == "POST"
        if not is_login and "authorization" not in Headers(scope=scope):
            return await self._app(scope, receive, send)
        address = (scope.get("client") or ("",))[0]

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in ((400, 401) if is_login else (401,)):
                with contextlib.suppress(ApiError):  # several came at once
                    self._rates.take(address)
            await send(message)

        try:
            self._rates.require(address)
        except ApiError as error:
            return await error.response()(scope, receive, send)
        await self._app(scope, receive, counted)


def require_origin(request: Request, settings: Settings) -> None:
    """Refuses what a page of another site sends: browsers do that without asking, and the answer would come too late.

    Raises:
        ApiError: 403.
    """
    if is_foreign(request.headers, settings.origins, bool(settings.keys)):
        raise not_allowed()


def is_foreign(headers: Headers, origins: Sequence[str], keyed: bool, local: bool = True) -> bool:
    """Whether a page of another site sends a request.

    Args:
        headers: of the request.
        origins: sites that may.
        keyed: whether a key is asked for. Where none is, a page of the very host that was called is let in only from
            this machine: anybody can point the name of a site at it.
        local: whether pages from other ports of this machine may.
    """
    origin = headers.get("origin")
    if origin is None or "*" in origins or origin in origins:
        return False
    is_local = LOCAL_ORIGINS.fullmatch(origin) is not None
    try:
        site = urlsplit(origin).netloc
    except ValueError:
        return True
    same = site in (headers.get("host"), headers.get("x-forwarded-host"))
    return not ((is_local and local) or (same and (keyed or is_local)))


def not_allowed() -> ApiError:
    return ApiError(
        403,
        "pages of this site may not call this server; start it with --allowed-origins and the site's address",
        code="origin_not_allowed",
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
