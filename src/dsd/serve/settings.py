"""What a server allows, and what it says of itself."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any

from dsd.errors import UserError, cut
from dsd.limits import require_within

LARGER_THAN_TRAINED = 4
"""How many times the pixels that the model was trained at may be drawn, unless told otherwise."""

HEALTH = ("/health", "/healthz", "/readyz", "/metrics")
"""What tells how the server is, to anybody and at once."""

UNSAID_PIXELS = 1 << 20
"""How many pixels may be drawn by a model that does not say at what size it was trained."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may ask for, and how much of all of them is held at once."""

    body_mib: float = 32
    """Size of a request's body; more is refused (413) while it arrives."""
    bodies_mib: float = 256
    """Size of all bodies that are being read; more is refused (503) until some are done."""
    picture_megapixels: float = 25
    """Pixels of a reference picture, known from its header before it is decoded."""
    drawn_pixels: int | None = None
    """Pixels of a picture to draw; 4 times what the model was trained at when left out."""
    pictures: int = 10
    """Pictures that one request may ask for (`n`)."""
    steps: int = 100
    """Denoising steps that one request may ask for."""
    prompt_characters: int = 32_000
    """Length of a prompt."""
    together: int = 8
    """Pictures that are drawn at once, in one batch where their sizes agree."""
    waiting: int = 64
    """Pictures that may wait; further requests are refused (429) with a time to come back."""
    per_minute: int | None = None
    """Requests a minute for each API key (for each address where there is no key); any number when left out."""
    wrong_keys_per_minute: int = 30
    """Wrong API keys a minute that an address may try; then each key from there, right or wrong, is refused (429)."""
    connections: int = 500
    """Connections that may be open; requests on further ones are refused (503), those for health are answered."""
    header_seconds: float = 15
    """Time for a request's head to arrive."""
    body_seconds: float = 60
    """Time for a request's body to arrive."""
    answer_seconds: float = 60
    """Time for a client to take what was written to it."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None:
                require_within(f"the limit {one.name}", value, 0, above=True)

    @property
    def body_bytes(self) -> int:
        return int(self.body_mib * (1 << 20))

    @property
    def bodies_bytes(self) -> int:
        return int(self.bodies_mib * (1 << 20))

    @property
    def picture_pixels(self) -> int:
        return int(self.picture_megapixels * 1_000_000)


@dataclass(frozen=True, kw_only=True)
class Usual:
    """How to sample where a request does not say; None leaves it to the model."""

    steps: int | None = None
    text_scale: float | None = None
    image_scale: float | None = None
    guidance: float | None = None

    def said(self) -> dict[str, Any]:
        """What is not left to the model, by name."""
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name)) is not None}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the application is built with.

    Attributes:
        names: under which the model is asked for; the first is the one that answers give.
        limits: see there.
        usual: how to sample where a request does not say.
        keys: any of them opens the API; empty lets everybody in.
        origins: web pages of other sites that may call the API, as `https://host`; `*` is all. Those of this machine
            always may.
        metadata: whether pictures say in their file what they were drawn from.
        drain_seconds: that running requests have after SIGTERM.
    """

    names: tuple[str, ...] = ("dsd",)
    limits: Limits = field(default_factory=Limits)
    usual: Usual = field(default_factory=Usual)
    keys: tuple[str, ...] = field(default=(), repr=False)
    origins: tuple[str, ...] = ()
    metadata: bool = True
    drain_seconds: float = 30

    def __post_init__(self) -> None:
        if not self.names or not all(name.strip() for name in self.names):
            raise UserError("the model is served under no name; give at least one, such as --served-name dsd")
        for origin in self.origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/?#@\s]+", origin):
                raise UserError(
                    f'the allowed origin is "{cut(origin)}", but must be a site as browsers name it, such as '
                    "https://shop.example, without anything after the host and port, or *"
                )
        require_within("drain_seconds", self.drain_seconds, 0)
