"""Folders of long work: who they belong to, and what in them is finished. To go on, the same work is started again.

A folder is claimed by the settings that decide what is made in it and by the revisions of what it is made from. How it
is made (fields of `dsd.config.how_it_runs`: how often it is saved, in how many parts a batch is worked through) may
change from start to start. A folder is claimed once everything that the settings name has been found, so a start that
fails before leaves it free. What is finished stands in a `Ledger`, whose entries are written after what they tell of.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from dsd.config import decides, from_json, to_json
from dsd.errors import UserError
from dsd.files import digest_of, read_json
from dsd.places import Place, Where

CONFIG, SOURCES = "config.json", "sources.json"
_DIGEST = "sha256"  # of the other sources; earlier versions wrote none
Record = TypeVar("Record")


def begun(
    folder: Where,
    config: Any,
    what: str = "a run",
    *,
    exactly: bool = False,
    sources: Mapping[str, str] | None = None,
) -> bool:
    """Whether work of these settings has been begun in a folder.

    Args:
        folder: of the work; need not be there.
        config: a dataclass: the settings of this start. Where it has a method `claimed`, what that returns is compared.
        what: the work, in words.
        exactly: whether the settings of how it runs count too, as for work that is finished in stages.
        sources: revisions as `claim` takes them, to be those that the work was begun with, where it says so.

    Raises:
        UserError: the folder holds work of other settings or sources; the message names them, with both values.
    """
    if not (Place.of(folder) / CONFIG).exists():
        return False
    before, now = _claimed(config_of(folder, type(config))), _claimed(config)
    differing = [f"{name} = {old!r} (now {new!r})" for name, old, new in _differences(before, now, exactly)]
    if differing:
        raise UserError(
            f'"{folder}" holds {what} with {", ".join(differing)}; give the same settings to go on, or another folder'
        )
    if sources is not None and (Place.of(folder) / SOURCES).exists():
        before = sources_of(folder)
        for name, revision in sources.items():
            if before.get(name) != revision:
                raise UserError(
                    f'"{folder}" holds {what} with revision {before.get(name)} of {name}, but it now is {revision}; '
                    "bring the old one back to go on, or give another folder"
                )
    return True


def config_of(folder: Where, kind: type[Record]) -> Record:
    """The settings of the work that a folder holds.

    Args:
        folder: of the work.
        kind: the dataclass of its settings.

    Raises:
        UserError: their file is missing or damaged, or holds others.
    """
    path = Place.of(folder) / CONFIG
    try:
        return from_json(kind, path.read_text(encoding="utf-8"))
    except (UserError, OSError, UnicodeDecodeError) as error:
        raise UserError(f'"{path}" does not say what "{folder}" holds: {error}; give another folder') from error


def claim(
    folder: Where,
    config: Any,
    sources: Mapping[str, str] | None = None,
    what: str = "a run",
    *,
    exactly: bool = False,
) -> None:
    """Takes a folder for some work, or finds that it holds this very work.

    Args:
        folder: of the work; made when missing.
        config: a dataclass: the settings of this start, written to ``config.json``; see `begun`.
        sources: revision by name of all else that decides what is made (models, prompts, data), written to
            ``sources.json``.
        what: the work, in words.
        exactly: see `begun`.

    Raises:
        UserError: the folder holds work of other settings or sources.
    """
    place = Place.of(folder).make_folder()
    begun(place, config, what, exactly=exactly, sources=sources)
    if sources is not None:
        _write(place / SOURCES, json.dumps({**sources, _DIGEST: digest_of(sources)}, indent=2) + "\n")
    _write(place / CONFIG, to_json(_claimed(config)))  # last, for it is the claim


def deciding(config: Any, name: str = "") -> dict[str, str]:
    """The settings that decide what is made, by their names on the command line, each as a text.

    Args:
        config: a dataclass; see `begun`.
        name: of the config itself, put before those of its fields.
    """
    config = _claimed(config)
    found: dict[str, str] = {}
    for field in filter(decides, dataclasses.fields(config)):
        value, full = getattr(config, field.name), f"{name}.{field.name}" if name else field.name
        found |= deciding(value, full) if dataclasses.is_dataclass(value) else {full: repr(value)}
    return found


def sources_of(folder: Where) -> dict[str, str]:
    """What `claim` was told of the sources.

    Raises:
        UserError: their file is missing or damaged.
    """

    def read(content: Any) -> dict[str, str]:
        found = {name: revision for name, revision in content.items() if name != _DIGEST}
        if content.get(_DIGEST, digest := digest_of(found)) != digest:
            raise ValueError("it is not what was written")
        return found

    return read_json(Place.of(folder) / SOURCES, read, "bring it back, or give another folder")


class Ledger:
    """Records of finished pieces of work by name, a file each.

    Args:
        folder: of the records; made with the first one.
    """

    def __init__(self, folder: Where) -> None:
        self.folder = Place.of(folder)

    def path(self, name: str) -> Place:
        """Where a record is kept."""
        return self.folder / f"{name}.json"

    def find(self, name: str, read: Callable[[Any], Record]) -> Record | None:
        """A record, or None where there is none yet.

        Args:
            name: of the piece of work.
            read: makes the record of its JSON.

        Raises:
            DamagedFile: it is damaged.
        """
        path = self.path(name)
        if not path.exists():
            return None
        return read_json(path, read, "delete it, and that part is done anew")

    def commit(self, name: str, record: Any) -> None:
        """Keeps the record, JSON, of a piece of work whose results have been written."""
        self.path(name).write_atomic(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _claimed(config: Any) -> Any:
    """The settings as they are compared and kept: without what says where something is, if they know how to leave that
    out."""
    return config.claimed() if hasattr(config, "claimed") else config


def _write(path: Place, text: str) -> None:
    """Writes a file unless it says that already, so that many processes may claim one folder."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_atomic(text)


def _differences(before: Any, now: Any, exactly: bool, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Fields of two configs that decide what is made and differ, by their names on the command line."""
    for field in dataclasses.fields(now):
        old, new, name = getattr(before, field.name), getattr(now, field.name), f"{where}{field.name}"
        if old == new or not (exactly or decides(field)):
            continue
        if dataclasses.is_dataclass(new) and type(old) is type(new):
            yield from _differences(old, new, exactly, f"{name}.")
        else:
            yield name, old, new
