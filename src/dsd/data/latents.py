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
from typing import TypeVar

import torch
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from dsd import runs
from dsd.backbones.protocol import Text
from dsd.backbones.stock import StockBackbone
from dsd.config import from_json
from dsd.data.records import Example
from dsd.errors import UserError
from dsd.files import read_json, write_atomic
from dsd.images import to_tensor
from dsd.log import progress

Item = TypeVar("Item")

SHARD_SAMPLES = 256
_ENCODED_AT_ONCE = 16
_EMPTY, _MANIFEST = "empty.safetensors", "manifest.json"
_COUNTS = ("shards", "samples", "references", "targets")


@dataclass(frozen=True, kw_only=True)
class CacheKey:
    """What the content of a cache depends on.

    Attributes:
        base: revision of the model that encodes.
        data: fingerprint of the examples.
        frame_size: (height, width) that pictures are resized to; None for as they are.
        max_sequence_length: text tokens a caption is padded to.
        schema: version of the cache's format.
    """

    base: str
    data: str
    frame_size: tuple[int, int] | None
    max_sequence_length: int
    schema: int = 2


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


def fingerprint(ids: Iterable[str]) -> str:
    """A short digest of sample ids in their order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


def is_complete(folder: Path, key: CacheKey) -> bool:
    """Whether the folder holds a whole cache.

    Raises:
        UserError: it holds one, whole or begun, that was made with another key.
    """
    return runs.begun(folder, key, "latents") and (folder / _MANIFEST).exists()


def discard(folder: Path) -> None:
    """Removes the cache that a folder holds; of a folder that was never claimed as one, nothing.

    What lies there beside the cache stays.
    """
    try:
        from_json(CacheKey, (folder / runs.CONFIG).read_text(encoding="utf-8"))
    except (OSError, UserError, ValueError):
        return
    for path in (*folder.glob("shard-*.safetensors"), folder / _EMPTY, folder / _MANIFEST, folder / runs.CONFIG):
        path.unlink(missing_ok=True)


def build_cache(
    examples: Iterable[Example],
    backbone: StockBackbone,
    folder: Path,
    key: CacheKey,
    *,
    total: int | None = None,
    shard_samples: int = SHARD_SAMPLES,
) -> None:
    """Encodes all examples that are not in the cache yet; does nothing when the cache is complete.

    Args:
        examples: in a fixed order, all of equally many references and targets.
        backbone: with its text encoders and autoencoder.
        folder: of the cache.
        key: what the content depends on; claims the folder once the first shard is there.
        total: number of examples, for the progress bar.
        shard_samples: samples a shard; the same at every start of a build.

    Raises:
        UserError: the folder holds a cache made with another key, or the examples differ in their numbers of frames or
            their pictures in size.
    """
    if is_complete(folder, key):
        return
    begun = runs.begun(folder, key, "latents")  # what is there else was never claimed, and is written anew
    number, count, form = 0, 0, (0, 0)
    with progress(description="encoding examples", total=total) as bar:
        for number, chunk in enumerate(_chunks(examples, shard_samples), start=1):
            form = _form(chunk, form if count else None)
            path = folder / f"shard-{number - 1:05d}.safetensors"
            if not begun or not path.exists():
                write_atomic(path, _encode_shard(chunk, backbone, key))
            if not begun:
                write_atomic(folder / _EMPTY, _encode_empty(backbone, key, chunk[0]))
                runs.claim(folder, key, what="latents")
                begun = True
            count += len(chunk)
            bar.advance(len(chunk))
    if count == 0:
        raise UserError("the data holds no example to train on; curate more captions, or loosen the filter")
    manifest = {"schema": 2, "shards": number, "samples": count, "references": form[0], "targets": form[1]}
    write_atomic(folder / _MANIFEST, json.dumps(manifest) + "\n")


class LatentCache:
    """A complete cache, memory-mapped.

    Attributes:
        ids: of the samples, in the order of the data.
        grids: what each sample was made of.
        captions: of each sample.
        references: frames that are given in each sample.
        targets: frames that are drawn in each sample.
        empty_frame: latents (1, c, h, w) of a black frame.
        empty_text: the encoded empty caption, batch of 1.
    """

    def __init__(self, folder: Path) -> None:
        fix = f'delete "{folder}", and the latents are made anew'
        manifest = read_json(folder / _MANIFEST, lambda content: {name: content[name] for name in _COUNTS}, fix)
        self.references, self.targets = manifest["references"], manifest["targets"]
        self.ids: list[str] = []
        self.grids: list[str] = []
        self.captions: list[str] = []
        self._places: list[tuple[int, list[int], int]] = []  # shard, frames, text
        self._shards: list[dict[str, Tensor]] = []
        for number in range(manifest["shards"]):
            self._add(number, folder / f"shard-{number:05d}.safetensors")
        empty = load_file(str(folder / _EMPTY))
        self.empty_frame = empty["frame"]
        self.empty_text = Text(empty["tokens"], empty.get("pooled"))

    def __len__(self) -> int:
        return len(self.ids)

    def samples(self, rows: Sequence[int]) -> Samples:
        """The samples of some rows as one batch on the CPU, latents in float32."""
        places = [self._places[row] for row in rows]
        tokens = torch.stack([self._shards[s]["tokens"][text] for s, _, text in places])
        pooled = None
        if "pooled" in self._shards[0]:
            pooled = torch.stack([self._shards[s]["pooled"][text] for s, _, text in places])
        frames = torch.stack([self._shards[s]["frames"][numbers] for s, numbers, _ in places]).float()
        return Samples(frames, Text(tokens, pooled))

    def _add(self, number: int, path: Path) -> None:
        with safe_open(str(path), "pt") as file:
            words = json.loads(file.metadata()["samples"])
        shard = load_file(str(path))
        self._shards.append(shard)
        for name, values in (("ids", self.ids), ("grids", self.grids), ("captions", self.captions)):
            values.extend(words[name])
        rows = zip(shard["film"].tolist(), shard["text"].tolist(), strict=True)
        self._places.extend((number, frames, text) for frames, text in rows)


@torch.no_grad()
def _encode_empty(backbone: StockBackbone, key: CacheKey, example: Example) -> bytes:
    black = -torch.ones_like(to_tensor(_fitted(example.targets[0], key.frame_size))).to(backbone.device)
    text = backbone.encode_text([""], key.max_sequence_length)
    return save(_plain({"frame": backbone.encode(black), **_text_tensors(text)}))


@torch.no_grad()
def _encode_shard(examples: Sequence[Example], backbone: StockBackbone, key: CacheKey) -> bytes:
    frames: dict[bytes, int] = {}
    images: list[Tensor] = []

    def frame_of(image: Image.Image) -> int:
        digest = hashlib.sha256(image.tobytes() + repr(image.size).encode()).digest()
        if digest not in frames:
            frames[digest] = len(images)
            images.append(to_tensor(_fitted(image, key.frame_size)))
        return frames[digest]

    film = [[frame_of(image) for image in (*example.references, *example.targets)] for example in examples]
    if len({image.shape for image in images}) > 1:
        sizes = sorted({f"{image.shape[2]}x{image.shape[3]}" for image in images})
        raise UserError(f"the examples' pictures differ in size ({', '.join(sizes)}); give train.frame_size")
    backbone.check_size(*images[0].shape[2:])
    captions = list(dict.fromkeys(example.caption for example in examples))
    texts = [backbone.encode_text(c, key.max_sequence_length) for c in _chunks(captions, _ENCODED_AT_ONCE)]
    tensors = {
        "frames": torch.cat([_encode(backbone, c) for c in _chunks(images, _ENCODED_AT_ONCE)]),
        **_text_tensors(Text.concat(texts)),
        "film": torch.tensor(film),
        "text": torch.tensor([captions.index(example.caption) for example in examples]),
    }
    words = {
        "ids": [example.id for example in examples],
        "grids": [example.grid for example in examples],
        "captions": [example.caption for example in examples],
    }
    # One entry only: safetensors writes several in an order that changes from file to file.
    return save(_plain(tensors), {"samples": json.dumps(words)})


def _fitted(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    """A picture at a size, cropped around its centre where its proportions are others, as references are in drawing."""
    return image if size is None else ImageOps.fit(image, (size[1], size[0]), Image.Resampling.LANCZOS)


def _form(examples: Sequence[Example], before: tuple[int, int] | None) -> tuple[int, int]:
    """How many references and targets all of these examples, and those before, have.

    Raises:
        UserError: they differ.
    """
    wanted = before or (len(examples[0].references), len(examples[0].targets))
    for example in examples:
        found = len(example.references), len(example.targets)
        if found != wanted or not found[1]:
            raise UserError(
                f"the example {example.id} has {found[0]} references and {found[1]} targets, where others have "
                f"{wanted[0]} and {wanted[1]}; give all examples equally many of each, and at least one target"
            )
    return wanted


def _encode(backbone: StockBackbone, images: list[Tensor]) -> Tensor:
    return backbone.encode(torch.cat(images).to(backbone.device))


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def _text_tensors(text: Text) -> dict[str, Tensor]:
    return {"tokens": text.tokens} | ({} if text.pooled is None else {"pooled": text.pooled})


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
