"""The words of a caption as a person reads them: without markup, entities and what cannot be seen."""

from __future__ import annotations

import html
import re
import unicodedata
from html.entities import html5

MAX_CHARACTERS = 300
"""A longer caption is cut at a word; it is an inspiration, and long ones are lists of search words."""
JOINERS = "\u200c\u200d"
"""Not seen themselves, but the characters on both sides are one with them: families of emoji, Persian words."""

_LOOKED_AT = 10_000  # characters of a caption, so that no time is lost on a page of text
_TAGS = (
    "a|abbr|acronym|address|article|aside|b|big|blockquote|body|br|button|center|cite|code|dd|del|div|dl|dt|em|"
    "figcaption|figure|font|footer|form|h1|h2|h3|h4|h5|h6|head|header|hr|html|i|iframe|img|input|ins|kbd|label|li|link|"
    "mark|meta|nav|nobr|ol|option|p|param|picture|pre|q|s|samp|script|section|select|small|source|span|strike|strong|"
    "style|sub|summary|sup|table|tbody|td|tfoot|th|thead|title|tr|tt|u|ul|var|video|wbr"
)
_VALUE = r"""(?:"[^"]*"|'[^']*'|[^\s"'<>]*)"""
_TAG = rf"<!--.*?-->|</?(?:{_TAGS})(?:\s+[\w:.-]+\s*=\s*{_VALUE})*\s*/?>"
_MARKUP = re.compile(rf"((?:{_TAG})+)(?=([,.;:!?)])?)", re.IGNORECASE | re.DOTALL)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_LONE_JOINER = re.compile(rf"(?<!\S)[{JOINERS}]+|[{JOINERS}]+(?!\S)")
_PARTS_OF_ONE = ("Mn", "Mc", "Me")


def clean(raw: str) -> str:
    """A caption on one line, cut to `MAX_CHARACTERS`.

    Known HTML tags go, while ``I <3 my cat`` stays; entities are decoded, once; a text that is quoted as a cell of CSV
    is unquoted; control characters count as blanks.
    """
    text = raw[:_LOOKED_AT]
    if "&" in text:
        text = _ENTITY.sub(_decoded, text)
    if "<" in text:
        text = _MARKUP.sub(_blank, text)
    if not text.isprintable():
        text = _LONE_JOINER.sub("", text.translate(_SEEN))
    text = " ".join(text.split())
    if text[:1] == text[-1:] == '"':
        text = _unquoted(text)
    return text if len(text) <= MAX_CHARACTERS else _cut(text)


def _blank(found: re.Match[str]) -> str:
    """In place of markup: nothing beside a mark that leans to a word."""
    return "" if found[2] or found.string[max(0, found.start() - 1) : found.start()] in ("(", "[") else " "


def _decoded(found: re.Match[str]) -> str:
    known = found[0][1] == "#" or found[0][1:] in html5
    return html.unescape(found[0]) if known else found[0]


def _unquoted(text: str) -> str:
    """What a cell of CSV says that was taken with its quotes; another quotation stays as it is."""
    inner = text[1:-1]
    doubled = '""' in inner and '"' not in inner.replace('""', "")
    return inner.replace('""', '"').strip() if doubled or text == '""' else text


def _cut(text: str) -> str:
    """At a word, or else between two characters of which neither changes the other."""
    before = text[: MAX_CHARACTERS + 1].rsplit(" ", 1)[0]
    if len(before) <= MAX_CHARACTERS:
        return before
    at = MAX_CHARACTERS
    while at > 1 and (_changes(text[at]) or text[at - 1] in JOINERS):
        at -= 1
    return text[:at]


def _changes(character: str) -> bool:
    """Whether a character is one with that before it."""
    skin = "\U0001f3fb" <= character <= "\U0001f3ff"
    tag = "\U000e0020" <= character <= "\U000e007f"
    return skin or tag or character in JOINERS or unicodedata.category(character) in _PARTS_OF_ONE


class _Seen(dict[int, str]):
    """What each character becomes, for `str.translate`."""

    def __missing__(self, code: int) -> str:
        self[code] = seen = self._of(chr(code))
        return seen

    @staticmethod
    def _of(character: str) -> str:
        if character.isprintable() or _changes(character):
            return character
        kind = unicodedata.category(character)
        # Emoji that are younger than this Python's table are "not assigned".
        if kind == "Cf" or (kind == "Cn" and "\U0001f000" <= character <= "\U0001fbff"):
            return "" if kind == "Cf" else character
        return " "


_SEEN = _Seen()
