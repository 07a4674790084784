"""Which samples make up the batch of a step: a function of the seed and the step, whatever was done before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

from dsd.train.loop import step_generator


@dataclass(frozen=True)
class Batch:
    """A batch of samples of one size.

    Attributes:
        size: their size, by its number.
        rows: of the cache.
    """

    size: int
    rows: list[int]


@dataclass(frozen=True)
class Batches:
    """The batches of a run.

    Of one size, each batch is drawn at random from all rows. Of several, sizes take turns in proportion to their
    rows, and a size's batches follow one another through shuffles of its rows, each row once a shuffle. So a row is
    never more than once ahead of another row of its size, and after as many steps as there are rows all have been seen
    equally often.

    Attributes:
        rows: of each size that has any, by the size's number.
        batch_size: of all processes together.
        seed: of everything random.
    """

    rows: dict[int, list[int]]
    batch_size: int
    seed: int

    @staticmethod
    def of(rows: Sequence[int], sizes: Sequence[int], batch_size: int, seed: int) -> Batches:
        """Of some rows of a cache, and the size of every row of it."""
        by_size: dict[int, list[int]] = {}
        for row in rows:
            by_size.setdefault(sizes[row], []).append(row)
        return Batches(dict(sorted(by_size.items())), batch_size, seed)

    def at(self, step: int) -> tuple[Batch, torch.Generator]:
        """The batch of a step, and the random state that all else of the step is drawn from."""
        generator = step_generator(self.seed, step)
        if len(self.rows) == 1:
            ((size, rows),) = self.rows.items()
            picks = torch.randint(len(rows), (self.batch_size,), generator=generator).tolist()
            return Batch(size, [rows[pick] for pick in picks]), generator
        size, turn = turn_of({size: len(rows) for size, rows in self.rows.items()}, step)
        rows = self.rows[size]
        places = (divmod(turn * self.batch_size + number, len(rows)) for number in range(self.batch_size))
        picks = (int(_shuffled(self.seed, size, time, len(rows))[place]) for time, place in places)
        return Batch(size, [rows[pick] for pick in picks]), generator


def turn_of(shares: dict[int, int], step: int) -> tuple[int, int]:
    """Who has a turn, and which of its own that is, where turns are dealt evenly in proportion to shares.

    The k-th turn of a share s of a total t is due at (k + 1/2) t / s; turns are taken in the order in which they are
    due (Webster's method of apportionment).
    """
    total = sum(shares.values())
    begin = max(0, step - len(shares))  # by then no more than `step` turns are over
    over = {name: (2 * begin * share + total) // (2 * total) for name, share in shares.items()}
    waiting = step - sum(over.values())
    while True:
        due = {name: Fraction((2 * over[name] + 1) * total, 2 * share) for name, share in shares.items()}
        name = min(due, key=lambda one: (due[one], one))
        if waiting == 0:
            return name, over[name]
        over[name] += 1
        waiting -= 1


@lru_cache(maxsize=64)
def _shuffled(seed: int, size: int, time: int, count: int) -> Tensor:
    digest = hashlib.sha256(f"{seed} {size} {time}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randperm(count, generator=generator)
