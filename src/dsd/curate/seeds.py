"""Seeds that depend on what they are for and on nothing else."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *purpose: object) -> int:
    """A seed in [0, 2^63) for a purpose, such as ``derive_seed(config.seed, "sheet", unit, number)``."""
    text = "\0".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
