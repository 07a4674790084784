"""The captions that a curation took, kept in shards beside its units, so that a unit reads its own and no other's.

units/captions.json   how many, what was skipped, and the digest of each shard
units/captions/00000.json ...   a list of texts each
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Protocol

from dsd.data.records import Caption
from dsd.files import read_json
from dsd.places import Place, Where

SHARD = 8192
"""Captions a shard: what a process keeps in memory of them."""
INDEX = "captions.json"
_FIX = "bring it back, or curate in another folder"


class CaptionSource(Protocol):
    """Gives captions in order, and tells what it left out, once it has given all."""

    @property
    def skipped(self) -> Mapping[str, int]:
        """Rows before the last caption that were not taken, by reason."""
        ...

    def __iter__(self) -> Iterator[Caption]: ...


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Captions on the disk; it holds none of them, and can be pickled.

    Attributes:
        folder: where they are kept; None where that is nowhere yet.
        count: how many there are.
        skipped: rows of the caption file before the last taken one that were not, by reason.
        digests: SHA-256 of each shard's texts.
        size: captions a shard; the last one may have fewer.
        listed: all texts, where no shards hold them: in earlier datasets the index itself did.
    """

    folder: Place | None
    count: int
    skipped: Mapping[str, int]
    digests: tuple[str, ...] = ()
    size: int = SHARD
    listed: tuple[str, ...] = ()

    @classmethod
    def of(cls, captions: Iterable[Caption]) -> Captions:
        """A few captions that are kept nowhere yet."""
        listed = tuple(caption.text for caption in captions)
        return cls(folder=None, count=len(listed), skipped={}, listed=listed)

    @classmethod
    def keep(cls, source: CaptionSource, folder: Where) -> Captions:
        """Writes captions as they come; with the index, which is written last, they are kept.

        Args:
            source: gives them in order.
            folder: to keep them in.

        Raises:
            UserError: the place cannot be written to, or the captions cannot be read to their end.
        """
        folder = Place.of(folder)
        digests, count, left = [], 0, iter(source)
        while texts := tuple(caption.text for caption in islice(left, SHARD)):
            _shard(folder, len(digests)).write_atomic(_json(texts))
            digests.append(_digest(texts))
            count += len(texts)
        skipped = dict(source.skipped)
        (folder / INDEX).write_atomic(_json({"count": count, "skipped": skipped, "size": SHARD, "shards": digests}))
        return cls(folder=folder, count=count, skipped=skipped, digests=tuple(digests))

    @classmethod
    def find(cls, folder: Where) -> Captions:
        """What was kept in a folder.

        Raises:
            UserError: nothing was, or its index is damaged.
        """
        folder = Place.of(folder)

        def read(content: Any) -> Captions:
            skipped = dict(content["skipped"])
            if "taken" in content:
                listed = _listed(content["taken"])
                return cls(folder=folder, count=len(listed), skipped=skipped, listed=listed)
            digests, count, size = tuple(content["shards"]), int(content["count"]), int(content["size"])
            if size < 1 or len(digests) != -(-count // size):
                raise ValueError(f"{count} captions are not in {len(digests)} shards of {size}")
            return cls(folder=folder, count=count, skipped=skipped, digests=digests, size=size)

        return read_json(folder / INDEX, read, _FIX)

    @property
    def digest(self) -> str:
        """SHA-256 of what the index tells."""
        told = [self.count, dict(self.skipped), self.digests, self.listed]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def verify(self) -> None:
        """Compares the texts of each shard with its digest.

        Raises:
            DamagedFile: one is missing or damaged.
        """
        for _ in self:
            pass

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Caption]:
        for start in range(0, self.count, self.size):
            yield from self.between(start, start + self.size)

    def between(self, start: int, stop: int) -> tuple[Caption, ...]:
        """Captions ``start`` to ``stop - 1``, as far as there are any.

        Raises:
            UserError: a shard is missing or damaged.
        """
        if self.folder is None or self.listed:
            return tuple(Caption(text=text) for text in self.listed[start:stop])
        stop, found = min(stop, self.count), []
        for number in range(start // self.size, -(-stop // self.size)):
            first, texts = number * self.size, _texts(self.folder, number, self.digests[number])
            found += texts[max(0, start - first) : stop - first]
        return tuple(Caption(text=text) for text in found)


def _shard(folder: Place, number: int) -> Place:
    return folder / f"captions/{number:05d}.json"


@lru_cache(maxsize=2)
def _texts(folder: Place, number: int, digest: str) -> tuple[str, ...]:
    def read(content: Any) -> tuple[str, ...]:
        texts = _listed(content)
        if _digest(texts) != digest:
            raise ValueError("other captions than the index tells of")
        return texts

    return read_json(_shard(folder, number), read, _FIX)


def _listed(content: Any) -> tuple[str, ...]:
    if not isinstance(content, list) or not all(isinstance(text, str) for text in content):
        raise TypeError("no list of captions")
    return tuple(content)


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _json(content: Any) -> str:
    return json.dumps(content, indent=0, ensure_ascii=False) + "\n"
