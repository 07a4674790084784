"""Texts that say what another one said before, whatever their punctuation and case: the same words, or nearly.

Whether two are nearly the same is decided by datasketch's sketches (MinHash, in bands), which are computed here for
many texts at once: two that agree in a band are compared letter by letter. Where very many agree, as prompts do whose
scenes are the same, only the latest are looked at, and those that agree in the most bands are compared; so the time
grows with the number of texts alone. Of each text 8 bytes stay in memory for its words, and the sketches of the last
`WINDOW` texts at least, twice as many at most: a text that says nearly what one before those said passes.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain, compress

import numpy as np
import pyarrow as pa
from datasketch import MinHash
from datasketch.hashfunc import sha1_hash32

WINDOW = 1 << 16
MOST_SHARING = 64
"""The latest texts that are looked at of those that agree in one band."""
MOST_COMPARED = 16
"""Texts that a new one is compared with, letter by letter."""
_PIECE = 4
_PERMUTED = np.asarray(MinHash(num_perm=64, seed=1, scheme="affine32").permutations, np.uint32).T
_MIX = 0x9E3779B97F4A7C15  # odd, with bits all over: one number of a band's values, as good as the values


def plain(text: str) -> str:
    """The words alone, for comparing; the text itself where there are none."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(re.findall(r"\w+", text.casefold())) or text


def alike(one: str, other: str) -> float:
    """Jaccard similarity, in [0, 1], of the four-letter pieces of two plain texts."""
    first, second = _pieces(one), _pieces(other)
    both = len(first & second)
    return both / (len(first) + len(second) - both)


class Words:
    """Texts by their words; 8 bytes of each stay in memory."""

    def __init__(self) -> None:
        self._numbers = np.zeros(0, np.uint64)

    def new(self, plains: Sequence[str]) -> list[bool]:
        """Whether each of some plain texts is new, in order."""
        numbers = np.array([_number(text) for text in plains], np.uint64)
        now: set[int] = set()
        found = []
        for number, before in zip(numbers.tolist(), self._before(numbers).tolist(), strict=True):
            found.append(not (before or number in now))
            now.add(number)
        self.add(plains)
        return found

    def known(self, plains: Sequence[str]) -> list[bool]:
        """Whether each was added before."""
        return self._before(np.array([_number(text) for text in plains], np.uint64)).tolist()

    def add(self, plains: Sequence[str]) -> None:
        """Adds some."""
        numbers = np.array([_number(text) for text in plains], np.uint64)
        numbers = np.unique(numbers[~self._before(numbers)])
        self._numbers = np.sort(np.concatenate([self._numbers, numbers]), kind="stable")

    def _before(self, numbers: np.ndarray) -> np.ndarray:
        if not len(self._numbers):
            return np.zeros(len(numbers), bool)
        at = np.searchsorted(self._numbers, numbers).clip(max=len(self._numbers) - 1)
        return self._numbers[at] == numbers


class Said:
    """What has been said.

    Args:
        threshold: similarity from which on two texts are nearly the same, see `alike`.
        bands: of a sketch; a pair is found when one of them is the same in both.
        rows: numbers a band. Of pairs of similarity s the share ``1 - (1 - s ** rows) ** bands`` is found.
        window: of how many texts, at least, sketches are kept.
    """

    def __init__(self, threshold: float, bands: int, rows: int, window: int = WINDOW) -> None:
        self._threshold, self._bands, self._rows, self._window = threshold, bands, rows, window
        self._words = Words()
        self._old, self._new = _Generation(), _Generation()

    def new(self, texts: Sequence[str]) -> list[bool]:
        """Whether each says something new, in order; those that do now have been said."""
        if not texts:
            return []
        plains = [plain(text) for text in texts]
        known, keys = self._words.known(plains), _band_keys(plains, self._bands, self._rows)
        now: set[str] = set()
        found = []
        for text, before, row in zip(plains, known, keys.tolist(), strict=True):
            fresh = not (before or text in now or self._nearly(text, row))
            found.append(fresh)
            if fresh:
                now.add(text)
                self._keep(text, row)
        self._words.add(sorted(now))
        return found

    def _nearly(self, text: str, row: Sequence[int]) -> bool:
        if self._old.by_key.keys().isdisjoint(row) and self._new.by_key.keys().isdisjoint(row):
            return False
        others = Counter(chain(self._old.sharing(row), self._new.sharing(row))).most_common(MOST_COMPARED)
        return any(alike(text, other) >= self._threshold for other, _ in others)

    def _keep(self, text: str, row: Sequence[int]) -> None:
        if len(self._new.texts) == self._window:
            self._old, self._new = self._new, _Generation()
        self._new.add(text, row)


class _Generation:
    """Plain texts by the keys of their bands."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.by_key: dict[int, int | list[int]] = {}

    def add(self, text: str, row: Sequence[int]) -> None:
        number = len(self.texts)
        self.texts.append(text)
        for key in row:
            before = self.by_key.setdefault(key, number)
            if isinstance(before, list):
                before.append(number)
                if len(before) == 2 * MOST_SHARING:
                    del before[:MOST_SHARING]
            elif before != number:
                self.by_key[key] = [before, number]

    def sharing(self, row: Sequence[int]) -> Iterator[str]:
        """The latest texts that have each of the keys; one that has several comes so many times."""
        for key in row:
            numbers = self.by_key.get(key, ())
            for number in (numbers,) if isinstance(numbers, int) else numbers[-MOST_SHARING:]:
                yield self.texts[number]


def _pieces(text: str) -> set[str]:
    return {text[at : at + _PIECE] for at in range(max(1, len(text) - _PIECE + 1))}


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _band_keys(plains: Sequence[str], bands: int, rows: int) -> np.ndarray:
    """A number for each band of each text's sketch, (texts, bands)."""
    sketches = _sketches(plains, bands * rows).astype(np.uint64).reshape(len(plains), bands, rows)
    keys = np.tile(np.arange(bands, dtype=np.uint64), (len(plains), 1))  # those of two bands are not the same
    for row in range(rows):
        keys = (keys ^ sketches[:, :, row]) * np.uint64(_MIX)
        keys ^= keys >> np.uint64(29)
    return keys


def _sketches(plains: Sequence[str], values: int) -> np.ndarray:
    """The first values of the `MinHash` of each text's pieces, (texts, values)."""
    hashes, counts = _hashes(plains)
    starts = np.cumsum([0, *counts[:-1]])
    found = np.empty((len(plains), values), np.uint32)
    for n, (factor, summand) in enumerate(_PERMUTED[:values]):
        found[:, n] = np.minimum.reduceat(hashes * factor + summand, starts)
    return found


def _hashes(plains: Sequence[str]) -> tuple[np.ndarray, list[int]]:
    """What `MinHash` permutes of each text's pieces, one text after the other, and how many pieces each has.

    A piece of characters of two bytes is eight bytes, that is a number; so most are told apart without being cut out.
    """
    even = [len(text) >= _PIECE and (text.isascii() or max(text) <= "\ud7ff") for text in plains]
    units = np.frombuffer("".join(compress(plains, even)).encode("utf-16-le"), np.uint16).astype(np.uint64)
    lengths = np.array([len(text) for text in compress(plains, even)], np.int64)
    numbers = units[: max(0, len(units) - _PIECE + 1)].copy()
    for at in range(1, _PIECE):
        numbers |= units[at : at + len(numbers)] << np.uint64(16 * at)
    inside = np.ones(len(units), bool)
    for at in range(1, _PIECE):
        inside[np.cumsum(lengths) - at] = False
    found = pa.array(numbers[inside[: len(numbers)]]).dictionary_encode()
    hashes = np.array([_hash_of_number(number) for number in found.dictionary.to_pylist()], np.uint32)
    known = hashes[found.indices.to_numpy()]
    parts, counts, begun = [], [], 0
    for text, is_even in zip(plains, even, strict=True):
        if is_even:
            counts.append(len(text) - _PIECE + 1)
            parts.append(known[begun : begun + counts[-1]])
            begun += counts[-1]
        else:
            pieces = _pieces(text)
            counts.append(len(pieces))
            parts.append(np.array([_hash(piece) for piece in pieces], np.uint32))
    return _mixed(np.concatenate(parts)), counts


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """MurmurHash3's finalizer of 32 bits, as datasketch applies it before it permutes."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        hashes = (hashes ^ (hashes >> np.uint32(shift))) * np.uint32(factor)
    return hashes ^ (hashes >> np.uint32(16))


@lru_cache(maxsize=1 << 18)
def _hash_of_number(number: int) -> int:
    return _hash(number.to_bytes(2 * _PIECE, "little").decode("utf-16-le"))


def _hash(piece: str) -> int:
    return sha1_hash32(piece.encode("utf-8", "surrogatepass"))
