"""Prompt templates as messages; `curate/templates/README.md` says how a template file reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dsd.chat.protocol import ImagePart, Message, Part, TextPart
from dsd.errors import UserError

_HEADER = re.compile(r"<!-- version: (\d+)(?:, max_tokens: (\d+))? -->\n")
_PLACE = re.compile(r"\{(caption|subject|prompt|scene[1-9][0-9]*|image|first|second)\}")


@dataclass(frozen=True, kw_only=True)
class Template:
    """One prompt.

    Attributes:
        label: set, name and version, such as ``compact/judge 1``: the provenance of what it leads to.
        max_tokens: of the reply.
        text: with places in braces.
    """

    label: str
    max_tokens: int
    text: str

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
            UserError: no such set, or a file that is missing, lacks its first line, or has the wrong places.
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
        UserError: it cannot be read, lacks its first line, or has the wrong places.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'the template "{path}" cannot be read ({error}); copy one of dsd\'s and edit it') from error
    header = _HEADER.match(content)
    if header is None:
        raise UserError(f'the template "{path}" must begin with a line "<!-- version: 1, max_tokens: 512 -->"')
    text = content[header.end() :].strip()
    found = set(_PLACE.findall(text))
    if found != places:
        wanted = ", ".join(f"{{{place}}}" for place in sorted(places))
        raise UserError(f'the template "{path}" must have the places {wanted}; it has {sorted(found) or "none"}')
    return Template(label=f"{path.parent.name}/{path.stem} {header[1]}", max_tokens=int(header[2] or 512), text=text)
