"""Prompt templates as messages; `curate/templates/README.md` says how a template file reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel

from dsd.chat.objects import object_of, whole_examples
from dsd.chat.protocol import CORRECTION, ChatFailure, ChatRequest, ImagePart, Message, Part, TextPart
from dsd.errors import UserError, cut

_HEADER = re.compile(r"<!-- version: (\d+)((?:, [a-z_]+: [\w.]+)*) -->\n")
_EXAMPLE = re.compile(r"^<!-- example: (.+) -->\n", re.MULTILINE)
_PLACE = re.compile(r"\{(caption|subject|prompt|scene[1-9][0-9]*|image|first|second)\}")
_PICTURES = {"image", "first", "second"}


@dataclass(frozen=True, kw_only=True)
class Template:
    """One prompt.

    Attributes:
        label: set, name and version, such as ``compact/judge 1``: the provenance of what it leads to.
        max_tokens: of the reply.
        text: with places in braces.
        examples: what stands in the places of an example's question, and its reply.
        example_from: attempt from which on the examples are shown; see `dsd.chat.protocol.ChatRequest`.
        correction: what is said after a reply that cannot be used; see there.
        temperature: of the first attempt; see there.
        tolerated: share of the points of a comparison that a verdict may overrule; see `dsd.curate.contradiction`.
    """

    label: str
    max_tokens: int
    text: str
    examples: tuple[tuple[str, str], ...] = ()
    example_from: int = 0
    correction: str = CORRECTION
    temperature: float = 0.0
    tolerated: float = 0.0

    def words(self, values: Mapping[str, str]) -> str:
        """The text with its places filled by words."""
        return _PLACE.sub(lambda place: values[place[1]], self.text)

    def message(self, values: Mapping[str, str | Image.Image]) -> Message:
        """The text as one message of the user: words and pictures in the order of the file."""
        parts: list[Part] = []
        text = ""
        for at, piece in enumerate(_PLACE.split(self.text)):
            value = values[piece] if at % 2 else piece
            if isinstance(value, str):
                text += value
                continue
            parts += [TextPart(text.strip())] if text.strip() else []
            parts.append(ImagePart(value))
            text = ""
        parts += [TextPart(text.strip())] if text.strip() else []
        return Message("user", tuple(parts))

    def example(self) -> tuple[Message, ...]:
        """The examples as an exchange."""
        turns: list[Message] = []
        for words, reply in self.examples:
            question = _PLACE.sub(lambda place, words=words: words, self.text)
            turns += [Message("user", (TextPart(question),)), Message("assistant", (TextPart(reply),))]
        return tuple(turns)

    def request(
        self,
        values: Mapping[str, str | Image.Image],
        schema: type[BaseModel],
        *,
        seed: int = 0,
        temperature: float = 0.0,
        decides: str = "",
    ) -> ChatRequest:
        """The question with its places filled, as a chat model is asked it; see `dsd.chat.protocol.ChatRequest`."""
        return ChatRequest(
            messages=(self.message(values),),
            schema=schema,
            example=self.example(),
            example_from=self.example_from,
            correction=self.correction,
            decides=decides,
            seed=seed,
            max_tokens=self.max_tokens,
            temperature=max(temperature, self.temperature),
        )


class Templates(dict[str, Template]):
    """A whole set by kind, such as ``templates["describe"]``."""

    @classmethod
    def load(cls, name: str, sets: Path, places: Mapping[str, set[str]]) -> Templates:
        """Reads a set.

        Args:
            name: of a folder in ``sets``, such as ``default`` or ``compact``, or any other folder.
            sets: folder of known sets.
            places: the templates that a set has, with the places that each must have.

        Raises:
            UserError: no such set, or a file that is missing or no template; see `read_template`.
        """
        own = sorted(folder.name for folder in sets.iterdir() if folder.is_dir())
        folder = sets / name if name in own else Path(name)
        if not folder.is_dir():
            known = "".join(f'"{set_}", ' for set_ in own)
            raise UserError(f'there are no templates "{name}"; give {known}or a folder that has them')
        return cls((kind, read_template(folder / f"{kind}.md", wanted)) for kind, wanted in places.items())


def scene_places(count: int) -> list[str]:
    """The places of a sheet's scenes, row by row."""
    return [f"scene{number}" for number in range(1, count + 1)]


def read_template(path: Path, places: set[str]) -> Template:
    """Reads one template; its label is its folder's and its own name with its version.

    Args:
        path: of the file.
        places: that it must have, and no others.

    Raises:
        UserError: it cannot be read, lacks its first line, has the wrong places, shows a whole reply that a model could
            repeat, or an example that is none.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'the template "{path}" cannot be read ({error}); copy one of dsd\'s and edit it') from error
    header = _HEADER.match(content)
    if header is None:
        raise UserError(f'the template "{path}" must begin with a line "<!-- version: 1, max_tokens: 512 -->"')
    text, *examples = _EXAMPLE.split(content[header.end() :])
    text = text.strip()
    found = set(_PLACE.findall(text))
    if found != places:
        wanted = ", ".join(f"{{{place}}}" for place in sorted(places))
        raise UserError(f'the template "{path}" must have the places {wanted}; it has {sorted(found) or "none"}')
    if whole := whole_examples(text):
        raise UserError(
            f'the template "{path}" holds a whole reply, {cut(whole[0])}, with which a model that repeats its question '
            "would pass; write places to fill in it, such as <true or false> or <one sentence>"
        )
    return Template(
        label=f"{path.parent.name}/{path.stem} {header[1]}",
        text=text,
        examples=_examples(path, places, [words.strip() for words in examples]),
        **_options(path, header[2]),
    )


def _examples(path: Path, places: set[str], pieces: list[str]) -> tuple[tuple[str, str], ...]:
    examples = tuple(zip(pieces[::2], pieces[1::2], strict=True))
    if examples and (len(places) != 1 or places & _PICTURES):
        raise UserError(f'the template "{path}" has examples, but not one place for words alone; leave them out')
    for _, reply in examples:
        if isinstance(shown := object_of(reply), ChatFailure):
            raise UserError(
                f'an example in the template "{path}" is no JSON object ({shown.reason}); write a whole one'
            )
    return examples


_OPTIONS = {
    "max_tokens": ("max_tokens", int),
    "example_from": ("example_from", int),
    "temperature": ("temperature", float),
    "tolerated": ("tolerated", float),
    "retry": ("correction", {"same": "", "corrected": CORRECTION}.__getitem__),
}


def _options(path: Path, line: str) -> dict[str, Any]:
    found: dict[str, Any] = {"max_tokens": 512}
    for option in filter(None, line.split(", ")):
        name, _, value = option.partition(": ")
        try:
            field, read = _OPTIONS[name]
            found[field] = read(value)
        except (KeyError, ValueError) as error:
            known = "max_tokens: 512, example_from: 0, temperature: 0.0, tolerated: 0.0 and retry: same"
            raise UserError(f'the template "{path}" has "{option}" in its first line; it may have {known}') from error
    return found
