"""From the words after a verb to its typed command: tyro reads the values, and unknown names get a hint."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, Protocol, get_args, get_type_hints

import tyro

from dsd.config import did_you_mean
from dsd.errors import UserError


class Verb(Protocol):
    """What a verb's module offers."""

    def variants(self) -> dict[str, tuple[str, Any]]:
        """Named starting points: name -> (one line of help, default command).

        What a verb does without a name is called `""`. A command is a frozen dataclass with a field `dry_run`.
        """
        ...

    def plan(self, command: Any) -> list[str]:
        """Says in sentences what `run` would do."""
        ...

    def run(self, command: Any) -> None:
        """Does it."""
        ...


def parse(name: str, verb: Verb, words: list[str]) -> Any:
    """Reads the words after a verb into its typed command.

    Raises:
        UserError: A missing or unknown variant, or an unknown flag.
        SystemExit: Help was asked for, or tyro refused a value (and said why).
    """
    variants = verb.variants()
    if "" in variants:
        return _parse_with_default(name, variants, words)
    words = _joined(name, words, variants)
    if not words or words[0] not in (*variants, "-h", "--help"):
        given = words[0] if words and not words[0].startswith("-") else ""
        known = ", ".join(f'"{option}"' for option in variants)
        problem = f'has no "{given}"; {did_you_mean(given, variants)}' if given else f"needs a name first: {known}"
        raise UserError(f"dsd {name} {problem}")
    if words[0] in variants:
        words = [words[0], *_checked(f"dsd {name} {words[0]}", words[1:], variants[words[0]][1])]
    return tyro.extras.overridable_config_cli(
        variants, prog=f"dsd {name}", args=words, config=(tyro.conf.AvoidSubcommands,)
    )


_PLACES = ("--out", "--data")
"""Flags whose empty value would be the folder that one happens to be in."""


def _joined(name: str, words: list[str], variants: dict[str, tuple[str, Any]]) -> list[str]:
    """The words, where the first two are one when a variant is called by two."""
    kinds = [
        variant.removeprefix(f"{words[0]} ") for variant in variants if words and variant.startswith(f"{words[0]} ")
    ]
    if not kinds:
        return words
    given = words[1] if len(words) > 1 and not words[1].startswith("-") else ""
    if given not in kinds:
        known = ", ".join(f'"{kind}"' for kind in kinds)
        if any(word in ("-h", "--help") for word in words[1:]):
            prog = f"dsd {name} {words[0]}"
            print(f"usage: {prog} NAME [OPTIONS]\n\nNAME is {known}; {prog} NAME --help says more.")
            raise SystemExit(0)
        problem = f'has no "{given}"; {did_you_mean(given, kinds)}' if given else f"needs a name next: {known}"
        raise UserError(f"dsd {name} {words[0]} {problem}")
    return [f"{words[0]} {given}", *words[2:]]


def _parse_with_default(name: str, variants: dict[str, tuple[str, Any]], words: list[str]) -> Any:
    """A verb that has a meaning without a name, and perhaps others with one."""
    given = words[0] if words and not words[0].startswith("-") else ""
    named = [variant for variant in variants if variant]
    if given and named and given not in named:
        raise UserError(f'dsd {name} has no "{given}"; {did_you_mean(given, named)}')
    chosen = given if given in named else ""
    default, prog = variants[chosen][1], f"dsd {name} {chosen}".strip()
    rest = words[1:] if chosen else words
    rest = _checked(prog, rest, default)
    more = "".join(f"\n\n{prog} {variant}: {variants[variant][0]}" for variant in named) if not chosen else ""
    description = f"{inspect.getdoc(type(default))}{more}" if more else None
    return tyro.cli(
        type(default), default=default, prog=prog, args=rest, description=description,
        config=(tyro.conf.AvoidSubcommands,),
    )  # fmt: skip


def _checked(prog: str, words: list[str], default: Any) -> list[str]:
    """Refuses unknown flags and those that are given twice; of one that takes many values, all are kept."""
    known = {"--help": False, **_flags(default, "")}
    given: dict[str, list[str]] = {"": []}
    at = ""
    for word in words:
        flag = word.split("=", 1)[0].replace("_", "-")
        if not flag.startswith("--"):
            given[at].append(word)
            continue
        if flag not in known:
            raise UserError(f"{prog} does not know {flag}; {_nearest_flag(flag, set(known))} (see {prog} --help)")
        at = flag if known[flag] or "=" not in word else word
        if flag in {one.split("=", 1)[0] for one in given} and not known[flag]:
            raise UserError(f"{prog} got {flag} twice; give it once")
        values = given.setdefault(at, [])
        if known[flag] and "=" in word:
            values.append(word.split("=", 1)[1])
    for flag in _PLACES:
        if any(not value.strip() for value in given.get(flag, ())) or any(
            not word.removeprefix(f"{flag}=").strip() for word in given if word.startswith(f"{flag}=")
        ):
            raise UserError(f"{prog} got an empty {flag}, such as of a variable that is not set; give a place")
    return [word for flag, values in given.items() for word in ([flag, *values] if flag else values)]


def _nearest_flag(flag: str, known: set[str]) -> str:
    """A flag given without its prefix, as in `--rank` for `--train.rank`, is the likeliest mistake."""
    last_parts = {option.rsplit(".", 1)[-1]: option for option in sorted(known) if "." in option}
    if flag.removeprefix("--") in last_parts:
        return f'did you mean "{last_parts[flag.removeprefix("--")]}"?'
    return did_you_mean(flag, known)


def _flags(default: Any, prefix: str) -> dict[str, bool]:
    """Each flag, and whether it takes any number of values."""
    flags: dict[str, bool] = {}
    hints = get_type_hints(type(default))
    for field in dataclasses.fields(default):
        value, name = getattr(default, field.name), field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            flags |= _flags(value, f"{prefix}{name}.")
        else:
            flags |= {f"--{prefix}{name}": Ellipsis in get_args(hints[field.name]), f"--{prefix}no-{name}": False}
    return flags
