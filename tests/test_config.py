from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsd.config import did_you_mean, from_json, to_json
from dsd.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Inner:
    rank: int = 4
    size: tuple[int, int] | None = None
    names: tuple[str, ...] = ()
    mode: Literal["uniform", "logit-normal"] = "uniform"


@dataclass(frozen=True, kw_only=True)
class Outer:
    out: Path
    rate: float = 1e-4
    flag: bool = False
    inner: Inner = Inner()
    targets: Literal["all"] | tuple[str, ...] = "all"
    weights: dict[str, float] = field(default_factory=dict)
    optional: Inner | None = None


@given(
    out=st.text(alphabet="abc/é ", min_size=1),
    rate=st.floats(allow_nan=False),
    rank=st.integers(),
    size=st.none() | st.tuples(st.integers(), st.integers()),
    names=st.lists(st.text()).map(tuple),
    targets=st.just("all") | st.lists(st.text()).map(tuple),
    weights=st.dictionaries(st.text(), st.floats(allow_nan=False)),
    optional=st.none() | st.just(Inner(rank=9)),
)
def test_json_round_trips_exactly(out, rate, rank, size, names, targets, weights, optional):
    inner = Inner(rank=rank, size=size, names=names, mode="logit-normal")
    config = Outer(out=Path(out), rate=rate, inner=inner, targets=targets, weights=weights, optional=optional)
    assert from_json(Outer, to_json(config)) == config


def test_not_a_number_survives():
    assert math.isnan(from_json(Outer, to_json(Outer(out=Path("x"), rate=math.nan))).rate)


def test_fields_left_out_take_their_defaults():
    assert from_json(Outer, '{"out": "x"}') == Outer(out=Path("x"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"out": "x", "inner": {"rnak": 3}}', ["Outer.inner", "rnak", 'did you mean "rank"?']),
        ('{"out": "x", "inner": {"mode": "uniforn"}}', ["Outer.inner.mode", "'logit-normal'"]),
        ('{"out": "x", "flag": 1}', ["Outer.flag", "true or false"]),
        ('{"out": "x", "inner": {"rank": 1.5}}', ["Outer.inner.rank", "whole number"]),
        ('{"out": "x", "inner": {"size": [1, 2, 3]}}', ["Outer.inner.size", "list of 2"]),
        ('{"out": "x", "inner": {"rank": true}}', ["Outer.inner.rank is True", "whole number"]),
        ('{"out": "x", "inner": {"rank": "1"}}', ["Outer.inner.rank is '1'", "whole number"]),
        ('{"out": "x", "rate": "1"}', ["Outer.rate", "a number"]),
        ('{"out": "x", "inner": {"size": [1]}}', ["Outer.inner.size is [1]", "longer list"]),
        ('{"out": "x", "inner": {"names": ["a", 2]}}', ["Outer.inner.names[1] is 2", "text"]),
        ('{"out": "x", "targets": "some"}', ["Outer.targets", "'all' or a list"]),
        ('{"out": "x", "weights": {"a": null}}', ["Outer.weights.a is None", "a number"]),
        ('{"out": "x", "optional": {"rnak": 3}}', ["Outer.optional has no field", 'did you mean "rank"?']),
        ('{"oot": "x"}', ['Outer has no field "oot"', 'did you mean "out"?']),
        ("{}", ['lacks the field "out"']),
        ("{", ["must hold JSON"]),
        ("[]", ["an object"]),
    ],
)
def test_a_wrong_config_is_told_in_one_sentence(text, words):
    with pytest.raises(UserError) as error:
        from_json(Outer, text)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


@dataclass(frozen=True)
class Even:
    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise UserError(f"{self.number} is odd; give an even number")


def test_what_a_config_says_of_its_own_values_comes_through():
    assert from_json(Even, '{"number": 2}') == Even(2)
    with pytest.raises(UserError, match=r"^3 is odd; give an even number$"):
        from_json(Even, '{"number": 3}')


def test_did_you_mean_offers_the_nearest_or_lists_all():
    assert did_you_mean("tinny", ["tiny", "flux-dev"]) == 'did you mean "tiny"?'
    assert did_you_mean("zzz", ["tiny", "flux-dev"]) == 'known: "flux-dev", "tiny"'
