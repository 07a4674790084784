"""Typed configs to JSON and back, exactly.

A config is a frozen dataclass, possibly nested. `to_json` and `from_json` are inverse to each other for fields of
these types: bool, int, float, str, `Path`, `Literal`, `Optional` and other unions, tuples, lists, dicts with text
keys, and further dataclasses.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dsd.errors import UserError

Config = TypeVar("Config")

_HOW = "how it runs"
_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


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


def how_it_runs(default: Any = dataclasses.MISSING) -> Any:
    """A field that says how the work is done, not what is made: it may change from start to start of one run.

    Args:
        default: of the field; a field without one has to be given.
    """
    return dataclasses.field(default=default, metadata={_HOW: True})


def decides(field: dataclasses.Field) -> bool:
    """Whether a config's field decides what is made; all do but those of `how_it_runs`."""
    return _HOW not in field.metadata


def to_json(config: Any) -> str:
    """Returns the config as indented JSON that `from_json` reads back to an equal object.

    Args:
        config: An instance of a dataclass.

    Raises:
        TypeError: A field holds something that JSON cannot say.
    """
    return json.dumps(_plain(config), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(cls: type[Config], text: str) -> Config:
    """Reads a config of the given class.

    Args:
        cls: The dataclass to build.
        text: JSON as `to_json` writes it. Fields left out take their defaults.

    Raises:
        UserError: Not JSON, an unknown or missing field, or a value of another type; the message names the field.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"a {cls.__name__} file must hold JSON, but it does not parse: {error}") from error
    return _build(value, cls, cls.__name__)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a config field cannot hold {value!r} of type {type(value).__name__}")


def _build(value: Any, kind: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _build_union(value, arguments, where)
    if origin is Literal:
        for option in arguments:
            if value == option and type(value) is type(option):
                return option
        raise UserError(f"{where} is {value!r}, but must be one of {', '.join(map(repr, arguments))}")
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _build_dataclass(value, kind, where)
    for sequence in (tuple, list):
        if sequence in (origin, kind):
            return _build_sequence(value, sequence, arguments, where)
    if origin is dict or kind is dict:
        _require(isinstance(value, dict), value, "an object", where)
        item_kind = arguments[1] if arguments else Any
        return {key: _build(item, item_kind, f"{where}.{key}") for key, item in value.items()}
    return _build_scalar(value, kind, where)


def _build_union(value: Any, options: tuple[Any, ...], where: str) -> Any:
    exact = [option for option in options if type(value) is option]
    failures = []
    for option in (*exact, *options):
        try:
            return _build(value, option, where)
        except UserError as error:
            failures.append(str(error))
    raise UserError(failures[-1] if len(options) > 2 else failures[0])


def _build_dataclass(value: Any, cls: type, where: str) -> Any:
    _require(isinstance(value, dict), value, "an object", where)
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in value:
        if key not in fields:
            raise UserError(f'{where} has no field "{key}"; {did_you_mean(key, fields)}')
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in value:
            raise UserError(f'{where} lacks the field "{name}"; add it')
    return cls(**{name: _build(item, hints[name], f"{where}.{name}") for name, item in value.items()})


def _build_sequence(value: Any, kind: type, arguments: tuple[Any, ...], where: str) -> Any:
    _require(isinstance(value, list), value, "a list", where)
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        _require(len(value) == len(arguments), value, f"a list of {len(arguments)}", where)
        kinds: Iterable[Any] = arguments
    else:
        kinds = [arguments[0] if arguments else Any] * len(value)
    return kind(
        _build(item, item_kind, f"{where}[{index}]")
        for index, (item, item_kind) in enumerate(zip(value, kinds, strict=False))
    )


def _build_scalar(value: Any, kind: Any, where: str) -> Any:
    if kind is type(None):
        _require(value is None, value, "null", where)
        return None
    if kind is bool:
        _require(isinstance(value, bool), value, "true or false", where)
        return value
    if kind is int:
        _require(isinstance(value, int) and not isinstance(value, bool), value, "a whole number", where)
        return value
    if kind is float:
        if isinstance(value, str) and value in _NOT_FINITE:
            return _NOT_FINITE[value]
        _require(isinstance(value, (int, float)) and not isinstance(value, bool), value, "a number", where)
        return float(value)
    if kind in (str, Path):
        _require(isinstance(value, str), value, "text", where)
        return kind(value)
    raise TypeError(f"{where} has the type {kind!r}, which a config cannot hold")


def _require(holds: bool, value: Any, wanted: str, where: str) -> None:
    if not holds:
        raise UserError(f"{where} is {value!r}, but must be {wanted}")
