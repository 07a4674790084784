"""Fine words: what a describing model says of an individual, finer than any caption but still words.

A description has a fixed order and few pieces, ``in scarlet and azure, broad slanted stripes, slim, small ears, big
eyes of violet, hat of amber``, and names only what can be seen: a plain skin has no angle, a mug has no eyes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dsd_world.individuals import ACCESSORIES, COLORS, KINDS, PATTERNS, Individuals

HUES = (
    *("crimson", "scarlet", "vermilion"),
    *("tangerine", "amber", "gold"),
    *("lemon", "chartreuse", "lime"),
    *("leaf", "emerald", "mint"),
    *("jade", "turquoise", "cyan"),
    *("azure", "cobalt", "navy"),
    *("indigo", "violet", "plum"),
    *("magenta", "fuchsia", "rose"),
)
"""Three shades of each of `COLORS`, in their order."""
WIDTHS = ("thin", "slim", "medium", "stout", "wide")
SIZES = ("tiny", "small", "middling", "large", "huge")
EYE_SIZES = ("narrow", "neat", "round", "big", "vast")
FREQUENCIES = ("broad", "bold", "even", "close", "fine")
ANGLES = ("upright", "tilted", "slanted", "sloping", "level", "rising", "climbing", "steep")
SPOT_ANGLES = ("square", "turned", "diamond", "twisted")
TOPS = {"mug": "handle", "lamp": "shade", "car": "cabin"}
KNOBS = {"mug": "drink", "lamp": "knob", "car": "wheels"}
PARTS = ("colour", "second colour", "pattern", "build", "top", "eyes", "accessory")
"""What a comparison goes through, in this order; ``top`` is ears, handle, shade or cabin, ``eyes`` also wheels."""
FIELDS_OF_PARTS = (
    ("hue", "saturation", "value"),
    ("second_hue", "second_saturation", "second_value"),
    ("pattern", "angle", "frequency"),
    ("width",),
    ("ears",),
    ("eye_hue", "eye_size"),
    ("accessory", "accessory_hue"),
)
"""Fields of `Individuals` that decide each of `PARTS`."""


def hue_bin(hue: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The fine word of a hue in [0, 1), as an index into `HUES`; a third of it is the index of the colour word."""
    return ((hue * len(COLORS) + 0.5) * 3).long() % len(HUES)


def _level(values: Tensor, low: float, high: float, levels: int = 5) -> list[int]:
    return ((values - low) / (high - low) * levels).long().clamp(0, levels - 1).tolist()


def _direction(angle: Tensor, period: float, directions: int) -> list[int]:
    return ((angle / period * directions + 0.5).long() % directions).tolist()


def _skin(pattern: str, frequency: int, stripe: int, spot: int, half: int) -> str:
    if pattern == "striped":
        return f"{FREQUENCIES[frequency]} {ANGLES[stripe]} stripes"
    if pattern == "spotted":
        return f"{FREQUENCIES[frequency]} {SPOT_ANGLES[spot]} spots"
    if pattern == "halved":
        return f"{ANGLES[half]} halves"
    return pattern


def detail_parts(individuals: Individuals) -> list[tuple[str, ...]]:
    """The words for each of `PARTS`, for each individual, with what joins them; empty for no accessory."""
    who = individuals
    columns = zip(
        who.kind.tolist(),
        who.pattern.tolist(),
        who.accessory.tolist(),
        hue_bin(who.hue).tolist(),
        hue_bin(who.second_hue).tolist(),
        hue_bin(who.eye_hue).tolist(),
        hue_bin(who.accessory_hue).tolist(),
        _level(who.width, 0.85, 1.15),
        _level(who.ears, 0.7, 1.3),
        _level(who.eye_size, 0.85, 1.3),
        _level(who.frequency, 3.0, 5.5),
        _direction(who.angle, math.pi, len(ANGLES)),
        _direction(who.angle, math.pi / 2, len(SPOT_ANGLES)),
        _level(who.angle, 0.0, math.pi, len(ANGLES)),
        strict=True,
    )
    rows = []
    for kind, pattern, worn, hue, second, eye, worn_hue, width, top, eye_size, frequency, stripe, spot, half in columns:
        name = KINDS[kind]
        knob = KNOBS.get(name, "eyes")
        sized = f"{EYE_SIZES[eye_size]} {knob}" if knob in ("eyes", "wheels") else knob
        rows.append(
            (
                f" {HUES[hue]}",
                f" {HUES[second]}",
                f", {_skin(PATTERNS[pattern], frequency, stripe, spot, half)}",
                f", {WIDTHS[width]}",
                f", {SIZES[top]} {TOPS.get(name, 'ears')}",
                f", {sized} of {HUES[eye]}",
                f", {ACCESSORIES[worn]} of {HUES[worn_hue]}" if worn else "",
            )
        )
    return rows


def detail_phrases(individuals: Individuals) -> list[str]:
    """The description of each individual in fine words.

    Args:
        individuals: ``n`` of them.

    Returns:
        ``n`` phrases such as ``in scarlet and azure, broad slanted stripes, slim, small ears, big eyes of violet, hat
        of amber``. Equal phrases need not mean equal individuals: a word spans a range.
    """
    return [detail_phrase(parts) for parts in detail_parts(individuals)]


def detail_phrase(parts: Sequence[str]) -> str:
    """One individual's row of `detail_parts` as its description."""
    first, *rest = parts
    return f"in{first} and{''.join(rest)}"


def detail_pieces() -> list[str]:
    """The pieces that descriptions are made of, each worth one token: hues, sizes with what they size, and so on."""
    tops, sized = ("ears", *TOPS.values()), ("eyes", "wheels")
    return [
        *(f" {hue}" for hue in HUES),
        *(f", {word}" for word in FREQUENCIES),
        *(f" {word} stripes" for word in ANGLES),
        *(f" {word} spots" for word in SPOT_ANGLES),
        *(f", {word} halves" for word in ANGLES),
        *(f", {word}" for word in PATTERNS if word in ("plain", "bellied")),
        *(f", {word}" for word in WIDTHS),
        *(f", {word} {top}" for top in tops for word in SIZES),
        *(f", {word} {knob} of" for knob in sized for word in EYE_SIZES),
        *(f", {knob} of" for knob in KNOBS.values() if knob not in sized),
        *(f", {worn} of" for worn in ACCESSORIES[1:]),
    ]


def _turned(a: Tensor, b: Tensor, period: float = 1.0) -> Tensor:
    """How far apart two positions on a circle are."""
    apart = (a - b).abs() % period
    return torch.minimum(apart, period - apart)


def differences(first: Individuals, second: Individuals) -> Bool[Tensor, "n parts"]:
    """Which of `PARTS` an eye would call other: beyond a few per cent of a measure's range, where it can be seen."""
    a, b = first, second
    striped, spotted, halved = (a.pattern == PATTERNS.index(word) for word in ("striped", "spotted", "halved"))
    turned = (striped & (_turned(a.angle, b.angle, math.pi) > 0.25)) | (halved & ((a.angle - b.angle).abs() > 0.25))
    turned |= spotted & (_turned(a.angle, b.angle, math.pi / 2) > 0.2)
    paced = (striped | spotted) & ((a.frequency - b.frequency).abs() > 0.4)
    shade = (a.saturation - b.saturation).abs().maximum((a.value - b.value).abs())
    second_shade = (a.second_saturation - b.second_saturation).abs().maximum((a.second_value - b.second_value).abs())
    other = (
        (_turned(a.hue, b.hue) > 0.04) | (shade > 0.15),
        (_turned(a.second_hue, b.second_hue) > 0.05) | (second_shade > 0.2),
        (a.pattern != b.pattern) | turned | paced,
        ((a.width - b.width).abs() > 0.06) | (a.kind != b.kind),
        ((a.ears - b.ears).abs() > 0.12) | (a.kind != b.kind),
        (_turned(a.eye_hue, b.eye_hue) > 0.06) | ((a.eye_size - b.eye_size).abs() > 0.12),
        (a.accessory != b.accessory) | ((a.accessory > 0) & (_turned(a.accessory_hue, b.accessory_hue) > 0.06)),
    )
    return torch.stack(other, 1)


SAME, OTHER, NOTHING = ": same", ": other", " nothing"
NEXT_PARTS = tuple(f"; {part}" for part in PARTS[1:])
"""What leads from a part of a comparison to the next one."""


def comparison_phrase(first: Sequence[str], second: Sequence[str], others: Sequence[bool]) -> str:
    """Part by part the words of both and whether they are other.

    Such as ``colour scarlet crimson: other; second colour azure azure: same; ...; accessory nothing, hat of jade:
    other``.

    Args:
        first, second: a row of `detail_parts` each.
        others: the pair's row of `differences`.
    """
    return "; ".join(
        f"{part}{a or NOTHING}{b or NOTHING}{OTHER if other else SAME}"
        for part, a, b, other in zip(PARTS, first, second, others, strict=True)
    )


def comparison_pieces() -> list[str]:
    """The pieces that comparisons are made of besides details, each worth one token."""
    return [SAME, OTHER, *NEXT_PARTS]


def measures(individuals: Individuals) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"]]:
    """What can be seen of individuals as numbers of unit scale, and where it can be seen.

    Directions on a circle (hues, angles) are two numbers, their cosine and sine. A vision tower that learns these
    learns to see before it learns to speak.

    Returns:
        The measures in about [-1, 1], and weights that are 1 where the measure is visible and 0 elsewhere.
    """
    who = individuals
    one = torch.ones_like(who.hue)
    name = {word: (who.pattern == i).float() for i, word in enumerate(PATTERNS)}
    tau = 2 * math.pi
    circles = [
        (who.hue * tau, one),
        (who.second_hue * tau, one),
        (who.eye_hue * tau, one),
        (who.accessory_hue * tau, (who.accessory > 0).float()),
        (who.angle * 2, name["striped"]),
        (who.angle * 4, name["spotted"]),
        (who.angle, name["halved"]),
    ]
    scalars = [
        (who.saturation, 0.6, 0.95, one),
        (who.value, 0.7, 1.0, one),
        (who.second_saturation, 0.35, 0.9, one),
        (who.second_value, 0.6, 1.0, one),
        (who.width, 0.85, 1.15, one),
        (who.ears, 0.7, 1.3, one),
        (who.eye_size, 0.85, 1.3, one),
        (who.frequency, 3.0, 5.5, name["striped"] + name["spotted"]),
    ]
    values = [f(angle) for angle, _ in circles for f in (torch.cos, torch.sin)]
    weights = [weight for _, weight in circles for _ in range(2)]
    values += [2 * (value - low) / (high - low) - 1 for value, low, high, _ in scalars]
    weights += [weight for *_, weight in scalars]
    return torch.stack(values, 1), torch.stack(weights, 1)
