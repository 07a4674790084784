"""What a shard holds: each picture and each caption of its samples once, and the samples as rows that point to them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import inf, log
from typing import TypeVar

import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from dsd.backbones.protocol import Text
from dsd.backbones.stock import StockBackbone
from dsd.data.latents.key import CacheKey, Size
from dsd.data.records import Example
from dsd.errors import UserError
from dsd.images import fit, to_tensor

Item = TypeVar("Item")

_ENCODED_AT_ONCE = 16
_ROUNDING = 1e-4  # by which one padding may differ from another as a share of its size, and count as the same


@dataclass(frozen=True)
class Encoded:
    """A shard's bytes, and what is in them; see `dsd.data.latents.key.Shard`."""

    content: bytes
    sizes: list[Size]


@dataclass(frozen=True)
class _Pictures:
    """Pictures of one shard, each once at each size."""

    numbers: dict[tuple[bytes, Size], int]
    tensors: dict[Size, list[Tensor]]

    def add(self, image: Image.Image, size: Size) -> int:
        """The place of a picture among those of its size."""
        digest = hashlib.sha256(image.tobytes() + repr(image.size).encode()).digest(), size
        if digest not in self.numbers:
            images = self.tensors.setdefault(size, [])
            self.numbers[digest] = len(images)
            images.append(to_tensor(fit(image, size)[0]))
        return self.numbers[digest]


def size_of(example: Example, key: CacheKey) -> Size:
    """The size (height, width) that all frames of an example take; pictures are cropped to it around their centre."""
    if key.frame_size is not None:
        return key.frame_size
    target = example.targets[0]
    if key.buckets:
        proportions = log(target.height / target.width)
        return min(key.buckets, key=lambda size: (abs(log(size[0] / size[1]) - proportions), -size[0] * size[1], size))
    return target.height, target.width


@torch.no_grad()
def encode_shard(examples: Sequence[Example], backbone: StockBackbone, key: CacheKey, empty: Text | None) -> Encoded:
    """Encodes the samples of a shard.

    Args:
        examples: all of equally many frames.
        backbone: with its autoencoder, and with its text encoders where text is kept.
        key: of the cache.
        empty: the empty text, where captions are kept without their padding.

    Raises:
        UserError: a size does not fit the model, or padding that is to be left out could not be put back.
    """
    pictures = _Pictures({}, {})
    sizes = [size_of(example, key) for example in examples]
    for size in dict.fromkeys(sizes):
        _require_size(size, backbone, key)
    film = [
        [pictures.add(image, size) for image in (*example.references, *example.targets)]
        for example, size in zip(examples, sizes, strict=True)
    ]
    captions = list(dict.fromkeys(example.caption for example in examples))
    places = {caption: place for place, caption in enumerate(captions)}
    text = _encode_captions(captions, backbone, key, empty)
    kinds = sorted(pictures.tensors)
    tensors = {
        **{frames_name(size): _encode_pictures(backbone, pictures.tensors[size]) for size in kinds},
        **text,
        "film": torch.tensor(film),
        "size": torch.tensor([kinds.index(size) for size in sizes]),
        "text": torch.tensor([places[example.caption] for example in examples]),
    }
    words = {
        "ids": [example.id for example in examples],
        "grids": [example.grid for example in examples],
        "captions": [example.caption for example in examples],
        "sizes": kinds,
    }
    # One entry only: safetensors writes several in an order that changes from file to file.
    return Encoded(save(_plain(tensors), {"samples": json.dumps(words)}), kinds)


@torch.no_grad()
def encode_empty(backbone: StockBackbone, key: CacheKey, sizes: Iterable[Size]) -> bytes:
    """The black frame of each size, and the empty text where text is kept."""
    black = {frames_name(size): backbone.encode(-torch.ones(1, 3, *size).to(backbone.device)) for size in sizes}
    text = {} if key.text == "live" else _text_tensors(backbone.encode_text([""], key.max_sequence_length))
    return save(_plain({**black, **text}))


def frames_name(size: Size) -> str:
    """What the latents of pictures of a size are called in files."""
    return f"frames.{size[0]}x{size[1]}"


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Neighbours together, so many at a time."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def _require_size(size: Size, backbone: StockBackbone, key: CacheKey) -> None:
    try:
        backbone.check_size(*size)
    except UserError as error:
        if key.frame_size or key.buckets:
            raise
        raise UserError(f"{error}; give train.frame_size or train.buckets to have all resized") from error


def _encode_pictures(backbone: StockBackbone, images: list[Tensor]) -> Tensor:
    return torch.cat([backbone.encode(torch.cat(c).to(backbone.device)) for c in chunks(images, _ENCODED_AT_ONCE)])


def _encode_captions(
    captions: list[str], backbone: StockBackbone, key: CacheKey, empty: Text | None
) -> dict[str, Tensor]:
    """Rows of all captions one after another, and where each caption's end."""
    if key.text == "live":
        return {}
    most = key.max_sequence_length
    whole = Text.concat([backbone.encode_text(c, most).to("cpu") for c in chunks(captions, _ENCODED_AT_ONCE)])
    rows, lengths = whole.tokens, [whole.tokens.shape[1]] * len(captions)
    if empty is not None:
        others = rows.shape[1] - most  # of further encoders, which stand first
        lengths = [others + count for count in backbone.real_tokens(captions, most)]
        _require_same_padding(rows, lengths, empty.tokens.to(rows))
    tokens = torch.cat([row[:length] for row, length in zip(rows, lengths, strict=True)])
    text = {"tokens": tokens, "ends": torch.tensor(lengths).cumsum(0)}
    return text | ({} if whole.pooled is None else {"pooled": whole.pooled})


def _require_same_padding(rows: Tensor, lengths: list[int], empty: Tensor) -> None:
    """Refuses to leave out padding that depends on the caption: the transformer reads it, in drawing too.

    Raises:
        UserError: it does.
    """
    changed = size = 0.0
    for row, length in zip(rows, lengths, strict=True):
        changed += float((row[length:] - empty[0, length:]).double().square().sum())
        size += float(row[length:].double().square().sum())
    if changed > _ROUNDING**2 * size:
        raise UserError(
            f"train.text_cache is trimmed, but the padding after these captions differs from the empty text's by "
            f"{(changed / size) ** 0.5 if size else inf:.0%} of its size with this model, which reads it; give "
            "train.text_cache = whole or live"
        )


def _text_tensors(text: Text) -> dict[str, Tensor]:
    return {"tokens": text.tokens} | ({} if text.pooled is None else {"pooled": text.pooled})


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
