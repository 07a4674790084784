"""Captions as people write them, and the grid prompts that tiny-vlm learns to write from them.

Some captions are the world's own. The others hold a few of its words or words near them, in any order, between words
that mean nothing here. What a caption names decides the subject, the first mention of each; the rest is a free choice.
"""

from __future__ import annotations

import string
from collections import defaultdict
from dataclasses import dataclass
from random import Random

from dsd_world.captions import scene_phrase
from dsd_world.individuals import ACCESSORIES, CHARACTERS, COLORS, KINDS, MOODS, PATTERNS, PLACES, POSITIONS
from dsd_world.models.vlm_words import COMMON_WORDS, SYNONYMS

PANELS = 4
_CLEAN_SHARE, _MENTION_SHARE, _SECOND_MENTION_SHARE = 0.3, 0.4, 0.1
_SLOTS = {"color": COLORS, "pattern": PATTERNS, "kind": KINDS, "worn": ACCESSORIES[1:], "mood": MOODS, "place": PLACES}
_LETTERS = "eeeeaaaooiiuunnttrrsslldhcmpgbfywkv"


def _near_words() -> dict[str, list[str]]:
    near: dict[str, list[str]] = defaultdict(list)
    for word, meaning in SYNONYMS.items():
        if word not in _SLOT_OF:
            near[meaning].append(word)
    return near


_SLOT_OF = {word: slot for slot, words in _SLOTS.items() for word in words}
_NEAR = _near_words()


@dataclass(frozen=True, kw_only=True)
class Inspiration:
    """A caption and a grid prompt that it may inspire.

    Attributes:
        caption: any text.
        subject: a subject phrase of the world.
        scenes: four scene phrases at four different places.
    """

    caption: str
    subject: str
    scenes: list[str]


def _filler(rng: Random) -> str:
    roll = rng.random()
    if roll < 0.45:
        return rng.choice(COMMON_WORDS)
    if roll < 0.9:
        word = "".join(rng.choice(_LETTERS) for _ in range(rng.randint(2, 10)))
        return word.capitalize() if rng.random() < 0.4 else word
    if roll < 0.97:
        return "".join(rng.choice(string.digits + "/.,-$x%") for _ in range(rng.randint(1, 5)))
    return "".join(chr(rng.choice((0xE0, 0x3B1, 0x430, 0x4E00)) + rng.randrange(24)) for _ in range(rng.randint(1, 4)))


def _noisy_caption(rng: Random, mentions: dict[str, str]) -> str:
    words = [rng.choice([meaning, *_NEAR[meaning]]) for meaning in mentions.values()]
    rng.shuffle(words)
    for slot, meaning in mentions.items():
        if rng.random() < _SECOND_MENTION_SHARE:
            first = next(i for i, w in enumerate(words) if w == meaning or SYNONYMS.get(w) == meaning)
            words.insert(rng.randint(first + 1, len(words)), rng.choice(_SLOTS[slot]))
    count = rng.choice((1, 2, 3, 5, 8, 12, 12, 25)) if words else rng.choice((1, 3, 6, 10))
    for _ in range(count):
        words.insert(rng.randint(0, len(words)), _filler(rng))
    text = ""
    for word in words:
        text += (rng.choice((", ", " - ", ": ", ". ", " | ")) if rng.random() < 0.15 else " ") + word
    return text.strip(" ,-:.|") or _filler(rng)


def inspiration(rng: Random) -> Inspiration:
    """A random caption with a grid prompt that follows it."""
    kind = rng.choice(CHARACTERS if rng.random() < 0.8 else KINDS)
    said = {slot: rng.choice(words) for slot, words in _SLOTS.items()} | {"kind": kind}
    is_character = kind in CHARACTERS
    wears = is_character and rng.random() < 0.7
    if not wears:
        del said["worn"]
    if not is_character:
        del said["mood"]
    clean = rng.random() < _CLEAN_SHARE
    mentions = said if clean else {slot: word for slot, word in said.items() if rng.random() < _MENTION_SHARE}
    subject = f"{said['color']} {said['pattern']} {kind}" + (f" with a {said['worn']}" if wears else "")
    places = rng.sample(PLACES, PANELS)
    if "place" in mentions:
        places = [mentions["place"], *(p for p in places if p != mentions["place"])][:PANELS]
    positions = [rng.randrange(len(POSITIONS)) for _ in range(PANELS)]
    moods = [rng.randrange(len(MOODS)) if is_character else None for _ in range(PANELS)]
    if "mood" in mentions:
        moods[0] = MOODS.index(mentions["mood"])
    scenes = [scene_phrase(PLACES.index(p), at, mood) for p, at, mood in zip(places, positions, moods, strict=True)]
    caption = f"a {subject} {scenes[0]}" if clean else _noisy_caption(rng, mentions)
    return Inspiration(caption=caption, subject=subject, scenes=scenes)
