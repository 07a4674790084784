"""What a caller asks of a two-frame pipeline, in the words of diffusers' own pipelines, checked before any work."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from dsd.backbones.registry import backbone_class, drawing_of
from dsd.config import did_you_mean, require_text
from dsd.errors import UserError, cut
from dsd.images import Fit, ImageSource

Item = TypeVar("Item")
Generators: TypeAlias = torch.Generator | Sequence[torch.Generator] | None
Prompts: TypeAlias = str | Sequence[str] | None
References: TypeAlias = "ImageSource | Sequence[ImageSource] | Sequence[Sequence[ImageSource]] | None"


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """What is to be drawn; the fields are the arguments of `TwoFramePipeline.__call__`, where they are described."""

    prompt: Prompts = None
    image: References = None
    negative_prompt: Prompts = None
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    fit: Fit = "crop"
    text_scale: float | None = None
    image_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    num_inference_steps: int | None = None
    sigmas: Sequence[float] | None = None
    guidance_scale: float | None = None
    num_images_per_prompt: int = 1
    generator: Generators = None
    latents: Tensor | None = None
    prompt_embeds: Tensor | None = None
    pooled_prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    negative_pooled_prompt_embeds: Tensor | None = None
    max_sequence_length: int | None = None
    own: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Own:
    """What a family's stock pipeline calls by names of its own.

    Attributes:
        text_scale: Its true guidance.
        guidance_scale: Its embedded guidance.
        further: Prompts for further encoders.
        negative: Negative prompts for them.
        attention: What attention layers are told.
    """

    text_scale: float | None
    guidance_scale: float | None
    further: tuple[Prompts, ...]
    negative: tuple[Prompts, ...]
    attention: Mapping[str, Any] | None


def own_of(family: str, asked: Asked) -> Own:
    """Reads the arguments that only this family's stock pipeline has.

    Raises:
        UserError: One that it does not have, or that has no meaning for a two-frame model.
    """
    names, given = drawing_of(family), dict(asked.own)
    stock = backbone_class(family).pipeline_class
    further = tuple(given.pop(name, None) for name in names.FURTHER_PROMPTS)
    negative = tuple(given.pop(f"negative_{name}", None) for name in names.FURTHER_PROMPTS)
    attention = given.pop(names.ATTENTION, None)
    true_guidance = given.pop(names.TRUE_GUIDANCE, None)
    embedded = asked.guidance_scale
    if names.TRUE_GUIDANCE == "guidance_scale":
        true_guidance, embedded = embedded, None
    if true_guidance is not None and asked.text_scale not in (None, true_guidance):
        raise UserError(
            f"text_scale is {asked.text_scale} and {names.TRUE_GUIDANCE} is {true_guidance}, but they are two names of "
            "one thing; give one of them"
        )
    if attention is not None and not isinstance(attention, Mapping):
        raise UserError(f"{names.ATTENTION} is {attention!r}, but must be values by name, as in {{'scale': 0.5}}")
    given = {name: value for name, value in given.items() if value is not None}
    if given:
        _refuse(next(iter(given)), stock, family)
    return Own(
        text_scale=asked.text_scale if true_guidance is None else true_guidance,
        guidance_scale=embedded,
        further=further,
        negative=negative,
        attention=attention,
    )


def _refuse(name: str, stock: Any, family: str) -> None:
    known = inspect.signature(stock.__call__).parameters
    if name in known:
        raise UserError(
            f"{name} is an argument of {stock.__name__} that a two-frame model of this project does not take; leave it "
            "out"
        )
    names = drawing_of(family)
    own = [*names.FURTHER_PROMPTS, *(f"negative_{one}" for one in names.FURTHER_PROMPTS)]
    taken = {*Asked.__dataclass_fields__, *own, names.ATTENTION, names.TRUE_GUIDANCE} - {"own"}
    raise UserError(f'there is no argument "{name}"; {did_you_mean(name, taken)}')


def whole(name: str, value: Any, least: int = 1) -> int:
    """A whole number as a user may give it.

    Args:
        name: Of the argument.
        value: An int, or anything that stands for one, such as numpy's.
        least: The smallest that is allowed.

    Raises:
        UserError: It is none, or too small.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise UserError(f"{name} is {value!r}, but must be a whole number such as {max(least, 1)}") from None
    if number < least:
        raise UserError(f"{name} is {number}, but must be at least {least}")
    return number


def real(name: str, value: Any) -> float | None:
    """A number as a user may give it, or None.

    Raises:
        UserError: It is none.
    """
    if value is None:
        return None
    try:
        if isinstance(value, (str, bytes, bool)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{name} is {cut(repr(value))}, but must be a number such as 1.5") from None


def interval(value: Any) -> tuple[float, float] | None:
    """The noise levels between which guidance holds, as a user may give them, or None.

    Raises:
        UserError: They are not two numbers.
    """
    if value is None:
        return None
    levels = [None if one is None else real("guidance_interval", one) for one in listed(value)]
    if len(levels) != 2 or levels[0] is None or levels[1] is None:
        raise UserError(f"guidance_interval is {value!r}, but must be two noise levels such as (0.2, 0.9)")
    return levels[0], levels[1]


def listed(value: Any) -> list[Any]:
    """One or several, as a list."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def texts(name: str, value: Any) -> list[str]:
    """One or several prompts, as a list.

    Raises:
        UserError: They are no texts.
    """
    found = listed(value)
    for one in found:
        if not isinstance(one, str):
            raise UserError(f"{name} holds {one!r}, but must be a text, or a list of texts")
        require_text(name, one)
    return found


def one_each(name: str, value: Any, count: int, read: Callable[[str, Any], list[Item]]) -> list[Item]:
    """As many as there are films, of one for all or one for each.

    Args:
        name: Of the argument.
        value: As it was given.
        count: Of films.
        read: Makes a list of it.

    Raises:
        UserError: Another number.
    """
    found = read(name, value)
    if len(found) not in (1, count):
        raise UserError(f"{len(found)} of {name} were given for {count} pictures; give one, or one for each")
    return found * count if len(found) == 1 else found


def pair_up(prompts: list[str], references: list[Item]) -> tuple[list[str], list[Item]]:
    """One prompt with many references, many prompts with one, or as many of both.

    Raises:
        UserError: Their numbers do not agree.
    """
    count = max(len(prompts), len(references))
    if not prompts or not references or {len(prompts), len(references)} - {1, count}:
        raise UserError(
            f"{len(prompts)} prompts and {len(references)} reference pictures were given; give as many of both, or one "
            "of either"
        )
    return prompts * (count // len(prompts)), references * (count // len(references))
