"""Reading a complete cache: checked once against its checksums, then memory-mapped, so that it may outgrow memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from dsd.backbones.protocol import Text
from dsd.backbones.stock import StockBackbone
from dsd.data.latents.encode import chunks, frames_name
from dsd.data.latents.key import EMPTY, Shard, Share, Size, fingerprint, read_manifest
from dsd.errors import UserError, reason_of
from dsd.files import DamagedFile, sha256_of

_CHECKED_AT_ONCE = 4  # shards; one core reads about as fast as one disk
_LIVE_AT_ONCE = 16
_LARGE = ("tokens", "pooled")
_ANEW = "start the training again, and it alone is made anew"


@dataclass(frozen=True)
class Samples:
    """A batch from the cache.

    Attributes:
        frames: latents (b, f, c, h, w), references first.
        text: of the caption.
    """

    frames: Tensor
    text: Text

    def to(self, device: torch.device | str) -> Samples:
        """The same batch on another device."""
        return Samples(self.frames.to(device), self.text.to(device))

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(frozen=True)
class _Place:
    """Where a sample is: its shard, its frames among those of its size there, and its text."""

    shard: int
    frames: list[int]
    text: int


class LatentCache:
    """A complete cache, memory-mapped.

    Args:
        folder: of the cache.
        share: of the shards, to be checked by this process; all, when left out.

    Attributes:
        ids: of the samples, in the order of the data.
        grids: what each sample was made of.
        captions: of each sample.
        references: frames that are given in each sample.
        targets: frames that are drawn in each sample.
        sizes: (height, width) in pixels that samples have.
        size: of each sample, a place in ``sizes``.
        empty_frames: latents (1, c, h, w) of a black frame of each of ``sizes``.

    Raises:
        UserError: a file is missing, or its bytes are not those that were written.
    """

    def __init__(self, folder: Path, share: Share | None = None) -> None:
        self.folder, self.manifest = folder, read_manifest(folder)
        self._check(share or Share())
        self.references, self.targets = self.manifest.references, self.manifest.targets
        self.sizes: list[Size] = self.manifest.sizes
        self.ids: list[str] = []
        self.grids: list[str] = []
        self.captions: list[str] = []
        self.size: list[int] = []
        self._places: list[_Place] = []
        self._ends: list[list[int]] = []  # of captions' rows, by shard
        with _readable(folder / EMPTY):
            empty = load_file(str(folder / EMPTY))
        self.empty_frames = [empty[frames_name(size)] for size in self.sizes]
        self._empty = Text(empty["tokens"], empty.get("pooled")) if "tokens" in empty else None
        for shard in self.manifest.shards:
            with _readable(folder / shard.file):
                self._add(shard)
        self._encoder: StockBackbone | None = None
        self._text_tokens = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def empty_frame(self) -> Tensor:
        """Latents (1, c, h, w) of a black frame, where all samples have one size.

        Raises:
            UserError: they have several.
        """
        if len(self.sizes) > 1:
            sizes = ", ".join(f"{height}x{width}" for height, width in self.sizes)
            raise UserError(f"the examples' pictures differ in size ({sizes}); give train.frame_size")
        return self.empty_frames[0]

    @property
    def empty_text(self) -> Text:
        """The encoded empty caption, batch of 1."""
        return self.encoded([""]).to("cpu") if self._empty is None else self._empty

    @property
    def has_text(self) -> bool:
        """Whether captions lie here encoded; else `encode_with` has to be called before texts are asked for."""
        return self._empty is not None

    def encode_with(self, backbone: StockBackbone, max_sequence_length: int) -> None:
        """Has captions encoded when they are asked for, where none lie here encoded."""
        self._encoder, self._text_tokens = backbone, max_sequence_length

    def samples(self, rows: Sequence[int]) -> Samples:
        """The samples of some rows, all of one size, as one batch; latents in float32 and on the CPU."""
        return Samples(self.frames(rows), self.text(rows))

    def frames(self, rows: Sequence[int]) -> Tensor:
        """Float32 latents (b, f, c, h, w) of some rows, all of one size, on the CPU."""
        if len(kinds := {self.size[row] for row in rows}) != 1:
            raise ValueError(f"a batch has samples of one size, got those of {sorted(kinds)}")
        name = frames_name(self.sizes[self.size[rows[0]]])
        places, films = [self._places[row] for row in rows], []
        shards = self._opened(places)
        for place in places:
            pictures = shards[place.shard][name]
            films.append(torch.cat([pictures[number : number + 1] for number in place.frames]))
        return torch.stack(films).float()

    def text(self, rows: Sequence[int]) -> Text:
        """The encoded captions of some rows, as they lie here, or encoded now."""
        if self._empty is None:
            return self.encoded([self.captions[row] for row in rows])
        places, texts = [self._places[row] for row in rows], []
        shards = self._opened(places)
        for place in places:
            slices, ends, number = shards[place.shard], self._ends[place.shard], place.text
            tokens = slices["tokens"][ends[number - 1] if number else 0 : ends[number]]
            tokens = torch.cat([tokens, self._empty.tokens[0, len(tokens) :]])  # padding that was left out
            pooled = None if self._empty.pooled is None else slices["pooled"][number : number + 1]
            texts.append(Text(tokens[None], pooled))
        return Text.concat(texts)

    @torch.no_grad()
    def encoded(self, captions: Sequence[str]) -> Text:
        """Captions by the text encoders of `encode_with`, on their device, each different one once.

        Raises:
            UserError: there are none here.
        """
        if self._encoder is None:
            raise UserError(
                f'"{self.folder}" holds no encoded captions (text_cache = live), and no text encoders are at hand; '
                "give train.text_cache = whole and another folder"
            )
        different = list(dict.fromkeys(captions))
        with torch.autocast(self._encoder.device.type, enabled=False):
            texts = [self._encoder.encode_text(c, self._text_tokens) for c in chunks(different, _LIVE_AT_ONCE)]
        return Text.concat(texts).take([different.index(caption) for caption in captions])

    def _opened(self, places: Sequence[_Place]) -> dict[int, dict[str, Any]]:
        """The shards of some places, mapped for one batch, so that what was looked at does not stay in memory."""
        return {number: self._open(number) for number in {place.shard for place in places}}

    def _open(self, number: int) -> dict[str, Any]:
        """A shard's large tensors: nothing of them is in memory but what is looked at.

        Raises:
            UserError: it is no longer there.
        """
        path = self.folder / self.manifest.shards[number].file
        with _readable(path), safe_open(str(path), "pt") as file:
            large = [name for name in file.keys() if name in _LARGE or name.startswith("frames.")]  # noqa: SIM118
            return {name: file.get_slice(name) for name in large}

    def _add(self, shard: Shard) -> None:
        number, path = len(self._ends), self.folder / shard.file
        with safe_open(str(path), "pt") as file:
            words = json.loads(file.metadata()["samples"])
            film, text, sizes = (file.get_tensor(name).tolist() for name in ("film", "text", "size"))
            self._ends.append([] if self._empty is None else file.get_tensor("ends").tolist())
        if fingerprint(words["ids"]) != shard.ids:
            raise DamagedFile(f'"{path}" holds other samples than it is to; {_ANEW}')
        for name, values in (("ids", self.ids), ("grids", self.grids), ("captions", self.captions)):
            values.extend(words[name])
        kinds = [self.sizes.index((height, width)) for height, width in words["sizes"]]
        self.size.extend(kinds[place] for place in sizes)
        self._places.extend(_Place(number, frames, place) for frames, place in zip(film, text, strict=True))

    def _check(self, share: Share) -> None:
        """Reads every file of a share from end to end."""
        files = [(EMPTY, self.manifest.empty), *((shard.file, shard.sha256) for shard in self.manifest.shards)]
        mine = [file for number, file in enumerate(files) if share.has(number)]
        with ThreadPoolExecutor(min(_CHECKED_AT_ONCE, os.cpu_count() or 1)) as pool:
            for _ in pool.map(lambda file: _require_sound(self.folder / file[0], file[1]), mine):
                pass


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Tells of a shard that has become unreadable, or that another process is to check."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise DamagedFile(f'"{path}" can no longer be read ({reason_of(error)}); {_ANEW}') from error


def _require_sound(path: Path, sha256: str) -> None:
    try:
        found = sha256_of(path)
    except OSError as error:
        raise DamagedFile(f'"{path}" cannot be read ({error.strerror}); {_ANEW}') from error
    if found != sha256:
        raise DamagedFile(
            f'"{path}" is damaged: its bytes are not those that were written; delete it and start again, and it alone '
            "is made anew"
        )
