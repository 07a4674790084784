"""From a request's fields to orders for the engine, within the server's limits."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Any

from PIL import Image

from dsd.config import require_seeds
from dsd.errors import cut
from dsd.generate.engine import Facts
from dsd.generate.orders import Order
from dsd.serve.bodies import required
from dsd.serve.errors import refused
from dsd.serve.fields import Edit, Generation, Variation
from dsd.serve.pictures import require_format
from dsd.serve.settings import LARGER_THAN_TRAINED, UNSAID_PIXELS, Limits, Settings

_SIZE = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})")
_RANDOM_SEEDS = 1 << 32


def size_of(fields: Variation, facts: Facts, settings: Settings) -> tuple[int, int] | None:
    """(height, width) to draw, in pixels; None for that of the reference, where the model was trained at no one size.

    Raises:
        ApiError: 400 for no size, or one of too many pixels.
    """
    if fields.size == "auto":
        return facts.size
    found = _SIZE.fullmatch(fields.size)
    if found is None:
        raise refused("size", f'size is "{cut(fields.size)}", but must be "auto" or WIDTHxHEIGHT such as "512x512"')
    width, height = int(found[1]), int(found[2])
    most = most_pixels(facts, settings.limits)
    if width * height > most:
        trained = "" if facts.size is None else f"; the model was trained at {facts.size[1]}x{facts.size[0]}"
        raise refused("size", f"size is {fields.size}, but at most {most:,} pixels are drawn{trained}")
    return height, width


def most_pixels(facts: Facts, limits: Limits) -> int:
    """How many pixels a picture may have."""
    trained = UNSAID_PIXELS if facts.size is None else LARGER_THAN_TRAINED * facts.size[0] * facts.size[1]
    return limits.drawn_pixels or trained


def check(fields: Variation, facts: Facts, settings: Settings, pictures: int) -> None:
    """What can be told before any picture is decoded.

    Args:
        fields: Of the request.
        facts: About the model.
        settings: Of the server.
        pictures: How many were sent.

    Raises:
        ApiError: 400 or 404 for what is not as it must be.
        UserError: Seeds that torch does not take.
    """
    limits = settings.limits
    if fields.n > limits.pictures:
        raise refused("n", f"n is {cut(str(fields.n))}, but must be from 1 to {limits.pictures}")
    if (fields.num_inference_steps or 1) > limits.steps:
        steps = cut(str(fields.num_inference_steps))
        raise refused("num_inference_steps", f"num_inference_steps is {steps}, but must be from 1 to {limits.steps}")
    if fields.seed is not None:
        require_seeds("seed", fields.seed, fields.n)
    if isinstance(fields, Generation):
        _check_text(required(fields, "prompt"), "prompt", limits.prompt_characters)
        require_format(fields)
        if fields.partial_images is not None and not fields.stream:
            raise refused("partial_images", "partial_images goes with stream=true; say that, or leave it out")
    if fields.guidance_scale is not None and not facts.takes_guidance:
        message = "guidance_scale has no effect, since this model has no embedded guidance; use text_scale"
        raise refused("guidance_scale", message, "unsupported_parameter")
    _check_text(fields.negative_prompt, "negative_prompt", limits.prompt_characters)
    _check_number(fields, facts, pictures)
    size_of(fields, facts, settings)


def orders_of(fields: Variation, references: Sequence[Image.Image], facts: Facts, settings: Settings) -> list[Order]:
    """One order a picture; their seeds count up from the one that was given, or from a random one."""
    seed = fields.seed if fields.seed is not None else secrets.randbelow(_RANDOM_SEEDS)
    height, width = size_of(fields, facts, settings) or (None, None)
    usual = settings.usual
    return [
        Order(
            prompt=fields.prompt or "" if isinstance(fields, Generation) else "",
            references=tuple(references),
            seed=seed + number,
            height=height,
            width=width,
            fit=fields.fit,
            negative_prompt=fields.negative_prompt,
            steps=_first(fields.num_inference_steps, usual.steps),
            text_scale=_first(fields.text_scale, usual.text_scale),
            image_scale=_first(fields.image_scale, usual.image_scale),
            guidance=_first(fields.guidance_scale, usual.guidance),
        )
        for number in range(fields.n)
    ]


def said_of(order: Order, name: str) -> dict[str, str]:
    """What a picture's file says of it."""
    said = {
        "model": name,
        "prompt": order.prompt,
        "seed": order.seed,
        "negative_prompt": order.negative_prompt or None,
        "steps": order.steps,
        "text_scale": order.text_scale,
        "image_scale": order.image_scale,
        "guidance": order.guidance,
    }
    return {key: str(value) for key, value in said.items() if value is not None}


def _first(given: Any, usual: Any) -> Any:
    return usual if given is None else given


def _check_text(text: str, name: str, most: int) -> None:
    if len(text) > most:
        raise refused(name, f"the {name} has {len(text):,} characters, but at most {most:,} are read; shorten it")
    if not is_text(text):
        raise refused(name, f"the {name} holds characters that are no text, such as NUL; leave them out")


def is_text(text: str) -> bool:
    """Whether a picture's file can say it: without NUL and lone surrogates."""
    return not re.search("[\0\ud800-\udfff]", text)


def _check_number(fields: Variation, facts: Facts, pictures: int) -> None:
    if isinstance(fields, Generation) and not isinstance(fields, Edit):
        if pictures:
            raise refused("image", "images/generations draws by the prompt alone; send pictures to images/edits")
        return
    if not pictures:
        raise refused("image", "image is missing; send the reference picture", "missing_required_parameter")
    if pictures != facts.references:
        raise refused(
            "image",
            f"{pictures} reference pictures were given, but this model was trained with {facts.references}; "
            f"give {facts.references}",
        )
