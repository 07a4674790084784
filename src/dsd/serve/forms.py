"""Reads a form strictly: text is UTF-8, and a form that breaks off is none."""

from __future__ import annotations

from contextlib import aclosing

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser

from dsd.serve.errors import ApiError


async def read(request: Request, most_files: int, most_fields: int, most_bytes: int) -> FormData:
    """The fields and files of a request's form, which the caller closes.

    Args:
        request: Of the content type multipart/form-data.
        most_files: That it may have.
        most_fields: Likewise.
        most_bytes: Of one field.

    Raises:
        ApiError: 415 for another charset than UTF-8, 400 for a form that is broken, breaks off, or has text that is
            not UTF-8.
    """
    _require_utf8(request)
    try:
        async with aclosing(request.stream()) as stream:
            parser = _Parser(
                request.headers, stream, max_files=most_files, max_fields=most_fields, max_part_size=most_bytes
            )
            form = await parser.parse()
    except MultiPartException as error:
        raise ApiError(400, f"the form cannot be read: {error.message}", code="invalid_form") from error
    except UnicodeDecodeError as error:
        raise ApiError(
            400, "a field of the form, or a name in it, is not UTF-8; send text as UTF-8", code="invalid_form"
        ) from error
    if not parser.ended:
        await form.close()
        raise ApiError(400, "the form breaks off before its last boundary; send all of it", code="invalid_form")
    return form


class _Parser(MultiPartParser):
    ended = False

    def on_end(self) -> None:
        self.ended = True

    def on_headers_finished(self) -> None:
        (self._current_part.content_disposition or b"").decode()
        super().on_headers_finished()

    def on_part_end(self) -> None:
        if self._current_part.file is None:
            self._current_part.data.decode()  # which Starlette reads as another alphabet where it is not UTF-8
        super().on_part_end()


def _require_utf8(request: Request) -> None:
    _, said = parse_options_header(request.headers["content-type"])
    charset = said.get(b"charset", b"utf-8").lower()
    if charset not in (b"utf-8", b"utf8", b"us-ascii"):
        raise ApiError(415, "forms are read as UTF-8 alone; leave charset out", code="unsupported_charset")
