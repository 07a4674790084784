"""How many different subjects and scenes there are: repeated ones are refused within a unit, and counted over all.

What a unit gives depends on its own number alone, so no unit can refuse what another one drew; that captions are not
alike, and that the writer gets one each time, is what keeps units apart. How often that failed is a figure of the
funnel, from the finished rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from dsd.chat.protocol import ChatFailure
from dsd.curate.likeness import Said, Words, alike, plain
from dsd.data.records import GridPrompt
from dsd.data.store import Shard, read_columns
from dsd.places import Place

NEARLY = 0.85
"""Similarity from which on two subjects, or two grid prompts, are the same in other words; see `likeness.alike`."""
REPEATED = "repeats a subject"

_ARTICLES = {"a", "an", "the"}
_BANDS, _BAND = 8, 8  # finds 0.92 of those that are as similar as `NEARLY`, and more of the others
_WINDOW = 1 << 14
_BATCH = 4096

Written = tuple[str, Sequence[str], bool]
"""Subject and scenes of a grid prompt, and whether an example was kept of its sheet."""


def refuse_repeated(written: Sequence[GridPrompt | ChatFailure]) -> list[GridPrompt | ChatFailure]:
    """Leaves out grid prompts of one unit whose subject, but for articles and nearly, is that of an earlier one.

    Args:
        written: for each caption its grid prompt, or why there is none.
    """
    subjects: dict[str, None] = {}
    return [prompt if isinstance(prompt, ChatFailure) else _refused(prompt, subjects) for prompt in written]


def _refused(prompt: GridPrompt, subjects: dict[str, None]) -> GridPrompt | ChatFailure:
    """The prompt if its subject is new, which it then no more is."""
    subject = words_of(prompt.subject)
    if subject in subjects:
        return ChatFailure(REPEATED, f'"{prompt.subject}" was written before', prompt.text)
    for other in subjects:
        if alike(subject, other) >= NEARLY:
            return ChatFailure(REPEATED, f'"{prompt.subject}" is nearly "{other}"', prompt.text)
    subjects[subject] = None
    return prompt


def words_of(text: str) -> str:
    """The words of a subject or scene for comparing: without case, punctuation and articles."""
    return " ".join(word for word in plain(text).split() if word not in _ARTICLES) or plain(text)


def diversity(prompts: Iterable[Written]) -> dict[str, int]:
    """Counts what is different in grid prompts, in constant memory but for 8 bytes of each subject, scene and prompt.

    Args:
        prompts: in the order of their units.

    Returns:
        ``grid prompts``: all of them; ``distinct subjects`` and ``distinct scenes`` in them, and ``kept subjects`` and
        ``kept scenes`` in those of which an example was kept; ``repeated prompts``: those whose subject and scenes
        together nearly are an earlier one's.
    """
    counts: dict[str, int] = dict.fromkeys(
        ("grid prompts", "distinct subjects", "kept subjects", "distinct scenes", "kept scenes", "repeated prompts"), 0
    )
    subjects, kept_subjects, texts = (Said(NEARLY, _BANDS, _BAND, window=_WINDOW) for _ in range(3))
    scenes, kept_scenes = Words(), Words()
    left = iter(prompts)
    while batch := list(islice(left, _BATCH)):
        kept = [one for one in batch if one[2]]
        counts["grid prompts"] += len(batch)
        for name, said, some in (("distinct", subjects, batch), ("kept", kept_subjects, kept)):
            counts[f"{name} subjects"] += sum(said.new([words_of(subject) for subject, _, _ in some]))
        for name, words, some in (("distinct", scenes, batch), ("kept", kept_scenes, kept)):
            counts[f"{name} scenes"] += sum(words.new([words_of(scene) for _, each, _ in some for scene in each]))
        told = [words_of(" ".join([subject, *each])) for subject, each, _ in batch]
        counts["repeated prompts"] += texts.new(told).count(False)
    return counts


def diversity_of(folder: Place, shards: Sequence[Shard]) -> dict[str, int]:
    """Counts what is different in a dataset; see `diversity`.

    Args:
        folder: of the dataset.
        shards: of all kinds.
    """
    kept: set[int] = set()
    for shard in shards:
        if shard.kind == "pairs":
            ids = {row["grid"] for row in read_columns(folder / shard.path, ["grid"])}
            kept.update(int(id_, 16) for id_ in ids)
    return diversity(_written(folder, shards, kept))


def _written(folder: Place, shards: Sequence[Shard], kept: set[int]) -> Iterator[Written]:
    for shard in shards:
        if shard.kind == "grids":
            for row in read_columns(folder / shard.path, ["id", "subject", "scenes"]):
                if row["subject"] is not None:
                    yield row["subject"], row["scenes"], row["id"] is not None and int(row["id"], 16) in kept
