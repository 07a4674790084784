"""What a cache of latents is made of, where its files lie, and whether all of them are there."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dsd import runs
from dsd.config import from_json, to_json
from dsd.errors import UserError, cut
from dsd.files import DamagedFile, read_json, sealed, unsealed

Size = tuple[int, int]
TextCache = Literal["whole", "trimmed", "live"]

SCHEMA = 4
EMPTY, MANIFEST = "empty.safetensors", "manifest.json"
_COUNTS = ("samples", "references", "targets")


@dataclass(frozen=True, kw_only=True)
class CacheKey:
    """What the content of a cache depends on.

    Attributes:
        base: revision of the model that encodes.
        data: fingerprint of the examples.
        frame_size: (height, width) that pictures are resized to; None for those of ``buckets``, or as they are.
        max_sequence_length: text tokens a caption is padded to.
        buckets: sizes (height, width) of which each example takes the one whose proportions are closest to its first
            target's; without any, the size of that target.
        text: what of captions is kept; see `dsd.train.config.TrainConfig`.
        schema: version of the cache's format.
    """

    base: str
    data: str
    frame_size: Size | None
    max_sequence_length: int
    buckets: tuple[Size, ...] = ()
    text: TextCache = "whole"
    schema: int = SCHEMA

    @property
    def digest(self) -> str:
        """Of all of it."""
        return hashlib.sha256(to_json(self).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Share:
    """Which shards a process of a parallel run makes or checks: every ``count``-th one, from ``index`` on."""

    index: int = 0
    count: int = 1

    def has(self, number: int) -> bool:
        """Whether a shard is among them."""
        return number % self.count == self.index


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A shard as the manifest names it.

    Attributes:
        file: its name.
        sha256: of its bytes.
        samples: that it holds.
        references: frames that are given in each.
        targets: frames that are drawn in each.
        ids: fingerprint of their ids.
        sizes: of pictures (height, width) that it holds.
        key: digest of the cache's key.
    """

    file: str
    sha256: str
    samples: int
    references: int
    targets: int
    ids: str
    sizes: list[Size]
    key: str

    @staticmethod
    def read(content: Any) -> Shard:
        """Of JSON, as `record` gave it.

        Raises:
            ValueError: it is another one, or its file lies elsewhere.
        """
        content = unsealed(content)
        if Path(content["file"]).name != content["file"]:
            raise ValueError(f"{content['file']} is no name of a file in the folder")
        sizes = [(int(height), int(width)) for height, width in content["sizes"]]
        return Shard(**{**content, "sizes": sizes})

    def record(self) -> dict[str, Any]:
        """JSON of it."""
        return sealed(dataclasses.asdict(self))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a complete cache holds.

    Attributes:
        samples: how many.
        references: frames that are given in each.
        targets: frames that are drawn in each.
        empty: SHA-256 of the file of black frames and of the empty text.
        shards: in the order of the data.
    """

    samples: int
    references: int
    targets: int
    empty: str
    shards: list[Shard]

    @property
    def sizes(self) -> list[Size]:
        """Of the pictures (height, width), in a fixed order."""
        return sorted({size for shard in self.shards for size in shard.sizes})


def shard_name(number: int) -> str:
    """What a shard, and the record of it, is called before the ending."""
    return f"shard-{number:05d}"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a complete cache.

    Raises:
        UserError: it is missing or damaged, or of an older format.
    """

    def read(content: Any) -> Manifest | int:
        if content["schema"] != SCHEMA:
            return content["schema"]
        counts = {name: unsealed(content)[name] for name in _COUNTS}
        return Manifest(**counts, empty=content["empty"], shards=[Shard.read(shard) for shard in content["shards"]])

    found = read_json(folder / MANIFEST, read, _anew(folder))
    if not isinstance(found, Manifest):
        raise _of_other_format(folder, found)
    return found


def fingerprint(ids: Iterable[str]) -> str:
    """A short digest of sample ids in their order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


def is_complete(folder: Path, key: CacheKey) -> bool:
    """Whether the folder holds a whole cache, all of whose files are there.

    Raises:
        UserError: it holds one, whole or begun, that was made with another key or in an older format, or shards of
            another one.
    """
    if not is_begun(folder, key) or not (folder / MANIFEST).exists():
        return False
    shards = read_manifest(folder).shards
    for shard in shards:
        if shard.key != key.digest:
            raise DamagedFile(
                f'"{folder / shard.file}" is of other latents (key {shard.key}, not {key.digest}); {_anew(folder)}'
            )
    return all((folder / file).is_file() for file in (EMPTY, *(shard.file for shard in shards)))


def is_begun(folder: Path, key: CacheKey) -> bool:
    """Whether the folder was claimed for a cache of this key.

    Raises:
        UserError: it was claimed for another one, or in an older format.
    """
    if (folder / runs.CONFIG).exists():
        try:
            before = runs.config_of(folder, CacheKey)
        except UserError as error:
            raise DamagedFile(f'"{folder / runs.CONFIG}" is damaged ({cut(str(error))}); {_anew(folder)}') from error
        if before.schema != key.schema:
            raise _of_other_format(folder, before.schema)
    return runs.begun(folder, key, "latents")


def discard(folder: Path) -> None:
    """Removes the cache that a folder holds; of a folder that was never claimed as one, nothing.

    What lies there beside the cache stays.
    """
    try:
        from_json(CacheKey, (folder / runs.CONFIG).read_text(encoding="utf-8"))
    except (OSError, UserError, ValueError):
        return
    shards = (*folder.glob("shard-*.safetensors"), *folder.glob("shard-*.json"))
    for path in (*shards, folder / EMPTY, folder / MANIFEST, folder / runs.CONFIG):
        path.unlink(missing_ok=True)


def _anew(folder: Path) -> str:
    return f'delete "{folder}", and the latents are made anew'


def _of_other_format(folder: Path, schema: object) -> UserError:
    return UserError(
        f'"{folder}" holds latents in the format {schema}, where this version writes {SCHEMA}; {_anew(folder)}'
    )
