"""Finding a key in a text however it is spelt there: escaped, encoded, backwards, in other letters or spread out."""

from __future__ import annotations

import base64
import codecs
import html
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

PIECE = 12
"""Characters of a key that give it away."""
_LEAST = 8  # letters and digits of a piece of a key that no word has by chance
_DEPTH = 8  # escapes within escapes
_HIDDEN = "[key]"
_BLANKS = dict.fromkeys("nrtbfv0", " ")
_ESCAPE = re.compile(
    r"\\u(?P<four>[0-9a-f]{4})|\\u\{(?P<braced>[0-9a-f]{1,6})\}|\\x(?P<two>[0-9a-f]{2})|\\(?P<octal>[0-7]{3})"
    r"|%(?P<percent>[0-9a-f]{2})|&#x(?P<entity>[0-9a-f]{1,6});?|&#(?P<decimal>[0-9]{1,7});?|(?P<named>&[a-z]{2,30};)"
    r"|\\(?P<one>.)",
    re.IGNORECASE | re.DOTALL,
)
_BASES = {"octal": 8, "decimal": 10}

_ENCODERS: tuple[tuple[Callable[[bytes], bytes], int, int], ...] = (
    (base64.b64encode, 3, 4),
    (base64.b32encode, 5, 8),
    (base64.b16encode, 1, 2),
)
"""Each with the bytes that it takes at once and the letters that it makes of them."""


def hidden(text: str, secret: str) -> str:
    """A text with ``[key]`` for each place that spells the key or a piece of it.

    Found are pieces of `PIECE` characters: as they are, in any case and width, backwards or by ROT13, with anything
    but letters and digits between their characters, in base64, base32 or hexadecimal digits, and each of these in
    escapes of JSON, URLs or HTML, also in several layers of them.

    Args:
        text: to search.
        secret: the key, of ASCII characters.
    """
    if len(secret) < _LEAST:
        return text
    needles, places = _needles(secret), set[int]()
    view = _View(text, range(len(text)), range(1, len(text) + 1))
    pieces = {secret[at : at + PIECE] for at in range(len(secret) - PIECE + 1)}
    for at in range(len(text) - PIECE + 1) if pieces else ():
        if text[at : at + PIECE] in pieces:
            places.update(range(at, at + PIECE))
    for _ in range(_DEPTH):
        letters = view.letters()
        for start, end in _found(letters.text, needles):
            places.update(range(letters.starts[start], letters.ends[end - 1]))
        if _ESCAPE.search(view.text) is None:
            break
        view = view.unescaped()
    if not places:
        return text
    return "".join(c if at not in places else "" if at - 1 in places else _HIDDEN for at, c in enumerate(text))


@dataclass(frozen=True)
class _View:
    """A text that was made from another one.

    Attributes:
        text: made.
        starts: of each of its characters, where what it was made from begins in the other text.
        ends: likewise, behind its end.
    """

    text: str
    starts: Sequence[int]
    ends: Sequence[int]

    def unescaped(self) -> _View:
        """With one layer of escapes read."""
        texts, starts, ends, place = [], list[int](), list[int](), 0
        for found in _ESCAPE.finditer(self.text):
            start, end = found.span()
            texts += [self.text[place:start], _character(found)]
            starts += [*self.starts[place:start], self.starts[start]]
            ends += [*self.ends[place:start], self.ends[end - 1]]
            place = end
        return _View("".join([*texts, self.text[place:]]), [*starts, *self.starts[place:]], [*ends, *self.ends[place:]])

    def letters(self) -> _View:
        """Its letters and digits alone, small."""
        if self.text.isascii():
            kept = [at for at, c in enumerate(self.text) if c.isalnum()]
            text = "".join([self.text[at] for at in kept]).lower()
        else:
            pairs = [(letter, at) for at, c in enumerate(self.text) for letter in _letters(c)]
            text, kept = "".join(letter for letter, _ in pairs), [at for _, at in pairs]
        return _View(text, [self.starts[at] for at in kept], [self.ends[at] for at in kept])


def _letters(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isascii() and c.isalnum())


def _character(escape: re.Match[str]) -> str:
    """The one character that an escape stands for."""
    kind, digits = escape.lastgroup or "one", escape[escape.lastgroup or "one"]
    if kind == "one":
        return _BLANKS.get(digits.lower(), digits)
    if kind == "named":
        return html.unescape(digits)[0]
    number = int(digits, _BASES.get(kind, 16))
    return chr(number) if number <= 0x10FFFF else " "


@cache
def _needles(secret: str) -> Mapping[str, Sequence[str]]:
    """All spellings of pieces of a key as letters and digits, by their first `_LEAST` ones."""
    needles: dict[str, set[str]] = defaultdict(set)
    for spelling, length in _spellings(secret):
        length = min(length, len(spelling))
        for at in range(len(spelling) - length + 1):
            piece = _letters(spelling[at : at + length])
            if len(piece) >= _LEAST:
                needles[piece[:_LEAST]].add(piece)
    return {start: sorted(pieces) for start, pieces in needles.items()}


def _spellings(secret: str) -> Iterator[tuple[str, int]]:
    """Each way to spell a key, with the length of its pieces."""
    for spelling in (secret, secret[::-1], codecs.encode(secret, "rot13")):
        yield spelling, PIECE
    for encode, taken, made in _ENCODERS:
        for shift in range(taken):  # a key may begin anywhere in what is encoded
            data = bytes(shift) + secret.encode()
            whole = encode(data).decode().rstrip("=")
            first, last = -(-shift * 8 * made // (taken * 8)), len(data) * made // taken
            yield whole[first:last], PIECE * made // taken


def _found(text: str, needles: Mapping[str, Sequence[str]]) -> Iterator[tuple[int, int]]:
    for at in range(len(text) - _LEAST + 1):
        for needle in needles.get(text[at : at + _LEAST], ()):
            if text.startswith(needle, at):
                yield at, at + len(needle)
