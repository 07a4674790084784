"""The cache that training reads: latents of every frame and encoded captions, keyed by sample id, never by step."""

from dsd.data.latents.build import SHARD_SAMPLES, build_cache, build_share, finish
from dsd.data.latents.encode import size_of
from dsd.data.latents.key import CacheKey, Share, Size, TextCache, discard, fingerprint, is_complete
from dsd.data.latents.read import LatentCache, Samples

__all__ = [
    "SHARD_SAMPLES",
    "CacheKey",
    "LatentCache",
    "Samples",
    "Share",
    "Size",
    "TextCache",
    "build_cache",
    "build_share",
    "discard",
    "fingerprint",
    "finish",
    "is_complete",
    "size_of",
]
