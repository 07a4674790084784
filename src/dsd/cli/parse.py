"""From the words after a verb to its typed command: tyro reads the values, and unknown names get a hint."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, Protocol

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
    if not words or words[0] not in (*variants, "-h", "--help"):
        given = words[0] if words and not words[0].startswith("-") else ""
        known = ", ".join(f'"{option}"' for option in variants)
        problem = f'has no "{given}"; {did_you_mean(given, variants)}' if given else f"needs a name first: {known}"
        raise UserError(f"dsd {name} {problem}")
    if words[0] in variants:
        _refuse_unknown_flags(f"dsd {name} {words[0]}", words[1:], variants[words[0]][1])
    return tyro.extras.overridable_config_cli(
        variants, prog=f"dsd {name}", args=words, config=(tyro.conf.AvoidSubcommands,)
    )


def _parse_with_default(name: str, variants: dict[str, tuple[str, Any]], words: list[str]) -> Any:
    """A verb that has a meaning without a name, and perhaps others with one."""
    given = words[0] if words and not words[0].startswith("-") else ""
    named = [variant for variant in variants if variant]
    if given and named and given not in named:
        raise UserError(f'dsd {name} has no "{given}"; {did_you_mean(given, named)}')
    chosen = given if given in named else ""
    default, prog = variants[chosen][1], f"dsd {name} {chosen}".strip()
    rest = words[1:] if chosen else words
    _refuse_unknown_flags(prog, rest, default)
    more = "".join(f"\n\n{prog} {variant}: {variants[variant][0]}" for variant in named) if not chosen else ""
    description = f"{inspect.getdoc(type(default))}{more}" if more else None
    return tyro.cli(
        type(default), default=default, prog=prog, args=rest, description=description,
        config=(tyro.conf.AvoidSubcommands,),
    )  # fmt: skip


def _refuse_unknown_flags(prog: str, words: list[str], default: Any) -> None:
    known = {"--help", *_flags(default, "")}
    for word in words:
        flag = word.split("=", 1)[0].replace("_", "-")
        if flag.startswith("--") and flag not in known:
            raise UserError(f"{prog} does not know {flag}; {_nearest_flag(flag, known)} (see {prog} --help)")


def _nearest_flag(flag: str, known: set[str]) -> str:
    """A flag given without its prefix, as in `--rank` for `--train.rank`, is the likeliest mistake."""
    last_parts = {option.rsplit(".", 1)[-1]: option for option in sorted(known) if "." in option}
    if flag.removeprefix("--") in last_parts:
        return f'did you mean "{last_parts[flag.removeprefix("--")]}"?'
    return did_you_mean(flag, known)


def _flags(default: Any, prefix: str) -> list[str]:
    flags = []
    for field in dataclasses.fields(default):
        value, name = getattr(default, field.name), field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            flags += _flags(value, f"{prefix}{name}.")
        else:
            flags += [f"--{prefix}{name}", f"--{prefix}no-{name}"]
    return flags
