"""Strings that stand where words should: dots, places to fill such as ``<one sentence>``, and the names of places."""

from __future__ import annotations

import html
import re
import unicodedata

_AROUND = " \t\r\n\"'`´‘’“”„«»‹›()[]{}<>*_#$%~.,:;!?…-"
_WHOLE = re.compile(r"<[^<>]*>|\[[^\[\]]*\]|\{[^{}]*\}")
_ANGLED = re.compile(r"<\s{0,8}([^\W\d][^<>]{0,200})>")
_BRACKETED = re.compile(r"\[([^\[\]]{1,200})\]|\{([^{}]{1,200})\}")
_FORMAT = re.compile(r"%[sdrf]|%\(\w+\)s|\{\d*\}")
_NAMES = {
    *("subject", "subjects", "detail", "details", "caption", "captions", "scene", "scenes", "sentence", "sentences"),
    *("description", "descriptions", "words", "points", "string", "text", "looks", "placeholder", "everything", "todo"),
    *("insert", "fill", "true", "false", "answer", "value", "colours", "patterns", "comparison"),
}
"""Words that a place to fill is named by; those of the templates are among them."""
_FILLERS = {*("a", "an", "the", "one", "few", "your", "its", "main", "first", "second", "third", "fourth", "or", "of")}
_FILLERS |= {"in", "here", "this", "some", "and", "common", "another", "short", "to", "be", "done", "goes"}
_NAMES_ALONE = {
    *("string", "str", "caption", "captions", "sentence", "todo", "tbd", "tba", "fixme", "placeholder", "description"),
    *("the points", "points", "a few words", "few words", "one sentence", "a sentence", "one short sentence"),
    *("first scene", "second scene", "third scene", "fourth scene", "the subject's looks", "true or false"),
    *("your caption", "your caption here", "caption here", "insert caption", "insert caption here", "lorem ipsum"),
    *("everything to recognise it by", "the main subject in a few words", "your description", "insert text here"),
    *("its colours, patterns, clothes and marks", "one sentence that says what the picture shows"),
}
_NOTHING_TOLD = {
    *("n/a", "na", "n.a", "null", "none", "nil", "nan", "undefined", "nothing", "empty", "unknown", "not applicable"),
    *("not available", "subject", "the subject", "details", "the details", "scene", "text", "words", "value", "image"),
    *("subject, details", "subject and details", "the caption", "a caption", "no caption", "no description"),
}


def says_something(words: str) -> bool:
    """Whether a string of a reply says anything: neither ``...`` nor a place to fill, such as ``<one sentence>``.

    Neither does one that holds such a place among its words (``a photo of <subject>``), in whatever brackets, quotes
    or entities. Other brackets are words: ``I <3 my cat``, ``a cat with a <blue> hat``.
    """
    plain = _plain(words)
    if not any(map(str.isalnum, plain)) or _WHOLE.fullmatch(plain) or bare(words) in _NAMES_ALONE:
        return False
    if _FORMAT.fullmatch(plain.strip(_AROUND.replace("%", "").replace("{", "").replace("}", ""))):
        return False
    if any(not _NAMES.isdisjoint(_words(inside)) for inside in _ANGLED.findall(plain)):
        return False
    return not any(_names_a_place(one or other) for one, other in _BRACKETED.findall(plain))


def tells(words: str) -> bool:
    """Whether a string that is to be drawn or trained on tells anything: neither ``N/A`` nor ``null``, ``subject``."""
    return bare(words) not in _NOTHING_TOLD


def bare(words: str) -> str:
    """Words without case, and without the marks and brackets around them."""
    return " ".join(_plain(words).casefold().strip(_AROUND).split())


def _plain(words: str) -> str:
    spelt = words.replace("\\u003c", "<").replace("\\u003e", ">")
    return unicodedata.normalize("NFKC", html.unescape(html.unescape(spelt))).strip()


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", text.casefold().replace("'s", "")))


def _names_a_place(inside: str) -> bool:
    found = _words(inside)
    return not _NAMES.isdisjoint(found) and (_NAMES | _FILLERS).issuperset(found)
