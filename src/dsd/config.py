"""Typed configs to JSON and back, exactly.

A config is a frozen dataclass, possibly nested. `to_json` and `from_json` are inverse to each other for fields of
these types: bool, int, float, str, `Path`, `Literal`, `Optional` and other unions, tuples, lists, dicts with text
keys, and further dataclasses. Types are strict: "1" and true are no numbers.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NewType, TypeVar, get_args, get_type_hints

from dsd.errors import UserError, cut

if TYPE_CHECKING:  # imported where it is used: `dsd --help` is quick
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

Config = TypeVar("Config")

_HOW = "how it runs"
_WANTED = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "too_long": "a list of {max_length}",
    "missing": "a longer list",
}  # by pydantic's type of an error, where its own words are not everyone's


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Returns a hint to append to an error message about an unknown `word`.

    Args:
        word: What was given.
        options: What is known.

    Returns:
        `did you mean "x"?` when an option is close, else `known: "x", "y"`.
    """
    known = sorted(options)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f'did you mean "{close[0]}"?'
    return "known: " + ", ".join(f'"{option}"' for option in known)


def require_text(name: str, text: str) -> None:
    """Makes sure that a text can be read and written down.

    A command line that is not UTF-8, and an escape in JSON, may give halves of surrogate pairs.

    Args:
        name: Of the argument.
        text: What was given.

    Raises:
        UserError: It holds such halves.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{name} is {cut(ascii(text))}, which is no text of Unicode; give it in UTF-8") from None


def how_it_runs(default: Any = dataclasses.MISSING) -> Any:
    """A field that says how the work is done, not what is made: it may change from start to start of one run.

    Args:
        default: of the field; a field without one has to be given.
    """
    return dataclasses.field(default=default, metadata={_HOW: True})


def require_seeds(name: str, seed: int, count: int = 1) -> None:
    """Refuses seeds that torch does not take, or that numpy does not.

    Args:
        name: of the setting.
        seed: the first one.
        count: how many count up from it.

    Raises:
        UserError: they are not all from 0 to 2^63 - 1.
    """
    if not 0 <= seed <= (1 << 63) - count:
        raise UserError(f"{name} is {seed}, but must be from 0 to {(1 << 63) - count}")


def decides(field: dataclasses.Field) -> bool:
    """Whether a config's field decides what is made; all do but those of `how_it_runs`."""
    return _HOW not in field.metadata


def to_json(config: Any) -> str:
    """Returns the config as indented JSON that `from_json` reads back to an equal object.

    Args:
        config: An instance of a dataclass.

    Raises:
        ValueError: A field holds something that JSON cannot say.
    """
    from pydantic_core import to_jsonable_python

    return json.dumps(to_jsonable_python(config), indent=2, ensure_ascii=False) + "\n"


def from_json(cls: type[Config], text: str) -> Config:
    """Reads a config of the given class.

    Args:
        cls: The dataclass to build.
        text: JSON as `to_json` writes it. Fields left out take their defaults.

    Raises:
        UserError: Not JSON, an unknown or missing field, or a value of another type; the message names the field.
    """
    from pydantic import ValidationError

    try:
        return _adapter(cls).validate_json(text)
    except ValidationError as error:
        raise UserError(_sentence(cls, error.errors(include_url=False), text)) from error


@cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, TypeAdapter

    # A dataclass may not be given a config; under another name it may, and hands it to those inside it.
    named: Any = NewType("named", cls)  # pyright: ignore[reportGeneralTypeIssues]
    return TypeAdapter(named, config=ConfigDict(extra="forbid", strict=True))


def _sentence(cls: type, errors: Sequence[ErrorDetails], text: str) -> str:
    """What is wrong first: a field that is not known, else the deepest value, where a union's options may all fail."""
    if errors[0]["type"] == "json_invalid":
        return f"a {cls.__name__} file must hold JSON, but it does not parse: {errors[0]['msg']}"
    steps = [_steps(error["loc"], json.loads(text)) for error in errors]
    unknown = [error["type"] == "unexpected_keyword_argument" for error in errors]
    first = max(range(len(errors)), key=lambda number: (unknown[number], len(steps[number])))
    error, path = errors[first], steps[first]
    if unknown[first]:
        *path, name = path
        return f'{_named(cls, path)} has no field "{name}"; {did_you_mean(str(name), _fields(cls, path))}'
    if error["type"] == "missing" and isinstance(error["loc"][-1], str):
        return f'{_named(cls, path)} lacks the field "{error["loc"][-1]}"; add it'
    wanted = dict.fromkeys(_wanted(one) for one, at in zip(errors, steps, strict=True) if at == path)
    return f"{_named(cls, path)} is {error['input']!r}, but must be {' or '.join(wanted)}"


def _wanted(error: ErrorDetails) -> str:
    if error["type"] in _WANTED:
        return _WANTED[error["type"]].format_map(error.get("ctx", {}))
    return error["msg"].removeprefix("Input should be ")


def _steps(location: Sequence[int | str], value: Any) -> list[int | str]:
    """Keys and indices of a location, without the names of a union's options in between."""
    steps = []
    for step in location:
        keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        if step in keys:
            steps.append(step)
            value = value[step]  # pyright: ignore[reportCallIssue, reportArgumentType]
    return steps


def _named(cls: type, path: Sequence[int | str]) -> str:
    return cls.__name__ + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def _fields(kind: Any, path: Sequence[int | str]) -> set[str]:
    """Names of the fields that an object at the path may have."""
    kinds = [kind]
    for step in path:
        hints = [get_type_hints(cls) for kind in kinds for cls in _dataclasses(kind)]
        kinds = [fields[step] for fields in hints if step in fields] or kinds
    return {field.name for kind in kinds for cls in _dataclasses(kind) for field in dataclasses.fields(cls)}


def _dataclasses(kind: Any) -> list[Any]:
    """A dataclass itself, or those within a union, list, tuple or dict."""
    return [kind] if dataclasses.is_dataclass(kind) else [cls for part in get_args(kind) for cls in _dataclasses(part)]
