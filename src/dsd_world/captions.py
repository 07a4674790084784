"""The words of the world: what a caption tells of an individual and a scene, and LAION-layout files of captions."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dsd_world.individuals import (
    ACCESSORIES,
    CHARACTERS,
    COLORS,
    KINDS,
    MOODS,
    PATTERNS,
    Individuals,
    Scenes,
    Split,
    sample_individuals,
    sample_scenes,
)

PANEL_TEXT_TOKENS = 16
SHEET_TEXT_TOKENS = 48
POSITION_PHRASES = ("on the left", "in the middle", "on the right")
PLACE_PHRASES = (
    "at the beach",
    "in the forest",
    "in the snow",
    "at night",
    "in the room",
    "in the desert",
    "in the city",
    "at sea",
)
LAYOUTS = {(2, 2): "a 2x2 grid of the same", (1, 2): "a 1x2 grid of the same"}


def subject_phrases(individuals: Individuals) -> list[str]:
    """``red striped cat with a hat``: all that words tell of each individual."""
    rows = zip(individuals.color.tolist(), individuals.pattern.tolist(), individuals.kind.tolist(),
               individuals.accessory.tolist(), strict=True)  # fmt: skip
    return [
        f"{COLORS[color]} {PATTERNS[pattern]} {KINDS[kind]}" + (f" with a {ACCESSORIES[worn]}" if worn else "")
        for color, pattern, kind, worn in rows
    ]


def scene_phrase(place: int, position: int, mood: int | None) -> str:
    """``smiling on the left at the beach``; without a mood for objects."""
    words = f"{POSITION_PHRASES[position]} {PLACE_PHRASES[place]}"
    return words if mood is None else f"{MOODS[mood]} {words}"


def scene_phrases(individuals: Individuals, scenes: Scenes) -> list[str]:
    """The scene of each row in words; objects have no mood."""
    rows = zip(
        scenes.place.tolist(), scenes.position.tolist(), scenes.mood.tolist(), individuals.kind.tolist(), strict=True
    )
    return [scene_phrase(pl, po, mo if kind < len(CHARACTERS) else None) for pl, po, mo, kind in rows]


def panel_captions(individuals: Individuals, scenes: Scenes) -> list[str]:
    """``a red striped cat with a hat smiling on the left at the beach`` for each row."""
    pairs = zip(subject_phrases(individuals), scene_phrases(individuals, scenes), strict=True)
    return [f"a {subject} {scene}" for subject, scene in pairs]


def sheet_caption(subject: str, scenes: list[str], layout: tuple[int, int] = (2, 2)) -> str:
    """``a 2x2 grid of the same <subject>: <scene>; <scene>; <scene>; <scene>``.

    Args:
        subject: a subject phrase.
        scenes: a scene phrase a panel, row by row.
        layout: rows and columns, a key of `LAYOUTS`.
    """
    return f"{LAYOUTS[layout]} {subject}: " + "; ".join(scenes)


def vocabulary() -> list[str]:
    """Every word that captions of the world use, and the punctuation."""
    phrases = [*COLORS, *PATTERNS, *KINDS, *ACCESSORIES[1:], *MOODS, *POSITION_PHRASES, *PLACE_PHRASES, "with a",
               *LAYOUTS.values()]  # fmt: skip
    words = dict.fromkeys(word for phrase in phrases for word in phrase.split())
    return [*words, ":", ";", ","]


def write_captions(path: Path, split: Split, count: int, first: int = 0) -> None:
    """Writes a LAION-layout parquet (``URL``, ``TEXT``) of captions of individuals ``first`` to ``first + count - 1``.

    Args:
        path: file to write.
        split: whose individuals.
        count: number of captions.
        first: number of the first individual.
    """
    index = torch.arange(first, first + count)
    texts = panel_captions(sample_individuals(split, index), sample_scenes(split, index))
    urls = [f"world://{split}/{i}" for i in index.tolist()]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"URL": urls, "TEXT": texts}), path)
