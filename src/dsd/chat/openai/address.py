"""Where a chat server is and which key goes there: a key goes to the host that it is for, and is seen nowhere else."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field

from dsd.chat.openai.spelling import PIECE, hidden
from dsd.errors import UserError

DEFAULT_KEY = "OPENAI_API_KEY"
DEFAULT_HOST = "api.openai.com"
"""The only host that `DEFAULT_KEY` goes to without being named."""

_NAMED = re.compile(r"openai:(?P<model>.+?)@(?P<url>https?://[^#]*)(?:#(?P<variable>.*))?", re.DOTALL | re.IGNORECASE)
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?(?:/[a-z0-9._~:/%+-]*)?",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORD = 4  # characters of a key that is more than a word of the protocol such as "1"


@dataclass(frozen=True)
class Address:
    """A server's address, checked.

    Attributes:
        url: without a slash at its end.
        scheme: ``http`` or ``https``.
        host: in small letters.
        port: in words; empty for the usual one.
    """

    url: str
    scheme: str
    host: str
    port: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """Reads an address.

        Raises:
            UserError: it is no address, or holds what may be a key; it is not repeated then.
        """
        found = _URL.fullmatch(url)
        if found is None or int(found["port"] or 0) > 65535:
            raise UserError(f"the address of a chat server {_fault(url)}; write http://HOST:PORT/v1 and no more")
        return cls(url.rstrip("/"), found["scheme"].lower(), found["host"].lower(), found["port"] or "")

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine, which no line leads out of."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def takes_default_key(self) -> bool:
        """Whether `DEFAULT_KEY` is meant for it."""
        return (self.scheme, self.host) == ("https", DEFAULT_HOST) and self.port in ("", "443")


def _fault(url: str) -> str:
    authority = url.partition("://")[2].partition("/")[0]
    if "@" in authority:
        return "holds a user name or a password, which would be kept with the data; keys go in environment variables"
    if "?" in url:
        return "holds a query, where keys would be kept with the data; they go in environment variables"
    return "cannot be read"


@dataclass(frozen=True)
class Key:
    """What opens a server, or nothing.

    Attributes:
        secret: never shown.
    """

    secret: str = field(default="", repr=False)

    @classmethod
    def of(cls, address: Address, variable: str | None) -> Key:
        """The key for an address.

        Args:
            address: of the server.
            variable: environment variable that holds it; None for `DEFAULT_KEY` at the host that it is for, else none.

        Raises:
            UserError: the variable is not set or holds no key, or the key would go over an open line.
        """
        if variable is None and not address.takes_default_key:
            return cls()
        name = _shown(variable or DEFAULT_KEY)
        secret = os.environ.get(variable or DEFAULT_KEY, "").strip()
        if not secret:
            raise UserError(f"{name} is not set; put the key of {address.url} in it")
        if not (secret.isascii() and secret.isprintable()) or " " in secret:
            raise UserError(f"{name} holds no key, which is one word of plain characters; set it again")
        if address.scheme == "http" and not address.is_loopback:
            raise UserError(
                f"{name} is not sent to {address.url}, where all on the way could read it; use https, or a tunnel to a "
                "port of localhost, or leave out #VARIABLE"
            )
        return cls(secret)

    @property
    def is_secret(self) -> bool:
        """Whether it is too long to be a word that a model may say by chance, such as ``EMPTY``."""
        return len(self.secret) >= PIECE

    def redacted(self, text: str) -> str:
        """A sentence without the key and any long piece of it, however they are spelt; see `spelling.hidden`."""
        if len(self.secret) < _WORD:
            return text
        return hidden(text.replace(self.secret, "[key]"), self.secret)


def _shown(variable: str) -> str:
    """A variable by its name, unless that may be the key itself."""
    if _VARIABLE.fullmatch(variable) is None:
        raise UserError("what stands after # names no environment variable; write openai:MODEL@URL#VARIABLE")
    return f'the environment variable "{variable}"' if variable == variable.upper() else "the environment variable"


def split_name(name: str) -> tuple[str, Address, str | None]:
    """The model, the address and the key's variable of ``openai:MODEL@URL#VARIABLE``.

    Raises:
        UserError: it names no server, or its address holds a key.
    """
    found = _NAMED.fullmatch(name)
    if found is None:
        raise UserError(f'"{name.partition("@")[0]}…" names no server; write openai:MODEL@http://HOST:PORT/v1')
    address = Address.parse(found["url"])
    if found["variable"]:
        _shown(found["variable"])
    return found["model"], address, found["variable"] or None


def model_of(name: str) -> str:
    """``openai:MODEL`` of a name; one without an address is that already.

    Raises:
        UserError: its address holds a key.
    """
    return f"openai:{split_name(name)[0]}" if _NAMED.fullmatch(name) else name
