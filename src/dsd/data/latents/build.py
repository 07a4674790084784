"""Making a cache, shard by shard and in one process or several; a killed build goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
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
from dsd.files import sealed, write_atomic
from dsd.log import progress
from dsd.runs import Ledger

SHARD_SAMPLES = 256


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
        shards = build_share(examples, backbone, folder, key, total=total, shard_samples=shard_samples)
        finish(folder, key, backbone, shards)


def build_share(
    examples: Iterable[Example | None],
    backbone: StockBackbone,
    folder: Path,
    key: CacheKey,
    *,
    total: int | None = None,
    shard_samples: int = SHARD_SAMPLES,
    share: Share | None = None,
) -> int:
    """Encodes what is missing of one process's share of the shards; `finish` follows once all processes are through.

    A shard's bytes do not depend on who makes it. See `build_cache`; of the shards of other processes examples may be
    None.

    Returns:
        How many shards all processes make together.
    """
    is_begun(folder, key)
    share, ledger = share or Share(), Ledger(folder)
    empty = backbone.encode_text([""], key.max_sequence_length) if key.text == "trimmed" else None
    shards, form = 0, None
    with progress(description="encoding examples", total=total) as bar:
        for number, chunk in enumerate(chunks(examples, shard_samples)):
            shards = number + 1
            if share.has(number):
                own = [example for example in chunk if example is not None]
                form = _form(own, form)
                _require_shard(number, own, backbone, folder, key, ledger, empty)
                if number == 0:
                    runs.claim(folder, key, what="latents")
            bar.advance(len(chunk))
    if not shards:
        raise UserError("the data holds no example to train on; curate more captions, or loosen the filter")
    return shards


def finish(folder: Path, key: CacheKey, backbone: StockBackbone, shards: int) -> None:
    """Writes what makes a cache of shards; for one process, after all have made their shares.

    Args:
        folder: of the cache.
        key: of the cache.
        backbone: that encoded them.
        shards: how many there are to be.

    Raises:
        UserError: a process has not made its share here, as when the processes do not share the folder, or examples of
            several processes differ in their numbers of frames.
    """
    ledger = Ledger(folder)
    found = [ledger.find(shard_name(number), Shard.read) for number in range(shards)]
    own = [shard for shard in found if shard is not None and shard.key == key.digest]  # not left by other latents
    there = [shard for shard in own if (folder / shard.file).is_file()]
    if len(there) < shards:
        raise UserError(
            f'"{folder}" holds {len(there)} of {shards} shards of latents; give all processes one folder that they '
            "share"
        )
    references, targets = there[0].references, there[0].targets
    for shard in there:
        if (shard.references, shard.targets) != (references, targets):
            raise _unlike(f"in {shard.file}", (shard.references, shard.targets), (references, targets))
    sizes = sorted({size for shard in there for size in shard.sizes})
    empty = encode_empty(backbone, key, sizes)
    write_atomic(folder / EMPTY, empty)
    manifest = Manifest(
        samples=sum(shard.samples for shard in there), references=references, targets=targets,
        empty=hashlib.sha256(empty).hexdigest(), shards=there,
    )  # fmt: skip
    content = {"schema": SCHEMA, **vars(manifest), "shards": [shard.record() for shard in there]}
    write_atomic(folder / MANIFEST, json.dumps(sealed(content), indent=1) + "\n")


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
        file=path.name, sha256=hashlib.sha256(encoded.content).hexdigest(), samples=len(examples),
        references=len(examples[0].references), targets=len(examples[0].targets), ids=ids, sizes=encoded.sizes,
        key=key.digest,
    )  # fmt: skip
    ledger.commit(name, made.record())


def _form(examples: Sequence[Example], before: tuple[int, int] | None) -> tuple[int, int]:
    """How many references and targets all of these examples, and those before, have.

    Raises:
        UserError: they differ.
    """
    wanted = before or (len(examples[0].references), len(examples[0].targets))
    for example in examples:
        found = len(example.references), len(example.targets)
        if found != wanted or not found[1]:
            raise _unlike(example.id, found, wanted)
    return wanted


def _unlike(name: str, found: tuple[int, int], wanted: tuple[int, int]) -> UserError:
    return UserError(
        f"the example {name} has {found[0]} references and {found[1]} targets, where others have {wanted[0]} and "
        f"{wanted[1]}; give all examples equally many of each, and at least one target"
    )
