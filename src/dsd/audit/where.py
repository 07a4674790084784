"""Conditions on the columns of a dataset, as a person writes them, become expressions of pyarrow; nothing is evaluated.

    condition   = all { "or" all }
    all         = one { "and" one }
    one         = "not" one | "(" condition ")" | comparison
    comparison  = column [ operator value | "in" "(" value { "," value } ")" | "is" ["not"] "null" ]

A column alone must be one of true and false. Operators are = == != < <= > >= contains; the last one looks for a part of
a text, in upper or lower case. A value is a number, true, false, a text in quotes, or one without, up to the next
keyword.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dsd.config import did_you_mean, require_text
from dsd.errors import UserError, cut

_TOKEN = re.compile(
    r"""\s*(?:(?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<sign><=|>=|==|!=|[=<>(),])|(?P<word>[^\s"'<>=!(),]+))"""
)
_JOINING = ("and", "or")
_SIGNS: dict[str, Callable[[pc.Expression, Any], pc.Expression]] = {
    "=": lambda field, value: field == value,
    "==": lambda field, value: field == value,
    "!=": lambda field, value: field != value,
    "<": lambda field, value: field < value,
    "<=": lambda field, value: field <= value,
    ">": lambda field, value: field > value,
    ">=": lambda field, value: field >= value,
}
_OPERATORS = (*_SIGNS, "contains", "in", "is")
_MOST_NESTED = 50


@dataclass(frozen=True)
class _Token:
    """A piece of a condition: a ``sign``, a ``word``, or a text that stood in quotes (``quoted``)."""

    kind: str
    text: str

    def says(self, *words: str) -> bool:
        """Whether it is one of these words or signs, not in quotes."""
        return self.kind != "quoted" and self.text.lower() in words


def condition(text: str, columns: Mapping[str, pa.DataType]) -> pc.Expression:
    """Reads a condition.

    Args:
        text: as it was given.
        columns: that it may compare, by name.

    Raises:
        UserError: it cannot be read, names another column, or compares one with what it cannot hold.
    """
    require_text("--where", text)
    reader = _Reader(text, _tokens(text), columns)
    return reader.read()


class _Reader:
    """Walks through the tokens of a condition once."""

    def __init__(self, text: str, tokens: list[_Token], columns: Mapping[str, pa.DataType]) -> None:
        self._text, self._tokens, self._columns = text, tokens, columns
        self._at = self._depth = 0

    def read(self) -> pc.Expression:
        found = self._any()
        if (token := self._peek()) is not None:
            raise self._mistake(f'goes on with "{cut(token.text)}" after its end; join comparisons with and or or')
        return found

    def _any(self) -> pc.Expression:
        found = self._all()
        while self._take("or"):
            found = found | self._all()
        return found

    def _all(self) -> pc.Expression:
        found = self._one()
        while self._take("and"):
            found = found & self._one()
        return found

    def _one(self) -> pc.Expression:
        self._depth += 1
        if self._depth > _MOST_NESTED:
            raise self._mistake(f"is nested more than {_MOST_NESTED} times; write it with fewer parentheses")
        try:
            if self._take("not"):
                return ~self._one()
            if self._take("("):
                found = self._any()
                self._expect(")")
                return found
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> pc.Expression:
        name = self._column()
        kind, field = self._columns[name], pc.field(name)
        token = self._peek()
        if token is None or token.says(*_JOINING, ")"):
            if not pa.types.is_boolean(kind):
                raise self._mistake(f'says nothing of "{name}", which holds {_words(kind)}; compare it with a value')
            return field
        if not token.says(*_OPERATORS):
            raise self._mistake(
                f'has "{cut(token.text)}" after "{name}", but there must be one of {", ".join(_OPERATORS)}'
            )
        self._at += 1
        operator = token.text.lower()
        if operator == "is":
            without = self._take("not")
            self._expect("null")
            return field.is_valid() if without else field.is_null()
        if operator == "in":
            self._expect("(")
            values = [self._value(name, kind)]
            while self._take(","):
                values.append(self._value(name, kind))
            self._expect(")")
            return field.isin(pa.array(values, kind))
        if operator == "contains":
            if not pa.types.is_string(kind):
                raise self._mistake(f'asks what "{name}" contains, which holds {_words(kind)}; compare it with = or <')
            return pc.match_substring(  # pyright: ignore[reportAttributeAccessIssue]
                field, str(self._value(name, kind)), ignore_case=True
            )
        return _SIGNS[operator](field, pa.scalar(self._value(name, kind), kind))

    def _column(self) -> str:
        token = self._next("the name of a column")
        if token.text not in self._columns:
            raise UserError(
                f'--where "{cut(self._text)}" names "{cut(token.text)}", which is no column of the pairs and rejects; '
                f"{did_you_mean(token.text, self._columns)}"
            )
        return token.text

    def _value(self, name: str, kind: pa.DataType) -> Any:
        """What a column is compared with; several words without quotes are one text."""
        token = self._next(f'a value for "{name}"')
        if token.kind == "sign":
            raise self._mistake(f'has "{token.text}" where a value for "{name}" must be')
        words = [token.text]
        while token.kind == "word" and (more := self._peek()) is not None and more.kind == "word":
            if more.says(*_JOINING):
                break
            words.append(more.text)
            self._at += 1
        return self._typed(" ".join(words), name, kind)

    def _typed(self, text: str, name: str, kind: pa.DataType) -> Any:
        if pa.types.is_boolean(kind):
            if text.lower() in ("true", "false"):
                return text.lower() == "true"
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
            try:
                return pa.scalar(int(text) if pa.types.is_integer(kind) else float(text), kind).as_py()
            except (ValueError, OverflowError):
                pass
        else:
            return text
        raise self._mistake(f'compares "{name}", which holds {_words(kind)}, with "{cut(text)}"; give {_words(kind)}')

    def _peek(self) -> _Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _next(self, wanted: str) -> _Token:
        token = self._peek()
        if token is None:
            raise self._mistake(f"ends where {wanted} must be; write it to its end")
        self._at += 1
        return token

    def _take(self, word: str) -> bool:
        token = self._peek()
        found = token is not None and token.says(word)
        self._at += found
        return found

    def _expect(self, word: str) -> None:
        if not self._take(word):
            token = self._peek()
            there = "its end" if token is None else f'"{cut(token.text)}"'
            raise self._mistake(f'has {there} where "{word}" must be')

    def _mistake(self, what: str) -> UserError:
        return UserError(f'--where "{cut(self._text)}" {what}')


def _tokens(text: str) -> list[_Token]:
    found, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise UserError(
                f'--where "{cut(text)}" cannot be read from "{cut(text[at:].strip(), 20)}" on; quotes need an end, '
                "and comparisons look like score >= 0.8"
            )
        kind = str(match.lastgroup)
        said = match.group(kind)
        found.append(_Token(kind, re.sub(r"\\(.)", r"\1", said[1:-1]) if kind == "quoted" else said))
        at = match.end()
    return found


def _words(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "true or false"
    if pa.types.is_integer(kind):
        return "whole numbers"
    return "numbers" if pa.types.is_floating(kind) else "text"
