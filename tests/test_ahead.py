"""What is made ahead is what would have been made on demand, and is ready when it is asked for."""

from __future__ import annotations

from threading import Event

import pytest

from dsd.errors import UserError
from dsd.train.ahead import Ahead


def test_the_next_ones_are_made_while_one_is_used() -> None:
    made = [Event() for _ in range(5)]

    def make(number: int) -> int:
        made[number].set()
        return number * number

    ahead = Ahead(make, 5)
    assert ahead.take(0) == 0
    assert made[1].wait(10) and made[2].wait(10)
    assert not made[3].wait(0.1), "no more than two ahead"
    assert [ahead.take(number) for number in range(1, 5)] == [1, 4, 9, 16]


def test_the_order_of_asking_does_not_matter() -> None:
    ahead = Ahead(lambda number: number * number, 100)
    assert [ahead.take(number) for number in (7, 8, 3, 3, 99, 0, 120)] == [49, 64, 9, 9, 9801, 0, 14400]


def test_a_mistake_in_the_background_is_raised_where_it_is_asked_for() -> None:
    def make(number: int) -> int:
        if number == 1:
            raise UserError("a shard is gone")
        return number

    ahead = Ahead(make, 3)
    assert ahead.take(0) == 0
    with pytest.raises(UserError, match="a shard is gone"):
        ahead.take(1)
    assert ahead.take(2) == 2
