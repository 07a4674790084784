"""What a checkpoint's folder says of itself: what it is the state of, and the digests of its bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsd.errors import UserError
from dsd.files import read_json, sealed, sha256_of_parts, unsealed
from dsd.train.stopping import place

SCHEMA, OF_SHARDS = 2, 3
"""Of the folders of one file of tensors, and of several; those of schema 1 had no digests."""
TENSORS, STATE = "state.safetensors", "state.json"
_FILES = "*.safetensors"
DAMAGED = "it is no whole checkpoint"


class Unusable(UserError):
    """A checkpoint that training cannot go on from."""


@dataclass(frozen=True, kw_only=True)
class State:
    """What ``state.json`` says of a checkpoint.

    Attributes:
        step: number of finished steps.
        of: what decides the run that it is of (settings, revisions of data and base), by name.
        files: of tensors, by name: the size of each in bytes, and the digests of its parts; see
            `dsd.files.sha256_of_parts`.
    """

    step: int
    of: Mapping[str, str]
    files: Mapping[str, tuple[int, list[str]]]


def read_state(path: Path) -> State:
    """What a checkpoint says of itself.

    Raises:
        DamagedFile: it is damaged, or of another schema.
    """

    def read(content: Any) -> State:
        content = unsealed(content)
        if (schema := content["schema"]) not in (SCHEMA, OF_SHARDS):
            raise ValueError(f"it is not what a checkpoint of schema {SCHEMA} or {OF_SHARDS} says")
        files = content["files"] if schema == OF_SHARDS else {TENSORS: (content["size"], content["sha256"])}
        return State(step=content["step"], of=content["of"], files=files)

    return read_json(path / STATE, read, DAMAGED)


def usable(path: Path, step: int, of: Mapping[str, str]) -> State:
    """What a checkpoint says of itself, if it is of this run.

    Raises:
        Unusable: it is damaged, or of another run.
    """
    try:
        state = read_state(path)
    except UserError as error:
        raise Unusable(str(error)) from error
    if state.step != step:
        raise Unusable(f'"{path}" is a checkpoint of step {state.step} under another name')
    for name, now in of.items():
        if state.of.get(name, now) != now:
            raise Unusable(f'"{path}" is a checkpoint of a run with {name} = {state.of[name]} (now {now})')
    return state


def describe(folder: Path, schema: int, step: int, of: Mapping[str, str]) -> None:
    """Writes what a folder of tensors is.

    Args:
        folder: with all its tensors.
        schema: `SCHEMA` or `OF_SHARDS`.
        step: see `State`.
        of: see `State`.
    """
    found = {file.name: (file.stat().st_size, sha256_of_parts(file)) for file in sorted(folder.glob(_FILES))}
    content: dict[str, Any] = {"schema": schema, "step": step, "of": dict(of)}
    if schema == SCHEMA:
        content["size"], content["sha256"] = found[TENSORS]
    else:
        content["files"] = found
    (folder / STATE).write_text(json.dumps(sealed(content), indent=2) + "\n", encoding="utf-8")


def require_same_bytes(path: Path, state: State) -> None:
    """Looks at all bytes; processes that train together share the files out.

    Raises:
        Unusable: some are not those that were written.
        OSError: some cannot be read.
    """
    number, count = place()
    for name, (size, digests) in list(state.files.items())[number::count]:
        file = path / name
        if file.stat().st_size != size or sha256_of_parts(file) != digests:
            raise Unusable(f'"{file}" is damaged (it has other bytes than were written); {DAMAGED}')
