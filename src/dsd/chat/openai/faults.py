"""What can go wrong between a question and its reply, and what each fault means."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from dsd.errors import cut

FaultKind = Literal["odd", "unwell", "busy", "refused", "unusable"]

_SHOWN = 200  # characters of what a server says that a sentence repeats
_READ = 4000
_REFUSED = {400, 406, 413, 414, 415, 422, 431}
_TRANSIENT = {408, 409, 421, 425}
_BUSY = {429, 503, 529}
_STANDS_FOR = {
    401: r"auth(?!or)|api.?key|credential",
    403: r"permission|forbidden",
    402: r"quota|billing|credit|payment",
    429: r"rate.?limit|too.?many|resource.?exhausted",
    404: r"not.?found",
    503: r"overload|unavailable|loading",
    400: r"invalid|bad.?request|unprocessable|context.?length|validation",
}
"""What an error means that comes without a status, by the words of its type and code."""


class Fault(Exception):
    """A question that was not answered.

    Attributes:
        kind: ``odd``: a reply that is none; ``unwell``: the line or the server broke; ``busy``: ask later; ``refused``:
            this question or an argument of it; ``unusable``: nothing can be asked there.
        reason: a few fixed words, to count by.
        detail: what exactly.
        wait: seconds after which the server wants to be asked again, if it says so.
        complaint: all that the server said, to find the argument in that it does not take.
    """

    def __init__(
        self, kind: FaultKind, reason: str, detail: str = "", *, wait: float | None = None, complaint: str = ""
    ) -> None:
        super().__init__(reason)
        self.kind: FaultKind = kind
        self.reason, self.detail, self.wait, self.complaint = reason, detail, wait, complaint

    @property
    def sentence(self) -> str:
        """Reason and detail."""
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


def fault_of_status(status: int, body: Any, wait: float | None = None) -> Fault:
    """The fault that an HTTP status stands for.

    Args:
        status: 300 or more.
        body: what came with it, decoded where it is JSON, else text.
        wait: seconds that the server wants us to wait.
    """
    said = sentence_of(body)
    detail = f"status {status}" + (f": {said}" if said else "")
    complaint = (body if isinstance(body, str) else json.dumps(body, default=str))[:_READ]
    if status in _REFUSED:
        return Fault("refused", "request refused", said or detail, complaint=complaint)
    if status in _BUSY:
        return Fault("busy", "server busy", detail, wait=wait, complaint=complaint)
    if status in _TRANSIENT or status >= 500:
        return Fault("unwell", "server error", detail, wait=wait, complaint=complaint)
    return Fault("unusable", "it refuses to be used", detail)


def fault_of_error(error: Any) -> Fault:
    """The fault that an error in a reply stands for whose HTTP status says that all is well."""
    fields = error if isinstance(error, dict) else {}
    for name in ("code", "status", "status_code"):
        value = fields.get(name)
        number = int(value) if isinstance(value, (int, str)) and re.fullmatch(r"[45][0-9]{2}", str(value)) else 0
        if number:
            return fault_of_status(number, {"error": error})
    words = " ".join(str(fields.get(name, "")) for name in ("type", "code", "status"))
    for status, pattern in _STANDS_FOR.items():
        if re.search(pattern, words, re.IGNORECASE):
            return fault_of_status(status, {"error": error})
    return fault_of_status(500, {"error": error})


def sentence_of(body: Any) -> str:
    """What a server says of an error, in one line, from any of the shapes that servers use."""
    for _ in range(4):
        if isinstance(body, list) and body:
            body = body[0]
        if not isinstance(body, dict):
            break
        body = next((body[name] for name in ("error", "message", "msg", "detail") if body.get(name)), "")
    if isinstance(body, (bool, int, float, type(None))):
        return ""
    text = body if isinstance(body, str) else json.dumps(body, default=str)
    if title := re.search(r"<title[^>]*>(.*?)</title>", text[:_READ], re.DOTALL | re.IGNORECASE):
        text = title[1]
    return one_line(text)


def one_line(text: str) -> str:
    """A text without line breaks, control characters and halves of characters, cut short."""
    words = "".join(c if c.isprintable() else " " for c in text[:_READ]).split()
    return cut(" ".join(words), _SHOWN)
