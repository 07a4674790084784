"""Making a cache, shard by shard and in one process or several; a killed build goes on where it stopped."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsd import runs
from dsd.backbones.protocol import Text
from dsd.backbones.stock import StockBackbone
from dsd.data.latents.encode import Encoded, chunks, encode_empty, encode_shard
from dsd.data.latents.key import (
    EMPTY,
    MANIFEST,
    SCHEMA,
    CacheKey,
    Manifest,
    Shard,
    Share,
    fingerprint,
    is_begun,
    is_complete,
    shard_name,
)
from dsd.data.records import Example
from dsd.errors import UserError
from dsd.files import write_atomic
from dsd.log import progress
from dsd.runs import Ledger

SHARD_SAMPLES = 256


@dataclass(frozen=True)
class Built:
    """What all processes together have made of the examples.

    Attributes:
        shards: how many.
        samples: how many.
        references: frames that are given in each sample.
        targets: frames that are drawn in each sample.
    """

    shards: int
    samples: int
    references: int
    targets: int


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
        UserError: the folder holds a cache made with another key, the examples differ in their numbers of frames, or a
            picture's size does not fit the model.
    """
    if not is_complete(folder, key):
        built = build_share(examples, backbone, folder, key, total=total, shard_samples=shard_samples)
        finish(folder, key, backbone, built)


def build_share(
    examples: Iterable[Example],
    backbone: StockBackbone,
    folder: Path,
    key: CacheKey,
    *,
    total: int | None = None,
    shard_samples: int = SHARD_SAMPLES,
    share: Share | None = None,
) -> Built:
    """Encodes what is missing of one process's share of the shards; `finish` follows once all processes are through.

    A shard's bytes do not depend on who makes it. Each process reads all examples, and encodes its own. See
    `build_cache`.
    """
    is_begun(folder, key)
    share, ledger = share or Share(), Ledger(folder)
    empty = backbone.encode_text([""], key.max_sequence_length) if key.text == "trimmed" else None
    number, count, form = -1, 0, (0, 0)
    with progress(description="encoding examples", total=total) as bar:
        for number, chunk in enumerate(chunks(examples, shard_samples)):
            form = _form(chunk, form if count else None)
            if share.has(number):
                _require_shard(number, chunk, backbone, folder, key, ledger, empty)
                if number == 0:
                    runs.claim(folder, key, what="latents")
            count += len(chunk)
            bar.advance(len(chunk))
    if count == 0:
        raise UserError("the data holds no example to train on; curate more captions, or loosen the filter")
    return Built(number + 1, count, *form)


def finish(folder: Path, key: CacheKey, backbone: StockBackbone, built: Built) -> None:
    """Writes what makes a cache of shards; for one process, after all have made their shares.

    Raises:
        UserError: a process has not made its share here, as when the processes do not share the folder.
    """
    ledger = Ledger(folder)
    shards = [ledger.find(shard_name(number), Shard.read) for number in range(built.shards)]
    there = [shard for shard in shards if shard is not None and (folder / shard.file).is_file()]
    if len(there) < built.shards:
        raise UserError(
            f'"{folder}" holds {len(there)} of {built.shards} shards of latents; give all processes one folder that '
            "they share"
        )
    sizes = sorted({size for shard in there for size in shard.sizes})
    empty = encode_empty(backbone, key, sizes)
    write_atomic(folder / EMPTY, empty)
    manifest = Manifest(
        samples=built.samples, references=built.references, targets=built.targets,
        empty=hashlib.sha256(empty).hexdigest(), shards=there,
    )  # fmt: skip
    content = {"schema": SCHEMA, **dataclasses.asdict(manifest)}
    write_atomic(folder / MANIFEST, json.dumps(content, indent=1) + "\n")


def _require_shard(
    number: int,
    examples: Sequence[Example],
    backbone: StockBackbone,
    folder: Path,
    key: CacheKey,
    ledger: Ledger,
    empty: Text | None,
) -> None:
    """Makes a shard, and then a record of it, unless both are there and of this key and these samples."""
    name, ids = shard_name(number), fingerprint(example.id for example in examples)
    path, record = folder / f"{name}.safetensors", ledger.find(name, Shard.read)
    if record is not None and (record.key, record.ids) == (key.digest, ids) and path.is_file():
        return
    encoded: Encoded = encode_shard(examples, backbone, key, empty)
    write_atomic(path, encoded.content)
    made = Shard(
        file=path.name, sha256=hashlib.sha256(encoded.content).hexdigest(), samples=len(examples), ids=ids,
        sizes=encoded.sizes, key=key.digest,
    )  # fmt: skip
    ledger.commit(name, dataclasses.asdict(made))


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
