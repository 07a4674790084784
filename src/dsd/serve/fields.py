"""The fields of a request for pictures: those that OpenAI documents, and ours; each is honoured or refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dsd.config import did_you_mean
from dsd.errors import cut
from dsd.serve.errors import ApiError, refused

LAST_SEED = (1 << 63) - 1


def _as_written_elsewhere(value: Any) -> Any:
    """Refuses 1_000, which is a number in few languages."""
    if isinstance(value, str) and "_" in value:
        raise ValueError("no number")
    return value


Whole = Annotated[int, BeforeValidator(_as_written_elsewhere)]
Real = Annotated[float, BeforeValidator(_as_written_elsewhere)]
Scale = Annotated[Real | None, Field(ge=0, le=100, allow_inf_nan=False, description="a number from 0 to 100")]
Text = Annotated[str, Field(description="text")]

REFUSED = {
    "mask": "the model draws whole pictures; say in the prompt what shall be where",
    "markup": "the model draws whole pictures; say in the prompt what shall be where",
    "complexity": "the model plans nothing beforehand; num_inference_steps says how long it draws",
    "frame_count": "no animations are drawn; n asks for several pictures",
    "frame_duration_ms": "no animations are drawn; n asks for several pictures",
    "input_fidelity": "how much the reference counts is said by image_scale, a number",
    "style": "say it in the prompt",
    "svg": "pictures are made of pixels; output_format may be png, jpeg or webp",
    "prompt_rewriter": "prompts are drawn as they are",
}  # documented by OpenAI, and why they cannot be honoured


class Variation(BaseModel):
    """What every request may say. Descriptions complete the sentence "x is ..., but must be ..."."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: Annotated[Text | None, Field(description="the name of a model, see /v1/models")] = None
    n: Annotated[Whole, Field(ge=1, description="a whole number from 1")] = 1
    size: Annotated[str, Field(description='"auto" or WIDTHxHEIGHT such as "512x512"')] = "auto"
    response_format: Annotated[
        Literal["b64_json"], Field(description='"b64_json", since no pictures are kept to be fetched by a url')
    ] = "b64_json"
    user: Annotated[str | None, Field(max_length=512, description="text of at most 512 characters")] = None

    seed: Annotated[
        Whole | None, Field(ge=0, le=LAST_SEED, description=f"a whole number from 0 to {LAST_SEED}")
    ] = None  # fmt: skip
    negative_prompt: Text = ""
    text_scale: Scale = None
    image_scale: Scale = None
    guidance_scale: Scale = None
    num_inference_steps: Annotated[Whole | None, Field(ge=1, description="a whole number from 1")] = None
    fit: Annotated[
        Literal["crop", "pad", "stretch"], Field(description='"crop", "pad" or "stretch"')
    ] = "crop"  # fmt: skip

    @property
    def identifier(self) -> str | None:
        """Of the person who asks, as the client says."""
        return self.user or None


class Generation(Variation):
    """A request for pictures of a prompt."""

    prompt: Annotated[Text | None, Field(description="text that says what the picture shall show")] = None
    background: Annotated[
        Literal["auto", "opaque"], Field(description='"auto" or "opaque", since the model draws nothing transparent')
    ] = "auto"
    moderation: Annotated[
        Literal["auto", "low"], Field(description='"auto" or "low", which are the same here: nothing is filtered')
    ] = "auto"
    output_format: Annotated[Literal["png", "jpeg", "webp"], Field(description='"png", "jpeg" or "webp"')] = "png"
    output_compression: Annotated[
        Whole | None, Field(ge=0, le=100, description="a whole number from 0 to 100")
    ] = None  # fmt: skip
    quality: Annotated[
        Literal["auto"], Field(description='"auto", since num_inference_steps says how long the model draws')
    ] = "auto"
    safety_identifier: Annotated[str | None, Field(max_length=512, description="text of at most 512 characters")] = None
    stream: Annotated[bool, Field(description="true or false")] = False
    partial_images: Annotated[Whole | None, Field(ge=0, le=3, description="a whole number from 0 to 3")] = None

    @property
    def identifier(self) -> str | None:
        return self.safety_identifier or self.user or None


class Edit(Generation):
    """A request for pictures of a prompt and of who is on the references."""


Given = TypeVar("Given", bound=Variation)


def fields_of(kind: type[Given], given: Mapping[str, Any], *, strict: bool) -> Given:
    """Reads what was sent.

    Args:
        kind: What it shall be.
        given: Values by name, pictures aside; None is as good as left out, of a field that some route has.
        strict: Whether numbers are numbers already, as in JSON; in a form all values are text.

    Raises:
        ApiError: 400 for a field that is unknown, cannot be honoured, or is not as it must be.
    """
    said = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        plain = name.partition("[")[0]
        if plain in REFUSED and value is not None:
            raise refused(plain, f"{plain} is not supported: {REFUSED[plain]}", "unsupported_parameter")
        if name not in (kind if value is not None else Edit).model_fields and plain not in REFUSED:
            message = f'there is no field "{cut(name)}"; {did_you_mean(name, [*kind.model_fields, "image"])}'
            raise refused(cut(name), message, "unknown_parameter")
    try:
        return kind.model_validate(said, strict=strict)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _not_as_it_must_be(kind, str(first["loc"][0]), said) from error


def _not_as_it_must_be(kind: type[BaseModel], name: str, said: Mapping[str, Any]) -> ApiError:
    value = said[name]
    shown = f'"{cut(value)}"' if isinstance(value, str) else cut(json.dumps(value, ensure_ascii=False))
    return refused(name, f"{name} is {shown}, but must be {kind.model_fields[name].description}")
