"""The line to a chat server: bytes out and back, no more than wanted, to that host alone."""

from __future__ import annotations

import logging
import re
import ssl
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from http.cookiejar import CookieJar
from urllib.parse import urljoin, urlsplit

import httpx

from dsd.chat.openai.address import Address, Key
from dsd.chat.openai.faults import Fault, one_line

_ERROR_BYTES = 1 << 16
_GZIP = ("gzip", "x-gzip", "deflate")
_LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy")


@dataclass(frozen=True)
class Spoken:
    """What came back.

    Attributes:
        status: of HTTP.
        kind: media type, such as ``application/json``.
        body: decompressed.
        wait: seconds to wait before asking again, if it says so.
    """

    status: int
    kind: str
    body: bytes
    wait: float | None = None


@dataclass(frozen=True)
class Line:
    """How a server is reached. `open` gives a client for one event loop.

    Attributes:
        address: of the server.
        key: that it wants.
        most_bytes: of a reply, decompressed; a longer one is not read to its end.
        connect_seconds: until a connection must stand.
    """

    address: Address
    key: Key
    most_bytes: int
    connect_seconds: float

    def open(self) -> httpx.AsyncClient:
        """A client; a proxy is used for other machines only."""
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": "dsd"}
        _keep_out_of_logs(self.key)
        plain = self.address.is_loopback and self.address.scheme == "http"  # reading certificates takes a while
        if self.key.secret:
            headers["Authorization"] = f"Bearer {self.key.secret}"
        return httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(None, connect=self.connect_seconds),
            limits=httpx.Limits(max_connections=None),
            follow_redirects=False,
            event_hooks={"response": [self._require_no_redirect]},
            cookies=_NoCookies(),
            trust_env=not self.address.is_loopback,
            verify=not plain and _certificates(),
        )

    async def exchange(self, client: httpx.AsyncClient, path: str, body: bytes | None = None) -> Spoken:
        """Sends one request.

        Args:
            client: of `open`.
            path: after the address, such as ``/models``.
            body: JSON to post; None to get.

        Raises:
            Fault: nothing came back, or it broke off, is too long, wrongly encoded, or leads elsewhere.
        """
        headers = {} if body is None else {"Content-Type": "application/json"}
        method = "GET" if body is None else "POST"
        try:
            async with client.stream(method, self.address.url + path, content=body, headers=headers) as response:
                return await self._spoken(response)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            said = one_line(self.key.redacted(str(error) or type(error).__name__))
            raise Fault("unwell", "no connection", said) from None

    async def _require_no_redirect(self, response: httpx.Response) -> None:
        """Ends a redirect before the library looks at where it leads, which may be no address at all."""
        if 300 <= response.status_code < 400:
            raise Fault("unusable", "it sends questions elsewhere, where they are not sent", self._elsewhere(response))

    async def _spoken(self, response: httpx.Response) -> Spoken:
        status = response.status_code
        encoding = response.headers.get("content-encoding", "").strip().lower()
        most = self.most_bytes if status < 300 else _ERROR_BYTES
        try:
            body = await read_bounded(response.aiter_raw(), encoding, most)
        except Fault:
            if status < 300:
                raise
            body = b""  # the status alone says what is wrong
        except httpx.HTTPError as error:
            said = one_line(self.key.redacted(str(error) or type(error).__name__))
            if status < 300:
                raise Fault("odd", "reply broken off", said) from None
            body = b""
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        return Spoken(status, kind, body, _seconds_to_wait(response.headers))

    def _elsewhere(self, response: httpx.Response) -> str:
        """Where a redirect leads, without what may be a key."""
        said = f"status {response.status_code}"
        try:
            location = response.headers.get("location", "")
            there = urlsplit(urljoin(self.address.url, location) if location else "")
            host = there.hostname or ""
        except ValueError:
            return said
        return one_line(self.key.redacted(f"{said}, to {there.scheme}://{host}")) if host else said


@cache
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()


class _NoCookies(CookieJar):
    """Keeps no cookie, and does not look at any: odd ones are warned of with a traceback."""

    def extract_cookies(self, response: object, request: object) -> None:
        """Does nothing."""


class _Redacting(logging.Filter):
    def __init__(self, key: Key) -> None:
        super().__init__()
        self._key = key

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self._key.redacted(record.getMessage()), None
        return True


@cache
def _keep_out_of_logs(key: Key) -> None:
    """Libraries log what a server says, which may be the key that it was sent."""
    for name in _LOGGERS if key.secret else ():
        logging.getLogger(name).addFilter(_Redacting(key))


async def read_bounded(chunks: AsyncIterator[bytes], encoding: str, most: int) -> bytes:
    """Reads a body, decompressing no more than what may be kept.

    Args:
        chunks: as they come over the line.
        encoding: of HTTP; empty for none.
        most: bytes of the body, as they come and decompressed.

    Raises:
        Fault: it is longer, or not in its encoding, or in one that was not asked for.
    """
    if encoding not in ("", "identity", *_GZIP):
        raise Fault("odd", "reply wrongly encoded", f'as "{one_line(encoding)}", which was not asked for')
    inflated = _Inflated(encoding, most) if encoding in _GZIP else None
    data, came = bytearray(), 0
    async for chunk in chunks:
        came += len(chunk)
        if inflated is None:
            data += chunk[: most + 1 - len(data)]
        elif came <= most:
            inflated.add(chunk, data)
        if max(came, len(data)) > most:
            raise Fault("odd", "reply too large", f"more than {most:,} bytes")
    if inflated is not None and not inflated.is_whole:
        raise Fault("odd", "reply broken off", f"its {encoding} has no end")
    return bytes(data)


class _Inflated:
    """What is decompressed of a body; members of gzip in a row are one content, as its standard has it."""

    def __init__(self, encoding: str, most: int) -> None:
        self._encoding, self._most = encoding, most
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)

    @property
    def is_whole(self) -> bool:
        """Whether it ends where a member does."""
        return self._inflate.eof

    def add(self, chunk: bytes, data: bytearray) -> None:
        """Adds what a chunk holds, at most one byte more than may be kept.

        Raises:
            Fault: it is not in its encoding, or something else follows what is.
        """
        while chunk and len(data) <= self._most:
            if self._inflate.eof:
                if self._encoding == "deflate":
                    raise Fault("odd", "reply wrongly encoded", "something follows its deflate")
                self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
            try:
                data += self._inflate.decompress(chunk, self._most + 1 - len(data))
            except zlib.error as error:
                raise Fault("odd", "reply wrongly encoded", f"it is no {self._encoding} ({error})") from None
            chunk = self._inflate.unused_data


def _seconds_to_wait(headers: httpx.Headers) -> float | None:
    """What the server asks for, in seconds or as a date; None where that is no time to come."""
    said = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", said):
        seconds = float(said)
    else:
        try:
            when = parsedate_to_datetime(said)
            seconds = (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
        except (ValueError, OverflowError, TypeError, LookupError):  # all that the library makes of odd dates
            return None
    return seconds if 0 <= seconds < float("inf") else None
