"""The cache that training reads: latents of every frame and the encoded captions, keyed by sample id, never by step.

A cache is a folder of shards. A shard holds each picture and each caption of its samples once, and the samples as
rows that point to them. A killed build goes on where it stopped; a cache of other settings is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from dsd import runs
from dsd.backbones.protocol import Backbone, Text, check_size
from dsd.errors import UserError
from dsd.files import write_atomic
from dsd.images import to_tensor
from dsd.log import progress

Item = TypeVar("Item")

SHARD_SAMPLES = 256
_ENCODED_AT_ONCE = 16


class TrainingPair(Protocol):
    """What training needs of a pair; `dsd.data.records.Pair` has it."""

    @property
    def id(self) -> str: ...
    @property
    def grid(self) -> str: ...
    @property
    def reference(self) -> Image.Image: ...
    @property
    def target(self) -> Image.Image: ...
    @property
    def target_caption(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class CacheKey:
    """What the content of a cache depends on.

    Attributes:
        base: revision of the model that encodes.
        data: fingerprint of the pairs.
        frame_size: (height, width) that pictures are resized to; None for as they are.
        max_sequence_length: text tokens a caption is padded to.
        schema: version of the cache's format.
    """

    base: str
    data: str
    frame_size: tuple[int, int] | None
    max_sequence_length: int
    schema: int = 1


@dataclass(frozen=True)
class Samples:
    """A batch from the cache.

    Attributes:
        reference: latents (b, c, h, w).
        target: latents (b, c, h, w).
        text: of the target's caption.
    """

    reference: Tensor
    target: Tensor
    text: Text


def fingerprint(ids: Iterable[str]) -> str:
    """A short digest of sample ids in their order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


def is_complete(folder: Path, key: CacheKey) -> bool:
    """Whether the folder holds a whole cache.

    Raises:
        UserError: it holds one, whole or begun, that was made with another key.
    """
    return runs.begun(folder, key, "latents") and (folder / "manifest.json").exists()


def build_cache(
    pairs: Iterable[TrainingPair],
    backbone: Backbone,
    folder: Path,
    key: CacheKey,
    *,
    total: int | None = None,
    shard_samples: int = SHARD_SAMPLES,
) -> None:
    """Encodes all pairs that are not in the cache yet; does nothing when the cache is complete.

    Args:
        pairs: in a fixed order.
        backbone: with its text encoders and autoencoder.
        folder: of the cache.
        key: what the content depends on; claims the folder once the first shard is there.
        total: number of pairs, for the progress bar.
        shard_samples: samples a shard; the same at every start of a build.

    Raises:
        UserError: the folder holds a cache made with another key, or the pictures differ in size.
    """
    if is_complete(folder, key):
        return
    begun = runs.begun(folder, key, "latents")  # what is there else was never claimed, and is written anew
    number, count = 0, 0
    with progress(description="encoding pairs", total=total) as bar:
        for number, chunk in enumerate(_chunks(pairs, shard_samples), start=1):
            path = folder / f"shard-{number - 1:05d}.safetensors"
            if not begun or not path.exists():
                write_atomic(path, _encode_shard(chunk, backbone, key))
            if not begun:
                write_atomic(folder / "empty.safetensors", _encode_empty(backbone, key, chunk[0]))
                runs.claim(folder, key, what="latents")
                begun = True
            count += len(chunk)
            bar.advance(len(chunk))
    if count == 0:
        raise UserError("the data holds no pair to train on; curate more captions, or loosen the filter")
    write_atomic(folder / "manifest.json", json.dumps({"schema": 1, "shards": number, "samples": count}) + "\n")


class LatentCache:
    """A complete cache, memory-mapped.

    Attributes:
        ids: of the samples, in the order of the data.
        grids: the grid that each sample was cropped from.
        captions: of each sample's target.
        empty_frame: latents (1, c, h, w) of a black frame.
        empty_text: the encoded empty caption, batch of 1.
    """

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        self.ids: list[str] = []
        self.grids: list[str] = []
        self.captions: list[str] = []
        self._places: list[tuple[int, int, int, int]] = []
        self._shards: list[dict[str, Tensor]] = []
        for number in range(manifest["shards"]):
            self._add(number, folder / f"shard-{number:05d}.safetensors")
        empty = load_file(str(folder / "empty.safetensors"))
        self.empty_frame = empty["frame"]
        self.empty_text = Text(empty["tokens"], empty.get("pooled"))

    def __len__(self) -> int:
        return len(self.ids)

    def samples(self, rows: Sequence[int]) -> Samples:
        """The samples of some rows as one batch on the CPU, latents in float32."""
        places = [self._places[row] for row in rows]
        tokens = torch.stack([self._shards[s]["tokens"][text] for s, _, _, text in places])
        pooled = None
        if "pooled" in self._shards[0]:
            pooled = torch.stack([self._shards[s]["pooled"][text] for s, _, _, text in places])
        return Samples(
            torch.stack([self._shards[s]["frames"][frame] for s, frame, _, _ in places]).float(),
            torch.stack([self._shards[s]["frames"][frame] for s, _, frame, _ in places]).float(),
            Text(tokens, pooled),
        )

    def _add(self, number: int, path: Path) -> None:
        with safe_open(str(path), "pt") as file:
            words = json.loads(file.metadata()["samples"])
        shard = load_file(str(path))
        self._shards.append(shard)
        for name, values in (("ids", self.ids), ("grids", self.grids), ("captions", self.captions)):
            values.extend(words[name])
        columns = (shard["reference"].tolist(), shard["target"].tolist(), shard["text"].tolist())
        self._places.extend((number, *row) for row in zip(*columns, strict=True))


@torch.no_grad()
def _encode_empty(backbone: Backbone, key: CacheKey, pair: TrainingPair) -> bytes:
    black = -torch.ones_like(to_tensor(pair.reference, size=key.frame_size)).to(backbone.device)
    text = backbone.encode_text([""], key.max_sequence_length)
    return save(_plain({"frame": backbone.encode(black), **_text_tensors(text)}))


@torch.no_grad()
def _encode_shard(pairs: Sequence[TrainingPair], backbone: Backbone, key: CacheKey) -> bytes:
    frames: dict[bytes, int] = {}
    images: list[Tensor] = []

    def frame_of(image: Image.Image) -> int:
        digest = hashlib.sha256(image.tobytes() + repr(image.size).encode()).digest()
        if digest not in frames:
            frames[digest] = len(images)
            images.append(to_tensor(image, size=key.frame_size))
        return frames[digest]

    reference = [frame_of(pair.reference) for pair in pairs]
    target = [frame_of(pair.target) for pair in pairs]
    if len({image.shape for image in images}) > 1:
        sizes = sorted({f"{image.shape[2]}x{image.shape[3]}" for image in images})
        raise UserError(f"the pairs' pictures differ in size ({', '.join(sizes)}); give train.frame_size")
    check_size(backbone, *images[0].shape[2:])
    captions = list(dict.fromkeys(pair.target_caption for pair in pairs))
    texts = [backbone.encode_text(c, key.max_sequence_length) for c in _chunks(captions, _ENCODED_AT_ONCE)]
    tensors = {
        "frames": torch.cat([_encode(backbone, c) for c in _chunks(images, _ENCODED_AT_ONCE)]),
        **_text_tensors(Text.concat(texts)),
        "reference": torch.tensor(reference),
        "target": torch.tensor(target),
        "text": torch.tensor([captions.index(pair.target_caption) for pair in pairs]),
    }
    words = {
        "ids": [pair.id for pair in pairs],
        "grids": [pair.grid for pair in pairs],
        "captions": [pair.target_caption for pair in pairs],
    }
    # One entry only: safetensors writes several in an order that changes from file to file.
    return save(_plain(tensors), {"samples": json.dumps(words)})


def _encode(backbone: Backbone, images: list[Tensor]) -> Tensor:
    return backbone.encode(torch.cat(images).to(backbone.device))


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def _text_tensors(text: Text) -> dict[str, Tensor]:
    return {"tokens": text.tokens} | ({} if text.pooled is None else {"pooled": text.pooled})


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
